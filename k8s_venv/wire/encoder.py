"""Values become nodes and buffers; ``README.md`` is the specification."""

from __future__ import annotations

import math
import sys
from itertools import chain

from k8s_venv.wire import quickjson
from k8s_venv.wire.errors import NoCodecError, Notes
from k8s_venv.wire.registry import (
    LIBRARIES,
    LONGEST_KEY,
    MAX_DEPTH,
    MODULE_OF_PACKAGE,
    Later,
    codec_module,
    registered,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

    from k8s_venv.wire.registry import Buffer, Node, Piece, Types

# Python refuses to read decimal integers of more digits than a limit, which is at least 640 and by default 4300;
# longer ones travel in hexadecimal.
_DIGITS = 4300
_LARGEST_DECIMAL = 10**600
# Containers this close to the root are tried as plain JSON whole: the value itself, the arguments of a call.
_PLAIN_DEPTH = 2
_PLAIN_FAILURES = 100  # where so many were not, such as the rows of a list, the rest will not be either
_JSON_TYPES = frozenset([str, int, float, bool, type(None), list, dict])


class Encoder:
    """Turn values into nodes and collect their buffers.

    Args:
        pickle: pickles what has no codec; without it such a value is refused.
        types: finds the types that travel with the call; without it their instances have no codec.
        notes: receives what arrives as something plainer; without it such a value is refused.
    """

    def __init__(
        self,
        pickle: Optional[Callable[[Any], bytes]] = None,
        types: Optional[Types] = None,
        notes: Optional[Notes] = None,
    ) -> None:
        self.pieces: List[Piece] = []
        self.lengths: List[int] = []
        self.libraries: Dict[str, str] = {}
        self.types = types
        self.notes = Notes() if notes is None else notes
        self.plainer = notes is not None  # whether a part may arrive as something plainer
        self.pickle = pickle
        self._long_keys = 0  # integers so far that are too long for a key
        self.patterns = 0  # what compiling the regular expressions so far will cost
        self._failures = 0

    def buffer(self, data: Buffer) -> int:
        """Add a buffer and return its number."""
        return self.long_buffer([data])

    def long_buffer(self, pieces: List[Piece]) -> int:
        """Add a buffer that consists of several pieces, which stay where they are, and return its number."""
        self.pieces.extend(pieces)
        self.lengths.append(sum(map(length, pieces)))
        return len(self.lengths) - 1

    def uses(self, library: str) -> None:
        """Record the version of a library that wrote a part of the value."""
        self.libraries.setdefault(library, str(getattr(sys.modules[library], "__version__", "?")))

    def node(self, value: Any, depth: int = 0) -> Any:
        """Return the node for ``value``.

        Args:
            value: any value.
            depth: how many containers stand around it.

        Raises:
            NoCodecError: a part of the value has no codec, or it is nested too deeply.
        """
        kind = type(value)
        if value is None or kind is bool:
            return value
        if kind is str:
            return value if value.isascii() or is_text(value) else self._surrogates(value)
        if kind is int:
            if -_LARGEST_DECIMAL < value < _LARGEST_DECIMAL:
                return value
            self._long_keys += value.bit_length() > LONGEST_KEY
            return {"$": "int", "v": hex(value)}
        if kind is float:
            return value if math.isfinite(value) else {"$": "float", "v": repr(value)}
        if depth > MAX_DEPTH:
            raise NoCodecError("", f"nested more than {MAX_DEPTH} levels deep, or containing itself")
        if kind is list:
            return self._plain(value, depth) or self.nodes(value, depth)
        if kind is dict:
            return self._dict(value, depth)
        if kind is tuple:
            return {"$": "tuple", "v": self.nodes(value, depth)}
        if kind is set or kind is frozenset:
            return {"$": kind.__name__, "v": self._distinct(self.nodes, value, depth)}
        if kind is bytes or kind is bytearray:
            return {"$": kind.__name__, "b": self.buffer(value)}
        return self._other(value, kind, depth)

    def items(self, values: List[Any], depth: int) -> Any:
        """Return the node for a list, as one piece of plain JSON where it is nothing else."""
        plain = _plain_json(values)
        return {"$": "json", "b": self.buffer(plain)} if plain else self.nodes(values, depth)

    def pairs(self, items: Iterable[Tuple[Any, Any]], depth: int) -> List[Any]:
        """Return the nodes for pairs of key and value."""
        items = list(items)
        keys = self._distinct(self._keys, items, depth)
        return [[key, self.at(f"[{_shown(of)}]", self.node, item, depth + 1)] for key, (of, item) in zip(keys, items)]

    def _keys(self, items: Iterable[Tuple[Any, Any]], depth: int) -> List[Any]:
        return [self.at(f" key {_shown(key)}", self.node, key, depth + 1) for key, _ in items]

    def _distinct(self, encode: Callable[[Any, int], List[Any]], values: Any, depth: int) -> List[Any]:
        """Return nodes that must differ, as those of keys: those of plainer values need not."""
        known, long_keys = self.notes.count, self._long_keys
        nodes = encode(values, depth)
        if self._long_keys > long_keys:
            raise NoCodecError("", f"an integer of more than {LONGEST_KEY:,} bits in a set or a key")
        if self.notes.count > known and len(set(map(quickjson.dumps, nodes))) < len(nodes):
            raise NoCodecError("", "a set, or the keys of a dictionary, that would be fewer once they are plain")
        return nodes

    def at(self, step: str, encode: Callable[..., Any], *args: Any) -> Any:
        """Encode a part; errors and notes get its place.

        Args:
            step: how the value around it reaches the part, such as ``[0]``.
            encode: returns its node.
            args: what that takes.
        """
        known = len(self.notes.kept)
        try:
            node = encode(*args)
        except NoCodecError as error:
            raise error.within(step) from None
        self.notes.place(known, step)
        return node

    def nodes(self, values: Iterable[Any], depth: int) -> List[Any]:
        """Return the nodes for the items of a container."""
        nodes: List[Any] = []
        notes = self.notes
        known = len(notes.kept)
        try:
            for item in values:
                nodes.append(self.node(item, depth + 1))
                if len(notes.kept) > known:
                    notes.place(known, f"[{len(nodes) - 1}]")
                    known = len(notes.kept)
        except NoCodecError as error:
            raise error.within(f"[{len(nodes)}]") from None
        return nodes

    def _dict(self, value: Dict[Any, Any], depth: int) -> Node:
        plain = self._plain(value, depth)
        if plain:
            return plain
        if "$" in value or not all(type(key) is str and (key.isascii() or is_text(key)) for key in value):
            return {"$": "dict", "v": self.pairs(value.items(), depth)}
        nodes = {}
        for key, item in value.items():
            nodes[key] = self.at(f"[{_shown(key)}]", self.node, item, depth + 1)
        return nodes

    def _plain(self, value: Any, depth: int) -> Optional[Node]:
        if depth > _PLAIN_DEPTH or self._failures > _PLAIN_FAILURES:
            return None
        plain = _plain_json(value)
        if plain is None:
            self._failures += 1
            return None
        return {"$": "json", "b": self.buffer(plain)}

    def _surrogates(self, value: str) -> Node:
        return {"$": "str", "b": self.buffer(value.encode("utf-8", "surrogatepass"))}

    def _other(self, value: Any, kind: type, depth: int) -> Any:
        own_codec = registered("types").get(kind)
        if own_codec is not None:
            name, encode = own_codec
            return self._registered(value, name, encode, depth)
        package = kind.__module__.partition(".")[0]
        if package in MODULE_OF_PACKAGE:
            node = codec_module(MODULE_OF_PACKAGE[package]).encode(self, value, depth)
            if node is not None:
                if package in LIBRARIES:
                    self.uses(package)
                return node
        if self.types is not None:
            node = codec_module("shipped_types").encode(self, value, depth)
            if node is not None:
                return node
        if self.plainer:
            node = codec_module("standard").encode_subclass(self, value, depth)
            if node is not None:
                return node
        return self._pickled(value, f"{kind.__module__}.{kind.__qualname__}")

    def _registered(self, value: Any, name: str, encode: Callable[[Any], Any], depth: int) -> Node:
        try:
            plain = encode(value)
        except Exception as error:
            raise NoCodecError("", f"{type(value).__qualname__}, whose codec {name!r} failed ({error})") from error
        return {"$": "custom", "name": name, "v": self.node(plain, depth + 1)}

    def pickled(self, value: Any) -> Optional[bytes]:
        """Return a value as a pickle, or None if it cannot be pickled."""
        try:
            return self.pickle(value) if self.pickle is not None else None
        except Exception:  # noqa: BLE001 -- a type's own methods may raise anything
            return None

    def _pickled(self, value: Any, name: str) -> Node:
        if self.pickle is None:
            raise NoCodecError("", name)
        try:
            data = self.pickle(value)
        except Exception as error:
            raise NoCodecError("", f"{name}, which cannot be pickled either ({error})") from error
        return {"$": "cloudpickle", "b": self.buffer(data)}


def length(piece: Piece) -> int:
    """Return the length of a piece in bytes."""
    return piece.nbytes if isinstance(piece, Later) else memoryview(piece).nbytes


def _shown(key: Any) -> str:
    try:
        return repr(key)
    except Exception:  # noqa: BLE001 -- an integer of too many digits, or a type of the user's
        return f"<{type(key).__name__}>"


def _plain_json(value: Any) -> Optional[bytes]:
    """Return a value's JSON if JSON can hold it exactly; both steps run in C."""
    try:
        text = quickjson.dumps(value).encode("utf-8")
    except Exception:  # noqa: BLE001 -- also what methods of a user's own subclasses raise
        return None
    return text if _is_plain(value) else None


def _is_plain(value: Any) -> bool:
    """Return whether a value without cycles is made of JSON's own types, not of their subclasses."""
    level = [value]
    long_integers = not 0 < getattr(sys, "get_int_max_str_digits", int)() <= _DIGITS
    for _ in range(MAX_DEPTH):
        kinds = set(map(type, level))
        if not kinds <= _JSON_TYPES:
            return False
        if long_integers and any(type(item) is int and abs(item) >= _LARGEST_DECIMAL for item in level):
            return False
        if list not in kinds and dict not in kinds:
            return True
        dicts = [item for item in level if type(item) is dict]
        if not set(map(type, chain.from_iterable(dicts))) <= {str}:
            return False
        lists = (item for item in level if type(item) is list)
        level = list(chain(chain.from_iterable(lists), chain.from_iterable(map(dict.values, dicts))))
    return False


def is_text(value: str) -> bool:
    """Return whether a string is without lone surrogates, which UTF-8 does not have."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
