"""Locks: requirements -> ``pylock.<environment>.toml`` (PEP 751), and whether one still fits.

A lock ends with a table ``[tool.k8s-venv]``: ``inputs`` is what was locked, by which a stale lock is known, and why;
``builder``, ``epoch`` and ``base`` say how the image is made and on what, and go into its tag. So neither a new version
of k8s-venv nor a new base image changes a tag before the next ``k8s-venv lock``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import tomllib
from collections import Counter
from typing import TYPE_CHECKING, Any

from k8s_venv import uv
from k8s_venv.errors import LockError
from k8s_venv.linechecks import line_notes, refuse_lines
from k8s_venv.requirements import requirement_lines
from k8s_venv.resolving import Renewal, lock_text, resolve
from k8s_venv.systempackages import system_packages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from k8s_venv.environment import Environment

# The generation of each builder: raised whenever the same lock would give another image.
EPOCHS = {"layers": 1, "buildkit": 2}
_HEADER = "# Written by `k8s-venv lock {name}`. Commit this file; change the requirements, not the lock.\n"
_MOST_CHANGES = 5
_KEEP_ALL = Renewal()


@dataclasses.dataclass(frozen=True)
class Lock:
    """The exact packages of an environment.

    Args:
        path: the lock file.
        packages: each package's name, version and hashes, sorted; without where they were found.
        builder: what makes the image.
        epoch: the generation of that builder.
        base: the base image with its digest, or nothing where it is not pinned.
        system: the packages that the interpreter itself has to have, each as ``name==version``; None where the
            environment sees none of them.
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


def read_lock(environment: Environment) -> Lock:
    """Read an environment's lock.

    Raises:
        LockError: there is none, it cannot be read, or the requirements have changed since.
    """
    path = environment.lock_path
    command = f"k8s-venv lock {environment.name}"
    if not path.is_file():
        raise LockError(environment.name, f"it was never locked: {path} does not exist. Run `{command}`.")
    try:
        lock, inputs = _parse(path)
    except (OSError, ValueError) as error:
        raise LockError(environment.name, f"its lock {path} cannot be read: {error}. Run `{command}`.") from None
    if changes := [*_changes(inputs, _wanted(environment)), *_image_changes(lock, environment)]:
        raise LockError(environment.name, f"its lock is stale: {'; '.join(changes)}. Run `{command}`.")
    return lock


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
) -> Lock:
    """Resolve an environment's requirements and write its lock.

    The versions of an older lock are kept where they still fit.

    Args:
        environment: what to lock.
        progress: is called with what happens.
        renewal: which versions of an older lock are not kept.
        base: the base image's digest; by default an older lock's, where it is for the same base.
        note: is called with what is worth a look, though it can be locked.

    Raises:
        LockError: the requirements cannot be resolved; the older lock stays as it was.
    """
    lines = requirement_lines(environment)
    refuse_lines(environment, lines)
    if not uv.is_known(environment.python):
        raise LockError(environment.name, f"there is no Python {environment.python} that uv could find or download.")
    own = system_packages(environment) if environment.system_site_packages else {}
    preferred = [*({"name": name, "version": version} for name, version in own.items())]
    preferred += [package for package in locked_packages(environment) if package["name"] not in own]
    packages = resolve(environment, preferred, renewal, progress, note) if lines else []
    notes = line_notes(environment, lines)
    if environment.requirements and not packages:
        notes.append(f"{environment.requirements_place} asks for no package on Python {environment.python}.")
    present = [package for package in packages if own.get(package["name"]) == package.get("version", "")]
    packages = [package for package in packages if package not in present]
    digest = locked_base(environment) if base is None else base
    builder = environment.image_builder
    tool = {"builder": builder, "epoch": EPOCHS[builder], "inputs": _inputs(environment)}
    if environment.system_site_packages:
        tool["system"] = sorted(f"{package['name']}=={package['version']}" for package in present)
    if digest:
        tool["base"] = f"{environment.base_image}@{digest}"
    text = lock_text(packages, environment.platforms, tool)
    _replace(environment, _HEADER.format(name=environment.name) + text)
    if note:
        for sentence in notes:
            note(sentence)
    return read_lock(environment)


def locked_packages(environment: Environment) -> list[dict[str, Any]]:
    """Return the packages of an environment's lock, stale or not; none where it is missing or garbled."""
    try:
        _parse(environment.lock_path)
        packages: list[dict[str, Any]] = tomllib.loads(environment.lock_path.read_text("utf-8"))["packages"]
    except (OSError, ValueError):
        return []
    return packages


def locked_base(environment: Environment) -> str:
    """Return the digest of the base image in an environment's lock; nothing where it is for another base, or none."""
    try:
        lock, _ = _parse(environment.lock_path)
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


def _parse(path: Path) -> tuple[Lock, dict[str, Any]]:
    """Read a lock and what was locked.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no lock, or none of ours.
    """
    content = tomllib.loads(path.read_text("utf-8"))
    try:
        table = content["tool"]["k8s-venv"]
        made = (str(table["builder"]), int(table["epoch"]), str(table.get("base", "")))
        system = tuple(str(each) for each in table["system"]) if "system" in table else None
        lock = Lock(path, _packages(content), *made, system, _local_files(content))
        inputs = table["inputs"]
        return lock, {
            "python": str(inputs["python"]),
            "platforms": [str(each) for each in inputs["platforms"]],
            "requirements": [str(each) for each in inputs["requirements"]],
            "system-site-packages": str(system is not None).lower(),
        }
    except KeyError as error:
        raise ValueError(f"it lacks {error}, so k8s-venv did not write it") from None
    except (TypeError, AttributeError):
        raise ValueError("it is not laid out as k8s-venv writes it") from None


def _packages(content: dict[str, Any]) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    return tuple(
        sorted(
            (
                package["name"],
                package.get("version", ""),
                tuple(sorted(f"{kind}:{digest}" for kind, digest in _hashes(package))),
            )
            for package in content["packages"]
        )
    )


def _hashes(package: dict[str, Any]) -> Iterator[tuple[str, str]]:
    files = [*package.get("wheels", ()), package.get("sdist"), package.get("archive")]
    for file in files:
        if file:
            yield from file["hashes"].items()


def _local_files(content: dict[str, Any]) -> dict[str, str]:
    kinds = ("archive", "sdist")
    files = [
        file
        for package in content["packages"]
        for file in (*package.get("wheels", ()), *(package.get(kind) for kind in kinds))
    ]
    return {str(file["path"]): str(file["hashes"]["sha256"]) for file in files if file and "path" in file}


def _inputs(environment: Environment) -> dict[str, Any]:
    return {
        "python": environment.python,
        "platforms": list(environment.platforms),
        "requirements": [line.recorded for line in requirement_lines(environment)],
    }


def _wanted(environment: Environment) -> dict[str, Any]:
    return {**_inputs(environment), "system-site-packages": str(environment.system_site_packages).lower()}


def _changes(locked: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Say in which ways what was locked differs from what is wanted."""
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
    """Say in which ways a locked image is not the one that is wanted; another builder than today's default is none."""
    said = []
    name = lock.base.rpartition("@")[0]
    if name and name != environment.base_image:
        said.append(f"its base was {name} when it was locked, and now {environment.base_image}")
    if lock.builder == "layers" and environment.image_builder != "layers":
        said.append(f"its image needs the builder {environment.image_builder} now")
    return said


def _listed(value: str | list[str]) -> str:
    return value if isinstance(value, str) else ", ".join(value)
