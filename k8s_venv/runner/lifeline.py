"""Standard input as what brings the secrets, and as the sign that the sender still lives."""

from __future__ import annotations

import os
import time
from _signal import SIGKILL, SIGTERM  # type: ignore[import-not-found]
from _thread import start_new_thread  # `threading` is not for calls that have no other threads

from k8s_venv.wire import quickjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict

# Seconds between asking this process to end and ending it, once its sender is gone.
GRACE = 10.0
_CHUNK = 65536


def receive() -> Dict[str, Any]:
    """Return the secrets, one line of JSON on standard input, and end this process when that is closed.

    The function that is called finds an empty standard input.

    Raises:
        SystemExit: the sender was gone before it had said anything.
    """
    line = os.dup(0)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    text = b""
    while not text.endswith(b"\n"):
        read = os.read(line, _CHUNK)
        if not read:
            raise SystemExit("the sender is gone")
        text += read
    start_new_thread(_watch, (line,))
    secrets: Dict[str, Any] = quickjson.loads(text.decode())
    return secrets


def _watch(line: int) -> None:
    # No file object: one that a thread reads from cannot be closed when the interpreter ends.
    while os.read(line, _CHUNK):
        pass
    try:
        _end_what_remains()
    finally:  # whatever the function did to its process
        os.kill(os.getpid(), SIGTERM)
        time.sleep(GRACE)
        os._exit(128 + SIGKILL)


def _end_what_remains() -> None:
    """Leave a process behind that ends this one's group when this one has ended, or does not."""
    import warnings  # which no call waits for

    parent, deadline = os.getpid(), time.monotonic() + GRACE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forking beside threads: what follows needs none of them
        child = os.fork()
    if child == 0:
        while os.getppid() == parent and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(0, SIGKILL)
