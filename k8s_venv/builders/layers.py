"""Layers of an image: reproducible archives, kept in the cache folder under a digest of what went into them.

The same files give the same bytes: sorted, owned by root, with one fixed time (OCI image specification, layer.md).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import posixpath
import tarfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from k8s_venv import cache
from k8s_venv.registry import Blob

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
# A part of every layer's key. Raise it if the same wheels give other layers than before.
LAYER_FORMAT = 2
_TIME = 315532800  # 1980, the earliest time that a zip file can hold
_BLOCK = 1 << 20  # bytes that the compressor gets at once, on which its output depends
_GZIP = 31  # zlib's number for a gzip header, without a time in it


@dataclasses.dataclass(frozen=True)
class File:
    """One file of an image.

    Args:
        name: its path in the image, without the leading slash.
        source: its content: a file, or the bytes themselves.
        executable: whether it may be run.
    """

    name: str
    source: Path | bytes
    executable: bool = False

    @property
    def size(self) -> int:
        """Return its length in bytes."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size


@dataclasses.dataclass(frozen=True)
class Layer:
    """A finished layer.

    Args:
        blob: its compressed archive.
        diff_id: the digest of the archive before compression.
        media_type: how it is compressed.
        title: what is in it, for people.
    """

    blob: Blob
    diff_id: str
    media_type: str = LAYER_TYPE
    title: str = ""

    @property
    def descriptor(self) -> dict[str, object]:
        """Return how a manifest refers to it."""
        return {"mediaType": self.media_type, "digest": self.blob.digest, "size": self.blob.size}


def digest_of(content: object) -> str:
    """Return a digest of plain data, as a key of layers and notes."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def find_layer(key: str) -> Layer | None:
    """Return the layer that was made under a key, or None.

    Args:
        key: a digest of all that goes into the layer.
    """
    note = cache.read_note(cache.note_path("layers", key), digest=str, size=int, diff_id=str, title=str)
    if note is None:
        return None
    blob = Blob(cache.blob_path(note["digest"]), note["digest"], note["size"])
    with contextlib.suppress(OSError):
        if blob.path.stat().st_size == blob.size:
            return Layer(blob, note["diff_id"], title=note["title"])
    return None


@cache.writing_cache()
def make_layer(
    key: str,
    title: str,
    files: Iterable[File],
    links: Mapping[str, str] | None = None,
    folders: Mapping[str, int] | None = None,
) -> Layer:
    """Make a layer and keep it under its key.

    Args:
        key: a digest of all that goes into the layer.
        title: what is in it, for people.
        files: its files.
        links: the targets of its symbolic links, by their names.
        folders: the modes of folders that the base has; others are made with 0755.

    Raises:
        K8sVenvError: the cache folder cannot be written to.
    """
    with cache.new_file(cache.blobs_folder()) as stream:
        packed = _Compressor(stream)
        with tarfile.TarFile(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT, copybufsize=1 << 18) as archive:
            _fill(archive, {file.name: file for file in files}, links or {}, folders or {})
        packed.finish()
        stream.close()
        digest = f"sha256:{packed.digest.hexdigest()}"
        blob = Blob(cache.blob_path(digest), digest, packed.size)
        Path(stream.name).replace(blob.path)
    layer = Layer(blob, f"sha256:{packed.plain.hexdigest()}", title=title)
    note = {"digest": blob.digest, "size": blob.size, "diff_id": layer.diff_id, "title": title}
    cache.write_note(cache.note_path("layers", key), note)
    return layer


def is_intact(path: Path, digest: str) -> bool:
    """Return whether a file has the content that its digest says.

    Args:
        path: the file, which need not exist.
        digest: its ``sha256:…``.
    """
    try:
        with path.open("rb") as stream:
            return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}" == digest
    except OSError:
        return False


class _Compressor(io.RawIOBase):
    """Compresses what is written, and digests it before and after."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__()
        from isal import isal_zlib  # of the extra `build`, without which bases can be read

        self._stream = stream
        self._compressor = isal_zlib.compressobj(level=3, wbits=_GZIP)
        self.plain, self.digest, self.size = hashlib.sha256(), hashlib.sha256(), 0
        self._position, self._waiting = 0, bytearray()

    def tell(self) -> int:
        return self._position

    def write(self, data: Any) -> int:
        self._position += len(data)
        self._waiting += data
        if len(self._waiting) >= _BLOCK:
            whole = len(self._waiting) - len(self._waiting) % _BLOCK
            for start in range(0, whole, _BLOCK):
                self._pack(self._waiting[start : start + _BLOCK])
            del self._waiting[:whole]
        return len(data)

    def finish(self) -> None:
        self._pack(self._waiting)
        self._put(self._compressor.flush())

    def _pack(self, block: bytearray) -> None:
        self.plain.update(block)
        self._put(self._compressor.compress(block))

    def _put(self, data: bytes) -> None:
        self.digest.update(data)
        self.size += len(data)
        self._stream.write(data)


def _fill(
    archive: tarfile.TarFile, files: Mapping[str, File], links: Mapping[str, str], folders: Mapping[str, int]
) -> None:
    parents = {parent for name in [*files, *links] for parent in _parents(name)}
    for name in sorted([*parents, *files, *links]):
        entry = tarfile.TarInfo(name)
        entry.mtime = _TIME
        if name in files:
            file = files[name]
            entry.mode = 0o755 if file.executable else 0o644
            entry.size = file.size
            if isinstance(file.source, bytes):
                archive.addfile(entry, io.BytesIO(file.source))
            else:
                with file.source.open("rb") as stream:
                    archive.addfile(entry, stream)
            continue
        if name in links:
            entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, links[name], 0o777
        else:
            entry.type, entry.mode = tarfile.DIRTYPE, folders.get(name, 0o755)
        archive.addfile(entry)


def _parents(name: str) -> list[str]:
    found = []
    while name := posixpath.dirname(name):
        found.append(name)
    return found


def known_repositories(host: str, digest: str) -> list[str]:
    """Return the repository of a registry that a blob was last pushed to from here, if there is one."""
    note = cache.read_note(_pushed_note(host, digest), repository=str)
    return [note["repository"]] if note else []


def note_repository(host: str, digest: str, repository: str) -> None:
    """Remember the repository that a blob was pushed to, from where others can mount it."""
    cache.write_note(_pushed_note(host, digest), {"repository": repository})


def _pushed_note(host: str, digest: str) -> Path:
    return cache.note_path("pushed", digest_of([host, digest]))
