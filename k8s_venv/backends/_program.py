"""Run a program in a container for somebody at a terminal elsewhere.

It is passed to ``python -c`` as text, so it imports nothing of this package. Over standard input it receives a line of
JSON, then a tar archive of the size that the line says; after these standard input is the program's. On a terminal the
program takes it over whole. Otherwise it comes in chunks, each after a line with its length, and ends with a chunk of
length 0: the connection that carries it cannot be closed in one direction.

The line has ``command`` (a list), ``variables`` (a map), ``tar`` (bytes) and ``size`` (rows and columns of the
terminal, or null).
"""

from __future__ import annotations

import io
import json
import os
import select
import signal
import subprocess
import sys
import tarfile
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any, Dict

READY = b"\x1ek8s-venv: ready\n"
FOLDER = "/tmp/k8s-venv"  # noqa: S108 -- a file system of the container's own
_AGAIN = 0.2  # seconds
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126  # as a shell says


def main() -> int:
    """Receive a program, run it, and return its exit code."""
    terminal = os.isatty(0)
    before = _without_echo() if terminal else None
    _announce()
    given = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115 -- what follows is the program's
    header = json.loads(_line(given))
    folder = os.path.join(FOLDER, "work")
    os.makedirs(folder)
    with tarfile.open(fileobj=io.BytesIO(_exactly(given, header["tar"]))) as archive:
        # The sender's own files, as they are: Python 3.13 warns without a filter, and 3.14 refuses links by default.
        setattr(archive, "extraction_filter", lambda member, _folder: member)  # noqa: B010 -- not in all Pythons
        archive.extractall(FOLDER)  # noqa: S202
    if terminal:
        _restore(before, header["size"])
    return _run(header, folder, given, terminal=terminal)


def _announce() -> None:
    """Write the mark until something comes: who attaches to a running container sees only what is written then."""
    while True:
        os.write(1, READY)
        if select.select([0], [], [], _AGAIN)[0]:
            return


def _run(header: Dict[str, Any], folder: str, given: IO[bytes], *, terminal: bool) -> int:
    env = {**os.environ, **header["variables"]}
    added = os.path.join(FOLDER, "packages")
    if os.path.isdir(added):
        env["PATH"] = os.pathsep.join([os.path.join(added, "bin"), env.get("PATH", os.defpath)])
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [added, env.get("PYTHONPATH")]))
    os.environ["PATH"] = env.get("PATH", os.defpath)  # by which the program is looked for
    try:
        process = subprocess.Popen(
            header["command"],
            env=env,
            cwd=folder,
            stdin=None if terminal else subprocess.PIPE,
            preexec_fn=_in_the_foreground if terminal else None,
        )
    except OSError as error:
        name = header["command"][0]
        sys.stderr.write("k8s-venv: {}: {}\n".format(name, error.strerror))
        return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: process.send_signal(number))
    if not terminal:
        threading.Thread(target=_pass_on, args=(given, process.stdin), daemon=True).start()
    code = process.wait()
    return code if code >= 0 else 128 - code


def _pass_on(given: IO[bytes], to: Any) -> None:
    """Pass on the chunks of standard input until they end, or the program reads no more."""
    try:
        while True:
            size = int(_line(given))
            if not size:
                break
            to.write(_exactly(given, size))
            to.flush()
        to.close()
    except (OSError, ValueError):
        pass


def _line(given: IO[bytes]) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        line += _exactly(given, 1)
    return line


def _exactly(given: IO[bytes], size: int) -> bytes:
    parts = []
    while size:
        part = given.read(min(size, 1 << 16))
        if not part:
            raise ValueError("the sender is gone")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _without_echo() -> Any:
    """Let a terminal pass on each byte as it is, and return how it was."""
    import termios
    import tty

    before = termios.tcgetattr(0)
    tty.setraw(0)
    return before


def _restore(before: Any, size: Any) -> None:
    import fcntl
    import struct
    import termios

    termios.tcsetattr(0, termios.TCSANOW, before)
    if size:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", size[0], size[1], 0, 0))


def _in_the_foreground() -> None:
    """Give the terminal to a group of the program's own, so that Ctrl-C ends it as on any terminal."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main())
