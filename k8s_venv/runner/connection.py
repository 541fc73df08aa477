"""Send a call's result over a pipe that its sender reads while the call runs: in a pod that waited for the call.

The payload goes out when the function is over. The document goes out last of all that this process does, after
threads, exit handlers, and the files that Python closes at its end: a sender that has it may remove the pod.
"""

from __future__ import annotations

import os
import sys
from select import select

from k8s_venv.wire import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional, Tuple

    File = Optional[Tuple[int, int]]

_SILENCE = 60.0  # seconds after which a sender that reads nothing counts as gone
_BLOCK = 1 << 18
# What Python clears last of all when it ends is the module `sys`.
_LAST = "_k8s_venv_last"


class Connection:
    """The pipe to the sender.

    Args:
        descriptor: the pipe.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._file = _identity(descriptor)
        os.set_blocking(descriptor, False)

    def send(self, document: str, payload: str) -> None:
        """Send a payload now, and the document when nothing else of this process is left to do.

        Args:
            document: its text.
            payload: the file with it, or nothing.
        """
        if _identity(self._descriptor) != self._file or not document:
            return  # the function closed it, or there is nothing to send
        if payload:
            try:
                self._send_payload(payload)
            except OSError:  # the sender is gone, or reads nothing: it looks elsewhere for the end of this process
                os.close(self._descriptor)
                return
        text, token = document.encode(), os.urandom(8).hex()
        message = f"document {len(text)} {token}\n".encode() + text
        end = f"{protocol.END} {token}\n".encode()
        setattr(sys, _LAST, _Last(_sender(self._descriptor, self._file, end, message)))

    def _send_payload(self, path: str) -> None:
        with open(path, "rb") as file:
            self._write(f"payload {os.fstat(file.fileno()).st_size}\n".encode())
            for block in iter(lambda: file.read(_BLOCK), b""):
                self._write(block)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            if not select([], [self._descriptor], [], _SILENCE)[1]:
                raise OSError("no one reads")
            view = view[os.write(self._descriptor, view) :]


class _Last:
    """Calls a function when it is deleted."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call

    def __del__(self) -> None:
        self._call()


def _sender(descriptor: int, file: File, end: bytes, message: bytes) -> Callable[[], None]:
    """Return a function that ends the log and sends a message, without the names of any module: they are gone then."""
    write, getpid, process, identity, wait, silence = os.write, os.getpid, os.getpid(), _identity, select, _SILENCE

    def send() -> None:
        if getpid() != process or identity(descriptor) != file:
            return  # a process that this one forked, or the function closed the pipe
        rest = message
        try:  # noqa: SIM105 -- `contextlib` would have to be imported
            write(1, end)
        except OSError:  # the function closed its output
            pass
        try:
            while rest and wait([], [descriptor], [], silence)[1]:
                rest = rest[write(descriptor, rest) :]
        except OSError:  # the sender is gone
            pass

    return send


def _identity(descriptor: int, fstat: Callable[[int], os.stat_result] = os.fstat) -> File:
    """Return which file a descriptor is of, if it is open."""
    try:
        status = fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino
