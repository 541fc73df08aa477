"""A command on a terminal of its own, such as a person sees it."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Ran:
    """What came of a command: what it showed on the terminal, and what it wrote to standard output, which is none."""

    status: int
    shown: str
    output: str


def run_on_terminal(*arguments: str, cwd: Path | None = None, columns: int = 200, **environ: str) -> Ran:
    """Run ``k8s-venv`` with standard input and error on a terminal of 40 lines."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    with subprocess.Popen(
        [sys.executable, "-c", "from k8s_venv.cli import main; main()", *arguments],
        cwd=cwd,
        stdin=child,
        stdout=subprocess.PIPE,
        stderr=child,
        env={**kept, "TERM": "xterm", **environ},
    ) as process:
        os.close(child)
        shown = b""
        while True:
            try:
                shown += os.read(parent, 65536)
            except OSError:  # the terminal's other end was closed
                break
        os.close(parent)
        output, _ = process.communicate()
    return Ran(process.returncode, shown.decode(), output.decode())
