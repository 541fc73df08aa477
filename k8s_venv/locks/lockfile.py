"""The file of a lock: how it is read, and what it must look like.

It is a ``pylock.toml`` (PEP 751) with a table ``[tool.k8s-venv]``. Its ``checksum`` is of all that stands in the file
but URLs, so that a mirror may be written into it, while a package that was taken out, or a merge of two locks that
was never resolved, is known.

Workers read locks beside Airflow's constraints files, which hold `packaging` below 26. So this module does without
`packaging.pylock`; the tests validate locks with it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import tomllib
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from k8s_venv.locks.requirements import Requirements

_Kind = TypeVar("_Kind")

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_DIGEST = re.compile(r"[0-9a-f]{32,128}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LockedFile:
    """A file that a package is installed from: a wheel, an archive or a source distribution.

    Args:
        url: where it can be downloaded, if it can.
        path: where it lies in the project's folder, if it does.
        name: its name, where that is not the end of the URL or the path.
        upload_time: when it was uploaded, if the index says so.
        subdirectory: the folder in an archive of sources that is built, where that is not its root.
        size: its length in bytes, if the index says so.
        hashes: its digests in hexadecimal, by algorithm.
    """

    url: str = ""
    path: str = ""
    name: str = ""
    subdirectory: str = ""
    upload_time: datetime | None = None
    size: int | None = None
    hashes: Mapping[str, str] = dataclasses.field(hash=False)

    @property
    def filename(self) -> str:
        """Return the file's name."""
        place = unquote(urlsplit(self.url).path) if self.url else self.path
        return self.name or place.replace("\\", "/").rpartition("/")[2]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LockedPackage:
    """A package of a lock. The fields have the names of PEP 751.

    Args:
        name: its normalized name.
        version: its version; empty for an archive that does not say it.
        marker: where it is installed (PEP 508); empty for everywhere.
        requires_python: the versions of Python that it is for (PEP 440); empty for all.
        archive: the file of a requirement that names a URL or a path.
        sdist: its source distribution, where it has to be compiled.
        wheels: its wheels.
    """

    name: str
    version: str = ""
    marker: str = ""
    requires_python: str = ""
    archive: LockedFile | None = None
    sdist: LockedFile | None = None
    wheels: tuple[LockedFile, ...] = ()

    @property
    def files(self) -> tuple[LockedFile, ...]:
        """Return all its files."""
        return (*self.wheels, *(file for file in (self.archive, self.sdist) if file))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LockFile:
    """The content of a lock's file.

    Args:
        path: the file.
        packages: the packages.
        builder: what makes the image.
        epoch: the generation of that builder.
        base: the base image with its digest, or nothing where it is not pinned.
        system: the packages that the interpreter, or the base image, itself has to have, each as ``name==version``;
            None where the environment sees none of them.
        inputs: what was locked.
        edited: whether somebody changed the file since it was written.
    """

    path: Path
    packages: tuple[LockedPackage, ...]
    builder: str
    epoch: int
    base: str = ""
    system: tuple[str, ...] | None = None
    inputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    edited: bool = False

    @property
    def base_digest(self) -> str:
        """Return the digest of the base image, or nothing where it is not pinned."""
        return self.base.rpartition("@")[2]

    @property
    def local_files(self) -> dict[str, str]:
        """Return the SHA-256 of the files that lie in the project's folder, by their paths from there."""
        files = [file for package in self.packages for file in package.files]
        return {file.path: file.hashes["sha256"] for file in files if file.path}

    @property
    def digest(self) -> str:
        """Return a digest of what is locked; two indexes with the same files give the same one."""
        packages = sorted((package.name, package.version, _digests(package)) for package in self.packages)
        content: list[Any] = [self.builder, self.epoch, self.base_digest, packages]
        if self.system is not None:
            content.append(self.system)
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lock(LockFile):
    """A lock that fits its environment.

    Args:
        requirements: what the environment asks for; not shown, since its indexes may have passwords.
    """

    requirements: Requirements = dataclasses.field(compare=False, repr=False)

    @property
    def indexes(self) -> dict[str, str]:
        """Return uv's variables for the indexes that the requirements name, with their passwords."""
        return self.requirements.indexes


def _digests(package: LockedPackage) -> list[str]:
    return sorted(f"{kind}:{digest}" for file in package.files for kind, digest in file.hashes.items())


def parse_lock(path: Path) -> LockFile:
    """Read the file of a lock.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no lock, or none of ours.
    """
    return parse_text(path, path.read_text("utf-8"))


def parse_text(path: Path, text: str) -> LockFile:
    """Return what the text of a lock's file says.

    Args:
        path: the file.
        text: its text.

    Raises:
        ValueError: it is no lock, or none of ours.
    """
    if any(side != text for side in _sides(text)):
        raise ValueError("a conflict of a merge is left in it")
    return _parsed(path, text)


def parse_sides(path: Path) -> list[LockFile]:
    """Read the file of a lock as each side of a merge's conflicts has it; without a conflict there is one.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no lock, or none of ours.
    """
    return [_parsed(path, side) for side in _sides(path.read_text("utf-8"))]


def read_package(table: Mapping[str, Any]) -> LockedPackage:
    """Return a package from its table in a file.

    Raises:
        KeyError: it lacks its name.
        TypeError: a value is of the wrong type.
        ValueError: its name or version is not one.
    """
    name, version = table["name"], table.get("version", "")
    if type(name) is not str or type(version) is not str or re.search(r"[\s/\\]", version):
        raise ValueError(f"{name!r} {version!r} is no package")
    return LockedPackage(
        name=name,
        version=version,
        marker=_typed(table, "marker", str) or "",
        requires_python=_typed(table, "requires-python", str) or "",
        archive=_read_file(table["archive"]) if "archive" in table else None,
        sdist=_read_file(table["sdist"]) if "sdist" in table else None,
        wheels=tuple(_read_file(wheel) for wheel in table.get("wheels", ())),
    )


def package_table(package: LockedPackage) -> dict[str, Any]:
    """Return the table of a package in a file."""
    return {
        **_table(package),
        **{kind: _table(file) for kind, file in (("archive", package.archive), ("sdist", package.sdist)) if file},
        **({"wheels": [_table(wheel) for wheel in package.wheels]} if package.wheels else {}),
    }


def _read_file(table: Mapping[str, Any]) -> LockedFile:
    hashes = table.get("hashes", {})
    if not all(type(digest) is str for digest in hashes.values()):
        raise TypeError("a hash is not text")
    return LockedFile(
        url=_typed(table, "url", str) or "",
        path=_typed(table, "path", str) or "",
        name=_typed(table, "name", str) or "",
        subdirectory=_typed(table, "subdirectory", str) or "",
        upload_time=_typed(table, "upload-time", datetime),
        size=_typed(table, "size", int),
        hashes=hashes,
    )


def _typed(table: Mapping[str, Any], key: str, kind: type[_Kind]) -> _Kind | None:
    value = table.get(key)
    if value is not None and type(value) is not kind:
        raise TypeError(f"{key} is not of the type {kind.__name__}")
    return value


def _table(value: LockedPackage | LockedFile) -> dict[str, Any]:
    """Return the values of its fields that are set, but those that have tables of their own."""
    given = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
    nested = ("archive", "sdist", "wheels")
    return {name.replace("_", "-"): each for name, each in given if each not in (None, "") and name not in nested}


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
        system = tuple(str(each) for each in table["system"]) if "system" in table else None
        written = table.get("checksum", "")
        as_written = written == checksum(content)
        packages = tuple(read_package(package) for package in content["packages"])
        _refuse_strange(packages, with_markers=not as_written)
        inputs = table["inputs"]
        known: dict[str, Any] = {
            "python": str(inputs["python"]),
            "platforms": [str(each) for each in inputs["platforms"]],
            "requirements": [str(each) for each in inputs["requirements"]],
            "system-site-packages": str(system is not None).lower(),
        }
        return LockFile(
            path=path,
            packages=packages,
            builder=str(table["builder"]),
            epoch=int(table["epoch"]),
            base=str(table.get("base", "")),
            system=system,
            inputs=known,
            edited=not as_written and written != "",
        )
    except KeyError as error:
        raise ValueError(f"it lacks {error}, so k8s-venv did not write it") from None
    except (TypeError, AttributeError, RecursionError):
        raise ValueError("it is not laid out as k8s-venv writes it") from None


def _refuse_strange(packages: Sequence[LockedPackage], *, with_markers: bool) -> None:
    """Refuse what neither uv nor we write: names that are paths, files elsewhere, a package twice.

    Raises:
        ValueError: there is such a thing.
    """
    seen: dict[str, str] = {}
    for package in packages:
        if not _NAME.fullmatch(package.name):
            raise ValueError(f"{package.name!r} {package.version!r} is no package")
        if package.name in seen and not (package.marker and seen[package.name]):
            raise ValueError(f"{package.name!r} stands in it twice")
        seen[package.name] = package.marker
        if package.marker and with_markers:  # which takes longer than all else
            _refuse_marker(package)
        for file in package.files:
            _refuse_file(package.name, file)


def _refuse_marker(package: LockedPackage) -> None:
    from packaging.markers import InvalidMarker, Marker

    try:
        Marker(package.marker)
    except InvalidMarker:
        raise ValueError(f"the marker of {package.name!r} is not valid: {package.marker!r}") from None


def _refuse_file(name: str, file: LockedFile) -> None:
    place = PurePosixPath(file.path)
    url = file.url or "https:"
    if place.is_absolute() or ".." in place.parts or not url.startswith(("https:", "http:")):
        raise ValueError(f"the file of {name!r} lies outside the project: {file.path or file.url}")
    if not (file.url or file.path):
        raise ValueError(f"a file of {name!r} has neither `url` nor `path`")
    needed = {"sha256"} if file.path else set()  # by which a file in the project is compared
    if not file.hashes or needed - file.hashes.keys() or not all(map(_DIGEST.fullmatch, file.hashes.values())):
        raise ValueError(f"the hashes of {name!r} are not valid")
