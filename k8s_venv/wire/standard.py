"""Codecs for more of the standard library: complex numbers, fractions, ranges, slices, IP addresses, patterns."""

from __future__ import annotations

import sys

from k8s_venv.wire.decoder import field
from k8s_venv.wire.errors import MalformedError, NoCodecError
from k8s_venv.wire.registry import codec_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional

    from k8s_venv.wire.decoder import Decoder
    from k8s_venv.wire.encoder import Encoder
    from k8s_venv.wire.registry import Node

_ADDRESSES = frozenset(f"IPv{version}{kind}" for version in (4, 6) for kind in ("Address", "Interface", "Network"))
# What compiling the patterns of one value may cost: a character one, a range of many characters, which takes some 40
# milliseconds, as much as a hundred.
_MOST_PATTERNS, _RANGE = 20_000, 100
# Python divides the numbers of a range as soon as there is one, which takes the square of their length.
_LONGEST_BOUND = 4096  # bits
_FLAGS = 2 | 4 | 8 | 16 | 32 | 64 | 256  # I, L, M, S, U, X and A of `re`
_DEBUG = 128


def encode(encoder: Encoder, value: Any, depth: int) -> Optional[Node]:
    """Return the node for a value of these types, or None when it is of another one."""
    kind = type(value)
    if kind is complex:
        return {"$": "complex", "v": [repr(value.real), repr(value.imag)]}
    if kind is range and not _is_counted(value.start, value.stop, value.step):
        raise NoCodecError("", "a range of too large numbers")
    if kind is range or kind is slice:
        return {"$": kind.__name__, "v": encoder.nodes([value.start, value.stop, value.step], depth)}
    if kind is getattr(sys.modules.get("fractions"), "Fraction", None):
        return {"$": "fraction", "v": encoder.nodes([value.numerator, value.denominator], depth)}
    if kind.__module__ == "ipaddress" and kind.__name__ in _ADDRESSES:
        return {"$": "ipaddress", "kind": kind.__name__, "v": str(value)}
    if kind is getattr(sys.modules.get("re"), "Pattern", None):
        return _encode_pattern(encoder, value)
    if issubclass(kind, BaseException) and kind.__module__ == "builtins":
        node: Node = codec_module("exceptions").encode(encoder, value, depth)
        return node
    return None


def _encode_pattern(encoder: Encoder, value: Any) -> Node:
    flags = value.flags & ~_DEBUG  # which prints while it compiles
    encoder.patterns += _cost(value.pattern)
    if encoder.patterns > _MOST_PATTERNS:
        raise NoCodecError("", "a regular expression that is too long, together with those before it")
    if flags & ~_FLAGS:
        raise NoCodecError("", f"a regular expression with the flags {flags}")
    return {"$": "pattern", "v": encoder.node(value.pattern), "flags": flags}


def _cost(pattern: Any) -> int:
    text = pattern if type(pattern) is str else ""
    wide = not text.isascii() or any("\\" + letter in text for letter in "uUxN01234567")
    return len(pattern) + _RANGE * wide * text.count("-")


def _decode_complex(decoder: Decoder, node: Node) -> complex:
    real, imaginary = field(node, "v", list)
    return complex(float(real), float(imaginary))


def _decode_range(decoder: Decoder, node: Node) -> range:
    start, stop, step = (field({"v": bound}, "v", int) for bound in decoder.items(node))
    if not _is_counted(start, stop, step):
        raise MalformedError("a range of numbers that are too large")
    return range(start, stop, step)


def _is_counted(*bounds: int) -> bool:
    return all(bound.bit_length() <= _LONGEST_BOUND for bound in bounds)


def _decode_fraction(decoder: Decoder, node: Node) -> Any:
    from fractions import Fraction

    numerator, denominator = (field({"v": part}, "v", int) for part in decoder.items(node))
    if denominator < 1:
        raise MalformedError("a fraction whose denominator is not positive")
    # It was reduced where it was written. To reduce it again takes the square of its length: hours, if that is large.
    value: Any = Fraction()
    value._numerator, value._denominator = numerator, denominator
    return value


def _decode_address(decoder: Decoder, node: Node) -> Any:
    import ipaddress

    name = field(node, "kind", str)
    if name not in _ADDRESSES:
        raise MalformedError(f"no address is called {name[:80]!r}")
    return getattr(ipaddress, name)(field(node, "v", str))


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


DECODERS: Dict[str, Callable[[Decoder, Node], Any]] = {
    "complex": _decode_complex,
    "range": _decode_range,
    "slice": lambda decoder, node: slice(*decoder.items(node)),
    "fraction": _decode_fraction,
    "ipaddress": _decode_address,
    "pattern": _decode_pattern,
}
