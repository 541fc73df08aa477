"""How a call's bulk travels beside its archive: in files, in Secrets, or through a location for large values.

A location is a folder that both sides mount, or a bucket. The sender alone names what is read and written there. Of a
bucket the environment gets one URL for one object, signed by the sender; of a folder, a path. What was put there is
believed only if its size and digest are right.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import shutil
import stat
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k8s_venv.calls.packed import Result
from k8s_venv.errors import CallError
from k8s_venv.wire import protocol
from k8s_venv.wire.values import map_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from k8s_venv.calls.packed import PackedCall, SentCall, Spool
    from k8s_venv.wire.registry import Buffer

_BLOCK = 1024 * 1024
_EXPIRY = 7 * 24 * 3600  # seconds: as long as a pod of ours may live, and as long as S3 lets a signature live
_ROOM = 4096  # bytes of `delivery.json` that say where the arguments are


# --- with and without a location ------------------------------------------------------------------------------


def call_files(call: PackedCall) -> dict[str, Buffer]:
    """Return all files of a call for a backend of this machine, except the secrets.

    Args:
        call: the call.

    Raises:
        CallError: an argument that is stored at a location cannot be read.
    """
    files: dict[str, Buffer] = {protocol.ARCHIVE: call.archive}
    settings: dict[str, Any] = {}
    if call.arguments is not None:
        files[_part(0)] = map_file(str(call.arguments.path))
        settings["arguments"] = {**_seal(call.arguments), "parts": [_part(0)]}
    for digest, (size, stored) in call.references.items():
        name = f"reference.{digest}"
        files[name] = stored.location.fetch(stored.name, size)
        settings.setdefault("references", {})[digest] = {"size": size, "sha256": digest, "parts": [name]}
    if settings:
        files[protocol.DELIVERY] = json.dumps(settings).encode()
    return files


def write_files(call: PackedCall, folder: Path) -> None:
    """Write ``call_files`` into a folder that only its owner may read.

    Args:
        call: the call.
        folder: the folder.

    Raises:
        OSError: they cannot be written.
    """
    for name, data in call_files(call).items():
        if name == _part(0) and call.arguments is not None:
            with contextlib.suppress(OSError):  # another file system
                (folder / name).hardlink_to(call.arguments.path)
                continue
        (folder / name).write_bytes(data)


def secret_contents(call: PackedCall, name: str, size: int, count: int) -> list[dict[str, bytes]]:
    """Return all files of a call, split over Secrets; arguments that are too large for them go to the location.

    Args:
        call: the call.
        name: as for ``PayloadTransfer``.
        size: what a Secret holds, in bytes.
        count: how many there may be.

    Raises:
        CallError: they hold too little, and there is no location.
    """
    files, settings = {protocol.ARCHIVE: call.archive}, _settings(call, name)
    if call.secrets:
        files[protocol.SECRETS] = call.secrets_document
    room = size - sum(map(len, files.values())) - (_ROOM + len(json.dumps(settings)) if settings else 0)
    if room < (_ROOM if call.arguments else 0):
        raise CallError(
            f"{call.function}() with the values that it uses takes {size - room:,} bytes packed; a Secret holds "
            f"{size:,}. Pass the data as an argument, or a reference to it (a path, a table, a URL)."
        )
    parts: list[bytes] = []
    if call.arguments is not None:
        values, entry = call.environment.values, _seal(call.arguments)
        if values.location is not None and call.arguments.size > values.above:
            location = location_at(values.location)
            location.put(_arguments_name(name), call.arguments.path)
            entry.update(location.entry(_arguments_name(name)))
        else:
            parts = _compressed(call.function, call.arguments, room - _ROOM, size, count)
            entry.update({"encoding": "zlib", "parts": [_part(number) for number in range(len(parts))]})
        settings["arguments"] = entry
    if settings:
        files[protocol.DELIVERY] = json.dumps(settings).encode()
    named = [{_part(number): part} for number, part in enumerate(parts)] or [{}]
    return [{**files, **named[0]}, *named[1:]]


def _settings(call: PackedCall, name: str) -> dict[str, Any]:
    """Return what the runner of a pod must know, except for its arguments."""
    values = call.environment.values
    settings: dict[str, Any] = {}
    for digest, (size, stored) in call.references.items():
        place = stored.location.entry(stored.name)
        settings.setdefault("references", {})[digest] = {"size": size, "sha256": digest, **place}
    if values.location is not None:
        place = location_at(values.location).entry(_result_name(name), writing=True)
        settings["result"] = {"above": int(values.above), **place}
    if not values.exec:
        settings["hand_over"] = False
    if not values.status:
        settings["inline"] = False
    return settings


def _seal(spool: Spool) -> dict[str, Any]:
    return {"size": spool.size, "sha256": spool.sha256}


def _compressed(function: str, arguments: Spool, first: int, size: int, count: int) -> list[bytes]:
    """Return the arguments in parts of at most ``size`` bytes, the first of at most ``first``.

    Raises:
        CallError: they are more than ``count`` parts.
    """
    parts: list[bytes] = []
    rest = bytearray()
    for block in _deflated(arguments.path):
        rest += block
        while len(rest) > (length := size if parts else first):
            parts.append(bytes(rest[:length]))
            del rest[:length]
        if len(parts) >= count:
            raise CallError(
                f"The arguments of {function}() take {arguments.size:,} bytes, more than "
                f"{count} Secrets hold ({count * size:,} bytes, compressed). Name a `location` under [values] in "
                "the project file, or pass a reference to the data (a path, a table, a URL)."
            )
    return [*parts, bytes(rest)]


def _deflated(path: Path) -> Iterator[bytes]:
    deflate = zlib.compressobj(1)
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            yield deflate.compress(block)
    yield deflate.flush()


def _part(number: int) -> str:
    return f"arguments.{number}"


# --- what one call stores at its location ---------------------------------------------------------------------


class PayloadTransfer:
    """What one call stores at the location of its environment, if there is one.

    Args:
        call: the call.
        name: what its values are called there; no other call has it.
    """

    def __init__(self, call: SentCall, name: str) -> None:
        self._call = call
        self._name = name

    def result(self, document: protocol.Document) -> Result:
        """Return a result that the environment has stored.

        Raises:
            CallError: the call has no location.
        """
        url = self._call.environment.values.location
        if url is None:
            raise CallError(f"{self._call.function}() put its result at a location that it was not given.")
        return Result(document, b"", StoredValue(location_at(url), _result_name(self._name)))

    @property
    def stored_arguments(self) -> tuple[str, str] | None:
        """Return the location's URL and what the arguments are called there, if they may be there."""
        url = self._call.environment.values.location
        return (url, _arguments_name(self._name)) if url and self._call.arguments_apart else None

    def close(self) -> None:
        """Remove the arguments from the location; the call has ended.

        Raises:
            CallError: the location refuses that.
        """
        if self.stored_arguments is not None:
            remove_arguments(self.stored_arguments)


def remove_arguments(stored: Sequence[str]) -> None:
    """Remove a call's arguments from a location.

    Args:
        stored: as ``PayloadTransfer.stored_arguments``.

    Raises:
        CallError: the location refuses that.
    """
    url, name = stored
    location_at(url).delete(name)


def _arguments_name(name: str) -> str:
    return f"{name}.arguments"


def _result_name(name: str) -> str:
    return f"{name}.result"


@dataclasses.dataclass(frozen=True)
class StoredValue:
    """A value at a location.

    Args:
        location: where.
        name: what it is called there.
    """

    location: Location
    name: str

    def take(self, size: int) -> Buffer:
        """Return the value, which has so many bytes, and remove it from the location.

        Raises:
            CallError: the location cannot be read.
        """
        try:
            return self.location.fetch(self.name, size)
        finally:
            with contextlib.suppress(CallError):
                self.location.delete(self.name)


# --- locations ------------------------------------------------------------------------------------------------


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
    raise CallError(f"{url!r} is not a location for large values.")


class _Folder:
    """A folder that both sides mount, with a file for each value; each method raises ``CallError`` if it fails."""

    def __init__(self, url: str) -> None:
        self.url = url

    def entry(self, name: str, *, writing: bool = False) -> dict[str, str]:
        """Return how the environment reaches a value: its ``path``, or a signed ``url``."""
        return {"path": str(self._path(name))}

    def put(self, name: str, path: Path) -> None:
        """Store a file's content as a value."""
        with _explained(self.url, name, OSError):
            part = self._path(f"{name}.part")
            shutil.copyfile(path, part)
            part.rename(self._path(name))

    def fetch(self, name: str, size: int) -> Buffer:
        """Return a value of so many bytes, from a copy that nothing else can change."""
        with (
            _explained(self.url, name, OSError),
            self._open(name) as source,
            tempfile.TemporaryFile(prefix="k8s-venv-value-") as copy,
        ):
            left = size if os.fstat(source.fileno()).st_size == size else 0
            while left and (block := source.read(min(left, _BLOCK))):  # never more, also if a pod still writes to it
                copy.write(block)
                left -= len(block)
            copy.flush()
            return map_file(copy.fileno())

    def size(self, name: str) -> int:
        """Return a value's size in bytes."""
        with _explained(self.url, name, OSError), self._open(name) as source:
            return os.fstat(source.fileno()).st_size

    def start(self, name: str, size: int) -> bytes:
        """Return the first bytes of a value."""
        with _explained(self.url, name, OSError), self._open(name) as source:
            data: bytes = source.read(size)
            return data

    def delete(self, name: str) -> None:
        """Remove a value; one that is gone already is no error."""
        with _explained(self.url, name, OSError):
            self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return Path(self.url, name)

    def _open(self, name: str) -> Any:
        # Pods write here: what they left may be a link to anywhere, or a pipe that never ends.
        descriptor = os.open(self._path(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(f"{name} is not a file")
        return os.fdopen(descriptor, "rb")


class _Bucket:
    """A bucket with an object for each value, with the methods of a folder."""

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
        with _explained(self.url, name, Exception):
            return {"url": self._files.sign(self._at(name), expiration=_EXPIRY, client_method=method)}

    def put(self, name: str, path: Path) -> None:
        with _explained(self.url, name, Exception):
            self._files.put_file(str(path), self._at(name))

    def fetch(self, name: str, size: int) -> Buffer:
        with _explained(self.url, name, Exception), tempfile.NamedTemporaryFile(prefix="k8s-venv-value-") as copy:
            self._files.invalidate_cache()
            if self._files.info(self._at(name))["size"] == size:
                self._files.get_file(self._at(name), copy.name)
            return map_file(copy.name)

    def size(self, name: str) -> int:
        with _explained(self.url, name, Exception):
            self._files.invalidate_cache()
            return int(self._files.info(self._at(name))["size"])

    def start(self, name: str, size: int) -> bytes:
        with _explained(self.url, name, Exception):
            data: bytes = self._files.cat_file(self._at(name), start=0, end=size)
            return data

    def delete(self, name: str) -> None:
        with _explained(self.url, name, Exception), contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._at(name))

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"


@contextlib.contextmanager
def _explained(url: str, name: str, failures: type[Exception]) -> Iterator[None]:
    """Raise a ``CallError`` for a failure of a location; each store's client raises errors of its own."""
    try:
        yield
    except failures as error:
        if isinstance(error, FileNotFoundError) and (not url.startswith("/") or Path(url).is_dir()):
            raise CallError(
                f"There is no {name} in {url}, the location for large values, any more. Run the task again that left "
                "it there."
            ) from None
        raise CallError(f"The location {url} for large values cannot be used: {error}") from None


Location = _Folder | _Bucket
