"""Which of the local backend's environments can go: long unused, or made for locks that have changed."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from k8s_venv.cache import HOUR, Unused, alone_with, cache_folder, is_older, mark_used
from k8s_venv.locks.lockfile import parse_lock

if TYPE_CHECKING:
    from collections.abc import Iterator

_USERS = "k8s-venv-locks.txt"  # in an environment: the locks that it was used for, a line each
_MOST_USERS = 20
DIGITS = 20  # of a lock's digest, in the name of an environment's folder


def note_use(folder: Path, lock: Path) -> None:
    """Note in an environment that it is used now, and for which lock.

    Args:
        folder: the environment's.
        lock: the lock file.
    """
    users = folder / _USERS
    known = _users(folder)
    if str(lock) in known:
        mark_used(users)
        return
    with contextlib.suppress(OSError):  # a cache folder that somebody else filled
        with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".", delete=False, encoding="utf-8") as stream:
            stream.write("".join(f"{line}\n" for line in [*known, str(lock)][-_MOST_USERS:]))
        Path(stream.name).replace(users)


@contextlib.contextmanager
def unused_environments(seconds: float) -> Iterator[list[Unused]]:
    """Yield the environments that can go, each held so that no call begins in it.

    Args:
        seconds: for how long they were not used; less is enough where every lock that they were made for has changed or
            is gone.
    """
    found = []
    with contextlib.ExitStack() as held:
        for folder in sorted((cache_folder() / "environments").glob("*/")):
            try:
                kind = _kind(folder, seconds)
                if kind and held.enter_context(alone_with(folder)) and _kind(folder, seconds):
                    found.append(Unused(kind, (folder,)))
            except OSError:  # gone meanwhile
                continue
        yield found


def _kind(folder: Path, seconds: float) -> str:
    if ".part-" in folder.name:
        return "left by interrupted builds" if is_older(folder, HOUR) else ""
    marker = folder / _USERS
    last = marker if marker.exists() else folder
    if is_older(last, seconds):
        return "local environments not used for long"
    users = _users(folder)
    if users and is_older(last, HOUR) and not any(_wants(Path(lock), folder) for lock in users):
        return "local environments whose locks changed or are gone"
    return ""


def _users(folder: Path) -> list[str]:
    try:
        return (folder / _USERS).read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return []


def _wants(lock: Path, folder: Path) -> bool:
    try:
        return folder.name.endswith(f"-{parse_lock(lock).lock.digest[:DIGITS]}")
    except (OSError, ValueError):
        return False
