"""The local backend: a virtual environment from the lock, and the runner as a subprocess of ours."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from k8s_venv import uv
from k8s_venv.backends.exits import exit_reason
from k8s_venv.backends.lines import LineSplitter
from k8s_venv.calls import Delivery, PackedCall, Result, parse_document
from k8s_venv.errors import BackendError
from k8s_venv.locking import Lock, read_lock
from k8s_venv.requirements import index_settings
from k8s_venv.runner import protocol
from k8s_venv.runner.mapped import map_file
from k8s_venv.systempackages import system_packages
from k8s_venv.uncovered import lock_for_here

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k8s_venv.environment import Environment

Progress = Callable[[str], None]

# A pod would not see the worker's variables either, so that what works here works there.
_PASSED = {"PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "USER", "LOGNAME", "NO_PROXY", "HTTP_PROXY"}
_PASSED |= {
    "HTTPS_PROXY",
    "ALL_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
}
# Of what uv says while it installs, this is for the user.
_SHOWN = ("Downloading", "Prepared", "Installed", "Bytecode")
_GRACE = 10.0  # seconds between asking a task to end and ending it
_LOOK = 0.2  # seconds between looks at whether a silent task has ended
_PIPE = 1 << 20  # bytes; the most that a pipe holds


class LocalBackend:
    """Runs calls on this machine.

    Args:
        progress: is called with what happens while an environment is made.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, call: PackedCall, log: Callable[[str], None]) -> Result:
        """Run a call as a subprocess; see ``Backend.run``."""
        python = make_environment(call.environment, self._progress)
        # The folder is ours alone (mode 0700); the secrets are in no file.
        with tempfile.TemporaryDirectory(prefix="k8s-venv-call-") as name:
            folder = Path(name)
            Delivery(call, folder.name).write(folder)
            arguments = [str(folder / protocol.ARCHIVE), "--result", str(folder / "result"), "--secrets", "-"]
            code = self._run(python, arguments, json.dumps(dict(call.secrets)), log)
            return _read(folder / "result", call, code)

    def on_kill(self) -> None:
        """End the running call and what it started."""
        if self._process is not None:
            _end(self._process)

    def _run(self, python: Path, arguments: list[str], secrets: str, log: Callable[[str], None]) -> int:
        # A session of its own, so that what the task starts ends with it.
        with subprocess.Popen(
            [str(python), *arguments],
            stdin=subprocess.PIPE,  # it ends when this is closed, which is when we are gone
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environ(python),
            bufsize=0,
            start_new_session=True,
        ) as process:
            self._process = process
            try:
                assert process.stdin is not None  # noqa: S101 -- it is a pipe
                with contextlib.suppress(BrokenPipeError):  # it died already
                    process.stdin.write(secrets.encode() + b"\n")
                for line in _lines(process):
                    log(line)
                return process.wait()
            except BaseException:
                _end(process)
                raise
            finally:
                _kill(process)  # what it left behind, as a pod's end would


def _lines(process: subprocess.Popen[bytes]) -> Iterator[str]:
    """Yield what a process prints until it has ended, even where a child of its keeps the output open."""
    assert process.stdout is not None  # noqa: S101 -- it is a pipe
    splitter, ended, data = LineSplitter(), False, b"-"
    while data and not ended:
        ended = process.poll() is not None  # asked first: all that it printed is in the pipe then
        if select.select([process.stdout], [], [], 0 if ended else _LOOK)[0]:
            data = process.stdout.read(_PIPE) or b""
            yield from splitter.feed(data)
    yield from splitter.end()


def make_environment(environment: Environment, progress: Progress | None = None) -> Path:
    """Return the Python of an environment: the interpreter that it names, or one made from its lock on first use.

    It is made once, even when several processes ask at once, and appears whole or not at all.

    Args:
        environment: which one.
        progress: is called with what happens.

    Raises:
        LockError: the environment has no lock, or a stale one.
        BackendError: it cannot be made.
    """
    if environment.interpreter_path is not None:
        return _existing(environment, environment.interpreter_path)
    lock = read_lock(environment)
    folder = uv.cache_folder() / "environments" / f"{environment.name}-{environment.python}-{lock.digest[:20]}"
    python = folder / "bin" / "python"
    if python.exists():
        return python
    _require_usable(environment)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not python.exists():
                _make(environment, lock, folder, progress or (lambda line: None))
    except OSError as error:
        raise _unmade(environment, error.errno) from None
    return python


def _existing(environment: Environment, python: Path) -> Path:
    """Return an interpreter that somebody else made, after asking it for its version.

    Raises:
        BackendError: it does not run, or is another Python than declared.
    """
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        asked = subprocess.run(
            [str(python), "-c", code], env=_environ(python), stdin=subprocess.DEVNULL, capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise BackendError(
            environment.name,
            f"its interpreter {python} cannot be run: {_why(error)}. Correct `interpreter` of "
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


def _why(error: OSError | subprocess.CalledProcessError) -> str:
    if isinstance(error, OSError):
        return str(error.strerror)
    said = error.stderr.decode("utf-8", "replace").strip().splitlines()
    return said[-1] if said else exit_reason(error.returncode)


def _require_usable(environment: Environment) -> None:
    """Refuse a cache folder that an environment cannot be made in, or could not run from.

    Raises:
        K8sVenvError: it cannot be written to.
        BackendError: nothing in it can be executed.
    """
    folder = uv.require_cache()
    if os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0):
        raise BackendError(
            environment.name,
            f"cannot be made: the cache folder {folder} lies on a file system that executes nothing (mounted noexec), "
            f"so compiled packages would not load. Set {uv.CACHE_VARIABLE} to a folder on another one.",
        )


def _unmade(environment: Environment, number: int | None) -> BackendError:
    return BackendError(
        environment.name, f"cannot be made: the cache folder {uv.cache_problem(uv.cache_folder(), number)}"
    )


def _make(environment: Environment, lock: Lock, folder: Path, progress: Progress) -> None:
    # What others who were killed have left; each makes its own, since an installer may outlive who started it.
    for left in folder.parent.glob(f"{folder.name}.part*"):
        shutil.rmtree(left, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)  # one whose interpreter is gone
    partial = folder.with_name(f"{folder.name}.part-{uuid.uuid4().hex[:8]}")
    try:
        _require_system(environment, lock)
        _make_venv(environment, partial, progress)
        if lock.packages:
            _install(environment, lock, partial, progress)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _require_system(environment: Environment, lock: Lock) -> None:
    """Refuse an interpreter that lacks what the lock left out because it had it."""
    if not lock.system:
        return
    own = system_packages(environment)
    for requirement in lock.system:
        name, _, version = requirement.partition("==")
        if own.get(name) != version:
            raise BackendError(
                environment.name,
                f"its lock counts on {requirement} among the packages of Python {environment.python} itself, which has "
                f"{own.get(name, 'none')} here. Install that version there, or run `k8s-venv lock {environment.name}`.",
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
        raise _failed(environment, f"its virtual environment cannot be made with {interpreter}", error) from None


def _install(environment: Environment, lock: Lock, folder: Path, progress: Progress) -> None:
    python = str(folder / "bin" / "python")
    try:
        with lock_for_here(environment, lock, Path(python), progress) as path:
            uv.run(
                ["pip", "sync", "--python", python, "--require-hashes", "--compile-bytecode", str(path)],
                indexes=index_settings(environment),
                progress=lambda line: progress(line) if line.startswith(_SHOWN) else None,
            )
    except uv.UvError as error:
        raise _failed(environment, "its packages cannot be installed", error) from None


def _failed(environment: Environment, what: str, error: uv.UvError) -> BackendError:
    """Return what an error of uv means: the cache's fault, where uv met one."""
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        if os.strerror(number) in error.output:
            return _unmade(environment, number)
    return BackendError(environment.name, f"{what}.\n{error.output}")


def _environ(python: Path) -> dict[str, str]:
    passed = {name: value for name, value in os.environ.items() if name.upper() in _PASSED or name.startswith("LC_")}
    # As in an image: `python` and the scripts of packages are the environment's.
    path = os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)])
    return {**passed, "PATH": path, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process and its children to end, and end them when they do not."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE)
    _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    # PermissionError is what macOS says of a group in which only zombies are left.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _read(folder: Path, call: PackedCall, code: int) -> Result:
    environment = call.environment.name
    document, payload = folder / protocol.DOCUMENT, folder / protocol.PAYLOAD
    if not (document.is_file() and payload.is_file()):
        raise BackendError(environment, f"{call.function}() ended without a result: {exit_reason(code)}.")
    return Result(parse_document(document.read_bytes(), environment), map_file(str(payload)))
