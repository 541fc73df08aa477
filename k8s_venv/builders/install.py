"""Install wheels with uv as they will stand in the image, and tell their files apart by their records."""

from __future__ import annotations

import base64
import csv
import dataclasses
import hashlib
import io
import posixpath
import re
from collections import Counter
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from k8s_venv.locks import uv
from k8s_venv.locks.lockfile import LockedPackage
from k8s_venv.locks.resolving import lock_text, uv_platform

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from k8s_venv.builders.selection import Wheel

PREFIX = "opt/venv"
# What an installer notes about itself and the moment; the rest of a wheel's files are the same everywhere.
_NOTES = ("REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json")
_SHEBANG = re.compile(rb"#!/bin/sh\n'''exec' [^\n]*\n' '''\n|#![^\n]*\n")


@dataclasses.dataclass(frozen=True)
class File:
    """One file of an image.

    Args:
        name: its path in the image, without the leading slash.
        source: where its content is: a file, or the bytes themselves.
        executable: whether it may be run.
    """

    name: str
    source: Path | bytes
    executable: bool = False

    @property
    def size(self) -> int:
        """Return its length in bytes."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size


def site_packages(python: str) -> str:
    """Return the folder of an image's packages.

    Args:
        python: the minor version.
    """
    return f"{PREFIX}/lib/python{python}/site-packages"


@dataclasses.dataclass(frozen=True)
class InstalledWheel:
    """A wheel as it stands in an image.

    Args:
        files: its files, without its record and bytecode.
        record: the name of its record.
        rows: the record's rows for the files
            (https://packaging.python.org/en/latest/specifications/recording-installed-packages/).
    """

    files: tuple[File, ...]
    record: str
    rows: tuple[tuple[str, str, str], ...]

    def with_bytecode(self, compiled: Mapping[str, File]) -> list[File]:
        """Return all its files: with the bytecode of modules that could be compiled, and the record of everything.

        Args:
            compiled: bytecode by the name of its module.
        """
        bytecode = [compiled[file.name] for file in self.files if file.name in compiled]
        packages = posixpath.dirname(posixpath.dirname(self.record))
        unhashed = [
            (posixpath.relpath(name, packages), "", "") for name in [self.record, *(one.name for one in bytecode)]
        ]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(sorted([*self.rows, *unhashed]))
        return [*self.files, *bytecode, File(self.record, text.getvalue().encode())]


@dataclasses.dataclass(frozen=True)
class Target:
    """What wheels are installed for.

    Args:
        python: the minor version.
        interpreter: a Python of that version, here.
        platform: such as ``linux/arm64``.
        indexes: uv's variables for the indexes that the requirements name.
    """

    python: str
    interpreter: str
    platform: str
    indexes: Mapping[str, str]


def install(wheels: Sequence[Wheel], target: Target, folder: Path) -> dict[Wheel, InstalledWheel]:
    """Install wheels, each checked against its hash, and tell their files apart.

    Args:
        wheels: what to install.
        target: what for.
        folder: an empty folder; the files are in it afterwards.

    Raises:
        UvError: uv cannot get or install one of them.
    """
    venv = _sync(wheels, target, folder)
    installed = {wheel: _installed(venv, wheel, target.python) for wheel in wheels}
    owners = Counter(file.name for one in installed.values() for file in one.files)
    shared = [wheel for wheel in wheels if any(owners[file.name] > 1 for file in installed[wheel].files)]
    if len(wheels) > 1:  # of a file that several wheels bring, only the last one's is there
        for number, wheel in enumerate(shared):
            installed.update(install([wheel], target, folder / f"alone{number}"))
    return installed


def _sync(wheels: Sequence[Wheel], target: Target, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lock, venv = folder / "pylock.toml", folder / "venv"
    packages = [LockedPackage(name=wheel.name, version=wheel.version, wheels=(wheel.source,)) for wheel in wheels]
    lock.write_text(lock_text(packages), "utf-8")
    uv.run(["venv", "--quiet", "--no-project", "--no-python-downloads", "--python", target.interpreter, str(venv)])
    uv.run(
        [
            *("pip", "sync", "--quiet", "--python", str(venv / "bin" / "python")),
            *("--python-platform", uv_platform(target.platform)),
            *("--require-hashes", "--only-binary", ":all:", str(lock)),
        ],
        indexes=target.indexes,
    )
    return venv


def _installed(venv: Path, wheel: Wheel, python: str) -> InstalledWheel:
    """Return the files of an installed wheel, with scripts as they stand in the image."""
    packages = f"lib/python{python}/site-packages"
    info = _dist_info(venv / packages, wheel.name)
    record = f"{packages}/{info.name}/RECORD"
    files, rows = [], []
    listed = list(csv.reader(io.StringIO((info / "RECORD").read_text("utf-8"))))
    bytecode = {bytecode_name(path, python) for path, *_ in listed}
    for path, digest, size in listed:
        name = posixpath.normpath(posixpath.join(packages, path))
        # What a record claims outside of the environment, or without bringing it, does not count.
        if name.startswith(("../", "/")) or not (venv / name).is_file():
            continue
        if name == record or (posixpath.dirname(name) == posixpath.dirname(record) and name.endswith(_NOTES)):
            continue
        if path in bytecode:  # a wheel's own gives way to ours
            continue
        file = _file(venv, name)
        if isinstance(file.source, bytes):
            digest = "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(file.source).digest()).rstrip(b"=").decode()
            size = str(file.size)
        files.append(file)
        rows.append((path, digest, size))
    return InstalledWheel(tuple(files), f"{PREFIX}/{record}", tuple(rows))


def bytecode_name(path: str, python: str) -> str | None:
    """Return where a module's bytecode is, or None for what is no module or a test.

    Args:
        path: the module's source.
        python: the minor version.
    """
    folder, name = posixpath.split(path)
    if not name.endswith(".py") or {"test", "tests"} & set(folder.split("/")) or path.startswith("../"):
        return None
    cached = f"__pycache__/{name[:-3]}.cpython-{python.replace('.', '')}.pyc"
    return posixpath.join(folder, cached)


def _file(venv: Path, name: str) -> File:
    path = venv / name
    executable = bool(path.stat().st_mode & 0o100)
    if name.startswith("bin/"):
        content = path.read_bytes()
        own = content.startswith(b"#!") and str(venv).encode() in content[:1000]
        if own:
            return File(f"{PREFIX}/{name}", _SHEBANG.sub(f"#!/{PREFIX}/bin/python\n".encode(), content, count=1), True)
        executable = True
    return File(f"{PREFIX}/{name}", path, executable)


def _dist_info(packages: Path, name: str) -> Path:
    for folder in packages.glob("*.dist-info"):
        if canonicalize_name(folder.name.removesuffix(".dist-info").rpartition("-")[0]) == canonicalize_name(name):
            return folder
    raise LookupError(f"uv installed no {name}")
