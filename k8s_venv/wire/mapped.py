"""Large payloads as mapped files: read as one buffer, of which only the part in use takes memory."""

from __future__ import annotations

import mmap
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Union

    from k8s_venv.wire.registry import Buffer

_STEP = 8 * 1024 * 1024  # bytes
_FORGET = getattr(mmap, "MADV_DONTNEED", None)  # which Windows has not


def map_file(file: Union[str, int]) -> Buffer:
    """Return a file's content as a buffer that outlives the file's name.

    Args:
        file: its path, or its descriptor.

    Raises:
        OSError: it cannot be read.
    """
    descriptor = os.open(file, os.O_RDONLY) if isinstance(file, str) else file
    try:
        if os.fstat(descriptor).st_size == 0:
            return b""  # which no system maps
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    finally:
        if isinstance(file, str):
            os.close(descriptor)


def sha256_of(buffer: Buffer) -> str:
    """Return a buffer's digest, in hexadecimal."""
    from hashlib import sha256

    digest, view = sha256(), memoryview(buffer)
    for start in range(0, len(view), _STEP):
        digest.update(view[start : start + _STEP])
        forget(buffer)
    return digest.hexdigest()


def forget(buffer: Buffer) -> None:
    """Give the memory back into which a mapped file was read; what is needed again is read again."""
    if _FORGET is not None and isinstance(buffer, mmap.mmap):
        buffer.madvise(_FORGET)
