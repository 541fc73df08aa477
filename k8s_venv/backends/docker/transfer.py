"""A call's files on their way into a container and out of it, as tar streams."""

from __future__ import annotations

import contextlib
import io
import tarfile
import tempfile
from typing import IO, TYPE_CHECKING, Any

from k8s_venv.backends.docker.options import FOLDER
from k8s_venv.errors import BackendError
from k8s_venv.wire.mapped import map_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from docker.models.containers import Container

    from k8s_venv.wire.registry import Buffer

RESULT_FOLDER = f"{FOLDER}/result"
_CHUNK = 1 << 20  # bytes of a result that are in memory at once


def write_folders(stream: IO[bytes], files: Mapping[str, Buffer]) -> None:
    """Write a tar with a call's files and the result's folder, which any user may write to.

    Args:
        stream: receives it; it stands at its beginning afterwards.
        files: the files' contents by their names.
    """
    with tarfile.open(fileobj=stream, mode="w") as tar:
        folder = tarfile.TarInfo("result")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o777
        tar.addfile(folder)
        for name, data in files.items():
            file = tarfile.TarInfo(name)
            file.size, file.mode = len(data), 0o444
            content = io.BytesIO(data) if isinstance(data, bytes) else data
            tar.addfile(file, content)  # type: ignore[arg-type]  # a mapped file reads like one
    stream.seek(0)


def kept(file: IO[bytes], size: int, environment: str) -> Buffer:
    """Return a payload as a mapped file; one that is not as long as announced is told by its checksum.

    Args:
        file: the payload.
        size: how long it is said to be, in bytes.
        environment: whose call's it is, for messages.

    Raises:
        BackendError: it cannot be kept.
    """
    try:
        with tempfile.TemporaryFile(prefix="k8s-venv-result-") as copy:
            while size > 0 and (data := file.read(min(size, _CHUNK))):
                copy.write(data)
                size -= len(data)
            copy.flush()
            return map_file(copy.fileno())
    except OSError as error:
        raise BackendError(
            environment, f"the call's result cannot be kept in {tempfile.gettempdir()}: {error}. Set TMPDIR."
        ) from None


@contextlib.contextmanager
def result_file(container: Container, name: str) -> Iterator[IO[bytes] | None]:
    """Give a file of the result, or None where the container left none.

    Args:
        container: the container.
        name: the file's name in the result's folder.
    """
    import docker

    try:
        chunks, _ = container.get_archive(f"{RESULT_FOLDER}/{name}")
    except docker.errors.NotFound:
        yield None
        return
    with contextlib.closing(_Stream(chunks)) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        member = tar.next()
        yield tar.extractfile(member) if member is not None and member.isreg() else None


class _Stream(io.RawIOBase):
    """Chunks of bytes as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = chunk
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size
