"""Locks: requirements -> ``pylock.<environment>.toml`` (PEP 751), and whether one still fits.

A lock ends with a table ``[tool.k8s-venv]``: ``inputs`` is what was locked, by which a stale lock is known, and why;
``builder``, ``epoch`` and ``base`` say how the image is made and on what, and go into its tag. So neither a new version
of k8s-venv nor a new base image changes a tag before the next ``k8s-venv lock``.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import Counter
from typing import TYPE_CHECKING, Any

from k8s_venv.errors import LockError
from k8s_venv.locks import uv
from k8s_venv.locks.linechecks import line_notes, refuse_lines
from k8s_venv.locks.lockfile import parse_lock, parse_packages
from k8s_venv.locks.passedover import passed_over
from k8s_venv.locks.requirements import requirement_lines
from k8s_venv.locks.resolving import Renewal, is_own, lock_text, resolve
from k8s_venv.locks.systempackages import system_packages

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from k8s_venv.config.environment import Environment
    from k8s_venv.locks.installed import Installed
    from k8s_venv.locks.lockfile import Lock, LockedPackage

# The generation of each builder: raised whenever the same lock would give another image.
EPOCHS = {"layers": 1, "buildkit": 2}
_HEADER = "# Written by `k8s-venv lock {name}`. Commit this file; change the requirements, not the lock.\n"
_MOST_CHANGES = 5
_KEEP_ALL = Renewal()


def read_lock(environment: Environment) -> Lock:
    """Read an environment's lock.

    Raises:
        LockError: there is no lock, it cannot be read, or the requirements have changed since.
    """
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
    if changes := [*_changes(file.inputs, _wanted(environment)), *_image_changes(file.lock, environment)]:
        raise LockError(environment.name, f"its lock is stale: {'; '.join(changes)}. Run `{command}`.")
    if file.edited:
        raise LockError(
            environment.name,
            f"its lock {path} was changed by hand, or by a merge. Run `{command}`.",
        )
    return file.lock


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


def write_lock(
    environment: Environment,
    progress: Callable[[str], None] | None = None,
    renewal: Renewal = _KEEP_ALL,
    base: str | None = None,
    note: Callable[[str], None] | None = None,
    own: Mapping[str, Installed] | None = None,
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

    Raises:
        LockError: the requirements cannot be resolved; the older lock stays as it was.
    """
    lines = requirement_lines(environment)
    refuse_lines(environment, lines)
    if not uv.is_known(environment.python):
        raise LockError(environment.name, f"there is no Python {environment.python} that uv could find or download.")
    notes = [*line_notes(environment, lines), *_unread(environment)]
    if own is None:
        own = system_packages(environment) if environment.system_site_packages else {}
    older = locked_packages(environment)
    packages = resolve(environment, older, renewal, progress, notes.append, own) if lines else []
    if environment.requirements and not packages:
        notes.append(f"{environment.requirements_place} asks for no package on Python {environment.python}.")
    present = [package for package in packages if is_own(package, own)]
    packages = [package for package in packages if package not in present]
    tool = _tool_table(environment, present, locked_base(environment) if base is None else base)
    text = lock_text(packages, environment.platforms, tool)
    _replace(environment, _HEADER.format(name=environment.name) + text)
    if environment.builder != "buildkit":
        notes += passed_over(environment, _newly_chosen(packages, older, renewal))
    if note:
        for sentence in notes:
            note(sentence)
    return read_lock(environment)


def _newly_chosen(packages: list[LockedPackage], older: list[LockedPackage], renewal: Renewal) -> dict[str, str]:
    """Return the versions in a new lock, by name, that were not just kept from an older one."""
    kept = [] if renewal.everything else older
    before = {(package.name, package.version) for package in kept}
    return {
        package.name: package.version
        for package in packages
        if package.wheels and (package.name, package.version) not in before
    }


def _tool_table(environment: Environment, present: list[LockedPackage], digest: str) -> dict[str, Any]:
    builder = environment.image_builder
    table: dict[str, Any] = {"builder": builder, "epoch": EPOCHS[builder], "inputs": _inputs(environment)}
    if environment.system_site_packages:
        table["system"] = sorted(f"{package.name}=={package.version}" for package in present)
    if digest:
        table["base"] = f"{environment.base_image}@{digest}"
    return table


def _unread(environment: Environment) -> list[str]:
    """Return that an older lock cannot be read, if that is so."""
    try:
        parse_packages(environment.lock_path)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        return [f"the older {environment.lock_path.name} cannot be read ({error}), so none of its versions was kept."]
    return []


def locked_packages(environment: Environment) -> list[LockedPackage]:
    """Return the packages of an environment's lock, stale or not; none where it is missing or garbled."""
    try:
        return parse_packages(environment.lock_path)
    except (OSError, ValueError):
        return []


def locked_base(environment: Environment) -> str:
    """Return the digest of the base image in an environment's lock; nothing where it is for another base, or none."""
    try:
        lock = parse_lock(environment.lock_path).lock
    except (OSError, ValueError):
        return ""
    return "" if _image_changes(lock, environment) else lock.base_digest


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


def _inputs(environment: Environment) -> dict[str, Any]:
    return {
        "python": environment.python,
        "platforms": list(environment.platforms),
        "requirements": [line.recorded for line in requirement_lines(environment)],
    }


def _wanted(environment: Environment) -> dict[str, Any]:
    return {**_inputs(environment), "system-site-packages": str(environment.system_site_packages).lower()}


def _changes(locked: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Return in which ways what was locked differs from what is wanted."""
    said = [
        f"its {what} {_listed(locked[key])} when it was locked, and now {_listed(wanted[key])}"
        for key, what in (
            ("python", "Python was"),
            ("platforms", "platforms were"),
            ("system-site-packages", "`system-site-packages` was"),
        )
        if locked[key] != wanted[key]
    ]
    before, now = Counter(locked["requirements"]), Counter(wanted["requirements"])
    said += [f"{line!r} was added" for line in now - before]
    said += [f"{line!r} was removed" for line in before - now]
    if len(said) > _MOST_CHANGES:
        said[_MOST_CHANGES:] = [f"and {len(said) - _MOST_CHANGES} more changes"]
    return said


def _image_changes(lock: Lock, environment: Environment) -> list[str]:
    """Return how a locked image differs from the one that is wanted; another builder than today's default may stay."""
    said = []
    name = lock.base.rpartition("@")[0]
    if name and name != environment.base_image:
        said.append(f"its base was {name} when it was locked, and now {environment.base_image}")
    if lock.builder == "layers" and environment.image_builder != "layers":
        said.append(f"its image needs the builder {environment.image_builder} now")
    return said


def _listed(value: str | list[str]) -> str:
    return value if isinstance(value, str) else ", ".join(value)
