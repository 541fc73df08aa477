"""Cut the bytes that a process prints into lines, at line feeds alone: `str.splitlines` knows many more ends."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST = 1 << 20  # characters; a longer line comes in pieces


class LineSplitter:
    """Collects what one stream says until there are whole lines; bytes that are no UTF-8 are escaped."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("backslashreplace").decode
        self._rest = ""

    def feed(self, data: bytes) -> Iterator[str]:
        """Yield the lines that are complete with this data.

        Args:
            data: what the process printed, wherever it is cut.
        """
        *lines, self._rest = (self._rest + self._decode(data)).split("\n")
        yield from (line.removesuffix("\r") for line in lines)  # as Windows ends lines
        if len(self._rest) > LONGEST:
            yield self._rest
            self._rest = ""

    def end(self) -> Iterator[str]:
        """Yield what stands after the last line's end, if anything."""
        rest = self._rest + self._decode(b"", final=True)
        self._rest = ""
        if rest:
            yield rest


def unheard(line: str) -> None:
    """Drop a line of a task that asks for no log.

    Args:
        line: the line.
    """
