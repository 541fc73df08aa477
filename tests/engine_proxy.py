"""A way to the local Docker Engine that can be cut in the middle of what goes over it."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path


class EngineProxy:
    """A socket that leads to the engine's, until it is cut.

    Args:
        path: where its socket is.
        engine: the engine's own.
    """

    def __init__(self, path: Path, engine: str) -> None:
        self.address = f"unix://{path}"
        self._engine = engine
        self._open: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self) -> None:
        """End every connection, and take no other."""
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                there = socket.socket(socket.AF_UNIX)
                there.connect(self._engine)
                self._open += [here, there]
                for source, target in ((here, there), (there, here)):
                    threading.Thread(target=_forward, args=(source, target), daemon=True).start()


def _forward(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def engine_proxy(folder: Path) -> Iterator[EngineProxy | None]:
    """Give a way to the engine, or None where it has no socket on this machine.

    Args:
        folder: for its socket.
    """
    address = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    if not address.startswith("unix://"):
        yield None
        return
    proxy = EngineProxy(folder / "docker.sock", address.removeprefix("unix://"))
    try:
        yield proxy
    finally:
        proxy.cut()
