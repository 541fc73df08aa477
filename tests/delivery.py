"""A waiting program on this machine, as in a pod, and deliveries to it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from k8s_venv.backends.process import VARIABLES, WAITING_SOCKET, relay_command, waiting_command
from k8s_venv.calls import PackedCall, Result, open_result, parse_document
from k8s_venv.calls.results import inline_result
from k8s_venv.wire import protocol
from tests.waiting import eventually


class Answer(NamedTuple):
    """What a sender reads of a call that it delivered."""

    first: str  # "delivered", or why not
    document: bytes
    token: str
    payload: bytes


class WaitingProgram:
    """A waiting program with the folders of its pod.

    Args:
        folder: receives them.
        python: the interpreter.
        preload: what is imported before the call.
    """

    def __init__(self, folder: Path, python: str = sys.executable, preload: Sequence[str] = ()) -> None:
        self.call, self.result, self.message = folder / "call", folder / "result", folder / "message"
        for made in (self.call, self.result):
            made.mkdir(parents=True)
        self.message.touch()
        self.python = python
        self.log = folder / "log"
        command = waiting_command(python, str(self.call), str(self.result), str(self.message), preload)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, env={**VARIABLES, "PATH": "/bin"}
            )

    @property
    def socket(self) -> Path:
        """Return where it listens."""
        return self.call / WAITING_SOCKET

    def relay(self) -> subprocess.Popen[bytes]:
        """Return a relay to it."""
        command = relay_command(self.python, str(self.socket))
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def deliver(self, data: bytes) -> Answer:
        """Deliver what a sender would send, through a relay, and return what comes back."""
        return answer(self.relay().communicate(data)[0])

    def run(self, call: PackedCall) -> object:
        """Return the value of a call that is delivered to it."""
        files = {protocol.ARCHIVE: call.archive}
        if call.secrets:
            files[protocol.SECRETS] = call.secrets_document
        came = self.deliver(delivery(files))
        assert came.first == "delivered", self.log.read_text()
        assert came.document, self.log.read_text()
        environment = call.environment.name
        document = parse_document(came.document, environment)
        inline = document.inline is not None
        return open_result(inline_result(document, environment) if inline else Result(document, came.payload), call)

    def is_ready(self) -> bool:
        """Return whether it waits for a call."""
        return self.socket.exists()


def delivery(files: Mapping[str, bytes]) -> bytes:
    """Return files as a sender sends them."""
    sizes = "".join(f"{name} {len(data)}\n" for name, data in files.items())
    return f"k8s-venv 1\n{sizes}\n".encode() + b"".join(files.values())


def answer(data: bytes) -> Answer:
    """Return what a sender reads, taken apart."""
    first, _, rest = data.partition(b"\n")
    parts: dict[str, bytes] = {}
    token = ""
    while rest:
        line, _, rest = rest.partition(b"\n")
        kind, size, *more = line.decode().split()
        parts[kind], rest = rest[: int(size)], rest[int(size) :]
        token = more[0] if more else token
    return Answer(first.decode(), parts.get("document", b""), token, parts.get("payload", b""))


@contextlib.contextmanager
def waiting_program(
    folder: Path, python: str = sys.executable, preload: Sequence[str] = ()
) -> Iterator[WaitingProgram]:
    """Yield a waiting program that is ready for its call; it ends with the test."""
    program = WaitingProgram(folder, python, preload)
    try:
        eventually(lambda: program.is_ready() or program.process.poll() is not None)
        yield program
    finally:
        program.process.kill()
        program.process.wait()
