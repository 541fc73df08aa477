"""Hold packages to the hashes that requirements give (``--hash``), which uv passes over when it locks."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from k8s_venv.errors import LockError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from k8s_venv.config.environment import Environment
    from k8s_venv.locks.lockfile import LockedFile, LockedPackage
    from k8s_venv.locks.requirements import Line


def held_to_hashes(
    environment: Environment, packages: Sequence[LockedPackage], lines: Sequence[Line]
) -> list[LockedPackage]:
    """Keep of each package the files that have a hash among its lines, where they give one, as pip does.

    Args:
        environment: whose packages, for messages.
        packages: the packages as a lock lists them.
        lines: the environment's lines.

    Raises:
        LockError: a package has no such file, or no hash where `--require-hashes` asks for them.
    """
    pinned = _pinned_hashes(lines)
    required = next((line for line in lines if line.text == "--require-hashes"), None)
    held = []
    for package in packages:
        allowed = pinned.get(package.name, {})
        if required and not allowed:
            raise LockError(
                environment.name, f"{required.place} asks for hashes, and no line gives one for {package.name!r}."
            )
        held.append(_held_package(environment, package, allowed) if allowed else package)
    return held


def _held_package(environment: Environment, package: LockedPackage, allowed: Mapping[str, str]) -> LockedPackage:
    def fits(file: LockedFile | None) -> bool:
        return file is not None and any(f"{kind}:{digest}" in allowed for kind, digest in file.hashes.items())

    kept = dataclasses.replace(
        package,
        archive=package.archive if fits(package.archive) else None,
        sdist=package.sdist if fits(package.sdist) else None,
        wheels=tuple(filter(fits, package.wheels)),
    )
    if not kept.files:
        raise LockError(
            environment.name,
            f"no file of {package.name} {package.version} for Python {environment.python} has a hash "
            f"that {next(iter(allowed.values()))} allows. Write the hashes of this version (of the file for this "
            "platform), or leave them out: a lock has its own.",
        )
    return kept


def _pinned_hashes(lines: Sequence[Line]) -> dict[str, dict[str, str]]:
    """Return the hashes that lines allow for packages, as ``sha256:…``, each with its line's place."""
    pinned: dict[str, dict[str, str]] = {}
    for line in lines:
        for value in line.hashes:
            pinned.setdefault(line.package, {})[value] = line.place
    return pinned
