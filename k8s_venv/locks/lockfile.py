"""The file of a lock: how it is read, and what it must look like.

It is a ``pylock.toml`` (PEP 751) with a table ``[tool.k8s-venv]``. Its ``checksum`` is of all that stands in the file
but URLs, so that a mirror may be written into it, while a package that was taken out, or a merge of two locks that
was never resolved, is known.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import tomllib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

# A package as it stands in the file.
Package = dict[str, Any]

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_DIGEST = re.compile(r"[0-9a-f]{32,128}")
_FILES = ("archive", "sdist")


@dataclasses.dataclass(frozen=True)
class Lock:
    """The exact packages of an environment.

    Args:
        path: the lock file.
        packages: each package's name, version and hashes, sorted; without where they were found.
        builder: what makes the image.
        epoch: the generation of that builder.
        base: the base image with its digest, or nothing where it is not pinned.
        system: the packages that the interpreter, or the base image, itself has to have, each as ``name==version``;
            None where the environment sees none of them.
        local_files: the wheels that lie in the project's folder, by their paths from there, and their SHA-256.
    """

    path: Path
    packages: tuple[tuple[str, str, tuple[str, ...]], ...]
    builder: str
    epoch: int
    base: str = ""
    system: tuple[str, ...] | None = None
    local_files: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def base_digest(self) -> str:
        """Return the digest of the base image, or nothing where it is not pinned."""
        return self.base.rpartition("@")[2]

    @property
    def digest(self) -> str:
        """Return a digest of what is locked; two indexes with the same files give the same one."""
        content: list[Any] = [self.builder, self.epoch, self.base_digest, self.packages]
        if self.system is not None:
            content.append(self.system)
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class LockFile:
    """What stands in a lock's file.

    Args:
        lock: the lock.
        inputs: what was locked.
        packages: the packages as they stand in the file.
        edited: whether somebody changed the file since it was written.
    """

    lock: Lock
    inputs: dict[str, Any]
    packages: list[dict[str, Any]]
    edited: bool


def parse_lock(path: Path) -> LockFile:
    """Read the file of a lock.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no lock, or none of ours.
    """
    text = path.read_text("utf-8")
    if any(side != text for side in _sides(text)):
        raise ValueError("a conflict of a merge is left in it")
    return _parsed(path, text)


def parse_packages(path: Path) -> list[dict[str, Any]]:
    """Return the packages of a lock, stale or not; of both sides where a conflict of a merge is left in it.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no lock, or none of ours.
    """
    packages: dict[str, list[dict[str, Any]]] = {}
    for side in _sides(path.read_text("utf-8")):
        found: dict[str, list[dict[str, Any]]] = {}
        for package in _parsed(path, side).packages:
            found.setdefault(package["name"], []).append(package)
        packages = {**found, **packages}
    return [package for each in packages.values() for package in each]


def checksum(content: dict[str, Any]) -> str:
    """Return the checksum of a lock's content, in which the URLs, and an older checksum, take no part.

    Args:
        content: what stands in the file, as TOML has it.
    """
    packages = [_without_urls(package) for package in content["packages"]]
    tool = {key: value for key, value in content["tool"]["k8s-venv"].items() if key != "checksum"}
    counted = [content.get("environments"), packages, tool]
    return hashlib.sha256(json.dumps(counted, sort_keys=True, default=str).encode()).hexdigest()


def _without_urls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_urls(each) for key, each in value.items() if key != "url"}
    return [_without_urls(each) for each in value] if isinstance(value, list) else value


def _sides(text: str) -> list[str]:
    """Return a text as each side of a merge's conflicts has it; without any, the text alone."""
    sides: tuple[list[str], list[str]] = ([], [])
    now = ""
    for line in text.splitlines(keepends=True):
        mark = line[:7]
        if mark in ("<<<<<<<", "|||||||", "=======", ">>>>>>>") and (now or mark == "<<<<<<<"):
            now = "" if mark == ">>>>>>>" else mark
            continue
        if now in ("", "<<<<<<<"):
            sides[0].append(line)
        if now in ("", "======="):
            sides[1].append(line)
    return list(dict.fromkeys("".join(side) for side in sides))


def _parsed(path: Path, text: str) -> LockFile:
    try:
        content = tomllib.loads(text)
        version = content.get("lock-version")
        if not isinstance(version, str) or version.partition(".")[0] != "1":
            raise ValueError(f"its lock-version is {version!r}, of which this k8s-venv knows 1 alone")
        table = content["tool"]["k8s-venv"]
        made = (str(table["builder"]), int(table["epoch"]), str(table.get("base", "")))
        system = tuple(str(each) for each in table["system"]) if "system" in table else None
        written = table.get("checksum", "")
        as_written = written == checksum(content)
        _refuse_strange(content, with_markers=not as_written)
        lock = Lock(path, _packages(content), *made, system, _local_files(content))
        inputs = table["inputs"]
        known = {
            "python": str(inputs["python"]),
            "platforms": [str(each) for each in inputs["platforms"]],
            "requirements": [str(each) for each in inputs["requirements"]],
            "system-site-packages": str(system is not None).lower(),
        }
        return LockFile(lock, known, content["packages"], not as_written and written != "")
    except KeyError as error:
        raise ValueError(f"it lacks {error}, so k8s-venv did not write it") from None
    except (TypeError, AttributeError, RecursionError):
        raise ValueError("it is not laid out as k8s-venv writes it") from None


def _refuse_strange(content: dict[str, Any], *, with_markers: bool) -> None:
    """Refuse what neither uv nor we write: names that are paths, files elsewhere, a package twice.

    Args:
        content: what stands in the file.
        with_markers: whether markers are read as well, which takes longer than all else.

    Raises:
        ValueError: there is such a thing.
    """
    seen: dict[str, bool] = {}
    for package in content["packages"]:
        name, version, marker = package["name"], package.get("version", ""), package.get("marker")
        if not _NAME.fullmatch(name) or type(version) is not str or re.search(r"[\s/\\]", version):
            raise ValueError(f"{name!r} {version!r} is no package")
        if name in seen and not (marker and seen[name]):
            raise ValueError(f"{name!r} stands in it twice")
        seen[name] = bool(marker)
        if marker is not None and with_markers:
            _refuse_marker(name, marker)
        for file in _files(package):
            _refuse_file(name, file)


def _refuse_marker(name: str, marker: str) -> None:
    from packaging.markers import InvalidMarker, Marker

    try:
        Marker(marker)
    except InvalidMarker:
        raise ValueError(f"the marker of {name!r} is not valid: {marker!r}") from None


def _refuse_file(name: str, file: dict[str, Any]) -> None:
    place = PurePosixPath(file.get("path", "."))
    if place.is_absolute() or ".." in place.parts or not file.get("url", "https:").startswith(("https:", "http:")):
        raise ValueError(f"the file of {name!r} lies outside the project: {file.get('path', file.get('url'))}")
    if not file["hashes"] or not all(_DIGEST.fullmatch(digest) for digest in file["hashes"].values()):
        raise ValueError(f"the hashes of {name!r} are not valid")


def _packages(content: dict[str, Any]) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    return tuple(
        sorted(
            (
                package["name"],
                package.get("version", ""),
                tuple(
                    sorted(f"{kind}:{digest}" for file in _files(package) for kind, digest in file["hashes"].items())
                ),
            )
            for package in content["packages"]
        )
    )


def _files(package: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from package.get("wheels", ())
    yield from (package[kind] for kind in _FILES if kind in package)


def _local_files(content: dict[str, Any]) -> dict[str, str]:
    files = [file for package in content["packages"] for file in _files(package)]
    return {str(file["path"]): str(file["hashes"]["sha256"]) for file in files if "path" in file}
