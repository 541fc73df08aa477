"""The lines that a task prints: what the runner's marks mean."""

from __future__ import annotations

from k8s_venv.errors import visible, visible_line
from k8s_venv.wire.protocol import MARK

STDERR = "stderr"


def parse_line(line: str) -> list[tuple[str, str]]:
    """Return what a line consists of, and each part's text as somebody would see it.

    There are several where another program has begun a line, and the runner went on with it.

    Args:
        line: as it was printed.

    Returns:
        The name of a level for records of ``logging``, ``stderr``, or nothing for standard output; and the text.
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
    """Return what is left of a line when every carriage return has begun it again."""
    if "\r" in text:
        text = next((part for part in reversed(text.split("\r")) if part), "")
    return visible_line(text)
