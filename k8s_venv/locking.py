"""Locks: requirements -> ``pylock.<environment>.toml`` (PEP 751), and whether one still fits.

A lock ends with a table ``[tool.k8s-venv]``: ``inputs`` is a digest of what was locked, by which a stale lock
is known; ``builder`` and ``epoch`` say how the image is made, and go into its tag. So a new version of
k8s-venv changes no tag before the next ``k8s-venv lock``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import tomllib
from typing import TYPE_CHECKING, Any

from k8s_venv import uv
from k8s_venv.errors import LockError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from k8s_venv.environment import Environment

BUILDER = "buildkit"
# Raised whenever the same lock would give another image, such as when the Dockerfile changes.
EPOCH = 1
# Images are Linux; the wheels' tags are those of Debian bookworm's glibc.
PLATFORM = "x86_64-manylinux_2_36"
_HEADER = "# Written by `k8s-venv lock {name}`. Commit this file; change the requirements, not the lock.\n"
_EMPTY = 'lock-version = "1.0"\ncreated-by = "k8s-venv"\npackages = []\n'
_INCLUDE = re.compile(r"(?:-r|-c|--requirement|--constraint)[\s=]+(\S+)")


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
        content = tomllib.loads(path.read_text("utf-8"))
        table = content["tool"]["k8s-venv"]
        lock = Lock(path, _packages(content), table["builder"], table["epoch"])
        inputs = table["inputs"]
    except (ValueError, KeyError, TypeError) as error:
        raise LockError(environment.name, f"{path} is not a lock of ours ({error}). Run `{command}`.") from None
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
    text = _resolve(environment, progress) if list(_requirement_lines(environment)) else _EMPTY
    table = {"inputs": _inputs_digest(environment), "builder": BUILDER, "epoch": EPOCH}
    tool = "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
    written = _HEADER.format(name=environment.name) + text.rstrip() + f"\n\n[tool.k8s-venv]\n{tool}"
    partial = path.with_name(f".{path.name}.part")
    try:
        partial.write_text(written, "utf-8")
        partial.replace(path)
    except OSError as error:
        raise LockError(environment.name, f"cannot write {path}: {error.strerror}.") from None
    return read_lock(environment)


def _resolve(environment: Environment, progress: Callable[[str], None] | None) -> str:
    source, stdin = "-", ""
    if environment.requirements_file is not None:
        source = str(environment.requirements_file)
    elif environment.requirements is not None:
        stdin = "\n".join(environment.requirements)
    try:
        return uv.run(
            [
                *("pip", "compile", source, "--format", "pylock.toml", "--no-header"),
                *("--python-version", environment.python, "--python-platform", PLATFORM),
                "--no-python-downloads",
                # A source distribution would be built here, on another Python and platform than the target's.
                *("--only-binary", ":all:"),
            ],
            stdin=stdin,
            cwd=environment.root,
            progress=progress,
        )
    except uv.UvError as error:
        raise LockError(
            environment.name,
            f"the requirements in {environment.requirements_place} cannot be locked for Python "
            f"{environment.python}.\n{error.output}",
        ) from None


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
        yield from environment.requirements or ()


def _file_lines(environment: Environment, path: Path, including: tuple[Path, ...]) -> Iterator[str]:
    if path in including:
        raise LockError(environment.name, f"{path} includes itself.")
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LockError(environment.name, f"cannot read {path}: {error}.") from None
    for raw in text.splitlines():
        line = re.sub(r"(^|\s)#.*", "", raw).strip()
        if not line:
            continue
        yield line
        included = _INCLUDE.match(line)
        if included and "://" not in included[1]:
            yield from _file_lines(environment, path.parent / included[1], (*including, path))
