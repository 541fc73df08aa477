"""Which codec carries what: the modules of the built-in ones; users register theirs in ``runtime``.

The codecs of types beyond Python's literals stand in modules of their own, imported when a value needs them, as are
the libraries that define those types: every import costs each pod its start.
"""

from __future__ import annotations

import sys

from k8s_venv.wire.errors import MissingLibraryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    from typing import Any, Callable, Dict, Optional, Tuple, Union

    Buffer = Union[bytes, bytearray, memoryview, mmap.mmap]
    Node = Dict[str, Any]
    # Returns the type of a module's name and a qualified name, or None when the call did not ship it.
    Types = Callable[[str, str], Optional[type]]


class Later:
    """A piece that is only made when it is written, so that not all of them are in memory at once.

    Args:
        nbytes: its length in bytes.
        make: returns it.
    """

    def __init__(self, nbytes: int, make: Callable[[], Buffer]) -> None:
        self.nbytes = nbytes
        self.make = make


if TYPE_CHECKING:
    Piece = Union[Buffer, Later]

MAX_DEPTH = 100
# Bits of an integer in a set or a key: to compare it with a decimal takes the square of them.
LONGEST_KEY = 65_536
LIBRARIES = frozenset(["numpy", "pandas", "polars", "pyarrow"])

# By the package that defines a value's type, and by the first part of a wire name.
MODULE_OF_PACKAGE = {
    **dict.fromkeys(
        ["builtins", "collections", "decimal", "fractions", "ipaddress", "pathlib", "re", "uuid"], "standard"
    ),
    **dict.fromkeys(["datetime", "pendulum"], "times"),
    **dict.fromkeys(["numpy", "polars", "pyarrow"], "arrays"),
    "pandas": "frames",
    "k8s_venv": "values",
}
MODULE_OF_NAME = {
    **dict.fromkeys(["counter", "defaultdict", "deque", "ordereddict"], "standard"),
    **dict.fromkeys(["complex", "decimal", "fraction", "ipaddress", "path", "pattern"], "standard"),
    **dict.fromkeys(["range", "slice", "subclass", "uuid"], "standard"),
    **dict.fromkeys(["date", "datetime", "time", "timedelta"], "times"),
    **dict.fromkeys(["dataclass", "enum", "exception", "flag", "namedtuple"], "shipped_types"),
    **dict.fromkeys(["numpy", "polars", "pyarrow"], "arrays"),
    "pandas": "frames",
    **dict.fromkeys(["kept", "reference"], "values"),
}


def codec_module(name: str) -> Any:
    """Import a module of codecs; it has ``encode(encoder, value, depth)`` and ``DECODERS``."""
    import importlib

    return importlib.import_module(f"k8s_venv.wire.{name}")


def registered(kind: str) -> Dict[Any, Any]:
    """Return what users registered; they have imported ``k8s_venv.runtime`` then.

    Args:
        kind: ``types`` or ``names``.
    """
    return getattr(sys.modules.get("k8s_venv.runtime"), f"registered_{kind}", {})


def library(name: str, *alternatives: str) -> Any:
    """Import a library by name, or the first of its alternatives.

    Raises:
        MissingLibraryError: none of them can be imported; the reason is its cause.
    """
    import importlib

    candidates = (name, *alternatives)
    for candidate in candidates:
        try:
            return importlib.import_module(candidate)
        except ImportError as error:
            reason = error
    raise MissingLibraryError(candidates[-1]) from reason


def version(module: Any) -> Tuple[int, int]:
    """Return a library's major and minor version."""
    major, minor = module.__version__.split(".")[:2]
    return int(major), int(minor)
