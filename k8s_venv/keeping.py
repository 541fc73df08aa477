"""What is kept in the cache folder: who uses it now, and what was not used for long.

Builds and calls hold what they use by a shared lock of the operating system (flock), which ends with their process
whatever ends it; `k8s-venv prune` removes only what it can lock for itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import shutil
import time
import uuid
from typing import TYPE_CHECKING

from k8s_venv import uv

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOUR = 3600.0  # seconds; what was left longer ago than that is not used any more


@dataclasses.dataclass(frozen=True)
class Unused:
    """Something in the cache folder that can go.

    Args:
        kind: what it is, for people.
        paths: its files and folders; those that are gone already do not matter.
    """

    kind: str
    paths: tuple[Path, ...]

    @property
    def size(self) -> int:
        """Return the bytes that its end frees; a file with other names, as uv's cache has them, frees none."""
        return sum(_freed(file) for path in self.paths for file in (path, *path.rglob("*")))

    def remove(self) -> None:
        """Remove it; a folder is gone at once for whoever looks for it.

        Raises:
            OSError: it cannot be.
        """
        for path in self.paths:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path.rename(path.with_name(f"{path.name}.part-{uuid.uuid4().hex[:8]}")))
            else:
                path.unlink(missing_ok=True)


def _freed(file: Path) -> int:
    try:
        found = file.lstat()
    except OSError:
        return 0
    return 0 if file.is_dir() or found.st_nlink > 1 else found.st_size


def mark_used(path: Path) -> None:
    """Note that a file is used now; its time of change tells, to the hour."""
    with contextlib.suppress(OSError):  # it is gone, or the folder is read-only
        if is_older(path, HOUR):
            os.utime(path)


def is_older(path: Path, seconds: float) -> bool:
    """Return whether a file was last used, or a folder last changed, at least so many seconds ago.

    Raises:
        OSError: it is gone.
    """
    return time.time() - path.lstat().st_mtime >= seconds


@contextlib.contextmanager
def using(folder: Path) -> Iterator[None]:
    """Hold a folder, as many may, so that it is not removed; without locks it is not held."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            fcntl.flock(_opened(folder, stack), fcntl.LOCK_SH)
        yield


@contextlib.contextmanager
def alone_with(folder: Path) -> Iterator[bool]:
    """Hold a folder for oneself; yield whether that was possible."""
    with contextlib.ExitStack() as stack:
        try:
            fcntl.flock(_opened(folder, stack), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def _opened(folder: Path, stack: contextlib.ExitStack) -> int:
    descriptor = os.open(folder, os.O_RDONLY)
    stack.callback(os.close, descriptor)
    return descriptor


def layers_folder() -> Path:
    """Return the folder that builds hold while they use finished layers; it exists where it can."""
    folder = uv.cache_folder() / "layers"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder
