"""What can be wrong with a value on its way."""

from __future__ import annotations


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


class MalformedError(ValueError):
    """Bytes that are not a value of our format."""


class MissingLibraryError(ImportError):
    """A library that a value needs is not installed on the side that reads it.

    Args:
        library: the library's import name.

    """

    def __init__(self, library: str) -> None:
        super().__init__(f"the value needs {library}, which is not installed", name=library)
        self.library = library


class WrongPythonError(RuntimeError):
    """The environment's Python is not the one that it is declared with."""
