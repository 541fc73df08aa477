"""What a task prints, so marked that the sender can tell records of ``logging``, standard error and output apart.

A pod's log is one text in which all of these meet. A line that begins with ``protocol.MARK`` says in a word what it is,
``WARNING - `` or ``stderr - ``; every other line is standard output. What compiled code or another process writes goes
past this, so it is never lost, and counts as output.
"""

from __future__ import annotations

import io
import sys
import time

from k8s_venv.runner.protocol import MARK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Optional

# Progress that is drawn over and over on one line is shown so often, in seconds.
PAUSE = 5.0
_LONGEST_PROGRESS = 4096
_installed: List[Any] = []  # what a function may have replaced since


def install() -> None:
    """Mark what this process prints from now on."""
    sys.stdout = _marked(sys.stdout, "")
    sys.stderr = _marked(sys.stderr, MARK + "stderr - ")
    _installed.extend([sys.stdout, sys.stderr])


def hide(mask: Callable[[str], str]) -> None:
    """Mask what this process prints and logs from now on; what others write to its file descriptors stays.

    Args:
        mask: hides secrets in a text.
    """
    for stream in _installed:
        if isinstance(getattr(stream, "buffer", None), Lines):
            stream.buffer.mask = mask


def finish() -> None:
    """Show what is still held back."""
    for stream in (getattr(sys, "stdout", None), getattr(sys, "stderr", None), *_installed):
        try:
            stream.flush()
            if isinstance(getattr(stream, "buffer", None), Lines):
                stream.buffer.end()
        except Exception:  # noqa: BLE001, S112 -- the function closed it, or put something else there
            continue


def _marked(stream: Any, mark: str) -> Any:
    if not hasattr(stream, "buffer"):
        return stream
    lines: Any = Lines(stream.buffer, mark.encode())
    return io.TextIOWrapper(lines, encoding="utf-8", errors="backslashreplace", write_through=True)


class Lines(io.BufferedIOBase):
    """Writes bytes on at once, with a mark before each line, and tames lines that are drawn over and over.

    Args:
        target: where they go.
        mark: what comes before each line.
    """

    def __init__(self, target: Any, mark: bytes) -> None:
        self.mask: Optional[Callable[[str], str]] = None  # hides secrets
        self._target = target
        self._mark = mark
        self._at_start = True
        self._progress = False  # within a line that a carriage return has begun again
        self._held = b""
        self._shown_at = -PAUSE

    def writable(self) -> bool:
        """Say that this is for writing."""
        return True

    def fileno(self) -> int:
        """Return the descriptor behind it, for those who write there themselves."""
        number: int = self._target.fileno()
        return number

    def isatty(self) -> bool:
        """Say that nobody looks at it live."""
        return False

    def flush(self) -> None:
        """Do nothing beyond the target's own flush: whatever is to be seen was written."""
        self._target.flush()

    def write(self, data: Any) -> int:
        """Write bytes; see the class."""
        data = shown = bytes(data)
        if self.mask is not None:
            shown = self.mask(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
        out: List[bytes] = []
        for line in shown.splitlines(keepends=True):
            text = line.rstrip(b"\r\n")
            end = line[len(text) :]
            if self._progress:
                self._held = (self._held + text)[-_LONGEST_PROGRESS:]
            elif text:
                out.append((self._mark if self._at_start else b"") + text)
                self._at_start = False
            if end == b"\r":
                self._again(out)
            elif end:
                self._end_line(out)
        if out:
            self._target.write(b"".join(out))
            self._target.flush()
        return len(data)

    def end(self) -> None:
        """Show the progress that is held back."""
        if self._held:
            self._target.write(self._mark + self._held + b"\n")
            self._target.flush()
            self._held = b""

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
