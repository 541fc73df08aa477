"""Which codec carries what: the modules of the built-in ones; users register theirs in ``runtime``.

The codecs of types beyond Python's literals stand in modules of their own, imported when a value needs them,
because every import costs each pod its start.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    from typing import Any, Callable, Dict, Optional, Union

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
    "builtins": "standard",
    "collections": "containers",
    "datetime": "scalars",
    "decimal": "scalars",
    "fractions": "standard",
    "ipaddress": "standard",
    "re": "standard",
    "numpy": "tables_numpy",
    "pandas": "tables_pandas",
    "pathlib": "scalars",
    "pendulum": "pendulum_types",
    "polars": "tables_arrow",
    "pyarrow": "tables_arrow",
    "uuid": "scalars",
    "k8s_venv": "references",
}
MODULE_OF_NAME = {
    **dict.fromkeys(["date", "datetime", "decimal", "path", "time", "timedelta", "uuid"], "scalars"),
    **dict.fromkeys(["counter", "defaultdict", "deque", "ordereddict"], "containers"),
    **dict.fromkeys(["dataclass", "enum", "flag", "namedtuple"], "shipped_types"),
    **dict.fromkeys(["complex", "fraction", "ipaddress", "pattern", "range", "slice"], "standard"),
    "exception": "exceptions",
    "subclass": "subclasses",
    "numpy": "tables_numpy",
    "pandas": "tables_pandas",
    "polars": "tables_arrow",
    "pyarrow": "tables_arrow",
    "kept": "references",
    "reference": "references",
}


def codec_module(name: str) -> Any:
    """Import a module of codecs; it has ``encode(encoder, value, depth)`` and ``DECODERS``."""
    import importlib

    return importlib.import_module(f"k8s_venv.wire.{name}")


def registered(kind: str) -> Dict[Any, Any]:
    """Return what users registered; whoever did that has imported ``k8s_venv.runtime``.

    Args:
        kind: ``types`` or ``names``.
    """
    return getattr(sys.modules.get("k8s_venv.runtime"), f"registered_{kind}", {})
