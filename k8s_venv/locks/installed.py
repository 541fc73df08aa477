"""Packages that stand somewhere already: in an interpreter here, or in a base image.

The build of an image runs this module, too, in the Python of the base: Python 3.8+, and `packaging` alone.
"""

from __future__ import annotations

import dataclasses
import email
import json
import subprocess
import zipfile
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from k8s_venv.config.environment import Environment


# The first of a name is the one that is imported.
_LIST = """
import json
from importlib import metadata
print(json.dumps([
    [one.metadata["Name"], one.version, one.requires or [], one.metadata.get_all("Provides-Extra") or []]
    for one in metadata.distributions()
]))
"""


@dataclasses.dataclass(frozen=True)
class Installed:
    """An installed package.

    Args:
        name: its normalized name.
        version: its normalized version.
        requires: what it requires (PEP 508).
        extras: its extras.
    """

    name: str
    version: str
    requires: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()


def installed(
    name: str | None, version: str | None, requires: Iterable[str], extras: Iterable[str]
) -> Installed | None:
    """Return an installed package by its metadata, or None where that is of no package index's kind.

    Args:
        name: its name as written.
        version: its version as written; distributions' own packages may have others than PEP 440's.
        requires: what it requires.
        extras: its extras.
    """
    try:
        normalized = str(Version(version or ""))
    except InvalidVersion:
        return None
    valid = tuple(each for each in requires if _is_requirement(each))
    return Installed(canonicalize_name(name), normalized, valid, tuple(extras)) if name else None


def read_metadata(text: str) -> Installed | None:
    """Return an installed package by the text of its ``METADATA`` or ``PKG-INFO`` (core metadata specification)."""
    headers = email.message_from_string(text)
    return installed(
        headers["Name"], headers["Version"], headers.get_all("Requires-Dist", []), headers.get_all("Provides-Extra", [])
    )


def lacking(wanted: Iterable[str], found: Mapping[str, Installed]) -> str:
    """Return which of some packages are not there, and what is there instead; nothing where all are.

    Args:
        wanted: each as a lock has it, ``name==version``.
        found: what is there, by name.
    """
    missing = []
    for each in wanted:
        name, _, version = each.partition("==")
        own = found[name].version if name in found else "none"
        if own != version:
            missing.append(f"{each} (it has {own})")
    return ", ".join(missing)


def write_stubs(packages: Iterable[Installed], folder: Path) -> None:
    """Write wheels with each package's metadata, so that a resolver can choose what is there.

    No index has many of them: what vendors of base images build themselves, such as 2.3.0a0+6ddf5cf85e.nv24.4.

    Args:
        packages: the packages.
        folder: where to.
    """
    for package in packages:
        stem = f"{package.name.replace('-', '_')}-{package.version}"
        lines = ["Metadata-Version: 2.1", f"Name: {package.name}", f"Version: {package.version}"]
        lines += [f"Requires-Dist: {each}" for each in package.requires]
        lines += [f"Provides-Extra: {each}" for each in package.extras]
        with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{stem}.dist-info/METADATA", "\n".join([*lines, ""]))
            wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{stem}.dist-info/RECORD", "")


def _is_requirement(text: str) -> bool:
    try:
        Requirement(text)
    except InvalidRequirement:
        return False
    return True


def system_packages(environment: Environment) -> dict[str, Installed]:
    """Return what the interpreter of an environment's Python version has installed, by name.

    Raises:
        LockError: there is no such interpreter here, or it cannot be asked.
    """
    from k8s_venv.errors import LockError  # an image's build has neither
    from k8s_venv.locks import uv

    interpreter = uv.find_interpreter(environment.python)
    if interpreter is None:
        raise LockError(
            environment.name,
            f"with `system-site-packages` it sees the packages of Python {environment.python}, which is not installed "
            "here. Install it, or leave `system-site-packages` out.",
        )
    # Isolated: neither this folder's nor this user's packages are the environment's.
    asked = subprocess.run([interpreter, "-I", "-c", _LIST], capture_output=True, text=True, check=False)
    if asked.returncode:
        problem = asked.stderr.strip()
        raise LockError(environment.name, f"the packages of {interpreter} cannot be listed.\n{problem}")
    found: dict[str, Installed] = {}
    for each in json.loads(asked.stdout):
        if package := installed(*each):
            found.setdefault(package.name, package)
    return found
