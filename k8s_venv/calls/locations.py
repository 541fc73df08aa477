"""Where large values are kept between a sender and an environment: a shared folder, or a bucket.

The sender alone names what is read and written there. Of a bucket the environment gets one URL for one object, signed
by the sender; of a folder, a path. What was put there is only believed when its size and digest are right.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from k8s_venv.errors import CallError
from k8s_venv.wire.values import map_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k8s_venv.wire.registry import Buffer

# As long as a pod of ours may live, and as long as S3 lets a signature live, in seconds.
_EXPIRY = 7 * 24 * 3600
_BLOCK = 1024 * 1024


class Location(Protocol):
    """Where large values are kept, each under a name."""

    url: str

    def entry(self, name: str, *, writing: bool = False) -> dict[str, str]:
        """Return how the environment reaches a value: its ``path``, or a signed ``url``."""

    def put(self, name: str, path: Path) -> None:
        """Keep a file's content as a value."""

    def fetch(self, name: str, size: int) -> Buffer:
        """Return a value that is so long, from a copy that nothing else can change."""

    def start(self, name: str, size: int) -> bytes:
        """Return the first bytes of a value."""

    def delete(self, name: str) -> None:
        """Remove a value; one that is gone already is no error."""


@dataclasses.dataclass(frozen=True)
class Kept:
    """A value at a location.

    Args:
        location: where.
        name: what it is called there.
    """

    location: Location
    name: str

    def take(self, size: int) -> Buffer:
        """Return the value, which is so long, and remove it from the location.

        Raises:
            CallError: the location cannot be read.
        """
        try:
            return self.location.fetch(self.name, size)
        finally:
            with contextlib.suppress(CallError):
                self.location.delete(self.name)


@functools.lru_cache(maxsize=16)
def location_at(url: str) -> Location:
    """Return the location that the settings name.

    Args:
        url: a folder's path, or ``s3://bucket/prefix``.

    Raises:
        CallError: it is neither, or what reaches it is not installed.
    """
    if url.startswith("/"):
        return _Folder(url)
    if url.startswith("s3://"):
        return _Bucket(url)
    raise CallError(f"{url!r} is no location for large values.")


class _Folder:
    def __init__(self, url: str) -> None:
        self.url = url
        self._folder = Path(url)

    def entry(self, name: str, *, writing: bool = False) -> dict[str, str]:
        return {"path": str(self._folder / name)}

    def put(self, name: str, path: Path) -> None:
        with self._told(name):
            part = self._folder / f"{name}.part"
            shutil.copyfile(path, part)
            part.rename(self._folder / name)

    def fetch(self, name: str, size: int) -> Buffer:
        with self._told(name), self._open(name) as source, tempfile.TemporaryFile(prefix="k8s-venv-value-") as copy:
            left = size if os.fstat(source.fileno()).st_size == size else 0
            while left and (block := source.read(min(left, _BLOCK))):  # never more, whoever writes to it meanwhile
                copy.write(block)
                left -= len(block)
            copy.flush()
            return map_file(copy.fileno())

    def start(self, name: str, size: int) -> bytes:
        with self._told(name), self._open(name) as source:
            data: bytes = source.read(size)
            return data

    def delete(self, name: str) -> None:
        with self._told(name):
            (self._folder / name).unlink(missing_ok=True)

    def _open(self, name: str) -> Any:
        # Pods write here: what they left may be a link to anywhere, or a pipe that never ends.
        descriptor = os.open(self._folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(f"{name} is not a file")
        return os.fdopen(descriptor, "rb")

    @contextlib.contextmanager
    def _told(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            _refuse(self.url, name, error)


class _Bucket:
    def __init__(self, url: str) -> None:
        self.url = url
        try:
            from fsspec.config import conf
            from fsspec.core import url_to_fs

            # Every store takes the newer signatures, some take no others.
            given = dict(conf.get("s3", {}).get("config_kwargs", {}))
            self._files, self._root = url_to_fs(url, config_kwargs={"signature_version": "s3v4", **given})
        except ImportError as error:
            raise CallError(
                f"The location {url} for large values needs {error.name or 's3fs'}, which is not installed here: "
                "pip install 'k8s-venv[s3]'."
            ) from None

    def entry(self, name: str, *, writing: bool = False) -> dict[str, str]:
        method = "put_object" if writing else "get_object"
        with self._told(name):
            return {"url": self._files.sign(self._at(name), expiration=_EXPIRY, client_method=method)}

    def put(self, name: str, path: Path) -> None:
        with self._told(name):
            self._files.put_file(str(path), self._at(name))

    def fetch(self, name: str, size: int) -> Buffer:
        with self._told(name), tempfile.NamedTemporaryFile(prefix="k8s-venv-value-") as copy:
            self._files.invalidate_cache()
            if self._files.info(self._at(name))["size"] == size:
                self._files.get_file(self._at(name), copy.name)
            return map_file(copy.name)

    def start(self, name: str, size: int) -> bytes:
        with self._told(name):
            data: bytes = self._files.cat_file(self._at(name), start=0, end=size)
            return data

    def delete(self, name: str) -> None:
        with self._told(name), contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._at(name))

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextlib.contextmanager
    def _told(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 -- each store's client raises its own
            _refuse(self.url, name, error)


def _refuse(url: str, name: str, error: Exception) -> NoReturn:
    if isinstance(error, FileNotFoundError) and (not url.startswith("/") or Path(url).is_dir()):
        raise CallError(
            f"There is no {name} in {url}, the location for large values, any more. Run the task again that left it "
            "there."
        ) from None
    raise CallError(f"The location {url} for large values cannot be used: {error}") from None
