"""Locks: requirements -> ``pylock.<environment>.toml`` (PEP 751), and whether one still fits.

A lock ends with a table ``[tool.k8s-venv]``: ``inputs`` is a digest of what was locked, by which a stale lock
is known; ``builder`` and ``epoch`` say how the image is made, and go into its tag. So a new version of
k8s-venv changes no tag before the next ``k8s-venv lock``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import tomllib
from typing import TYPE_CHECKING, Any

from k8s_venv import uv
from k8s_venv.errors import LockError
from k8s_venv.resolving import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from k8s_venv.environment import Environment

BUILDER = "buildkit"
# Raised whenever the same lock would give another image, such as when the Dockerfile changes.
EPOCH = 1
_HEADER = "# Written by `k8s-venv lock {name}`. Commit this file; change the requirements, not the lock.\n"
_EMPTY = 'lock-version = "1.0"\ncreated-by = "k8s-venv"\npackages = []\n'
_INCLUDE = re.compile(r"(?:-r|-c|--requirement\b|--constraint\b)[\s=]*(\S+)")


@dataclasses.dataclass(frozen=True)
class Lock:
    """The exact packages of an environment.

    Args:
        path: the lock file.
        packages: each package's name, version and hashes, sorted; without where they were found.
        builder: what makes the image.
        epoch: the generation of that builder.
    """

    path: Path
    packages: tuple[tuple[str, str, tuple[str, ...]], ...]
    builder: str
    epoch: int

    @property
    def digest(self) -> str:
        """Return a digest of what is locked; two indexes with the same files give the same one."""
        content = [self.builder, self.epoch, self.packages]
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
    if inputs != _inputs_digest(environment):
        raise LockError(
            environment.name,
            f"its lock is stale: {environment.requirements_place} or its Python version changed after "
            f"{path.name} was written. Run `{command}`.",
        )
    return lock


def write_lock(environment: Environment, progress: Callable[[str], None] | None = None) -> Lock:
    """Resolve an environment's requirements and write its lock.

    The versions of an older lock are kept where they still fit.

    Args:
        environment: what to lock.
        progress: is called with each line of uv's progress.

    Raises:
        LockError: the requirements cannot be resolved; the older lock stays as it was.
    """
    path = environment.lock_path
    lines = list(_requirement_lines(environment))
    if not uv.is_known(environment.python):
        raise LockError(environment.name, f"there is no Python {environment.python} that uv could find or download.")
    text = resolve(environment, _usable(path), progress) if lines else _EMPTY
    _refuse_paths(environment, tomllib.loads(text))
    table = {"inputs": _inputs_digest(environment), "builder": BUILDER, "epoch": EPOCH}
    tool = "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
    _replace(environment, _HEADER.format(name=environment.name) + text.rstrip() + f"\n\n[tool.k8s-venv]\n{tool}")
    return read_lock(environment)


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


def _parse(path: Path) -> tuple[Lock, str]:
    """Read a lock and the digest of what was locked.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no lock, or none of ours.
    """
    content = tomllib.loads(path.read_text("utf-8"))
    try:
        table = content["tool"]["k8s-venv"]
        lock = Lock(path, _packages(content), str(table["builder"]), int(table["epoch"]))
        return lock, str(table["inputs"])
    except KeyError as error:
        raise ValueError(f"it lacks {error}, so k8s-venv did not write it") from None
    except (TypeError, AttributeError):
        raise ValueError("it is not laid out as k8s-venv writes it") from None


def _usable(path: Path) -> Path | None:
    """Return the path of a lock when its versions can be kept; a garbled one is only good for replacing."""
    try:
        _parse(path)
    except (OSError, ValueError):
        return None
    return path


def _refuse_paths(environment: Environment, content: dict[str, Any]) -> None:
    """Refuse what only this machine has, or what would be built from source: no image could install it."""
    for package in content["packages"]:
        files = [*package.get("wheels", ()), *([package["archive"]] if "archive" in package else ())]
        if not files or not all("url" in file for file in files):
            raise LockError(
                environment.name,
                f"{package['name']!r} in {environment.requirements_place} comes from a folder, a file or a repository, "
                "which an image's build cannot install. Publish a wheel of it, and require that; modules beside the "
                "DAG travel by themselves.",
            )


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


def _inputs_digest(environment: Environment) -> str:
    content = [environment.python, list(_requirement_lines(environment))]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _requirement_lines(environment: Environment) -> Iterator[str]:
    """Yield the lines that say something, with those of included files in place."""
    if environment.requirements_file is not None:
        yield from _file_lines(environment, environment.requirements_file, ())
    else:
        for line in environment.requirements or ():
            yield line
            yield from _included_lines(environment, line, environment.root, ())


def _included_lines(environment: Environment, line: str, folder: Path, including: tuple[Path, ...]) -> Iterator[str]:
    included = _INCLUDE.match(line)
    if included and "://" not in included[1]:
        yield from _file_lines(environment, folder / included[1], including)


def _file_lines(environment: Environment, path: Path, including: tuple[Path, ...]) -> Iterator[str]:
    if path in including:
        raise LockError(environment.name, f"{path} includes itself.")
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise LockError(environment.name, f"{path} is not UTF-8 text: {error}.") from None
    except OSError as error:
        by = f", which {including[-1]} includes," if including else ""
        raise LockError(environment.name, f"{path}{by} cannot be read: {error.strerror}.") from None
    for raw in text.splitlines():
        line = re.sub(r"(^|\s)#.*", "", raw).strip()
        if line:
            yield line
            yield from _included_lines(environment, line, path.parent, (*including, path))
