"""Read the READMEs, so that tests can hold them to what they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Block(NamedTuple):
    """A fenced block.

    Args:
        heading: the heading it stands under.
        language: what follows the fence.
        text: its lines.
    """

    heading: str
    language: str
    text: str


def blocks(path: Path) -> list[Block]:
    """Return a Markdown file's fenced blocks."""
    found, heading, language, lines = [], "", None, list[str]()
    for line in path.read_text("utf-8").splitlines():
        fence = re.match(r"\s*```(\w*)", line)
        if language is None and line.startswith("#"):
            heading = line.lstrip("# ")
        elif fence and language is None:
            language, lines = fence[1], []
        elif fence and language is not None:
            found.append(Block(heading, language, "\n".join(lines)))
            language = None
        elif language is not None:
            lines.append(line)
    return found


def commands(path: Path, heading: str | None = None) -> list[str]:
    """Return the commands of a Markdown file's `sh` blocks, without comments."""
    return [
        re.sub(r"\s+# .*", "", line)
        for block in blocks(path)
        if block.language == "sh" and heading in (None, block.heading)
        for line in block.text.splitlines()
        if line.strip()
    ]


def without_numbers(text: str) -> list[str]:
    """Return a text's lines with every number replaced, since versions, sizes and times vary."""
    return [re.sub(r"\s+", " ", re.sub(r"\d[\d.,]*\d|\d", "N", line)).strip() for line in text.splitlines()]
