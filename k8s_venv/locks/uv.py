"""The one door through which uv is called."""

from __future__ import annotations

import configparser
import errno
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from k8s_venv import cache
from k8s_venv.errors import CREDENTIALS, K8sVenvError, masked, not_installed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

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
        output: its output, without its warnings and without passwords.
    """

    def __init__(self, output: str) -> None:
        self.output = output = masked(output)
        super().__init__(output)


def disk_fault(output: str) -> int | None:
    """Return which error of a disk (``errno``: full, over quota, read-only) a program speaks of, if it does.

    Args:
        output: what the program printed.
    """
    return next((number for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS) if os.strerror(number) in output), None)


def run(
    arguments: Sequence[str],
    *,
    stdin: str = "",
    cwd: Path | None = None,
    indexes: Mapping[str, str] | None = None,
    progress: Callable[[str], None] | None = None,
    secrets: Collection[str] = (),
) -> str:
    """Run uv and return what it wrote to standard output.

    It knows the indexes, certificates and proxies that uv's variables, pip's and pip's configuration files name.

    Args:
        arguments: the command line after ``uv``.
        stdin: is given to it as standard input.
        cwd: the folder to run in.
        indexes: variables of uv for the indexes that committed files name; they win.
        progress: is called with each line of its progress.
        secrets: the names of variables whose values are in the input; messages have the names in their place.

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
                for line in process.stderr or ():
                    lines.append(line)
                    if progress is not None:
                        progress(masked(_without_secrets(line.strip(), secrets)))
            except BaseException:
                process.kill()
                raise
            finally:
                _running.discard(process)
        output.seek(0)
        text = output.read().decode("utf-8", "replace")
    if process.returncode:
        raise _failure("".join(lines) or text, secrets)
    return text


def _without_secrets(text: str, names: Collection[str]) -> str:
    """Return a text with names of variables in place of their values, also of those that break the URL around them."""
    values = {value: name for name in names if (value := os.environ.get(name))}
    for value in sorted(values, key=len, reverse=True):
        for form in dict.fromkeys((value, quote(value), quote(value, safe=""))):
            text = re.sub(rf"(?<!\w){re.escape(form)}(?!\w)", f"${{{values[value]}}}", text)
    return text


def _failure(output: str, secrets: Collection[str]) -> Exception:
    """Return the exception for uv's output when it failed."""
    output = _without_secrets(without_warnings(output), secrets)
    if variable := _BAD_VARIABLE.search(output):
        name, value, reason = variable.groups()
        return K8sVenvError(
            f"The variable {name}, or pip's setting for it, is {masked(value)!r}, which uv cannot use: {reason}."
        )
    if fault := disk_fault(output):
        return K8sVenvError(cache.cache_problem(fault))
    return UvError(output)


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


def failed_build(output: str) -> tuple[str, str] | None:
    """Return the package that uv could not build and the log of that, or None where it was something else.

    Args:
        output: uv's output.
    """
    found = _NOT_BUILT.search(output)
    return (found[1], output[found.end() :]) if found else None


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


def without_warnings(errors: str) -> str:
    """Return what uv says without its warnings, such as those about interpreters that it passed over."""
    kept: list[str] = []
    skipping = False
    for line in errors.splitlines():
        indented = line.startswith((" ", "\t")) or not line.strip()
        skipping = line.startswith("warning:") or (skipping and indented)
        if not skipping:
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


# Each setting of pip that is honoured, the variables of uv that say the same, and what joins several values.
_HONOURED = {
    "index-url": (("UV_DEFAULT_INDEX", "UV_INDEX_URL"), None),
    "extra-index-url": (("UV_INDEX", "UV_EXTRA_INDEX_URL"), " "),
    "find-links": (("UV_FIND_LINKS",), ","),
    "trusted-host": (("UV_INSECURE_HOST",), " "),
    "cert": (("SSL_CERT_FILE",), None),
    "client-cert": (("SSL_CLIENT_CERT",), None),
    "proxy": (("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"), None),
    "timeout": (("UV_HTTP_TIMEOUT", "UV_REQUEST_TIMEOUT"), None),
    "default-timeout": (("UV_HTTP_TIMEOUT", "UV_REQUEST_TIMEOUT"), None),
    "retries": (("UV_HTTP_RETRIES",), None),
}
# What would change which packages are chosen: that follows from committed files alone.
_IGNORED_OF_PIP = {
    "constraint",
    "requirement",
    "pre",
    "no-index",
    "no-binary",
    "only-binary",
    "prefer-binary",
    "no-deps",
}
_IGNORED_OF_UV = {
    *("UV_CONSTRAINT", "UV_OVERRIDE", "UV_EXCLUDE", "UV_EXCLUDE_NEWER", "UV_INDEX_STRATEGY", "UV_NO_INDEX"),
    *("UV_PRERELEASE", "UV_RESOLUTION", "UV_FORK_STRATEGY", "UV_CONFIG_FILE", "UV_NO_BINARY", "UV_TORCH_BACKEND"),
}
_INSTEAD = {
    "constraint": 'constraints = "FILE" in the environment does the same',
    "UV_CONSTRAINT": 'constraints = "FILE" in the environment does the same',
    "no-index": "--index-url or --find-links among the requirements names another place",
}


def uv_variables(given: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of uv for what pip was told; what uv itself was told wins.

    Args:
        given: the variables that are set.

    Raises:
        K8sVenvError: a configuration file of pip cannot be read, or names an index or certificate that is not valid.
    """
    variables: dict[str, str] = {}
    for name, (values, place) in _settings(given).items():
        names, joint = _HONOURED.get(name, ((), None))
        _refuse_wrong(name, values, place)
        if name == "find-links":
            values = [value for value in values if "://" in value and not value.startswith("file:")]
        if names and values and not any(given.get(each) for each in names):
            variables[names[0]] = joint.join(values) if joint else values[-1]
    return variables


def _refuse_wrong(name: str, values: list[str], place: str) -> None:
    """Refuse what uv would pass over in silence."""
    for value in values:
        if name in ("index-url", "extra-index-url") and "://" not in value and not Path(value).is_dir():
            raise K8sVenvError(f"{place} names no index, {value!r}: write its whole URL, with https://.")
        if name in ("cert", "client-cert") and not Path(value).expanduser().exists():
            raise K8sVenvError(f"{place} names a certificate that does not exist: {value}.")


def ignored_settings(given: Mapping[str, str]) -> list[str]:
    """Return which settings of pip and uv have no effect on locks, though people may expect one.

    Args:
        given: the variables that are set.
    """
    found = [(name, place) for name, (_, place) in _settings(given).items() if name in _IGNORED_OF_PIP]
    found += [(name, name) for name in sorted(_IGNORED_OF_UV) if given.get(name)]
    notes = [
        f"{place} has no effect here: what is locked follows from committed files"
        + (f" ({_INSTEAD[name]})." if name in _INSTEAD else ".")
        for name, place in found
    ]
    notes += [
        f"{path} has no effect here: what is locked follows from committed files. Indexes are named among the "
        "requirements, or in UV_INDEX_URL and UV_EXTRA_INDEX_URL."
        for path in (_config_folder(given) / "uv" / "uv.toml", Path("/etc/uv/uv.toml"))
        if path.is_file()
    ]
    links, place = _settings(given).get("find-links", ([], ""))
    if local := [value for value in links if "://" not in value or value.startswith("file:")]:
        notes.append(
            f"{', '.join(local)} of {place} has no effect here: others do not have this folder. Put the wheels beside "
            "the project file, and --find-links FOLDER among the requirements."
        )
    return notes


def _settings(given: Mapping[str, str]) -> dict[str, tuple[list[str], str]]:
    """Return each setting's values and its place; the later place wins, as in pip."""
    found: dict[str, tuple[list[str], str]] = {}
    for path in _files(given):
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, "utf-8")
        except (configparser.Error, UnicodeDecodeError) as error:
            reason = str(error).splitlines()[0]
            raise K8sVenvError(f"pip's configuration file {path} cannot be read: {reason}.") from None
        for section in ("global", "install"):
            for name, value in parser.items(section) if parser.has_section(section) else ():
                found[name.replace("_", "-")] = (value.split(), f"`{name}` in {path}")
    for variable, value in given.items():
        if variable.startswith("PIP_") and value:
            found[variable.removeprefix("PIP_").lower().replace("_", "-")] = (value.split(), variable)
    return {name: (values, place) for name, (values, place) in found.items() if values and values != ["false"]}


def _files(given: Mapping[str, str]) -> Iterator[Path]:
    """Yield pip's configuration files that exist, the weakest first."""
    chosen = given.get("PIP_CONFIG_FILE")
    if chosen == os.devnull:
        return
    home = Path.home()
    support = Path("Library/Application Support/pip/pip.conf")
    shared = [Path(each) for each in given.get("XDG_CONFIG_DIRS", "/etc/xdg").split(os.pathsep) if each]
    of_user = _config_folder(given) / "pip" / "pip.conf"
    if sys.platform == "darwin":
        shared = [Path("/Library/Application Support")]
        of_user = home / support if (home / support).parent.is_dir() else of_user
    candidates = [*(each / "pip" / "pip.conf" for each in shared), Path("/etc/pip.conf")]
    candidates += [home / ".pip" / "pip.conf", of_user, Path(sys.prefix) / "pip.conf"]
    if chosen:
        candidates.append(Path(chosen))
    yield from (path for path in candidates if path.is_file())


def _config_folder(given: Mapping[str, str]) -> Path:
    return Path(given.get("XDG_CONFIG_HOME") or Path.home() / ".config")
