"""Data files of the project that travel with a call: `files` of a task or an environment."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from k8s_venv.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

LARGEST = 1024 * 1024 * 1024  # bytes of all files of a call, which this side holds in memory
_LEFT_OUT = {"__pycache__", ".git"}
_WILD = re.compile(r"[*?\[]")
_SECRET = re.compile(r"\.env(\..+)?|\.netrc|\.pgpass|\.pypirc|id_(rsa|dsa|ecdsa|ed25519)|.+\.(pem|key|p12|pfx)", re.I)


def data_files(patterns: Sequence[str], root: Path) -> list[list[str | bool | bytes]]:
    """Return the files that patterns match: of each its path from the folder, whether it can be run, its content.

    Args:
        patterns: relative to the folder, such as ``sql/*.sql`` and ``dbt/**``.
        root: the folder of the project file.

    Raises:
        CallError: a pattern matches nothing, or what cannot travel.
    """
    found: dict[str, Path] = {}
    for pattern in patterns:
        found.update(_matches(pattern, root))
    try:
        size = sum(path.stat().st_size for path in found.values())
        if size > LARGEST:
            raise CallError(
                f"The `files` take {size:,} bytes, more than a call may bring ({LARGEST:,} bytes). Narrow the "
                "patterns, or pass a reference to the data (a path, a table, a URL)."
            )
        return [[name, os.access(path, os.X_OK), path.read_bytes()] for name, path in sorted(found.items())]
    except OSError as error:
        raise CallError(f"`files`: {error.filename} cannot be read: {error.strerror}.") from None


def matched(patterns: Sequence[str], root: Path) -> set[Path]:
    """Return the paths of the files that patterns match; patterns that are wrong match nothing.

    Args:
        patterns: as for ``data_files``.
        root: the folder of the project file.
    """
    found: set[Path] = set()
    for pattern in patterns:
        try:
            found.update(_matches(pattern, root).values())
        except CallError:
            continue
    return found


def _matches(pattern: str, root: Path) -> dict[str, Path]:
    """Return the files that a pattern matches, by their paths from the folder."""
    found = {}
    shown = f"files = [{pattern!r}]"
    wild = _WILD.search(pattern) is not None
    for path in _paths(pattern, root):
        name = path.relative_to(root).as_posix()
        if _LEFT_OUT & set(path.parts) or (wild and path.is_dir() and not path.is_symlink()):
            continue
        if path.is_dir():
            instead = f"Write {pattern.rstrip('/')}/** for the files in it."
            raise CallError(f"{shown}: {name} is a folder. {instead if not wild else 'Name the folder it links to.'}")
        if not path.resolve().is_relative_to(root.resolve()):
            raise CallError(f"{shown}: {name} is a link that leads out of the project {root}. Copy the file there.")
        if not path.is_file():
            raise CallError(f"{shown}: {name} is not a file that can be read.")
        if wild and _SECRET.fullmatch(path.name):
            raise CallError(
                f"{shown} matches {name}, which looks like a secret. Give secrets to the task as connections or "
                "variables, or name the file without * if it is none."
            )
        if not name.isprintable():  # as the names that are not UTF-8
            raise CallError(f"{shown}: the name {name!r} has characters that cannot travel. Give the file another.")
        found[name] = path
    if not found:
        raise CallError(f"{shown} matches no file in the project's folder {root}. Correct it, or leave it out.")
    return found


def _paths(pattern: str, root: Path) -> Iterator[Path]:
    if not _WILD.search(pattern):
        path = root / pattern
        return iter([path] if path.exists() or path.is_symlink() else [])
    return iter(sorted(root.glob(f"{pattern}/*" if pattern.endswith("**") else pattern)))
