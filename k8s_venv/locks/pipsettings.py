"""What people told pip about indexes and certificates, for uv, which reads none of it.

pip's settings come from its configuration files and from ``PIP_…`` variables
(https://pip.pypa.io/en/stable/topics/configuration/).
"""

from __future__ import annotations

import configparser
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from k8s_venv.errors import K8sVenvError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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
    said = [
        f"{place} has no effect here: what is locked follows from committed files"
        + (f" ({_INSTEAD[name]})." if name in _INSTEAD else ".")
        for name, place in found
    ]
    said += [
        f"{path} has no effect here: what is locked follows from committed files. Indexes are named among the "
        "requirements, or in UV_INDEX_URL and UV_EXTRA_INDEX_URL."
        for path in (_config_folder(given) / "uv" / "uv.toml", Path("/etc/uv/uv.toml"))
        if path.is_file()
    ]
    links, place = _settings(given).get("find-links", ([], ""))
    if local := [value for value in links if "://" not in value or value.startswith("file:")]:
        said.append(
            f"{', '.join(local)} of {place} has no effect here: others do not have this folder. Put the wheels beside "
            "the project file, and --find-links FOLDER among the requirements."
        )
    return said


def _settings(given: Mapping[str, str]) -> dict[str, tuple[list[str], str]]:
    """Return each setting's values and where it was said; the later place wins, as in pip."""
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
