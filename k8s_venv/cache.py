"""What is kept in the cache folder: who uses it now, and what was not used for long.

Builds and calls hold what they use by a shared lock of the operating system (flock), which ends with their process
whatever ends it; `k8s-venv prune` removes only what it can lock for itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import os
import pwd
import shutil
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from k8s_venv.errors import K8sVenvError

if TYPE_CHECKING:
    from collections.abc import Iterator

CACHE_VARIABLE = "K8S_VENV_CACHE"
HOUR = 3600.0  # seconds; what was left longer ago than that is not used any more


def cache_folder() -> Path:
    """Return the folder of everything that k8s-venv keeps outside a project: ``K8S_VENV_CACHE`` or the user's."""
    configured = os.environ.get(CACHE_VARIABLE)
    # Absolute, since uv runs in other folders.
    return Path(configured or platformdirs.user_cache_dir("k8s-venv")).expanduser().absolute()


def require_cache() -> Path:
    """Return the cache folder, which exists then and can be written to.

    Raises:
        K8sVenvError: it cannot be.
    """
    folder = cache_folder()
    with writing_cache():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder


@contextlib.contextmanager
def writing_cache() -> Iterator[None]:
    """Write to the cache folder, and say what is wrong with it where that fails.

    Raises:
        K8sVenvError: it cannot be written to.
    """
    try:
        yield
    except OSError as error:
        raise K8sVenvError(cache_problem(error.errno)) from None


def cache_problem(number: int | None) -> str:
    """Return what is wrong with a cache folder that cannot be written to, and what to do.

    Args:
        number: the error's number (``errno``).
    """
    said = f"The cache folder {cache_folder()}"
    elsewhere = f"{CACHE_VARIABLE} to a folder"
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"{said} has no space left. `k8s-venv prune` frees some, or set {elsewhere} on another disk."
    if number == errno.EROFS:
        return f"{said} lies on a read-only file system. Set {elsewhere} that can be written to."
    if number in (errno.EACCES, errno.EPERM):
        folder = cache_folder()
        place = next((place for place in (folder, *folder.parents) if os.access(place, os.F_OK)), folder)
        return (
            f"{said} cannot be written to by user {_user(os.geteuid())}: {place} belongs to {_owner(place)}. "
            f"Set {elsewhere} of this user's own."
        )
    reason = os.strerror(number) if number else "unknown reason"
    return f"{said} cannot be written to ({reason}). Set {elsewhere} that can be."


def _owner(place: Path) -> str:
    try:
        return _user(place.stat().st_uid)
    except OSError:
        return "somebody else"


def _user(number: int) -> str:

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # containers run as users that no file lists
        return str(number)


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
    folder = cache_folder() / "layers"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder
