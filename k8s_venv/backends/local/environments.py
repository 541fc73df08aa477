"""The virtual environments of the local backend: made from their locks on first use, kept in the cache folder."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from k8s_venv import cache
from k8s_venv.backends.process import VARIABLES, exit_reason
from k8s_venv.errors import BackendError
from k8s_venv.locks import uv
from k8s_venv.locks.installed import lacking, system_packages
from k8s_venv.locks.locking import lock_for_here, read_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from k8s_venv.config.environment import Environment
    from k8s_venv.locks.lockfile import Lock

    Progress = Callable[[str], None]

# The user sees the lines of uv that begin so.
_SHOWN = ("Downloading", "Prepared", "Installed", "Bytecode")
# A pod would not see the worker's variables either, so that what works here works there.
_PASSED = {"PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "USER", "LOGNAME", "NO_PROXY", "HTTP_PROXY"}
_PASSED |= {"HTTPS_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}


def variables(python: Path) -> dict[str, str]:
    """Return the variables of a process in an environment.

    Args:
        python: the environment's interpreter.
    """
    passed = {name: value for name, value in os.environ.items() if name.upper() in _PASSED or name.startswith("LC_")}
    # As in an image: `python` and the scripts of packages are the environment's.
    path = os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)])
    return {**passed, "PATH": path, **VARIABLES}


@contextlib.contextmanager
def environment_in_use(environment: Environment, progress: Progress | None = None) -> Iterator[Path]:
    """Yield the Python of an environment, which `k8s-venv prune` does not remove now; see ``make_environment``."""
    while True:
        python = make_environment(environment, progress)
        with cache.shared_lock(python.parent.parent):
            if python.exists():  # else it was removed just before
                yield python
                return


@contextlib.contextmanager
def existing_environment(environment: Environment) -> Iterator[Path | None]:
    """Yield the Python of an environment that was made here from its lock before, or None; see ``environment_in_use``.

    Args:
        environment: the environment, which has a fresh lock.
    """
    folder = _folder_of(environment, read_lock(environment))
    python = folder / "bin" / "python"
    with cache.shared_lock(folder):
        yield python if python.exists() else None


def _folder_of(environment: Environment, lock: Lock) -> Path:
    return cache.environment_folder(environment.name, environment.python, lock.digest)


def make_environment(environment: Environment, progress: Progress | None = None) -> Path:
    """Return the Python of an environment: the interpreter that it names, or one that is made from its lock at first.

    It is made once, even if several processes ask at the same time, and appears whole or not at all.

    Args:
        environment: which one.
        progress: is called with what happens.

    Raises:
        LockError: the environment has no lock, or a stale one.
        K8sVenvError: it cannot be made.
    """
    if environment.interpreter_path is not None:
        return _existing(environment, environment.interpreter_path)
    lock = read_lock(environment)
    folder = _folder_of(environment, lock)
    python = folder / "bin" / "python"
    if python.exists():
        cache.note_environment_use(folder, lock.path)
        return python
    _require_usable(environment)
    progress = progress or (lambda line: None)
    waiting = f"Another process makes the environment {folder.name}; waiting for it"
    with cache.exclusive_lock(cache.lock_beside(folder), lambda: progress(waiting)):
        if not python.exists():
            _make(environment, lock, folder, progress)
    cache.note_environment_use(folder, lock.path)
    return python


def _existing(environment: Environment, python: Path) -> Path:
    """Return an interpreter that the project file names, after a check of its version.

    Raises:
        BackendError: it does not run, or is another Python than declared.
    """
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        asked = subprocess.run(
            [str(python), "-c", code], env=variables(python), stdin=subprocess.DEVNULL, capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise BackendError(
            environment.name,
            f"its interpreter {python} cannot be run: {_reason(error)}. Correct `interpreter` of "
            f"[environments.{environment.name}], or leave it out to have one made from the lock.",
        ) from None
    found = asked.stdout.decode("utf-8", "replace").strip()
    if found != environment.python:
        raise BackendError(
            environment.name,
            f"it is declared with Python {environment.python}, but its interpreter {python} is Python {found}. Correct "
            f"one of them in [environments.{environment.name}].",
        )
    return python


def _reason(error: OSError | subprocess.CalledProcessError) -> str:
    if isinstance(error, OSError):
        return str(error.strerror)
    lines = error.stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else exit_reason(error.returncode)


def _require_usable(environment: Environment) -> None:
    """Refuse a cache folder in which an environment cannot be made or cannot run.

    Raises:
        K8sVenvError: it cannot be written to.
        BackendError: its file system executes nothing.
    """
    folder = cache.require_cache()
    if os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0):
        raise BackendError(
            environment.name,
            f"cannot be made: the cache folder {folder} lies on a file system that executes nothing (mounted noexec), "
            f"so compiled packages would not load. Set {cache.CACHE_VARIABLE} to a folder on another one.",
        )


@cache.writing_cache()
def _make(environment: Environment, lock: Lock, folder: Path, progress: Progress) -> None:
    with cache.new_folder(folder) as partial:
        _require_system(environment, lock)
        _make_venv(environment, partial, progress)
        if lock.packages:
            _install(environment, lock, partial, progress)


def _require_system(environment: Environment, lock: Lock) -> None:
    """Refuse an interpreter without the packages that the lock left out because the interpreter has them."""
    if lock.system and (without := lacking(lock.system, system_packages(environment))):
        raise BackendError(
            environment.name,
            f"its lock counts on packages of Python {environment.python} itself, which lacks {without} here. Install "
            f"these versions there, or run `k8s-venv lock {environment.name}`.",
        )


def _make_venv(environment: Environment, folder: Path, progress: Progress) -> None:
    interpreter = uv.find_interpreter(environment.python)
    try:
        if interpreter is None:
            progress(f"Python {environment.python} is not installed here; downloading it")
            interpreter = uv.install_python(environment.python, progress)
    except uv.UvError as error:
        raise BackendError(
            environment.name,
            f"Python {environment.python} is not installed here and cannot be downloaded. Install it (for example "
            f"`uv python install {environment.python}` or `pyenv install {environment.python}`).\n{error.output}",
        ) from None
    progress(f"Python {environment.python}: {interpreter}")
    try:
        seen = ["--system-site-packages"] if environment.system_site_packages else []
        uv.run(["venv", "--relocatable", "--no-project", *seen, "--python", interpreter, str(folder)])
    except uv.UvError as error:
        raise BackendError(
            environment.name, f"its virtual environment cannot be made with {interpreter}.\n{error.output}"
        ) from None


def _install(environment: Environment, lock: Lock, folder: Path, progress: Progress) -> None:
    python = str(folder / "bin" / "python")
    try:
        with lock_for_here(environment, lock, Path(python), progress) as path:
            uv.run(
                ["pip", "sync", "--python", python, "--require-hashes", "--compile-bytecode", str(path)],
                indexes=lock.indexes,
                progress=lambda line: progress(line) if line.startswith(_SHOWN) else None,
            )
    except uv.UvError as error:
        raise BackendError(environment.name, f"its packages cannot be installed.\n{error.output}") from None
