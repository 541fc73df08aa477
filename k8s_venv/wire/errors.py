"""What can be wrong with a value on its way, and which of its parts arrive as something plainer."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional

_LONGEST_PATH = 200
_LONGEST = 500  # characters of what is wrong
_NOTES_SHOWN = 10  # parts that are named, of many
_NOTES_KEPT = 100


class NoCodecError(TypeError):
    """A value, or a part of it, that no codec can carry.

    Args:
        path: where the part stands inside the value, such as ``["model"][0]``.
        kind: the part's type, or what else is wrong with it.
    """

    def __init__(self, path: str, kind: str) -> None:
        super().__init__(path, kind)
        self.path = path
        self.kind = kind

    def __str__(self) -> str:
        return f"{self.path or 'the value itself'}: {self.kind}"

    def within(self, step: str) -> NoCodecError:
        """Return the same error as seen from the container around the part.

        Args:
            step: how the container reaches the part, such as ``[0]``.
        """
        return NoCodecError((step + self.path)[:_LONGEST_PATH], self.kind)


class MalformedError(ValueError):
    """Bytes that are not a value of our format, or that this side refuses.

    Args:
        parts: the message, or the facts that a subclass makes one of. What is wrong may be as long as the bytes: of a
            text the beginning is kept.
    """

    def __init__(self, *parts: str) -> None:
        super().__init__(*[part if len(part) <= _LONGEST else f"{part[:_LONGEST]}[…]" for part in parts])


class UnknownTypeError(MalformedError):
    """A value of a type that the call did not ship, or that is another one on the side that reads it.

    Args:
        name: the type's module and qualified name.
        problem: what is wrong with it.
    """

    def __init__(self, name: str, problem: str = "did not travel with the call") -> None:
        super().__init__(name, problem)
        self.name, self.problem = self.args

    def __str__(self) -> str:
        return f"the value needs the type {self.name}, which {self.problem}"


class UnknownCodecError(MalformedError):
    """A value of a user's own codec that is not registered on the side that reads it.

    Args:
        name: the codec's wire name.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        (self.name,) = self.args

    def __str__(self) -> str:
        return (
            f"the value was written by the codec {self.name!r}, which is not registered here: call "
            "k8s_venv.runtime.register_codec() in a module that both sides import"
        )


class UnreadableVersionError(MalformedError):
    """A value that another version of a library wrote and that this side's version cannot hold.

    Args:
        library: the library's import name.
        theirs: its version where the value was written.
        ours: its version on this side.
        problem: the message of this side's version.
    """

    def __init__(self, library: str, theirs: str, ours: str, problem: str) -> None:
        super().__init__(library, theirs, ours, problem)
        self.library, self.theirs, self.ours, self.problem = self.args

    def __str__(self) -> str:
        return (
            f"the value was written with {self.library} {self.theirs} and cannot be read with {self.library} "
            f"{self.ours}: {self.problem}"
        )


class MissingLibraryError(ImportError):
    """A library that a value needs is not installed on the side that reads it.

    Args:
        library: the library's import name.
    """

    def __init__(self, library: str) -> None:
        super().__init__(f"the value needs {library}, which is not installed", name=library)
        self.library = library


class DeliveryError(RuntimeError):
    """Large arguments that did not arrive, or a large result that cannot be sent."""


class WrongPythonError(RuntimeError):
    """The environment's Python is not the one that it is declared with."""


class RestoringError(RuntimeError):
    """What a function or an argument consists of cannot be restored in the environment."""


class Note:
    """A note about one part of a value that arrives as something plainer: never the value.

    Args:
        text: what becomes of the part; empty where only its reader will know.
        node: learns where it stands, for its reader.
        path: where the part stands.
    """

    def __init__(self, text: str, node: Optional[Dict[str, Any]], path: str) -> None:
        self.text = text
        self.node = node
        self.path = path


class Notes:
    """Notes about the parts of one value; of many parts, the first are kept."""

    def __init__(self) -> None:
        self.kept: List[Note] = []
        self.count = 0

    def add(self, text: str, node: Optional[Dict[str, Any]] = None, path: str = "") -> None:
        """Add a note about the part at hand; see ``Note``."""
        self.count += bool(text)
        if len(self.kept) < _NOTES_KEPT:
            self.kept.append(Note(text, node, path))

    def place(self, known: int, step: str) -> None:
        """Extend the paths of the latest notes by a step: how the container around their parts reaches these.

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
        sentences = [f"{shown(note.path)} is {note.text}." for note in self.kept if note.text][:_NOTES_SHOWN]
        more = self.count - len(sentences)
        return [*sentences, f"{more} more parts arrive as something plainer."] if more > 0 else sentences
