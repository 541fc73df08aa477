"""What a platform installs that a lock does not cover, such as a Mac with a lock for Linux."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from k8s_venv.errors import LockError
from k8s_venv.locks.lockfile import LockedPackage
from k8s_venv.locks.resolving import host_platform, lock_text, resolve_here

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from k8s_venv.config.environment import Environment
    from k8s_venv.locks.lockfile import Lock, LockedFile


@contextlib.contextmanager
def lock_for_here(
    environment: Environment, lock: Lock, python: Path, progress: Callable[[str], None]
) -> Iterator[Path]:
    """Give the path of a lock from which this machine can install an environment, for as long as that takes.

    It is the environment's own, where that covers this platform. Else the same requirements are resolved for this
    machine, in exactly the versions of the lock; what only this platform needs comes in addition.

    Args:
        environment: which one.
        lock: its lock.
        python: the interpreter to install for.
        progress: is called with what happens.

    Raises:
        LockError: a locked version does not exist for this platform.
    """
    here = host_platform()
    if here in environment.platforms:
        yield lock.path
        return
    covered = ", ".join(environment.platforms)
    progress(f"The lock is for {covered}; resolving its versions for {here}")
    present = [
        LockedPackage(name=name, version=version)
        for name, _, version in (each.partition("==") for each in lock.system or ())
    ]
    try:
        packages = resolve_here(environment, str(python), [*lock.packages, *present])
    except LockError as error:
        raise LockError(
            environment.name,
            f"its lock is for {covered}, and its versions cannot be had for {here}, this machine. If others can, add "
            f'"{here}" to `platforms` of [environments.{environment.name}], and run `k8s-venv lock '
            f"{environment.name}`.\n{error.problem}",
        ) from None
    names = {package.name for package in present}
    packages = [_in_project(environment.root, package) for package in packages if package.name not in names]
    with tempfile.TemporaryDirectory(prefix="k8s-venv-lock-") as folder:
        path = Path(folder) / "pylock.toml"
        path.write_text(lock_text(packages), "utf-8")
        yield path


def _in_project(root: Path, package: LockedPackage) -> LockedPackage:
    """Return a package whose local files have absolute paths."""

    def absolute(file: LockedFile) -> LockedFile:
        return dataclasses.replace(file, path=str((root / file.path).resolve())) if file.path else file

    return dataclasses.replace(
        package,
        archive=package.archive and absolute(package.archive),
        wheels=tuple(absolute(wheel) for wheel in package.wheels),
    )
