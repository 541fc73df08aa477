"""The cache folder: where everything in it lies, who uses it now, and what `k8s-venv prune` removes.

No other module spells a path in this folder or locks something in it:

    blobs/sha256/HEX          packed layers, and layers of base images
    layers/KEY.json           notes: a layer's blob; the size of an installed wheel; the packages of a base image
    pushed/KEY.json           notes: a repository that has a blob
    modules/LOCK-N.json       notes: the modules in the packages of a lock
    environments/NAME-PYTHON-LOCK/   virtual environments of the local backend
    install-NAME-RANDOM/      packages that are installed for a moment, to be read
    airflow-VERSION.db        an empty database of Airflow
    python/, uv/              what uv downloads
    *.lock                    empty files, locked while something is made

A process that uses layers or an environment holds its folder by a shared lock, and `prune` removes only what it can
lock for itself. All locks are the operating system's (flock), which end with their process, however it ends. Every
version of k8s-venv that shares a cache folder has these paths and locks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import pwd
import shutil
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, get_args

import platformdirs

from k8s_venv.errors import K8sVenvError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

CACHE_VARIABLE = "K8S_VENV_CACHE"
_HOUR = 3600.0  # seconds; what a process left unfinished longer ago than that belongs to no process any more
_POLL = 0.1  # seconds between two tries to get a lock
_DIGITS = 20  # of a lock file's digest, in the name of an environment's folder
_USERS = "k8s-venv-locks.txt"  # in an environment's folder: the lock files that it was used for, a line each
_MOST_USERS = 20
_stopped = threading.Event()
_Notes = Literal["layers", "pushed", "modules"]


def cache_folder() -> Path:
    """Return the folder of everything that k8s-venv keeps outside a project: ``K8S_VENV_CACHE`` or the user's."""
    configured = os.environ.get(CACHE_VARIABLE)
    # Absolute, since uv runs in other folders.
    return Path(configured or platformdirs.user_cache_dir("k8s-venv")).expanduser().absolute()


def require_cache() -> Path:
    """Return the cache folder after making sure that it exists and can be written to.

    Raises:
        K8sVenvError: it cannot.
    """
    folder = cache_folder()
    with writing_cache():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder


@contextlib.contextmanager
def writing_cache() -> Iterator[None]:
    """Explain an error of the operating system that occurs while something is written to the cache folder.

    Raises:
        K8sVenvError: in place of an ``OSError``.
    """
    try:
        yield
    except OSError as error:
        raise K8sVenvError(cache_problem(error.errno)) from None


def cache_problem(number: int | None) -> str:
    """Return why the cache folder cannot be written to, and what to do.

    Args:
        number: the error's number (``errno``).
    """
    folder = cache_folder()
    subject, elsewhere = f"The cache folder {folder}", f"{CACHE_VARIABLE} to a folder"
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"{subject} has no space left. `k8s-venv prune` frees some, or set {elsewhere} on another disk."
    if number == errno.EROFS:
        return f"{subject} lies on a read-only file system. Set {elsewhere} that can be written to."
    if number in (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP):
        return f"{subject} lies on a file system that cannot lock files. Set {elsewhere} on another one."
    if number in (errno.EACCES, errno.EPERM):
        place = next((place for place in (folder, *folder.parents) if os.access(place, os.F_OK)), folder)
        return (
            f"{subject} cannot be written to by user {_user_name(os.geteuid())}: {place} belongs to {_owner(place)}. "
            f"Set {elsewhere} of this user's own."
        )
    reason = os.strerror(number) if number else "unknown reason"
    return f"{subject} cannot be written to ({reason}). Set {elsewhere} that can be."


def _owner(place: Path) -> str:
    try:
        return _user_name(place.stat().st_uid)
    except OSError:
        return "somebody else"


def _user_name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # containers run as users that no file lists
        return str(number)


def blobs_folder() -> Path:
    """Return the folder of packed layers, each under its digest."""
    return cache_folder() / "blobs" / "sha256"


def blob_path(digest: str) -> Path:
    """Return the file of a blob by its digest, ``sha256:…``."""
    return cache_folder() / "blobs" / digest.replace(":", "/")


def note_path(kind: _Notes, key: str) -> Path:
    """Return the file of a note.

    Args:
        kind: what it is about: layers and what is in them, blobs that were pushed, modules of locked packages.
        key: a digest of all that the note follows from.
    """
    return cache_folder() / kind / f"{key}.json"


def environment_folder(name: str, python: str, lock_digest: str) -> Path:
    """Return the folder of an environment of the local backend, for one version of Python and one lock file."""
    return cache_folder() / "environments" / f"{name}-{python}-{lock_digest[:_DIGITS]}"


def airflow_database(version: str) -> Path:
    """Return the empty database of a version of Airflow."""
    return cache_folder() / f"airflow-{version}.db"


def python_folder() -> Path:
    """Return the folder of the Pythons that uv downloads."""
    return cache_folder() / "python"


def uv_folder() -> Path:
    """Return the folder of uv's own cache."""
    return cache_folder() / "uv"


def blob_lock(digest: str) -> Path:
    """Return the lock of a blob that is downloaded."""
    return blobs_folder() / f".{blob_path(digest).name}.lock"


def base_lock(key: str) -> Path:
    """Return the lock of a note about a base image, by the note's key."""
    return cache_folder() / f"base-{key[:12]}.lock"


def layers_lock(python: str) -> Path:
    """Return the lock of all layers of packages for a minor version of Python."""
    return cache_folder() / f"layers-{python}.lock"


def lock_beside(path: Path) -> Path:
    """Return the lock of another file or folder that is made once."""
    return path.with_name(f"{path.name}.lock")


@contextlib.contextmanager
def exclusive_lock(lock: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a lock that no other thread or process holds at the same time.

    Args:
        lock: its file.
        waiting: is called if another one holds it.

    Raises:
        K8sVenvError: the process was told to stop before it got the lock, or the lock's file cannot be written.
    """
    descriptor = _try_lock(lock)
    if descriptor is None and waiting is not None:
        waiting()
    while descriptor is None:
        if _stopped.wait(_POLL):
            raise K8sVenvError("Interrupted while waiting for another process.")
        descriptor = _try_lock(lock)
    try:
        yield
    finally:
        os.close(descriptor)


def stop_waiting() -> None:
    """End the waiting for locks in all threads of this process, which was told to stop."""
    _stopped.set()


@writing_cache()
def _try_lock(lock: Path) -> int | None:
    """Open a lock's file and lock it; return its descriptor, or None if another one has it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    with contextlib.ExitStack() as opened:
        opened.callback(os.close, descriptor)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:  # else `prune` removed the file while it was opened
                opened.pop_all()
                return descriptor
    return None


def shared_lock(folder: Path) -> AbstractContextManager[bool]:
    """Hold a folder, as many may at the same time, so that it is not removed; nothing is held if it cannot be."""
    return _folder_lock(folder, fcntl.LOCK_SH)


def try_exclusive_lock(folder: Path) -> AbstractContextManager[bool]:
    """Hold a folder alone if that is possible without waiting; the context is whether it is held."""
    return _folder_lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def _folder_lock(folder: Path, operation: int) -> Iterator[bool]:
    held = False
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # another one holds it, it does not exist, or its file system has no locks
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, operation)
            held = True
        yield held


def layers_folder() -> Path:
    """Return the folder that builds hold while they use layers and blobs; it exists unless it cannot be made."""
    folder = cache_folder() / "layers"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def read_note(path: Path, **wanted: type) -> dict[str, Any] | None:
    """Return a note and mark it as used; or return None if there is none, or none that can be read.

    Args:
        path: the note.
        wanted: the keys that it must have, and the types of their values.
    """
    mark_used(path)
    note = read_document(path)
    known = isinstance(note, dict) and all(isinstance(note.get(name), kind) for name, kind in wanted.items())
    return note if known else None


def read_document(path: Path) -> Any:
    """Return the content of a JSON file, or None if there is none that can be read."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


@writing_cache()
def write_note(path: Path, note: object) -> None:
    """Write a note; no reader ever sees half of it.

    Args:
        path: the note.
        note: plain data.

    Raises:
        K8sVenvError: the cache folder cannot be written to.
    """
    with new_file(path.parent) as stream:
        stream.write(json.dumps(note).encode())
        stream.close()
        Path(stream.name).replace(path)


def mark_used(path: Path) -> None:
    """Note that a file is used now: as its time of change, which is kept to the hour."""
    with contextlib.suppress(OSError):  # there is no such file, or it cannot be written to
        if _is_older(path, _HOUR):
            os.utime(path)


@contextlib.contextmanager
def new_file(folder: Path) -> Iterator[IO[bytes]]:
    """Open a hidden file in a folder, which the caller renames when it is whole; else it is removed afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".", delete=False) as stream:
        try:
            Path(stream.name).chmod(0o644)
            yield stream
        finally:
            Path(stream.name).unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a path at which the caller makes a folder, which gets its own name when it is whole, or is removed.

    What is there already is removed first, also what killed processes have left of it, so its lock must be held.

    Args:
        folder: its own name.
    """
    for left in (*folder.parent.glob(f"{folder.name}.part*"), folder):
        shutil.rmtree(left, ignore_errors=True)
    partial = _partial(folder)  # a path that was never used: an installer may outlive the process that started it
    try:
        yield partial
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.part-{uuid.uuid4().hex[:8]}")


@contextlib.contextmanager
def install_folder(name: str) -> Iterator[Path]:
    """Yield an empty folder for packages that are read and not kept; uv links its files to this file system.

    What killed processes have left under a name is removed first, so only one may use that name at the same time.
    """
    prefix, cache = f"install-{name}-", require_cache()
    for left in cache.glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=prefix) as folder:
        yield Path(folder)


def note_environment_use(folder: Path, lock: Path) -> None:
    """Note that an environment is used now, and for which lock file.

    Args:
        folder: the environment's folder.
        lock: the lock file.
    """
    users = _environment_users(folder)
    if str(lock) in users:
        mark_used(folder / _USERS)
        return
    with contextlib.suppress(OSError), new_file(folder) as stream:  # not in another user's cache folder
        stream.write("".join(f"{user}\n" for user in [*users, str(lock)][-_MOST_USERS:]).encode())
        stream.close()
        Path(stream.name).replace(folder / _USERS)


def _environment_users(folder: Path) -> list[str]:
    try:
        return (folder / _USERS).read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return []


@dataclasses.dataclass(frozen=True)
class Unused:
    """Something in the cache folder that nothing uses.

    Args:
        kind: what it is, for people.
        paths: its files and folders, some of which may be gone already.
    """

    kind: str
    paths: tuple[Path, ...]

    @property
    def size(self) -> int:
        """Return the bytes that its removal frees; a file with other names, as uv's cache has them, frees none."""
        return sum(_freed(file) for path in self.paths for file in (path, *path.rglob("*")))

    def remove(self) -> None:
        """Remove it; a folder loses its name at once.

        Raises:
            OSError: it cannot be removed.
        """
        for path in self.paths:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path.rename(_partial(path)))
            else:
                path.unlink(missing_ok=True)


def _freed(file: Path) -> int:
    try:
        found = file.lstat()
    except OSError:
        return 0
    return 0 if file.is_dir() or found.st_nlink > 1 else found.st_size


def _is_older(path: Path, seconds: float) -> bool:
    """Return whether a file was last used, or a folder last changed, at least so many seconds ago.

    Raises:
        OSError: there is no such file.
    """
    return time.time() - path.lstat().st_mtime >= seconds


def unused_by_builds(seconds: float) -> Iterator[Unused]:
    """Yield what no build used for so many seconds; ``layers_folder`` must be held alone until it is removed."""
    yield from _unused_blobs(seconds)
    for kind in ("pushed", "modules"):
        yield from (Unused("notes", (note,)) for note in _notes(kind) if _is_older(note, seconds))
    places = [blobs_folder(), *(cache_folder() / kind for kind in get_args(_Notes))]
    left = [path for place in places for path in place.glob(".*") if path.suffix != ".lock"]
    left += cache_folder().glob("install-*")
    left += (path for path in (cache_folder() / "modules").glob("tmp*") if path.is_dir())  # by earlier versions
    yield from (Unused("left by interrupted builds", (path,)) for path in left if _is_older(path, _HOUR))


def _unused_blobs(seconds: float) -> Iterator[Unused]:
    blobs: dict[Path, Path | None] = {}  # of each note, if it is about a layer
    for note in _notes("layers"):
        found = read_document(note)
        about_layer = isinstance(found, dict) and isinstance(found.get("digest"), str)
        blobs[note] = blob_path(found["digest"]) if about_layer else None
    old = [note for note in blobs if _is_older(note, seconds)]
    used = {blob for note, blob in blobs.items() if note not in old}
    for note in old:
        blob = blobs[note]
        if blob is None:
            yield Unused("notes", (note,))
        else:
            yield Unused("layers", (note,) if blob in used else (note, blob))
    for blob in _files(blobs_folder()):
        if blob not in blobs.values() and _is_older(blob, seconds):
            yield Unused("layers of base images", (blob, blob_lock(f"sha256:{blob.name}")))


def _notes(kind: _Notes) -> list[Path]:
    return _files(cache_folder() / kind, ".json")


def _files(folder: Path, suffix: str = "") -> list[Path]:
    return sorted(path for path in folder.glob(f"[!.]*{suffix}") if path.is_file())


@contextlib.contextmanager
def unused_environments(seconds: float, lock_digest: Callable[[Path], str | None]) -> Iterator[list[Unused]]:
    """Yield the environments of the local backend that can go, each held so that no call begins in it.

    Args:
        seconds: for how long they were not used; an hour is enough if every lock file that they were made for has
            changed or is gone.
        lock_digest: returns the digest of a lock file, or None if it cannot be read.
    """
    found = []
    with contextlib.ExitStack() as held:
        for folder in sorted((cache_folder() / "environments").glob("*/")):
            with contextlib.suppress(OSError), contextlib.ExitStack() as one:  # OSError: it is gone by now
                alone = one.enter_context(try_exclusive_lock(folder))
                if alone and (kind := _unused_kind(folder, seconds, lock_digest)):
                    found.append(Unused(kind, (folder,)))
                    held.push(one.pop_all())
        yield found


def _unused_kind(folder: Path, seconds: float, lock_digest: Callable[[Path], str | None]) -> str:
    if ".part-" in folder.name:
        return "left by interrupted builds" if _is_older(folder, _HOUR) else ""
    marker = folder / _USERS
    last = marker if marker.exists() else folder
    if _is_older(last, seconds):
        return "local environments not used for long"
    users = _environment_users(folder)
    if users and _is_older(last, _HOUR):
        digests = [lock_digest(Path(lock)) for lock in users]
        if not any(digest and folder.name.endswith(f"-{digest[:_DIGITS]}") for digest in digests):
            return "local environments whose locks changed or are gone"
    return ""
