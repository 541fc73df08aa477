"""Codecs for the standard library beyond literals and times, and for subclasses of Python's own types.

An instance of a subclass whose type cannot travel arrives as what it is beneath: texts of lxml and BeautifulSoup,
numbers of ruamel.yaml, documents of tomlkit are such. What a subclass adds stays behind, so this is only done for
callers who learn about it.
"""

from __future__ import annotations

import sys

from k8s_venv.wire.decoder import UserError, field
from k8s_venv.wire.errors import MalformedError, NoCodecError, Notes
from k8s_venv.wire.registry import LIBRARIES, codec_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional

    from k8s_venv.wire.decoder import Decoder
    from k8s_venv.wire.encoder import Encoder
    from k8s_venv.wire.registry import Node

_ADDRESSES = frozenset(f"IPv{version}{kind}" for version in (4, 6) for kind in ("Address", "Interface", "Network"))
_FLAVOURS = {"PosixPath": "native", "WindowsPath": "native", "PurePosixPath": "posix", "PureWindowsPath": "windows"}
# What compiling the patterns of one value may cost: a character one, a range of many characters, which takes some 40
# milliseconds, as much as a hundred.
_MOST_PATTERNS, _RANGE = 20_000, 100
_FLAGS = 2 | 4 | 8 | 16 | 32 | 64 | 256  # I, L, M, S, U, X and A of `re`
_DEBUG = 128  # of `re`, which prints while it compiles
# Python divides the numbers of a range as soon as there is one, which takes the square of their length.
_LONGEST_BOUND = 4096  # bits


def encode(encoder: Encoder, value: Any, depth: int) -> Optional[Node]:
    """Return the node for a value of the standard library, or None for one of another type."""
    kind = type(value)
    write = _WRITERS.get(kind.__name__)
    if write is not None and kind is getattr(sys.modules.get(kind.__module__), kind.__name__, None):
        return write(encoder, value, depth)
    if issubclass(kind, BaseException) and kind.__module__ == "builtins":
        node: Node = codec_module("shipped_types").encode_exception(encoder, value, depth)
        return node
    return None


# --- numbers, identifiers, paths, patterns ----------------------------------------------------------------


def _encode_range(encoder: Encoder, value: Any, depth: int) -> Node:
    if type(value) is range and not _is_counted(value.start, value.stop, value.step):
        raise NoCodecError("", "a range of too large numbers")
    bounds = encoder.nodes([value.start, value.stop, value.step], depth)
    return {"$": type(value).__name__, "v": bounds}


def _decode_range(decoder: Decoder, node: Node) -> range:
    start, stop, step = (field({"v": bound}, "v", int) for bound in decoder.items(node))
    if not _is_counted(start, stop, step):
        raise MalformedError("a range of numbers that are too large")
    return range(start, stop, step)


def _is_counted(*bounds: int) -> bool:
    return all(bound.bit_length() <= _LONGEST_BOUND for bound in bounds)


def _decode_complex(decoder: Decoder, node: Node) -> complex:
    real, imaginary = field(node, "v", list)
    return complex(float(real), float(imaginary))


def _decode_decimal(decoder: Decoder, node: Node) -> Any:
    from decimal import Decimal

    return Decimal(field(node, "v", str))


def _decode_fraction(decoder: Decoder, node: Node) -> Any:
    from fractions import Fraction

    numerator, denominator = (field({"v": part}, "v", int) for part in decoder.items(node))
    if denominator < 1:
        raise MalformedError("a fraction whose denominator is not positive")
    # It was reduced where it was written. To reduce it again takes the square of its length: hours, if that is large.
    value: Any = Fraction()
    value._numerator, value._denominator = numerator, denominator
    return value


def _decode_uuid(decoder: Decoder, node: Node) -> Any:
    from uuid import UUID

    return UUID(hex=field(node, "v", str))


def _decode_address(decoder: Decoder, node: Node) -> Any:
    import ipaddress

    name = field(node, "kind", str)
    if name not in _ADDRESSES:
        raise MalformedError(f"no address is called {name[:80]!r}")
    return getattr(ipaddress, name)(field(node, "v", str))


def _encode_path(encoder: Encoder, value: Any, depth: int) -> Node:
    flavour = _FLAVOURS[type(value).__name__]
    return {"$": "path", "flavour": flavour, "v": encoder.node(value.as_posix() if flavour == "native" else str(value))}


def _decode_path(decoder: Decoder, node: Node) -> Any:
    import pathlib

    kinds = {"native": pathlib.Path, "posix": pathlib.PurePosixPath, "windows": pathlib.PureWindowsPath}
    return kinds[node["flavour"]](decoder.value(node["v"]))


def _encode_pattern(encoder: Encoder, value: Any, depth: int) -> Node:
    flags = value.flags & ~_DEBUG
    encoder.patterns += _cost(value.pattern)
    if encoder.patterns > _MOST_PATTERNS:
        raise NoCodecError("", "a regular expression that is too long, together with those before it")
    if flags & ~_FLAGS:
        raise NoCodecError("", f"a regular expression with the flags {flags}")
    return {"$": "pattern", "v": encoder.node(value.pattern), "flags": flags}


def _decode_pattern(decoder: Decoder, node: Node) -> Any:
    import re

    pattern, flags = decoder.value(node["v"]), field(node, "flags", int)
    if type(pattern) not in (str, bytes) or flags & ~_FLAGS:
        raise MalformedError("a regular expression that no writer makes")
    decoder.patterns += _cost(pattern)
    if decoder.patterns > _MOST_PATTERNS:
        raise MalformedError("regular expressions that are too long to be compiled")
    try:
        return re.compile(pattern, flags)
    except re.error as error:
        raise MalformedError(f"a regular expression that this Python refuses: {error}") from None


def _cost(pattern: Any) -> int:
    text = pattern if type(pattern) is str else ""
    wide = not text.isascii() or any("\\" + letter in text for letter in "uUxN01234567")
    return len(pattern) + _RANGE * wide * text.count("-")


# --- containers of collections ----------------------------------------------------------------------------


def _factories() -> Dict[str, Optional[type]]:
    """Return what a ``defaultdict`` may make its values with, by name."""
    import collections

    kinds = (
        *(bool, bytearray, bytes, complex, dict, float, frozenset, int, list, set, str, tuple),
        *(collections.Counter, collections.OrderedDict, collections.defaultdict, collections.deque),
    )
    return {"None": None, **{kind.__name__: kind for kind in kinds}}


def _encode_defaultdict(encoder: Encoder, value: Any, depth: int) -> Node:
    factory = next((name for name, made in _factories().items() if made is value.default_factory), None)
    if factory is None:
        raise NoCodecError("", f"collections.defaultdict with the factory {value.default_factory!r}")
    return {"$": "defaultdict", "factory": factory, "v": encoder.pairs(value.items(), depth)}


def _decode_defaultdict(decoder: Decoder, node: Node) -> Any:
    from collections import defaultdict

    name, factories = field(node, "factory", str), _factories()
    if name not in factories:
        raise MalformedError(f"a defaultdict with the factory {name[:80]!r}")
    return defaultdict(factories[name], decoder.pairs(node))


def _encode_pairs(encoder: Encoder, value: Any, depth: int) -> Node:
    return {"$": type(value).__name__.lower(), "v": encoder.pairs(value.items(), depth)}


def _decode_ordereddict(decoder: Decoder, node: Node) -> Any:
    from collections import OrderedDict

    return OrderedDict(decoder.pairs(node))


def _decode_counter(decoder: Decoder, node: Node) -> Any:
    from collections import Counter

    counter: Any = Counter()
    dict.update(counter, decoder.pairs(node))  # its own method would add, and refuse other counts than numbers
    return counter


def _decode_deque(decoder: Decoder, node: Node) -> Any:
    from collections import deque

    maxlen = None if node["maxlen"] is None else field(node, "maxlen", int)
    return deque(decoder.items(node), maxlen)


# --- subclasses of Python's own types ---------------------------------------------------------------------

# No type can be derived from bool.
_BOOLEANS = {("ruamel.yaml.scalarbool", "ScalarBoolean"), ("tomlkit.items", "Bool")}
_TWICE = 16 * 1024 * 1024  # bytes of a pickle that is sent beside the plain value


def encode_subclass(encoder: Encoder, value: Any, depth: int) -> Optional[Node]:
    """Return the node for an instance of a subclass, or None when it is of another type."""
    kind = type(value)
    base = bool if (kind.__module__, kind.__name__) in _BOOLEANS else _base(kind)
    if base is None:
        return None
    name = f"{kind.__module__}.{kind.__qualname__}"
    try:
        plain = _PLAIN[base.__module__][base.__name__](value, base)
    except Exception as error:  # its own methods
        raise NoCodecError("", f"{name}, which cannot be read as a {base.__name__} ({error})") from error
    pickled = encoder.pickled(value)
    if pickled is None:
        node: Node = encoder.node(plain, depth)
        encoder.notes.add(f"of the type {name}, which arrives as a plain {base.__name__}")
        return node
    if len(pickled) > _TWICE:
        return {"$": "cloudpickle", "b": encoder.buffer(pickled)}
    return _with_pickle(encoder, name, plain, pickled, depth)


def _with_pickle(encoder: Encoder, name: str, plain: Any, pickled: bytes, depth: int) -> Node:
    """Return the node for a pickle, with the plain value where the reader cannot load that."""
    number, notes, pickle = encoder.buffer(pickled), encoder.notes, encoder.pickle
    encoder.notes, encoder.pickle = Notes(), None
    try:
        node: Node = {"$": "subclass", "name": name, "b": number, "v": encoder.node(plain, depth)}
    except NoCodecError:
        return {"$": "cloudpickle", "b": number}
    finally:
        encoder.notes, encoder.pickle = notes, pickle
    notes.add("", node)
    return node


def _base(kind: type) -> Optional[type]:
    """Return the type that a subclass is beneath, the nearest that has a codec."""
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] in LIBRARIES:
            return None  # what these add is no decoration
        if base.__name__ in _PLAIN.get(base.__module__, ()):
            return None if base is kind else base
    return None


def _members(value: Any, base: Any) -> Any:
    return base(value)


def _items(value: Any, base: Any) -> Any:
    return base(value.items())


def _counter(value: Any, base: Any) -> Any:
    made = base()
    dict.update(made, value.items())
    return made


def _day(value: Any) -> Any:
    return value.year, value.month, value.day


def _clock(value: Any) -> Any:
    return value.hour, value.minute, value.second, value.microsecond


_LENGTH = ("days", "seconds", "microseconds")
# Their own methods may be overridden: of texts and numbers the base's are called. Containers are read through their
# own, since some keep their content elsewhere.
_PLAIN: Dict[str, Dict[str, Callable[[Any, Any], Any]]] = {
    "builtins": {
        "bool": _members,
        "str": lambda value, base: str.__str__(value),
        "int": lambda value, base: int.__int__(value),
        "float": lambda value, base: float.__float__(value),
        "complex": lambda value, base: complex(base.real.__get__(value), base.imag.__get__(value)),
        "bytes": lambda value, base: bytes(memoryview(value)),
        "bytearray": lambda value, base: bytearray(memoryview(value)),
        "list": _members,
        "tuple": _members,
        "set": _members,
        "frozenset": _members,
        "dict": _items,
    },
    "collections": {
        "OrderedDict": _items,
        "Counter": _counter,
        "defaultdict": lambda value, base: base(value.default_factory, value.items()),
        "deque": lambda value, base: base(value, value.maxlen),
    },
    "datetime": {
        "datetime": lambda value, base: base(*_day(value), *_clock(value), value.tzinfo, fold=value.fold),
        "date": lambda value, base: base(*_day(value)),
        "time": lambda value, base: base(*_clock(value), value.tzinfo, fold=value.fold),
        "timedelta": lambda value, base: base(*[getattr(base, part).__get__(value) for part in _LENGTH]),
    },
    "decimal": {"Decimal": _members},
    "uuid": {"UUID": lambda value, base: base(int=value.int)},
}


def _decode_subclass(decoder: Decoder, node: Node) -> Any:
    """Return what was pickled where it can be loaded here, else what it is beneath, with a note."""
    name = field(node, "name", str)
    if decoder.unpickle is None:
        raise MalformedError("a pickled part, which this reader does not accept")
    try:
        return decoder.unpickle(decoder.buffer(node["b"]))
    except Exception as error:
        if decoder.notes is None:
            raise UserError(error) from error
        reason = type(error).__name__  # the text of any other error may show a part of the value
        if isinstance(error, ImportError):
            reason += f": {error}"
    value = decoder.value(node["v"])
    place = str(node.get("place") or "")
    decoder.notes.add(f"of the type {name}, which arrives as a plain {type(value).__name__} ({reason})", path=place)
    return value


# --- which function writes and reads what -----------------------------------------------------------------

# By the names of types, each with the module that has the type under this name.
_WRITERS: Dict[str, Callable[[Encoder, Any, int], Node]] = {
    "range": _encode_range,
    "slice": _encode_range,
    "complex": lambda encoder, value, depth: {"$": "complex", "v": [repr(value.real), repr(value.imag)]},
    "Decimal": lambda encoder, value, depth: {"$": "decimal", "v": str(value)},
    "Fraction": lambda encoder, value, depth: {
        "$": "fraction",
        "v": encoder.nodes([value.numerator, value.denominator], depth),
    },
    "UUID": lambda encoder, value, depth: {"$": "uuid", "v": value.hex},
    **dict.fromkeys(
        _ADDRESSES,
        lambda encoder, value, depth: {"$": "ipaddress", "kind": type(value).__name__, "v": str(value)},
    ),
    **dict.fromkeys(_FLAVOURS, _encode_path),
    "Pattern": _encode_pattern,
    "Counter": _encode_pairs,
    "OrderedDict": _encode_pairs,
    "defaultdict": _encode_defaultdict,
    "deque": lambda encoder, value, depth: {"$": "deque", "v": encoder.nodes(value, depth), "maxlen": value.maxlen},
}
DECODERS: Dict[str, Callable[[Decoder, Node], Any]] = {
    "range": _decode_range,
    "slice": lambda decoder, node: slice(*decoder.items(node)),
    "complex": _decode_complex,
    "decimal": _decode_decimal,
    "fraction": _decode_fraction,
    "uuid": _decode_uuid,
    "ipaddress": _decode_address,
    "path": _decode_path,
    "pattern": _decode_pattern,
    "counter": _decode_counter,
    "ordereddict": _decode_ordereddict,
    "defaultdict": _decode_defaultdict,
    "deque": _decode_deque,
    "subclass": _decode_subclass,
}
