"""The process that runs a call: its command, its variables, what it prints, and how it ended without a result."""

from __future__ import annotations

import codecs
import importlib.resources
import logging
import os
import signal
from typing import TYPE_CHECKING, Any

from k8s_venv.errors import visible, visible_line
from k8s_venv.wire.protocol import ARCHIVE, MARK, NOT_REPORTED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

# What `python call.pyz` does, without `runpy`, whose imports take as long as all else before the user's first line.
_RUN = (
    "import sys, zipimport; del sys.argv[0]; sys.path[:] = filter(None, sys.path); "
    "exec(zipimport.zipimporter(sys.argv[0]).get_code('__main__'))"
)
# Waits for a call's command on standard input, which the sender holds. What each call loads is loaded before.
_WAIT = """\
import itertools, marshal, math, os, sys, time, zipimport, zlib

def take(size, data=b""):
    while len(data) < size:
        more = os.read(0, size - len(data))
        if not more:
            os._exit(0)
        data += more
    return os.fsdecode(data)

umask, *command = take(int(take(8), 16)).split("\\0")
os.umask(int(umask, 8))
sys.argv[1:] = command
"""
# What the container beside a waiting program does: sleep until that has a call, or has ended.
_WAIT_BESIDE = """\
import os, sys, time
from _signal import SIGTERM, signal
from fcntl import LOCK_SH, flock
signal(SIGTERM, lambda *ignored: os._exit(0))
folder = sys.argv.pop(1)
while not os.path.exists(f"{folder}/waiting.lock"):
    time.sleep(0.2)
with open(f"{folder}/waiting.lock") as lock:
    flock(lock, LOCK_SH)
if not os.path.exists(sys.argv[1]):
    sys.exit()
"""
# What connects a sender with a waiting program: its own standard input and output, through the program's socket.
_RELAY = """\
import _socket, os, sys, time
path, deadline = sys.argv[1], time.monotonic() + 30
archive = os.path.join(os.path.dirname(path), "call.pyz")

def end(code):
    if os.path.exists(archive):
        os.write(1, b"taken\\n")
        code = 0
    sys.exit(code)

while True:
    connection = _socket.socket(_socket.AF_UNIX)
    try:
        connection.connect(path)
        break
    except OSError:
        connection.close()
    if os.path.exists(archive) or time.monotonic() > deadline:
        end(3)
    time.sleep(0.02)
streams = b"".join(number.to_bytes(4, sys.byteorder) for number in (0, 1))
try:
    connection.sendmsg([b"-"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, streams)])
    accepted = connection.recv(1)
    while accepted and connection.recv(1):
        pass
except OSError:
    accepted = b""
if not accepted:
    end(4)
"""
# Its exit codes where nothing was delivered: no program waits, or the program that waits did not take it.
RELAY_FAILED = (3, 4)
WAITING_SOCKET = "waiting.sock"
# The variables of every process that runs a call; those that the task or its environment names win.
VARIABLES: Mapping[str, str] = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
# In a container only this folder is writable.
SCRATCH_FOLDER = "/tmp"  # noqa: S108 -- a file system of the container's own
CONTAINER_VARIABLES: Mapping[str, str] = {"HOME": SCRATCH_FOLDER, **VARIABLES}

STDERR = "stderr"
_LONGEST_LINE = 1 << 20  # characters; a longer line comes in pieces
_HINTS = {"SIGSEGV": " (a crash in compiled code)", "SIGKILL": " (killed from outside, or out of memory)"}


def runner_command(python: str, archive: str, *options: str) -> list[str]:
    """Return the command that runs an archive.

    Args:
        python: the environment's interpreter.
        archive: the archive's path there.
        options: the runner's command line.
    """
    return [python, "-c", _RUN, archive, *options]


def waiting_interpreter_command(python: str) -> list[str]:
    """Return the command of an interpreter that runs the archive of which ``runner_arguments`` tells it.

    Args:
        python: the environment's interpreter.
    """
    return [python, "-c", _WAIT + _RUN]


def runner_arguments(umask: int, archive: str, *options: str) -> bytes:
    """Return what a waiting interpreter reads of its call, before the secrets.

    Args:
        umask: for the files that the call makes.
        archive: the archive's path.
        options: the runner's command line.
    """
    command = os.fsencode("\0".join([f"{umask:o}", archive, *options]))
    return f"{len(command):08x}".encode() + command


def waiting_command(python: str, call: str, result: str, message: str, preload: Sequence[str] = ()) -> list[str]:
    """Return the command that waits in a pod for one call, and runs it.

    Args:
        python: the environment's interpreter.
        call: the folder in which the call's files appear.
        result: the folder for its result.
        message: the file that Kubernetes shows in the pod's status.
        preload: the modules that are imported before the call arrives.
    """
    text = importlib.resources.files("k8s_venv").joinpath("runner", "waiting.py").read_text("utf-8")
    modules = ["--preload", ",".join(preload)] if preload else []
    return [python, "-c", text, "--call", call, "--result", result, "--message", message, *modules]


def waiting_sidecar_command(python: str, call: str, result: str) -> list[str]:
    """Return the command that waits beside a waiting program, and hands the result over once it has had a call.

    Args:
        python: the environment's interpreter.
        call: the folder in which the call's files appear.
        result: the folder for its result.
    """
    return [python, "-c", _WAIT_BESIDE + _RUN, call, f"{call}/{ARCHIVE}", "--hand-over", result]


def relay_command(python: str, socket: str) -> list[str]:
    """Return the command that delivers a call to a waiting program, from standard input.

    Args:
        python: the environment's interpreter.
        socket: the program's socket.
    """
    return [python, "-I", "-S", "-c", _RELAY, socket]


class LineSplitter:
    """Cuts the bytes of one stream into lines, at line feeds alone; bytes that are not UTF-8 are escaped."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("backslashreplace").decode
        self._rest = ""

    def feed(self, data: bytes) -> Iterator[str]:
        """Yield the lines that are complete with this data.

        Args:
            data: what the process printed, cut anywhere.
        """
        *lines, self._rest = (self._rest + self._decode(data)).split("\n")
        yield from (line.removesuffix("\r") for line in lines)  # as Windows ends lines
        if len(self._rest) > _LONGEST_LINE:
            yield self._rest
            self._rest = ""

    def end(self) -> Iterator[str]:
        """Yield the rest after the end of the last line, if there is one."""
        rest = self._rest + self._decode(b"", final=True)
        self._rest = ""
        if rest:
            yield rest


def ignore_line(line: str) -> None:
    """Drop a line of a task that asks for no log.

    Args:
        line: the line.
    """


def parse_line(line: str) -> list[tuple[str, str]]:
    """Return the parts of a printed line, which the runner's marks separate, as visible text.

    There are several parts if another program began a line and the runner continued it.

    Args:
        line: as it was printed.

    Returns:
        For each part the name of a level for records of ``logging``, ``stderr``, or nothing for standard output; and
        the text.
    """
    first, *marked = line.split(MARK)
    parts = [("", first)] if first or not marked else []
    for each in marked:
        kind, separator, text = each.partition(" - ")
        if separator:
            parts.append((kind, text))
        else:  # a program's own character: the runner's marks always have it
            kind, text = parts.pop() if parts else ("", "")
            parts.append((kind, text + MARK + each))
    return [(visible(kind), _shown(text)) for kind, text in parts]


def _shown(text: str) -> str:
    """Return the part of a line that is left after its last carriage return."""
    if "\r" in text:
        text = next((part for part in reversed(text.split("\r")) if part), "")
    return visible_line(text)


def line_logger(logger: Any, mask: Callable[[str], str] = str) -> Callable[[str], None]:
    """Return a function that logs a line: records of ``logging`` at their own level, standard error as a warning.

    Args:
        logger: the task's logger; it gets standard output as INFO.
        mask: hides secrets that the runner did not see, since another process printed them.
    """
    levels = {"": logging.INFO, STDERR: logging.WARNING, "NOTSET": logging.INFO}

    def log(line: str) -> None:
        for kind, text in parse_line(mask(line)):
            level = levels.get(kind) or logging.getLevelName(kind)
            if isinstance(level, int):
                logger.log(level, "%s", text)
            else:  # a level of the user's own
                logger.info("%s", f"{kind} - {text}")

    return log


def exit_reason(code: int) -> str:
    """Return a clause for an exit code.

    Args:
        code: negative, or above 128, if a signal ended the process.
    """
    if code == NOT_REPORTED:
        return "what it did to its process keeps its result from being written; the end of its log says why"
    number = -code if code < 0 else code - 128
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"its process left with exit code {code} (os._exit?)"
    return f"its process was ended by {name}{_HINTS.get(name, '')}"


def no_result(function: str, code: int) -> str:
    """Return the sentence for a call whose process left no result.

    Args:
        function: the function's name.
        code: the exit code of its process.
    """
    return f"{function}() ended without a result: {exit_reason(code)}."


def out_of_memory(function: str, limit: str) -> str:
    """Return the sentences for a call that was killed since it used too much memory.

    Args:
        function: the function's name.
        limit: the container's limit, as a clause.
    """
    return (
        f"{function}() used more memory than its container may ({limit}) and was killed. Raise it with "
        "`container_resources`, on the task or in the environment's `pod` options."
    )


def cannot_run_python(reason: str) -> str:
    """Return the sentences for an image in which the runner cannot be started.

    Args:
        reason: what the container's runtime says.
    """
    return f"its image cannot run `python`: {reason}. An image needs `python` on its PATH."
