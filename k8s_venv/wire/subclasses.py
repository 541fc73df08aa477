"""Instances of subclasses of Python's own types: what they are beneath, where the type itself cannot travel.

Texts of lxml and BeautifulSoup, numbers of ruamel.yaml, documents of tomlkit are such. What a subclass adds stays
behind, so this is only done for callers who learn about it.
"""

from __future__ import annotations

from k8s_venv.wire.decoder import UserError, field
from k8s_venv.wire.errors import MalformedError, NoCodecError
from k8s_venv.wire.notes import Notes
from k8s_venv.wire.registry import LIBRARIES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional

    from k8s_venv.wire.decoder import Decoder
    from k8s_venv.wire.encoder import Encoder
    from k8s_venv.wire.registry import Node

# No type can be derived from bool.
_BOOLEANS = {("ruamel.yaml.scalarbool", "ScalarBoolean"), ("tomlkit.items", "Bool")}
_TWICE = 16 * 1024 * 1024  # bytes of a pickle that is sent beside the plain value


def encode(encoder: Encoder, value: Any, depth: int) -> Optional[Node]:
    """Return the node for an instance of a subclass, or None when it is of another type."""
    kind = type(value)
    base = bool if (kind.__module__, kind.__name__) in _BOOLEANS else _base(kind)
    if base is None or encoder.notes is None:
        return None
    name = f"{kind.__module__}.{kind.__qualname__}"
    try:
        plain = _PLAIN[base.__name__](value, base)
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
    if notes is not None:
        notes.add("", node)
    return node


def _base(kind: type) -> Optional[type]:
    """Return the type that a subclass is beneath, the nearest that has a codec."""
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] in LIBRARIES:
            return None  # what these add is no decoration
        if _PLAIN_TYPES.get(base.__name__) == base.__module__:
            return None if base is kind else base
    return None


_LENGTH = ("days", "seconds", "microseconds")


def _clock(value: Any) -> Any:
    return value.hour, value.minute, value.second, value.microsecond


def _day(value: Any) -> Any:
    return value.year, value.month, value.day


def _counter(value: Any, base: Any) -> Any:
    made = base()
    dict.update(made, value.items())
    return made


def _items(value: Any, base: Any) -> Any:
    return base(value.items())


def _members(value: Any, base: Any) -> Any:
    return base(value)


# Their own methods may be overridden: of texts and numbers the base's are asked, containers are read as they show
# themselves, since some keep their content elsewhere.
_PLAIN: Dict[str, Callable[[Any, Any], Any]] = {
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
    "OrderedDict": _items,
    "Counter": _counter,
    "defaultdict": lambda value, base: base(value.default_factory, value.items()),
    "deque": lambda value, base: base(value, value.maxlen),
    "datetime": lambda value, base: base(*_day(value), *_clock(value), value.tzinfo, fold=value.fold),
    "date": lambda value, base: base(*_day(value)),
    "time": lambda value, base: base(*_clock(value), value.tzinfo, fold=value.fold),
    "timedelta": lambda value, base: base(*[getattr(base, part).__get__(value) for part in _LENGTH]),
    "Decimal": _members,
    "UUID": lambda value, base: base(int=value.int),
}
_PLAIN_TYPES = {
    name: module
    for module, names in {
        "builtins": (
            "str",
            "int",
            "float",
            "complex",
            "bytes",
            "bytearray",
            "list",
            "tuple",
            "set",
            "frozenset",
            "dict",
        ),
        "collections": ("OrderedDict", "Counter", "defaultdict", "deque"),
        "datetime": ("datetime", "date", "time", "timedelta"),
        "decimal": ("Decimal",),
        "uuid": ("UUID",),
    }.items()
    for name in names
}


def _decode(decoder: Decoder, node: Node) -> Any:
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


DECODERS: Dict[str, Callable[[Decoder, Node], Any]] = {"subclass": _decode}
