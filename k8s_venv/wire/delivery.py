"""What of a call travels beside its archive: large arguments on their way in, a large result on its way out.

The sender says in ``delivery.json`` how. Bulk lies in files next to it, in a folder that both sides mount, or behind
pre-signed URLs, for which the environment needs neither a package nor credentials.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from http.client import HTTPException

from k8s_venv.wire.errors import DeliveryError
from k8s_venv.wire.mapped import map_file, sha256_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any, Dict, Iterator, List

    from k8s_venv.wire.registry import Buffer

_BLOCK = 1024 * 1024
_SILENCE = 60.0  # seconds without a byte after which a connection counts as broken
_ATTEMPTS = 4
_PAUSE = 1.0
# Answers about the server and not about the request, so that asking again may help.
_PASSING = (408, 425, 429, 500, 502, 503, 504)


def fetch(folder: str, entry: Dict[str, Any], scratch: str, what: str) -> Buffer:
    """Return what the sender left somewhere, checked.

    Args:
        folder: the call's folder, where files lie.
        entry: ``size`` and ``sha256``, and where it is: ``path``, ``url``, or ``parts`` with an ``encoding``.
        scratch: a folder to put it together in.
        what: what it is, for messages.

    Raises:
        DeliveryError: it is missing, cut short or altered.
    """
    try:
        payload = _payload(folder, entry, scratch)
        intact = len(payload) == entry["size"] and sha256_of(payload) == entry["sha256"]
    except (OSError, ValueError, HTTPException, zlib.error) as error:
        raise DeliveryError(f"{what} cannot be read: {_said(error)}") from None
    if not intact:
        raise DeliveryError(
            f"{what} did not arrive as they were sent: {len(payload):,} bytes of {entry['size']:,}, "
            "or others than these"
        )
    return payload


def store(entry: Dict[str, Any], path: str) -> None:
    """Copy a result from a file to where the sender wants it.

    Args:
        entry: the ``path``, or the ``url`` that takes a PUT.
        path: the file.

    Raises:
        OSError: that failed.
    """
    if "path" in entry:
        part = entry["path"] + ".part"
        shutil.copyfile(path, part)
        os.replace(part, entry["path"])
        return
    size = os.path.getsize(path)
    for attempt in range(1, _ATTEMPTS + 1):
        with open(path, "rb") as stream:
            request = urllib.request.Request(entry["url"], data=_blocks(stream), method="PUT")  # noqa: S310 -- the sender's own
            request.add_header("Content-Length", str(size))
            request.add_header("Content-Type", "application/octet-stream")
            try:
                urllib.request.urlopen(request, timeout=_SILENCE).close()  # noqa: S310
                return
            except (OSError, HTTPException) as error:
                if not _may_pass(error) or attempt == _ATTEMPTS:
                    raise OSError(_said(error)) from None
        time.sleep(_PAUSE * attempt)


def _payload(folder: str, entry: Dict[str, Any], scratch: str) -> Buffer:
    if "path" in entry:
        return map_file(str(entry["path"]))
    if "url" not in entry and "encoding" not in entry and len(entry["parts"]) == 1:
        return map_file(os.path.join(folder, entry["parts"][0]))
    with tempfile.TemporaryFile(dir=scratch) as file:
        if "url" in entry:
            _download(entry["url"], file, entry["size"])
        else:
            _join([os.path.join(folder, name) for name in entry["parts"]], file, entry)
        file.flush()
        return map_file(file.fileno())


def _join(paths: List[str], file: IO[bytes], entry: Dict[str, Any]) -> None:
    inflate = zlib.decompressobj()
    for path in paths:
        with open(path, "rb") as stream:
            for block in _blocks(stream):
                # Never more than was announced: compressed data may grow to any size.
                file.write(inflate.decompress(block, entry["size"] + 1 - file.tell()) if "encoding" in entry else block)
                if file.tell() > entry["size"]:
                    return


def _download(url: str, file: IO[bytes], size: int) -> None:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            file.seek(0)
            with urllib.request.urlopen(url, timeout=_SILENCE) as response:  # noqa: S310 -- as above
                for block in _blocks(response):
                    file.write(block)
                    if file.tell() > size:
                        return
            if file.tell() == size:
                return
            raise ConnectionError(f"it ended after {file.tell():,} of {size:,} bytes")
        except (OSError, HTTPException) as error:
            if not _may_pass(error) or attempt == _ATTEMPTS:
                raise
        time.sleep(_PAUSE * attempt)


def _blocks(stream: Any) -> Iterator[bytes]:
    return iter(lambda: stream.read(_BLOCK), b"")


def _may_pass(error: Exception) -> bool:
    return not isinstance(error, urllib.error.HTTPError) or error.code in _PASSING


def _said(error: BaseException) -> str:
    """Return what went wrong, without the URL, which is a secret."""
    if isinstance(error, urllib.error.HTTPError):
        return f"the store answered {error.code} {error.reason}"
    if isinstance(error, (HTTPException, ValueError)):
        return f"the store's answer or its URL makes no sense ({type(error).__name__})"
    return str(error)
