"""Requirements files as text: their encodings, lines and continuations, as pip reads them."""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Those of UTF-32 first: its mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_COOKIE = re.compile(rb"coding[:=]\s*([-\w.]+)")
_COMMENT = re.compile(r"(^|\s+)#.*")
_SAVE = "Save it as UTF-8, or name its encoding in the first line, such as # -*- coding: latin-1 -*-."


def decoded(data: bytes) -> str:
    """Return the text of a requirements file: by its byte-order mark, else by its coding cookie (PEP 263), else UTF-8.

    Where there is neither, pip goes on to the encoding of the machine's locale; a lock follows from files alone.

    Args:
        data: the file's content.

    Raises:
        ValueError: it is no such text; the message continues the file's name.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _decoded_as(data[len(mark) :], encoding, "its byte-order mark says")
    for number, line in enumerate(data.split(b"\n")[:2], 1):
        if line.startswith(b"#") and (cookie := _COOKIE.search(line)):
            return _decoded_as(data, cookie[1].decode(), f"line {number} says")
    if b"\0" in data[:4]:
        raise ValueError(
            "is not UTF-8 text: it looks like UTF-16 or UTF-32 without a byte-order mark. Save it as UTF-8."
        )
    return _decoded_as(data, "utf-8", "")


def _decoded_as(data: bytes, encoding: str, source: str) -> str:
    name = encoding.upper() if encoding.startswith("utf") else encoding
    source = source and f", as {source}"
    try:
        return data.decode(encoding)
    except LookupError:
        raise ValueError(f"is not {name} text{source}: Python has no such encoding. {_SAVE}") from None
    except UnicodeDecodeError as error:
        line = data[: error.start].decode(encoding, "ignore").count("\n") + 1
        wrong = " ".join(f"0x{byte:02X}" for byte in data[error.start : max(error.end, error.start + 1)])
        raise ValueError(f"is not {name} text{source}: line {line} has {wrong} ({error.reason}). {_SAVE}") from None
    except UnicodeError as error:
        raise ValueError(f"is not {name} text{source}: {error}. {_SAVE}") from None


def joined_lines(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield the lines that say something: the number of each, its text, and what in its form is worth a note.

    Continuations are joined and comments dropped, in pip's order: a backslash at the end of a comment that stands
    behind something continues the comment; at the end of one on a line of its own it does nothing.

    Args:
        text: the file's text.
    """
    parts: list[str] = []
    started, note = 0, ""
    for number, line in _numbered(text):
        started = started if parts else number
        alone = re.match(r"\s*#", line) is not None
        parts.append(f" {line}" if alone else line.rstrip("\\"))
        if line.endswith("\\") and not alone:
            continued = _COMMENT.search("".join(parts))
            if continued:
                note = f"the comment in line {number} ends with a backslash, so the next line belongs to it"
            continue
        if whole := _without_comment(parts):
            yield started, whole, note
        parts, note = [], ""
    if whole := _without_comment(parts):
        yield started, whole, note


def _numbered(text: str) -> Iterator[tuple[int, str]]:
    """Yield lines as pip ends them, at form feeds too, with the numbers that an editor shows."""
    number = 1
    for line in text.splitlines(keepends=True):
        (content,) = line.splitlines()
        yield number, content
        number += line.endswith(("\n", "\r"))


def _without_comment(parts: list[str]) -> str:
    """Return joined parts without a comment, one space where there are some at a joint."""
    whole = ""
    for part in parts:
        space = " " if whole[-1:].isspace() or part[:1].isspace() else ""
        whole = f"{whole.rstrip()}{space}{part.lstrip()}" if whole else part
    return _COMMENT.sub("", whole).strip()
