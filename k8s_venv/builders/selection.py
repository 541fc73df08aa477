"""Which of a lock's wheels go into an image for a platform (PEP 751, "Installation")."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

from packaging.markers import Marker
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from k8s_venv.config import MACHINES
from k8s_venv.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from k8s_venv.locks.lockfile import Lock, LockedFile, LockedPackage

# The machine's name in wheels and markers, by that in platforms.
_LINUX_MACHINES = {name: machine for machine, name in MACHINES.items()}
GLIBC = (2, 36)  # Debian bookworm's, which locks are made for
# The older names of some manylinux tags (PEP 600).
_LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}


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

    @property
    def size(self) -> int | None:
        """Return the wheel's size where the index told it."""
        return self.source.size


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
    machine = _LINUX_MACHINES[platform.partition("/")[2]]
    ranks = _ranks(".".join(python.split(".")[:2]), machine)
    chosen = []
    for package in lock.packages:
        if not applies(package, python, platform):
            continue
        wheel = _best(package, ranks, lock.path.parent)
        if wheel is None:
            raise NoWheelError(
                environment,
                f"{package.name} {package.version} has no wheel for Python {python} on {platform}. "
                f"Run `k8s-venv lock {environment}`.",
            )
        chosen.append(wheel)
    return sorted(chosen, key=lambda wheel: wheel.name)


def applies(package: LockedPackage, python: str, platform: str) -> bool:
    """Return whether a locked package is meant for a platform, by its marker (PEP 508).

    Args:
        package: the package.
        python: the version of Python, as exact as it is known.
        platform: such as ``linux/arm64``.
    """
    if not package.marker:
        return True
    markers = _marker_environment(python, _LINUX_MACHINES[platform.partition("/")[2]])
    return Marker(package.marker).evaluate(markers)


def _best(package: LockedPackage, ranks: dict[Tag, int], folder: Path) -> Wheel | None:
    candidates = []
    for file in (*package.wheels, *([package.archive] if package.archive else ())):
        try:
            _, version, _, tags = parse_wheel_filename(file.filename)
        except InvalidWheelFilename:
            continue
        rank = min((ranks[tag] for tag in tags if tag in ranks), default=None)
        if rank is not None:
            candidates.append((rank, str(version), file))
    if not candidates:
        return None
    _, built, file = min(candidates, key=lambda found: found[0])
    kind = "sha256" if "sha256" in file.hashes else min(file.hashes)
    if file.path:  # relative to the lock; it is installed through a lock elsewhere
        file = dataclasses.replace(file, path=str((folder / file.path).resolve()))
    return Wheel(package.name, package.version or built, file, f"{kind}:{file.hashes[kind]}")


@functools.cache
def _ranks(minor: str, machine: str) -> dict[Tag, int]:
    major_minor = tuple(map(int, minor.split(".")))
    platforms = list(_platforms(machine))
    tags = [*cpython_tags(major_minor, platforms=platforms)]
    tags += compatible_tags(major_minor, interpreter="cp" + minor.replace(".", ""), platforms=platforms)
    return {tag: rank for rank, tag in reversed(list(enumerate(tags)))}


def _platforms(machine: str) -> Iterator[str]:
    for minor in range(GLIBC[1], 4, -1):
        yield f"manylinux_{GLIBC[0]}_{minor}_{machine}"
        if minor in _LEGACY:
            yield f"{_LEGACY[minor]}_{machine}"
    yield f"linux_{machine}"


def _marker_environment(python: str, machine: str) -> dict[str, str]:
    full = python if python.count(".") > 1 else f"{python}.0"
    return {
        "implementation_name": "cpython",
        "implementation_version": full,
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": full,
        "python_version": ".".join(full.split(".")[:2]),
        "sys_platform": "linux",
    }
