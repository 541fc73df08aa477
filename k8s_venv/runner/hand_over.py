"""The container beside the task that keeps a large result until the sender has read it."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from pathlib import Path

from k8s_venv.wire import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Callable, Optional

# How long a result waits for its sender, in seconds: a worker that died is retried within this time.
PATIENCE = 3600.0
_START_PATIENCE = 600.0
_STEP = 0.05


def wait(folder: str) -> int:
    """Wait until the runner has ended and its result, if it left one here, was read.

    Args:
        folder: the result's folder, which this container shares with the runner's.

    Returns:
        0, always: how the call ended is the other container's to say.
    """
    signal.signal(signal.SIGTERM, _leave)  # process 1 has no default handler
    signal.signal(signal.SIGINT, _leave)
    running = Path(folder, protocol.RUNNING)
    if not _until(running.exists, _START_PATIENCE):
        return 0
    _wait_for_end(running)
    document = Path(folder, protocol.DOCUMENT)
    _until(lambda: not document.exists(), PATIENCE)
    return 0


def send(folder: str, start: int = 0) -> int:
    """Write the payload in a folder to standard output.

    Args:
        folder: the result's folder.
        start: the first byte that is wanted: an earlier attempt may have broken off there.

    Returns:
        0, or 1 when there is no result.
    """
    payload = Path(folder, protocol.PAYLOAD)
    if not payload.exists():
        print(f"no result in {folder}", file=sys.stderr)
        return 1
    with payload.open("rb") as stream:
        stream.seek(start)
        shutil.copyfileobj(stream, sys.stdout.buffer, 1024 * 1024)
    sys.stdout.buffer.flush()
    return 0


def release(folder: str) -> int:
    """Mark the result in a folder as read, so that ``wait`` ends.

    Args:
        folder: the result's folder.

    Returns:
        0, always.
    """
    document = Path(folder, protocol.DOCUMENT)
    if document.exists():
        document.unlink()
    return 0


def _wait_for_end(running: Path) -> None:
    import fcntl

    with running.open() as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)


def _until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_STEP)
    return True


def _leave(number: int, frame: Optional[FrameType]) -> None:
    raise SystemExit(0)
