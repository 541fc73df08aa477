"""Cut the bytes that a process prints into lines."""

from __future__ import annotations

import codecs
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST = 1 << 20  # characters; a longer line comes in pieces


class LineSplitter:
    """Collects what one stream says until there are whole lines; bytes that are no UTF-8 are escaped."""

    def __init__(self) -> None:
        text = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._decode = io.IncrementalNewlineDecoder(text, translate=True)
        self._rest = ""

    def feed(self, data: bytes) -> Iterator[str]:
        """Yield the lines that are complete with this data.

        Args:
            data: what the process printed, wherever it is cut.
        """
        *lines, self._rest = (self._rest + self._decode.decode(data)).split("\n")
        yield from lines
        if len(self._rest) > LONGEST:
            yield self._rest
            self._rest = ""

    def end(self) -> Iterator[str]:
        """Yield what stands after the last line's end, if anything."""
        rest = self._rest + self._decode.decode(b"", final=True)
        self._rest = ""
        if rest:
            yield rest
