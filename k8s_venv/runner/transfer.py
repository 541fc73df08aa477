"""What of a call travels beside its archive: large arguments on their way in, a large result on its way out.

``delivery.json`` has the details. Large values lie in files next to it, in a folder that both sides mount, or
behind pre-signed URLs, for which the environment needs neither a package nor credentials. A large result of a pod can
also wait in a folder for its sender, where a second container of the same image hands it over.
"""

from __future__ import annotations

import os
import sys
import time

from k8s_venv.wire import protocol
from k8s_venv.wire.errors import DeliveryError
from k8s_venv.wire.values import map_file, sha256_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import IO, Any, Callable, Dict, Iterator, List, Optional

    from k8s_venv.wire.registry import Buffer

_BLOCK = 1024 * 1024
_SILENCE = 60.0  # seconds without a byte after which a connection counts as broken
_ATTEMPTS = 4
_PAUSE = 1.0
# Answers about the server and not about the request, so that asking again may help.
_PASSING = (408, 425, 429, 500, 502, 503, 504)
# How long a result waits for its sender, in seconds: a worker that died is retried within this time.
RESULT_WAIT = 3600.0
_START_WAIT = 600.0
_STEP = 0.05


# --- files, folders and URLs ------------------------------------------------------------------------------


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
    import zlib
    from http.client import HTTPException

    try:
        payload = _payload(folder, entry, scratch)
        intact = len(payload) == entry["size"] and sha256_of(payload) == entry["sha256"]
    except (OSError, ValueError, HTTPException, zlib.error) as error:
        raise DeliveryError(f"{what} cannot be read: {_problem(error)}") from None
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
        import shutil

        part = entry["path"] + ".part"
        shutil.copyfile(path, part)
        os.replace(part, entry["path"])
        return
    from http.client import HTTPException

    try:
        _retrying(lambda: _upload(entry["url"], path))
    except (OSError, HTTPException) as error:
        raise OSError(_problem(error)) from None


def _payload(folder: str, entry: Dict[str, Any], scratch: str) -> Buffer:
    import tempfile

    if "path" in entry:
        return map_file(str(entry["path"]))
    if "url" not in entry and "encoding" not in entry and len(entry["parts"]) == 1:
        return map_file(os.path.join(folder, entry["parts"][0]))
    with tempfile.TemporaryFile(dir=scratch) as file:
        if "url" in entry:
            _retrying(lambda: _download(entry["url"], file, entry["size"]))
        else:
            _join([os.path.join(folder, name) for name in entry["parts"]], file, entry)
        file.flush()
        return map_file(file.fileno())


def _join(paths: List[str], file: IO[bytes], entry: Dict[str, Any]) -> None:
    import zlib

    inflate = zlib.decompressobj()
    for path in paths:
        with open(path, "rb") as stream:
            for block in _blocks(stream):
                # Never more than was announced: compressed data may grow to any size.
                file.write(inflate.decompress(block, entry["size"] + 1 - file.tell()) if "encoding" in entry else block)
                if file.tell() > entry["size"]:
                    return


def _upload(url: str, path: str) -> None:
    from urllib.request import Request, urlopen

    with open(path, "rb") as stream:
        request = Request(url, data=_blocks(stream), method="PUT")  # noqa: S310 -- the sender's own
        request.add_header("Content-Length", str(os.path.getsize(path)))
        request.add_header("Content-Type", "application/octet-stream")
        urlopen(request, timeout=_SILENCE).close()  # noqa: S310


def _download(url: str, file: IO[bytes], size: int) -> None:
    from urllib.request import urlopen

    file.seek(0)
    with urlopen(url, timeout=_SILENCE) as response:  # noqa: S310 -- the sender's own
        for block in _blocks(response):
            file.write(block)
            if file.tell() > size:
                return
    if file.tell() < size:
        raise ConnectionError(f"it ended after {file.tell():,} of {size:,} bytes")


def _retrying(act: Callable[[], None]) -> None:
    """Do what may fail because of the network or the server, up to ``_ATTEMPTS`` times."""
    from http.client import HTTPException

    for attempt in range(1, _ATTEMPTS + 1):
        try:
            act()
            return
        except (OSError, HTTPException) as error:
            answer = getattr(error, "code", None)
            if attempt == _ATTEMPTS or (answer is not None and answer not in _PASSING):
                raise
        time.sleep(_PAUSE * attempt)


def _blocks(stream: Any) -> Iterator[bytes]:
    return iter(lambda: stream.read(_BLOCK), b"")


def _problem(error: BaseException) -> str:
    """Return what went wrong, without the URL, which is a secret."""
    from http.client import HTTPException
    from urllib.error import HTTPError

    if isinstance(error, HTTPError):
        return f"the store answered {error.code} {error.reason}"
    if isinstance(error, (HTTPException, ValueError)):
        return f"the store's answer or its URL makes no sense ({type(error).__name__})"
    return str(error)


# --- the container beside the task ------------------------------------------------------------------------


def wait(folder: str) -> None:
    """Wait until the runner has ended and its result, if it left one here, was read.

    Args:
        folder: the result's folder, which this container shares with the runner's.
    """
    import fcntl
    from _signal import SIGINT, SIGTERM, signal  # type: ignore[import-not-found]

    signal(SIGTERM, _leave)  # process 1 has no default handler
    signal(SIGINT, _leave)
    running, document = (os.path.join(folder, name) for name in (protocol.RUNNING, protocol.DOCUMENT))
    if _until(lambda: os.path.exists(running), _START_WAIT):
        with open(running) as stream:
            fcntl.flock(stream, fcntl.LOCK_SH)  # until the runner has ended
        _until(lambda: not os.path.exists(document), RESULT_WAIT)


def send(folder: str, start: int = 0) -> None:
    """Write the payload in a folder to standard output.

    Args:
        folder: the result's folder.
        start: the first byte that is wanted: an earlier attempt may have broken off there.

    Raises:
        SystemExit: there is no result.
    """
    payload = os.path.join(folder, protocol.PAYLOAD)
    if not os.path.exists(payload):
        raise SystemExit(f"no result in {folder}")
    with open(payload, "rb") as stream:
        stream.seek(start)
        for block in _blocks(stream):
            sys.stdout.buffer.write(block)
    sys.stdout.buffer.flush()


def release(folder: str) -> None:
    """Mark the result in a folder as read, so that ``wait`` ends."""
    document = os.path.join(folder, protocol.DOCUMENT)
    if os.path.exists(document):
        os.unlink(document)


def _until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_STEP)
    return True


def _leave(number: int, frame: Optional[FrameType]) -> None:
    raise SystemExit(0)
