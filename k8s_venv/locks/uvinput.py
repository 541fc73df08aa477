"""What uv reads: an environment's lines, those of included files in place, each on a line of its own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from k8s_venv.locks.requirements import with_variables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k8s_venv.config.environment import Environment
    from k8s_venv.locks.requirements import Line

_LINKS = ("-f", "--find-links")


@dataclasses.dataclass(frozen=True)
class UvInput:
    """A file for uv, and from where each of its lines comes.

    Args:
        lines: the lines.
    """

    lines: tuple[Line, ...]

    @classmethod
    def of(cls, lines: Sequence[Line], *, constraint: bool) -> UvInput:
        """Return what uv reads as requirements, or as constraints.

        Args:
            lines: an environment's lines.
            constraint: which of them.
        """
        return cls(tuple(line for line in lines if line.constraint is constraint and not _is_read(line)))

    @property
    def text(self) -> str:
        """Return the file's text, with the values of variables, which uv itself fills in in URLs alone."""
        return "".join(f"{_as_uv_reads(line)}\n" for line in self.lines)

    def line_at(self, number: int) -> Line | None:
        """Return the line with a number, counted from 1."""
        return self.lines[number - 1] if 0 < number <= len(self.lines) else None

    def line_at_byte(self, position: int) -> Line | None:
        """Return the line at an offset in bytes."""
        data = self.text.encode("utf-8", "backslashreplace")
        return self.line_at(data[:position].count(b"\n") + 1)


def write_inputs(environment: Environment, lines: Sequence[Line], folder: Path) -> dict[str, UvInput]:
    """Write an environment's constraints into a folder, and return what uv reads, by the name that it calls each file.

    Args:
        environment: which one.
        lines: its lines.
        folder: where to.

    Returns:
        The requirements, which are for uv's standard input (``-``), and the constraints.
    """
    local = [line for line in lines if line.text != environment.constraints]  # where that is a URL, uv fetches it
    limits = folder / "constraints.txt"
    constraints = UvInput.of(local, constraint=True)
    limits.write_text(constraints.text, "utf-8", "backslashreplace")
    return {"-": UvInput.of(local, constraint=False), str(limits): constraints}


def _is_read(line: Line) -> bool:
    """Return whether it names a file whose lines stand behind it already."""
    return line.includes is not None and "://" not in line.includes[1]


def _as_uv_reads(line: Line) -> str:
    if line.index and line.index[0] in _LINKS and line.folder and "://" not in line.index[1]:
        folder = line.folder / Path(line.index[1].strip("\"'")).expanduser()
        if folder.exists():  # else from the project's folder, as pip does
            return f"{line.index[0]} {folder}"
    return " ".join(with_variables(line.text).splitlines())
