"""What arrives as something plainer than it was: where it stands and what it was, never the value."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, List, Optional

    from k8s_venv.wire.registry import Node

_TOLD = 10  # parts that are named, of many
_KEPT = 100
_LONGEST_PATH = 200


class Note:
    """A note about one part of a value.

    Args:
        text: what becomes of the part; empty where only its reader will know.
        node: learns where it stands, for its reader.
        path: where the part stands.
    """

    def __init__(self, text: str, node: Optional[Node], path: str) -> None:
        self.text = text
        self.node = node
        self.path = path


class Notes:
    """Notes about the parts of one value; of many parts, the first are kept."""

    def __init__(self) -> None:
        self.kept: List[Note] = []
        self.count = 0

    def add(self, text: str, node: Optional[Node] = None, path: str = "") -> None:
        """Add a note about the part at hand; see ``Note``."""
        self.count += bool(text)
        if len(self.kept) < _KEPT:
            self.kept.append(Note(text, node, path))

    def place(self, known: int, step: str) -> None:
        """Let the notes from a number on say how the container around their parts reaches these.

        Args:
            known: how many there were before.
            step: such as ``[0]``.
        """
        for note in self.kept[known:]:
            note.path = (step + note.path)[:_LONGEST_PATH]
            if note.node is not None:
                note.node["place"] = note.path

    def sentences(self, shown: Callable[[str], str]) -> List[str]:
        """Return the notes as sentences.

        Args:
            shown: returns a path as the user knows it.
        """
        told = [f"{shown(note.path)} is {note.text}." for note in self.kept if note.text][:_TOLD]
        more = self.count - len(told)
        return [*told, f"{more} more parts arrive as something plainer."] if more > 0 else told
