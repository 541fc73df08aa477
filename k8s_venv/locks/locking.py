"""Locks: requirements -> ``pylock.<environment>.toml`` (PEP 751), and whether one still fits.

A lock ends with a table ``[tool.k8s-venv]``: ``inputs`` is what was locked, by which a stale lock is known, and why;
``builder``, ``epoch`` and ``base`` say how the image is made and on what, and go into its tag. So neither a new version
of k8s-venv nor a new base image changes a tag before the next ``k8s-venv lock``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k8s_venv.errors import LockError, StaleLockError
from k8s_venv.locks import uv
from k8s_venv.locks.installed import system_packages
from k8s_venv.locks.lockfile import Lock, LockedPackage, parse_lock, parse_sides, parse_text
from k8s_venv.locks.newer_versions import passed_over
from k8s_venv.locks.requirements import line_notes, read_requirements, refuse_lines
from k8s_venv.locks.resolving import Renewal, host_platform, is_own, lock_text, resolve, resolve_here

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from k8s_venv.config.environment import Environment
    from k8s_venv.locks.installed import Installed
    from k8s_venv.locks.lockfile import LockedFile, LockFile
    from k8s_venv.locks.requirements import Requirements

_HEADER = "# Written by `k8s-venv lock {name}`. Commit this file; change the requirements, not the lock.\n"
_MOST_CHANGES = 5
_KEEP_ALL = Renewal()
# Locks that stay read, by their paths; None where each is read whenever it is asked for.
_read: dict[Path, Lock] | None = None


@contextlib.contextmanager
def read_locks_once() -> Iterator[None]:
    """Read each lock once, for a command that runs tasks in its own process."""
    global _read
    _read = {}
    try:
        yield
    finally:
        _read = None


def read_lock(environment: Environment) -> Lock:
    """Read an environment's lock.

    Raises:
        LockError: there is no lock, it cannot be read, or the requirements have changed since.
    """
    path = environment.lock_path
    if _read is None:
        return _read_fresh(environment)
    if path not in _read:
        _read[path] = _read_fresh(environment)
    return _read[path]


def _read_fresh(environment: Environment) -> Lock:
    path = environment.lock_path
    command = f"k8s-venv lock {environment.name}"
    if not path.is_file():
        raise LockError(environment.name, f"it was never locked: {path} does not exist. Run `{command}`.")
    try:
        file = parse_lock(path)
    except OSError as error:
        raise LockError(environment.name, f"its lock {path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise LockError(environment.name, f"its lock {path} cannot be read: {error}. Run `{command}`.") from None
    requirements = read_requirements(environment)
    if changes := [*_changes(file.inputs, _wanted(requirements)), *_image_changes(file, environment)]:
        raise StaleLockError(environment.name, f"its lock is stale: {'; '.join(changes)}. Run `{command}`.")
    if file.edited:
        raise LockError(
            environment.name,
            f"its lock {path} was changed by hand, or by a merge. Run `{command}`.",
        )
    return Lock(**vars(file), requirements=requirements)


def check_lock(environment: Environment) -> Lock:
    """Read an environment's lock, and compare the wheels in the project's folder with it; nothing is asked for.

    Raises:
        LockError: it is missing or stale, or a wheel is not the locked one.
    """
    lock = read_lock(environment)
    for file, digest in lock.local_files.items():
        path = environment.root / file
        found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        if found != digest:
            what = "is another file than the locked one" if found else "does not exist"
            raise LockError(
                environment.name, f"its lock is stale: {file} {what}. Run `k8s-venv lock {environment.name}`."
            )
    return lock


@dataclasses.dataclass(frozen=True)
class OlderLock:
    """What a new lock keeps of the one that it replaces, stale or not.

    Args:
        packages: its packages, of both sides where a conflict of a merge is left in it.
        base_digest: the digest of its base image, or nothing where it is for another base.
        problem: why it cannot be read, if so.
    """

    packages: tuple[LockedPackage, ...] = ()
    base_digest: str = ""
    problem: str = ""


def read_older(environment: Environment) -> OlderLock:
    """Read the lock that is to be replaced, if there is one."""
    try:
        files = parse_sides(environment.lock_path)
    except FileNotFoundError:
        return OlderLock()
    except (OSError, ValueError) as error:
        return OlderLock(problem=str(error))
    packages: dict[str, list[LockedPackage]] = {}
    for file in reversed(files):
        found: dict[str, list[LockedPackage]] = {}
        for package in file.packages:
            found.setdefault(package.name, []).append(package)
        packages |= found
    digest = "" if _image_changes(files[0], environment) else files[0].base_digest
    return OlderLock(tuple(package for each in packages.values() for package in each), digest)


def write_lock(
    environment: Environment,
    progress: Callable[[str], None] | None = None,
    renewal: Renewal = _KEEP_ALL,
    base: str | None = None,
    note: Callable[[str], None] | None = None,
    own: Mapping[str, Installed] | None = None,
    older: OlderLock | None = None,
    generation: int = 0,
) -> Lock:
    """Resolve an environment's requirements and write its lock.

    The versions of an older lock are kept where they still fit.

    Args:
        environment: what to lock.
        progress: is called with what happens.
        renewal: which versions of an older lock are not kept.
        base: the base image's digest; by default an older lock's, where it is for the same base.
        note: is called with what is worth a look, though it can be locked.
        own: with `system-site-packages`, what is there already, by name; by default what the interpreter here has.
        older: the lock that is replaced; by default it is read.
        generation: the generation of the environment's builder, which the image's tag follows from; no builder makes
            an image from a lock with 0.

    Raises:
        LockError: the requirements cannot be resolved; the older lock stays as it was.
    """
    requirements = read_requirements(environment)
    refuse_lines(requirements)
    if not uv.is_known(environment.python):
        raise LockError(environment.name, f"there is no Python {environment.python} that uv could find or download.")
    notes = line_notes(requirements)
    older = read_older(environment) if older is None else older
    if older.problem:
        name = environment.lock_path.name
        notes.append(f"the older {name} cannot be read ({older.problem}), so none of its versions was kept.")
    if own is None:
        own = system_packages(environment) if environment.system_site_packages else {}
    found = resolve(requirements, older.packages, renewal, progress, notes.append, own) if requirements.lines else []
    if environment.requirements and not found:
        notes.append(f"{environment.requirements_place} asks for no package on Python {environment.python}.")
    present = [package for package in found if is_own(package, own)]
    packages = [package for package in found if package not in present]
    tool = _tool_table(requirements, present, older.base_digest if base is None else base, generation)
    text = _HEADER.format(name=environment.name) + lock_text(packages, environment.platforms, tool)
    _replace(environment, text)
    if environment.builder != "buildkit":
        notes += passed_over(requirements, _newly_chosen(packages, older.packages, renewal))
    if note:
        for sentence in notes:
            note(sentence)
    lock = Lock(**vars(parse_text(environment.lock_path, text)), requirements=requirements)
    if _read is not None:
        _read[lock.path] = lock
    return lock


def _newly_chosen(
    packages: Sequence[LockedPackage], older: Sequence[LockedPackage], renewal: Renewal
) -> dict[str, str]:
    """Return the versions in a new lock, by name, that were not just kept from an older one."""
    before = set() if renewal.everything else {(package.name, package.version) for package in older}
    return {
        package.name: package.version
        for package in packages
        if package.wheels and (package.name, package.version) not in before
    }


def _tool_table(
    requirements: Requirements, present: Sequence[LockedPackage], digest: str, generation: int
) -> dict[str, Any]:
    environment = requirements.environment
    builder = environment.image_builder
    table: dict[str, Any] = {"builder": builder, "epoch": generation, "inputs": _inputs(requirements)}
    if environment.system_site_packages:
        table["system"] = sorted(f"{package.name}=={package.version}" for package in present)
    if digest:
        table["base"] = f"{environment.base_image}@{digest}"
    return table


def _replace(environment: Environment, text: str) -> None:
    path = environment.lock_path
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_text(text, "utf-8")
        partial.replace(path)
    except OSError as error:
        raise LockError(environment.name, f"its lock {path} cannot be written: {error.strerror}.") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _inputs(requirements: Requirements) -> dict[str, Any]:
    environment = requirements.environment
    return {
        "python": environment.python,
        "platforms": list(environment.platforms),
        "requirements": requirements.recorded,
    }


def _wanted(requirements: Requirements) -> dict[str, Any]:
    sees = requirements.environment.system_site_packages
    return {**_inputs(requirements), "system-site-packages": str(sees).lower()}


def _changes(locked: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return in which ways what was locked differs from what is wanted."""
    changes = [
        f"its {what} {_listed(locked[key])} when it was locked, and now {_listed(wanted[key])}"
        for key, what in (
            ("python", "Python was"),
            ("platforms", "platforms were"),
            ("system-site-packages", "`system-site-packages` was"),
        )
        if locked[key] != wanted[key]
    ]
    before, now = Counter(locked["requirements"]), Counter(wanted["requirements"])
    changes += [f"{line!r} was added" for line in now - before]
    changes += [f"{line!r} was removed" for line in before - now]
    if len(changes) > _MOST_CHANGES:
        changes[_MOST_CHANGES:] = [f"and {len(changes) - _MOST_CHANGES} more changes"]
    return changes


def _image_changes(lock: LockFile, environment: Environment) -> list[str]:
    """Return how a locked image differs from the one that is wanted; another builder than today's default may stay."""
    changes = []
    name = lock.base.rpartition("@")[0]
    if name and name != environment.base_image:
        changes.append(f"its base was {name} when it was locked, and now {environment.base_image}")
    if lock.builder == "layers" and environment.image_builder != "layers":
        changes.append(f"its image needs the builder {environment.image_builder} now")
    return changes


def _listed(value: str | list[str]) -> str:
    return value if isinstance(value, str) else ", ".join(value)


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
        packages = resolve_here(lock.requirements, str(python), [*lock.packages, *present])
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
