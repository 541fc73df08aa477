"""Commands on a terminal of their own, such as a person sees and uses it."""

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

import pexpect


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


def at_terminal(folder: Path, *arguments: str, **environ: str) -> pexpect.spawn[str]:
    """Start ``k8s-venv`` at a terminal, to talk with it."""
    program = ["-c", "from k8s_venv.cli import main; main(prog_name='k8s-venv')"]
    return pexpect.spawn(
        sys.executable,
        [*program, *arguments],
        cwd=folder,
        env={**os.environ, "TERM": "dumb", **environ},
        timeout=120,
        encoding="utf-8",
        dimensions=(33, 101),
    )


def resize_interrupt_and_leave(python: pexpect.spawn[str]) -> int | None:
    """Talk with a Python at its prompt: it sees a new size, Ctrl-C is its own; return the exit code, which it chose."""
    python.expect(">>> ")
    python.sendline("import os, time")
    python.expect(">>> ")
    python.setwinsize(40, 117)
    python.sendline("while os.get_terminal_size().columns != 117: time.sleep(0.1)\n")
    python.expect(">>> ")
    python.sendline("print('wide'.upper()); time.sleep(1000)")
    python.expect("WIDE\r\n")
    python.sendintr()  # a terminal drops what is under way to it then, such as the traceback
    for _ in range(12):  # it may drop what is typed before Python is at its prompt again
        python.sendline("print('back'.upper())")
        if python.expect(["BACK\r\n", pexpect.TIMEOUT], timeout=10) == 0:
            break
    python.sendline("raise SystemExit(5)")
    python.expect(pexpect.EOF)
    python.close()
    return python.exitstatus
