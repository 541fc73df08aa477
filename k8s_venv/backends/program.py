"""A program in an environment; in a container, its standard streams are this terminal, or these pipes."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import signal
import sys
import tarfile
import threading
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from k8s_venv.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from k8s_venv.config.environment import Environment

_READY = b"\x1ek8s-venv: ready\n"  # of `_program.py`
_CHUNK = 1 << 16
_LEFT_HERE = {".git", ".k8s-venv", ".venv", "__pycache__", "node_modules"}
_LARGEST = 256 << 20  # bytes of files that travel with a program


@dataclasses.dataclass(frozen=True)
class Program:
    """A program that runs in an environment, in place of a call.

    Args:
        environment: where it runs.
        command: its name or path, and its arguments.
        extra: requirements of packages that are added for this run alone.
        variables: variables that it gets; they may be secrets, so they stand in no pod.
    """

    environment: Environment
    command: tuple[str, ...]
    extra: tuple[str, ...] = ()
    variables: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Channel(Protocol):
    """The attached standard streams of a container."""

    def send(self, data: bytes) -> None:
        """Send bytes to standard input.

        Raises:
            ConnectionError: the container has ended.
        """

    def receive(self) -> Iterator[tuple[int, bytes]]:
        """Yield what comes from standard output (1) and standard error (2) until both end."""

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of the container's terminal."""


def starter() -> list[str]:
    """Return the command of the container: it waits for a program, and runs it."""
    return ["python", "-c", resources.files("k8s_venv").joinpath("backends", "_program.py").read_text("utf-8")]


def on_terminal() -> bool:
    """Return whether a person sits at both ends of this process."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def attend(channel: Channel, program: Program, packages: Path | None) -> None:
    """Hand a program to a started container, and be its standard streams until they end.

    Args:
        channel: the container's streams.
        program: what to run there.
        packages: a folder of packages that travel along.

    Raises:
        BackendError: its files are too large.
    """
    output = _after_marks(channel.receive())
    next(output, None)
    tar = _archive(program, packages)
    terminal = on_terminal()
    size = os.get_terminal_size(1) if terminal else None  # not COLUMNS, which may be of another terminal
    header = {
        "command": program.command,
        "variables": dict(program.variables),
        "tar": len(tar),
        "size": [size.lines, size.columns] if size else None,
    }
    with _raw_terminal(channel) if terminal else contextlib.nullcontext():
        with contextlib.suppress(ConnectionError):  # the container's end says more
            channel.send(json.dumps(header).encode() + b"\n")
            for start in range(0, len(tar), _CHUNK):
                channel.send(tar[start : start + _CHUNK])
        threading.Thread(target=_pass_on, args=(channel, terminal), daemon=True).start()
        for stream, data in output:
            target = sys.stderr.buffer if stream == 2 else sys.stdout.buffer
            target.write(data)
            target.flush()


def _after_marks(output: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Yield an empty piece once the container takes a program, then what the program writes.

    The container writes its mark again and again until it hears from us.
    """
    waiting = True
    before: bytes | None = b""
    for stream, data in output:
        if stream != 1 or before is None:
            yield stream, data
            continue
        before += data
        if waiting and before.startswith(_READY):
            waiting = False
            yield 1, b""
        while before.startswith(_READY):
            before = before[len(_READY) :]
        if before and not _READY.startswith(before):
            yield 1, before
            before = None
    if before:
        yield 1, before


def _archive(program: Program, packages: Path | None) -> bytes:
    """Return the files that a program's command line names, and its packages, as a tar archive."""
    buffer = io.BytesIO()
    here = Path.cwd()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in program.command:
            with contextlib.suppress(OSError):  # such as an argument that is too long for a name
                inside = Path(name).resolve().is_relative_to(here) and not Path(name).is_absolute()
                if inside and Path(name).exists():
                    archive.add(name, f"work/{name}", filter=_without_leftovers)
        if packages is not None:
            archive.add(packages, "packages")
    if buffer.tell() > _LARGEST:
        raise BackendError(
            program.environment.name,
            f"the files that the command names, with the packages of --with, take {buffer.tell() / 1e6:,.0f} MB; at "
            f"most {_LARGEST / 1e6:,.0f} MB travel. Name fewer.",
        )
    return buffer.getvalue()


def _without_leftovers(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if _LEFT_HERE & set(member.name.split("/")) else member


def _pass_on(channel: Channel, terminal: bool) -> None:
    """Send what this process reads to the container."""
    with contextlib.suppress(OSError, ValueError):
        while data := os.read(0, _CHUNK):
            channel.send(data if terminal else b"%d\n%s" % (len(data), data))
        channel.send(b"\x04" if terminal else b"0\n")


@contextlib.contextmanager
def _raw_terminal(channel: Channel) -> Iterator[None]:
    """Pass on each key as it is, and each change of the window's size; leave the terminal as it was."""
    import termios
    import tty

    def resize(*_: object) -> None:
        size = os.get_terminal_size(1)
        channel.resize(size.lines, size.columns)

    before = termios.tcgetattr(0)
    handler = signal.signal(signal.SIGWINCH, resize)
    tty.setraw(0)
    try:
        resize()
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
        signal.signal(signal.SIGWINCH, handler)
