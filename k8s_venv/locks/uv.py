"""The one door through which uv is called."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from k8s_venv import cache
from k8s_venv.errors import CREDENTIALS, K8sVenvError, masked, not_installed
from k8s_venv.locks.pipsettings import uv_variables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

# Of uv's variables, those about where packages and Pythons come from are the user's to set. The rest would change what
# is resolved, and for which Python, which must follow from committed files alone.
_PASSED = re.compile(
    r"UV_(CACHE_DIR|(DEFAULT_|EXTRA_)?INDEX\w*|FIND_LINKS|INSECURE_HOST|KEYRING_PROVIDER|NATIVE_TLS|SYSTEM_CERTS|OFFLINE"
    r"|HTTP_\w+|REQUEST_TIMEOUT|CONCURRENT_\w+|LINK_MODE|PYTHON_(DOWNLOADS|INSTALL_\w+))"
)

_BAD_VARIABLE = re.compile(r"Failed to parse environment variable `(\w+)` with invalid value `([^`]*)`: (.+)")
_NOT_BUILT = re.compile(r"Failed to (?:build|download and build) `([^`]+)`")
_WITH_CREDENTIALS = re.compile(rf"({CREDENTIALS.pattern})([^/\s,]+)")


# Of all threads.
_running: set[subprocess.Popen[str]] = set()


class UvError(Exception):
    """Uv ended with an error.

    Args:
        output: what it said, without its notes about interpreters that it passed over, and without passwords.
    """

    def __init__(self, output: str) -> None:
        self.output = output = masked(output)
        super().__init__(output)


def disk_fault(said: str) -> int | None:
    """Return which error of a disk (``errno``: full, over quota, read-only) a program speaks of, if it does.

    Args:
        said: what the program said.
    """
    return next((number for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS) if os.strerror(number) in said), None)


def run(
    arguments: Sequence[str],
    *,
    stdin: str = "",
    cwd: Path | None = None,
    indexes: Mapping[str, str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> str:
    """Run uv and return what it wrote to standard output.

    It knows the indexes, certificates and proxies that uv's variables, pip's and pip's configuration files name.

    Args:
        arguments: the command line after ``uv``.
        stdin: is given to it as standard input.
        cwd: the folder to run in.
        indexes: variables of uv for the indexes that committed files name; they win.
        progress: is called with each line of its progress.

    Raises:
        UvError: uv failed.
        K8sVenvError: uv is not installed, its cache or one of its variables cannot be used.
    """
    lines = []
    # Files, not pipes, on both sides of the one pipe that is read: so neither side can wait for the other.
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as output:
        given.write(stdin.encode("utf-8", "backslashreplace"))
        given.seek(0)
        with subprocess.Popen(
            [_program(), "--no-config", "--color", "never", *arguments],
            stdin=given,
            stdout=output,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=environ(indexes or {}),
            cwd=cwd,
        ) as process:
            _running.add(process)
            try:
                assert process.stderr is not None  # noqa: S101 -- it is a pipe
                for line in process.stderr:
                    lines.append(line)
                    if progress is not None:
                        progress(masked(line.strip()))
            except BaseException:
                process.kill()
                raise
            finally:
                _running.discard(process)
        output.seek(0)
        text = output.read().decode("utf-8", "replace")
    if process.returncode:
        raise _failure(readable("".join(lines) or text))
    return text


def _failure(said: str) -> Exception:
    """Return the exception for what uv said when it failed."""
    if variable := _BAD_VARIABLE.search(said):
        name, value, reason = variable.groups()
        return K8sVenvError(
            f"The variable {name}, or pip's setting for it, is {masked(value)!r}, which uv cannot use: {reason}."
        )
    if fault := disk_fault(said):
        return K8sVenvError(cache.cache_problem(fault))
    return UvError(said)


def stop() -> None:
    """End every uv that runs, for a command that is interrupted while its threads wait for one."""
    for process in tuple(_running):
        process.kill()


def _program() -> str:
    try:
        from uv import find_uv_bin
    except ModuleNotFoundError:
        raise K8sVenvError(not_installed("uv", "local")) from None
    try:
        return find_uv_bin()
    except FileNotFoundError:
        raise K8sVenvError("The program `uv` is not installed here. Run: pip install --force-reinstall uv.") from None


def environ(indexes: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that uv gets: the user's about indexes, passwords, certificates and proxies, pip's included.

    Args:
        indexes: variables of uv for the indexes that committed files name; they win.
    """
    cache.require_cache()
    given = {name: value for name, value in os.environ.items() if not name.startswith("UV_") or _PASSED.fullmatch(name)}
    for name in ("VIRTUAL_ENV", "PYTHONHOME", "PYTHONPATH"):  # the caller's are not the environment's
        given.pop(name, None)
    own = {"UV_CACHE_DIR": str(cache.uv_folder()), "UV_NO_PROGRESS": "1", "UV_NO_WRAP": "1"}
    given = {**own, **given, **uv_variables(given)}
    if shutil.which("keyring"):  # as pip does
        given.setdefault("UV_KEYRING_PROVIDER", "subprocess")
    known = {host: user for value in given.values() for user, host in _WITH_CREDENTIALS.findall(value)}
    return {**given, **{name: _with_known_credentials(value, known) for name, value in indexes.items()}}


def failed_build(said: str) -> tuple[str, str] | None:
    """Return the package that uv could not build and the log of that, or None where it was something else.

    Args:
        said: what uv said.
    """
    found = _NOT_BUILT.search(said)
    return (found[1], said[found.end() :]) if found else None


def index_variables(given: Mapping[str, str]) -> dict[str, str]:
    """Return those of uv's variables that are about package indexes and how they are reached.

    Args:
        given: the variables that are set.
    """
    names = re.compile(r"UV_((DEFAULT_|EXTRA_)?INDEX\w*|FIND_LINKS|INSECURE_HOST|HTTP_\w+|REQUEST_TIMEOUT)")
    return {name: value for name, value in given.items() if names.fullmatch(name)}


def _with_known_credentials(urls: str, known: Mapping[str, str]) -> str:
    """Give URLs without a user those that another setting has for the same host, as pip does."""

    def complete(url: re.Match[str]) -> str:
        return f"://{known[url[1]]}{url[1]}" if url[1] in known else url[0]

    return re.sub(r"://([^@/\s,]+)(?=[/\s,]|$)", complete, urls)


def readable(errors: str) -> str:
    """Drop uv's warnings and progress from what it says, and the labels before each reason."""
    kept: list[str] = []
    skipping, label = False, ""
    for line in errors.splitlines():
        if line.startswith("warning:"):
            skipping = True
        elif skipping and (line.startswith((" ", "\t")) or not line.strip()):
            continue
        else:
            skipping = False
            found = re.match(r"\s*((?:error|cause): )", line)
            if found:
                label = " " * len(found[1])
                line = line.replace(found[1], "", 1)
            elif label and line.startswith(label):
                line = line[len(label) :]
            kept.append(line)
    return "\n".join(kept).strip()


def find_interpreter(version: str) -> str | None:
    """Return the path of an installed CPython of a minor version, or None.

    Beyond what uv looks at (its own, and PATH) this knows the versions that pyenv keeps off PATH, and those that
    ``install_python`` downloaded.

    Args:
        version: the minor version, such as ``3.8``.
    """
    if version == "{}.{}".format(*sys.version_info):
        return getattr(sys, "_base_executable", sys.executable)
    try:
        return run(
            ["python", "find", "--system", "--no-project", "--no-python-downloads", f"cpython@{version}"]
        ).strip()
    except UvError:
        return next(_interpreters_off_path(version), None)


def install_python(version: str, progress: Callable[[str], None] | None = None) -> str:
    """Download a CPython into the cache folder and return its interpreter's path.

    Args:
        version: the minor version, such as ``3.8``.
        progress: is called with each line of uv's progress.

    Raises:
        UvError: there is no such Python for this machine, or it cannot be downloaded.
    """
    run(
        ["python", "install", "--no-bin", "--install-dir", str(cache.python_folder()), f"cpython@{version}"],
        progress=progress,
    )
    return next(_interpreters_off_path(version))


def is_known(version: str) -> bool:
    """Return whether there is such a Python: installed here, or among those that uv could download.

    Args:
        version: the minor version, such as ``3.8``.
    """
    listed = run(["python", "list", "--offline", "--only-downloads", version])
    return bool(listed.strip()) or find_interpreter(version) is not None


def _interpreters_off_path(version: str) -> Iterator[str]:
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for pattern in (pyenv / f"versions/{version}.*", cache.python_folder() / f"cpython-{version}.*"):
        for folder in sorted(pattern.parent.glob(pattern.name), reverse=True):
            found = shutil.which("python", path=str(folder / "bin"))
            if found:
                yield found
