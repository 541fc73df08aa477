"""The wheels of an image: chosen from a lock (PEP 751), installed with uv as they will be in the image, and compiled.

The files of wheels that are installed together are told apart by the wheels' records
(https://packaging.python.org/en/latest/specifications/recording-installed-packages/).
"""

from __future__ import annotations

import base64
import csv
import dataclasses
import functools
import hashlib
import io
import json
import os
import posixpath
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.markers import Marker
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from k8s_venv.builders.layers import File
from k8s_venv.config import MACHINES
from k8s_venv.errors import BuildError, K8sVenvError
from k8s_venv.locks import uv
from k8s_venv.locks.lockfile import LockedPackage
from k8s_venv.locks.resolving import lock_text, uv_platform

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from k8s_venv.locks.lockfile import Lock, LockedFile

PREFIX = "opt/venv"
# The machine's name in wheels and markers, by its name in platforms.
_LINUX_MACHINES = {name: machine for machine, name in MACHINES.items()}
_GLIBC = (2, 36)  # of Debian bookworm, for which locks are made
# The older names of some manylinux tags (PEP 600).
_LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
# What an installer writes about itself; a wheel's other files are the same everywhere.
_INSTALLER_NOTES = ("REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json")
_SHEBANG = re.compile(rb"#!/bin/sh\n'''exec' [^\n]*\n' '''\n|#![^\n]*\n")
_COMPILER = Path(__file__).with_name("_compile.py")


# Choosing wheels


@dataclasses.dataclass(frozen=True)
class Wheel:
    """One wheel of a lock.

    Args:
        name: the distribution.
        version: its version.
        source: the wheel's file: where it is, and its hashes.
        digest: the hash that it is known by.
    """

    name: str
    version: str
    source: LockedFile = dataclasses.field(compare=False)
    digest: str


class NoWheelError(BuildError):
    """A locked package has no wheel for a platform."""


def select_wheels(environment: str, lock: Lock, python: str, platform: str) -> list[Wheel]:
    """Return the wheels of a lock for a platform, sorted by name.

    Args:
        environment: the environment's name, for messages.
        lock: its lock.
        python: the version of Python, as exact as it is known.
        platform: such as ``linux/arm64``.

    Raises:
        NoWheelError: a package has none.
    """
    ranks = _tag_ranks(".".join(python.split(".")[:2]), _machine(platform))
    wheels = []
    for package in lock.packages:
        if not applies(package, python, platform):
            continue
        wheel = _best_wheel(package, ranks, lock.path.parent)
        if wheel is None:
            named = f"{package.name} {package.version}".strip()
            raise NoWheelError(
                environment,
                f"{named} has no wheel for Python {python} on {platform}. Run `k8s-venv lock {environment}`.",
            )
        wheels.append(wheel)
    return sorted(wheels, key=lambda wheel: wheel.name)


def applies(package: LockedPackage, python: str, platform: str) -> bool:
    """Return whether a locked package is installed on a platform, by its marker (PEP 508).

    Args:
        package: the package.
        python: the version of Python, as exact as it is known.
        platform: such as ``linux/arm64``.
    """
    if not package.marker:
        return True
    full = python if python.count(".") > 1 else f"{python}.0"
    values = {
        "implementation_name": "cpython",
        "implementation_version": full,
        "os_name": "posix",
        "platform_machine": _machine(platform),
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": full,
        "python_version": ".".join(full.split(".")[:2]),
        "sys_platform": "linux",
    }
    return Marker(package.marker).evaluate(values)


def _machine(platform: str) -> str:
    return _LINUX_MACHINES[platform.partition("/")[2]]


def _best_wheel(package: LockedPackage, ranks: Mapping[Tag, int], folder: Path) -> Wheel | None:
    candidates = []
    for file in (*package.wheels, *([package.archive] if package.archive else ())):
        try:
            _, version, _, tags = parse_wheel_filename(file.filename)
        except InvalidWheelFilename:  # an archive of sources
            continue
        rank = min((ranks[tag] for tag in tags if tag in ranks), default=None)
        if rank is not None:
            candidates.append((rank, str(version), file))
    if not candidates:
        return None
    _, version_of_file, file = min(candidates, key=lambda candidate: candidate[0])
    kind = "sha256" if "sha256" in file.hashes else min(file.hashes)
    if file.path:  # relative to the lock, but it is installed through a lock elsewhere
        file = dataclasses.replace(file, path=str((folder / file.path).resolve()))
    return Wheel(package.name, package.version or version_of_file, file, f"{kind}:{file.hashes[kind]}")


@functools.cache
def _tag_ranks(minor: str, machine: str) -> dict[Tag, int]:
    """Return the tags that fit an image, each with its place; the first one is the best."""
    version = tuple(map(int, minor.split(".")))
    platforms = list(_wheel_platforms(machine))
    tags = [*cpython_tags(version, platforms=platforms)]
    tags += compatible_tags(version, interpreter="cp" + minor.replace(".", ""), platforms=platforms)
    return {tag: rank for rank, tag in reversed(list(enumerate(tags)))}


def _wheel_platforms(machine: str) -> Iterator[str]:
    for minor in range(_GLIBC[1], 4, -1):
        yield f"manylinux_{_GLIBC[0]}_{minor}_{machine}"
        if minor in _LEGACY:
            yield f"{_LEGACY[minor]}_{machine}"
    yield f"linux_{machine}"


# Installing them


@dataclasses.dataclass(frozen=True)
class Target:
    """What wheels are installed for.

    Args:
        python: the minor version.
        interpreter: a Python of that version on this machine.
        platform: such as ``linux/arm64``.
        indexes: uv's variables for the indexes that the requirements name.
    """

    python: str
    interpreter: str
    platform: str
    indexes: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class InstalledWheel:
    """A wheel as it is in an image.

    Args:
        files: its files, without its record and bytecode.
        record: the name of its record.
        rows: the record's rows for the files.
    """

    files: tuple[File, ...]
    record: str
    rows: tuple[tuple[str, str, str], ...]

    def with_bytecode(self, compiled: Mapping[str, File]) -> list[File]:
        """Return all its files: with the bytecode of its modules, and the record of everything.

        Args:
            compiled: bytecode by the name of its module; a module that cannot be compiled has none.
        """
        bytecode = [compiled[file.name] for file in self.files if file.name in compiled]
        packages = posixpath.dirname(posixpath.dirname(self.record))
        unhashed = [
            (posixpath.relpath(name, packages), "", "") for name in [self.record, *(one.name for one in bytecode)]
        ]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(sorted([*self.rows, *unhashed]))
        return [*self.files, *bytecode, File(self.record, text.getvalue().encode())]


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
    """Return the files of an installed wheel, with scripts as they are in the image."""
    packages = f"lib/python{python}/site-packages"
    info = _dist_info(venv / packages, wheel.name)
    record = f"{packages}/{info.name}/RECORD"
    files, rows = [], []
    listed = list(csv.reader(io.StringIO((info / "RECORD").read_text("utf-8"))))
    bytecode = {_bytecode_name(path, python) for path, *_ in listed}
    for path, digest, size in listed:
        name = posixpath.normpath(posixpath.join(packages, path))
        # A record may list files outside of the environment, or files that the wheel does not have.
        if name.startswith(("../", "/")) or not (venv / name).is_file():
            continue
        if name == record or (posixpath.dirname(name) == posixpath.dirname(record) and name.endswith(_INSTALLER_NOTES)):
            continue
        if path in bytecode:  # ours replaces the wheel's own
            continue
        file = _file_of_image(venv, name)
        if isinstance(file.source, bytes):
            digest = "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(file.source).digest()).rstrip(b"=").decode()
            size = str(file.size)
        files.append(file)
        rows.append((path, digest, size))
    return InstalledWheel(tuple(files), f"{PREFIX}/{record}", tuple(rows))


def _dist_info(packages: Path, name: str) -> Path:
    for folder in packages.glob("*.dist-info"):
        if canonicalize_name(folder.name.removesuffix(".dist-info").rpartition("-")[0]) == canonicalize_name(name):
            return folder
    raise LookupError(f"uv installed no {name}")


def _file_of_image(venv: Path, name: str) -> File:
    """Return a file of a virtual environment as it is in the image, where scripts start the image's Python."""
    path = venv / name
    executable = bool(path.stat().st_mode & 0o100)
    if not name.startswith("bin/"):
        return File(f"{PREFIX}/{name}", path, executable)
    content = path.read_bytes()
    if not (content.startswith(b"#!") and str(venv).encode() in content[:1000]):
        return File(f"{PREFIX}/{name}", path, True)
    return File(f"{PREFIX}/{name}", _SHEBANG.sub(f"#!/{PREFIX}/bin/python\n".encode(), content, count=1), True)


# Compiling their modules


def compile_files(files: Iterable[File], python: str, interpreter: str, folder: Path) -> dict[str, File]:
    """Compile the modules among some files.

    Args:
        files: any files of an image.
        python: the minor version.
        interpreter: a Python of that version.
        folder: where the bytecode is kept.

    Returns:
        The files with the bytecode, by the name of their module in the image.
    """
    modules = [(file, cached) for file in files if (cached := _bytecode_name(file.name, python))]
    folder.mkdir(parents=True, exist_ok=True)
    lines, made = [], {}
    for number, (file, cached) in enumerate(modules):
        target = folder / f"{number}.pyc"
        lines.append(json.dumps([str(file.source), f"/{file.name}", str(target)]))
        made[file.name] = (cached, target)
    processes = max(1, min(os.cpu_count() or 1, len(lines) // 50))
    _compile(interpreter, [lines[number::processes] for number in range(processes)])
    return {name: File(cached, target) for name, (cached, target) in made.items() if target.exists()}


def _bytecode_name(path: str, python: str) -> str | None:
    """Return the path of a module's bytecode, or None for a test or what is not a module."""
    folder, name = posixpath.split(path)
    if not name.endswith(".py") or {"test", "tests"} & set(folder.split("/")) or path.startswith("../"):
        return None
    return posixpath.join(folder, f"__pycache__/{name[:-3]}.cpython-{python.replace('.', '')}.pyc")


def _compile(interpreter: str, shares: list[list[str]]) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    # Sets of constants are written in the order of their hashes: the same source gives the same bytes only with this.
    environ["PYTHONHASHSEED"] = "0"
    command = [interpreter, "-S", "-s", "-B", str(_COMPILER)]
    running = []
    for share in shares:
        with tempfile.TemporaryFile() as given:
            given.write("\n".join(share).encode())
            given.seek(0)
            running.append(subprocess.Popen(command, stdin=given, stderr=subprocess.PIPE, env=environ))
    try:
        for process in running:
            _, errors = process.communicate()
            if process.returncode:
                reason = errors.decode("utf-8", "replace").strip()
                if fault := uv.disk_fault(reason):
                    raise OSError(fault, os.strerror(fault))
                raise K8sVenvError(f"{interpreter} could not compile: {reason}")
    except BaseException:
        for process in running:
            process.kill()
            process.wait()
        raise
