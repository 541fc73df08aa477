"""Mark what a task prints, so that the sender can distinguish records of ``logging``, standard error and output.

A pod's log is one text in which all of these meet. After ``protocol.MARK`` at its beginning a line has its kind,
``WARNING - `` or ``stderr - ``; every other line is standard output. What compiled code or another process writes goes
past this, so it is never lost, and counts as output.
"""

from __future__ import annotations

import io
import os
import sys
import time

from k8s_venv.wire.protocol import MARK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Optional

# Progress that is drawn over and over on one line is shown so often, in seconds.
PAUSE = 5.0
_LONGEST_PROGRESS = 4096
# A mark that a function prints, which would make its line look like another kind.
_PRINTED_MARK = "\\x1e"
_installed: List[Lines] = []  # of standard output and of standard error; a function may replace both
_replaced: List[Any] = []  # the streams before: they close their descriptors when no name holds them


def install() -> None:
    """Mark what this process prints from now on."""
    for name, mark in (("stdout", ""), ("stderr", MARK + "stderr - ")):
        marked = _marked(getattr(sys, name), mark)
        setattr(sys, name, marked)
        setattr(sys, f"__{name}__", marked)


def hide(mask: Callable[[str], str]) -> None:
    """Mask what this process prints and logs from now on; what others write to its file descriptors stays."""
    for lines in _installed:
        lines.mask = mask


def say(level: str, text: str) -> None:
    """Show a record on lines of its own, also if the function has replaced ``sys.stdout``."""
    mark = f"{MARK}{level} - "
    marked = "".join(f"{mark}{line}\n" for line in text.replace(MARK, _PRINTED_MARK).split("\n"))
    if _installed:
        _installed[0].put(marked)
    else:
        os.write(1, marked.encode("utf-8", "backslashreplace"))


def show_records(logging: Any, stream: Any) -> None:
    """Show records of ``logging`` from INFO on, as Airflow does in place: on lines of their own.

    Args:
        logging: the module, which no call imports that does not use it.
        stream: standard output, as the function finds it; a handler to which it gives another one writes there.
    """

    class Handler(logging.StreamHandler):  # type: ignore[misc]
        def emit(self, record: Any) -> None:
            if self.stream is not stream:
                super().emit(record)
                return
            try:
                say(record.levelname, self.format(record))
            except Exception:  # noqa: BLE001 -- an argument's own methods
                self.handleError(record)

    root = logging.getLogger()
    root.addHandler(Handler(stream))
    root.setLevel(logging.INFO)


def finish() -> None:
    """Show what is still held back."""
    for stream in (getattr(sys, "stdout", None), getattr(sys, "stderr", None)):
        try:  # noqa: SIM105 -- `contextlib` would have to be imported
            stream.flush()  # type: ignore[union-attr]
        except Exception:  # noqa: BLE001, S110 -- the function closed it, or put something else there
            pass
    for lines in _installed:
        lines.end()


def _marked(stream: Any, mark: str) -> Any:
    if not hasattr(stream, "buffer"):
        return stream
    lines = Lines(stream.buffer, mark.encode())
    _installed.append(lines)
    _replaced.append(stream)
    buffer: Any = lines
    marked: Any = io.TextIOWrapper(buffer, encoding="utf-8", errors="backslashreplace", write_through=True)
    marked.mode = "w"  # as Python's own have it
    return marked


class Lines(io.BufferedIOBase):
    """Writes bytes on at once, with a mark before each line, and tames lines that are drawn over and over.

    Where standard output and standard error meet in one text, a line that one of them has begun ends when the other
    one is written.

    Args:
        target: where they go.
        mark: what comes before each line.
    """

    mode = "wb"

    def __init__(self, target: Any, mark: bytes) -> None:
        self.mask: Optional[Callable[[str], str]] = None  # hides secrets
        self._target = target
        self._mark = mark
        self._at_start = True
        self._interrupted = False  # within a line: what comes next continues it on another
        self._progress = False  # within a line that a carriage return has begun again
        self._held = b""
        self._shown_at = -PAUSE

    @property
    def name(self) -> Any:
        """Return what the stream behind it is called."""
        return self._target.name

    @property
    def raw(self) -> Lines:
        """Return itself: nothing is buffered here, and what goes past it would have no mark."""
        return self

    def detach(self) -> Any:
        """Return itself, as ``raw`` does."""
        return self

    def writable(self) -> bool:
        """Return that this is for writing."""
        return True

    def fileno(self) -> int:
        """Return the descriptor behind it, for those who write there themselves."""
        number: int = self._target.fileno()
        return number

    def isatty(self) -> bool:
        """Return False: it is not a terminal."""
        return False

    def flush(self) -> None:
        """Do nothing beyond the target's own flush: everything that is to be seen was written."""
        self._target.flush()

    def write(self, data: Any) -> int:
        """Write bytes; see the class."""
        if self.closed:
            raise ValueError("write to closed file")
        data = bytes(memoryview(data))  # of a number, `bytes` alone would make so many zeros
        shown = self._masked(data).replace(MARK.encode(), _PRINTED_MARK.encode())
        out: List[bytes] = []
        for line in shown.splitlines(keepends=True):  # of bytes: at line feeds and carriage returns alone
            text = line.rstrip(b"\r\n")
            end = line[len(text) :]
            ended, self._interrupted = self._interrupted and end not in (b"", b"\r"), False
            if ended and not text:
                continue  # the line that this ends was ended by what came between
            if self._progress:
                self._held = (self._held + text)[-_LONGEST_PROGRESS:]
            elif text:
                out.append((self._mark if self._at_start else b"") + text)
                self._at_start = False
            if end == b"\r":
                self._again(out)
            elif end:
                self._end_line(out)
        self._send(out)
        return len(data)

    def put(self, marked: str) -> None:
        """Write whole lines that have marks of their own."""
        self.interrupt()
        self._send([self._masked(marked.encode("utf-8", "backslashreplace"))])

    def interrupt(self) -> None:
        """End the line that was begun, since something else is about to be written."""
        if not self._at_start:
            self._target.write(b"\n")
            self._target.flush()
            self._at_start = self._interrupted = True

    def end(self) -> None:
        """Show the progress that is held back."""
        if self._held:
            self._send([self._mark + self._held + b"\n"])
            self._held = b""

    def _send(self, out: List[bytes]) -> None:
        if not out:
            return
        for other in _installed:
            if other is not self:
                other.interrupt()
        self._target.write(b"".join(out))
        self._target.flush()

    def _masked(self, data: bytes) -> bytes:
        if self.mask is None:
            return data
        return self.mask(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")

    def _again(self, out: List[bytes]) -> None:
        """A carriage return: what comes next takes this line's place."""
        now = time.monotonic()
        if not self._progress:
            self._progress = True
            if not self._at_start:
                out.append(b"\n")
                self._at_start = True
                self._shown_at = now
        elif self._held and now - self._shown_at >= PAUSE:
            out.append(self._mark + self._held + b"\n")
            self._shown_at = now
        self._held = b""

    def _end_line(self, out: List[bytes]) -> None:
        if self._progress:
            if self._held:
                out.append(self._mark + self._held + b"\n")
            self._progress, self._held = False, b""
        else:
            out.append((self._mark if self._at_start and self._mark else b"") + b"\n")
        self._at_start = True
