"""The connection over which a waiting pod gets its call, and returns the result.

A relay in the pod passes its own standard input and output on to the program that waits, so that no object of the
cluster holds a secret. When the connection breaks, the call goes on, and its end is read as that of any pod.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import hashlib
import queue
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any

from k8s_venv.backends.kubernetes import render
from k8s_venv.backends.kubernetes.background import start_thread
from k8s_venv.backends.kubernetes.exec_channel import BrokenOffError, ExecChannel
from k8s_venv.backends.process import WAITING_SOCKET, relay_command
from k8s_venv.wire import protocol
from k8s_venv.wire.values import map_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from kubernetes.client import models as k8s

    from k8s_venv.wire.registry import Buffer

# Kinds of news beside those of a watch: the result is there; the connection broke without it.
RECEIVED = "RECEIVED"
UNWATCHED = "UNWATCHED"  # nothing came for a while, and the pod is watched from now on
BROKEN = "BROKEN"

# What begins a delivery: the name and the version of its format.
_GREETING = b"k8s-venv 1\n"
_LONGEST_LINE = 100  # bytes
# How long the program that waits may take to answer a delivery, in seconds: its relay waits 30 for it, and it gives up
# another delivery that came before after 60.
_ANSWER = 90.0
# A payload that comes more slowly, on the whole, is left to the container that hands results over; bytes a second.
_LEAST_RATE = 64 * 1024
_STALLED = 120.0


class Answer(enum.Enum):
    """What the program that waits says to a delivery."""

    DELIVERED = b"delivered"
    TAKEN = b"taken"  # another one was faster


@dataclasses.dataclass(frozen=True)
class Received:
    """A result that came over the connection."""

    document: str
    end: str  # the token that ends the log
    payload: Buffer | None = None  # if it is not in the document
    sha256: str = ""  # of the payload

    def payload_of(self, document: protocol.Document) -> Buffer | None:
        """Return the payload that a document announces, if it came as well and is undamaged."""
        if self.payload is None or document.inline is not None or document.stored:
            return None
        return self.payload if (len(self.payload), self.sha256) == (document.size, document.sha256) else None


class Attached:
    """The connection to one waiting pod.

    Args:
        client: a ``CoreV1Api``.
        pod: the pod.
        complain: is called with what the relay says.

    Raises:
        BrokenOffError: the API server refused it, or the connection broke.
    """

    def __init__(self, client: Any, pod: k8s.V1Pod, complain: Callable[[str], None]) -> None:
        command = relay_command("python", f"{render.CALL_FOLDER}/{WAITING_SOCKET}")
        self._channel = ExecChannel(client, pod, render.BASE, command, complain, stdin=True)
        self._deadline = float("inf")
        self._output = _Output(self._channel.output(lambda: self._deadline, quiet=True))
        self.received: Received | None = None
        self.sent = False  # whether all of a delivery was sent

    def deliver(self, files: Mapping[str, Buffer]) -> Answer:
        """Send the files of a call.

        Args:
            files: their contents, by name; the archive is among them.

        Raises:
            BrokenOffError: the connection broke before there was an answer; ``sent`` says whether all was sent.
        """
        self._deadline = time.monotonic() + _ANSWER
        sizes = "".join(f"{name} {memoryview(data).nbytes}\n" for name, data in files.items())
        self._channel.send(_GREETING + sizes.encode("ascii") + b"\n")
        *others, last = files.values()
        for data in others:
            self._channel.send(data)
        self.sent = True  # from here on it may arrive whole
        self._channel.send(last)
        self._deadline = time.monotonic() + _ANSWER
        answer = self._output.line()
        self._deadline = float("inf")
        try:
            return Answer(answer)
        except ValueError:
            raise BrokenOffError(f"the pod answered {answer[:_LONGEST_LINE]!r}") from None

    def states(
        self, pod: k8s.V1Pod, watch: Callable[[], Iterator[tuple[str, Any]]], after: float
    ) -> Iterator[tuple[str, Any]]:
        """Yield the states of a pod, ``UNWATCHED`` before it is watched, and ``RECEIVED`` when its result is there.

        Args:
            pod: the pod, as it was claimed.
            watch: opens a watch of it, which a call that ends soon does without.
            after: the seconds after which that is opened; at once if the connection breaks.

        Raises:
            ApiException: the account may not watch pods.
        """
        news: queue.SimpleQueue[tuple[str, Any] | Exception] = queue.SimpleQueue()
        over = threading.Event()

        def follow() -> None:
            try:
                for state in watch():
                    news.put(state)
                    if over.is_set():
                        return
            except Exception as error:  # noqa: BLE001 -- raised below, where somebody waits
                news.put(error)

        start_thread(functools.partial(self._listen, news.put), "k8s-venv-result")
        yield "ADDED", pod
        try:
            first: tuple[str, Any] | Exception | None = news.get(timeout=after)
        except queue.Empty:
            first = None
            yield UNWATCHED, pod
        try:
            if first == (RECEIVED, None):
                yield RECEIVED, None
            start_thread(follow, "k8s-venv-watch")
            while True:
                state = news.get()
                if isinstance(state, Exception):
                    raise state
                if state[0] != BROKEN:
                    yield state
        finally:
            over.set()

    def close(self) -> None:
        """Break the connection; a call that runs goes on."""
        self._channel.abort()

    def _listen(self, put: Callable[[tuple[str, Any]], None]) -> None:
        try:
            with contextlib.suppress(BrokenOffError, OSError):
                self._receive()
        finally:
            put((RECEIVED if self.received is not None else BROKEN, None))

    def _receive(self) -> None:
        """Read the payload, if there is one, and then the document, which is the last that the pod says.

        Raises:
            BrokenOffError: the connection broke, or what comes is no result.
        """
        payload: tuple[Buffer, str] | None = None
        while self.received is None:
            words = self._output.line().split(b" ")
            size = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
            if words[0] == b"payload" and payload is None and 0 < size <= protocol.HAND_OVER_LIMIT:
                payload = self._payload(size)
            elif words[0] == b"document" and 0 < size <= protocol.DOCUMENT_LIMIT and len(words) == 3:
                document = b"".join(self._output.take(size)).decode("utf-8", "backslashreplace")
                self.received = Received(document, words[2].decode("ascii", "replace"), *(payload or (None, "")))
            else:
                raise BrokenOffError("it is no result", final=True)

    def _payload(self, size: int) -> tuple[Buffer, str]:
        """Read a payload into a file; return it with its digest."""
        digest, begun, count = hashlib.sha256(), time.monotonic(), 0
        with tempfile.TemporaryFile(prefix="k8s-venv-result-") as file:
            for piece in self._output.take(size):
                digest.update(piece)
                file.write(piece)
                count += len(piece)
                self._deadline = min(time.monotonic(), begun + count / _LEAST_RATE) + _STALLED
            self._deadline = float("inf")
            file.flush()
            return map_file(file.fileno()), digest.hexdigest()


class _Output:
    """Reads lines and bytes from what comes in pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def line(self) -> bytes:
        """Return the next line without its end; nothing at the end of all."""
        while b"\n" not in self._rest and len(self._rest) <= _LONGEST_LINE:
            piece = next(self._pieces, b"")
            if not piece:
                return b""
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return line[:_LONGEST_LINE]

    def take(self, size: int) -> Iterator[bytes]:
        """Yield the next bytes.

        Raises:
            BrokenOffError: there are fewer.
        """
        while size > 0:
            piece, self._rest = self._rest or next(self._pieces, b""), b""
            if not piece:
                raise BrokenOffError("it ended too early")
            yield piece[:size]
            self._rest, size = piece[size:], size - len(piece[:size])
