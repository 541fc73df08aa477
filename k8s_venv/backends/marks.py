"""The lines that a task prints: what the runner's marks say of them."""

from __future__ import annotations

from k8s_venv.runner.protocol import MARK

STDERR = "stderr"


def parse_line(line: str) -> tuple[str, str]:
    """Return what a line is, and its text as somebody would see it.

    Args:
        line: as the runner printed it.

    Returns:
        The name of a level for records of ``logging``, ``stderr``, or nothing for standard output; and the text.
    """
    marked, mark, rest = line.partition(MARK)
    if marked or not mark:
        return "", _shown(line.replace(MARK, ""))
    kind, separator, text = rest.partition(" - ")
    return (kind, _shown(text)) if separator else ("", _shown(rest))


def _shown(text: str) -> str:
    """Return what is left of a line when every carriage return has begun it anew."""
    if "\r" not in text:
        return text
    return next((part for part in reversed(text.split("\r")) if part), "")
