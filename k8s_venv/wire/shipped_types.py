"""Codecs for instances of the types that travel with a call, and for exceptions of these and of Python's own types.

Both sides have the same source, so a document has only the type's name and the fields of an enumeration, a dataclass or
a named tuple. A type is found by a resolver, which the caller gives, among modules that the
caller names; no method of it runs.

As with a pickle, an exception's arguments and attributes travel, and neither traceback nor cause. What is read may
come from anyone: no exception is made that Python itself cannot show.
"""

from __future__ import annotations

import builtins
import enum
import functools
import sys

from k8s_venv.wire import protocol
from k8s_venv.wire.decoder import field
from k8s_venv.wire.errors import MalformedError, NoCodecError, UnknownTypeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Collection, Dict, List, Mapping, Optional, Sequence

    from k8s_venv.wire.decoder import Decoder
    from k8s_venv.wire.encoder import Encoder
    from k8s_venv.wire.registry import Node, Types

_CACHED = functools.cached_property
_MOST_BITS = 4096  # of a flag, without a name
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a class made by a `class` statement


def resolver(
    modules: Collection[str],
    namespaces: Optional[Mapping[str, Mapping[str, Any]]] = None,
    load: Optional[Callable[[str], None]] = None,
) -> Types:
    """Return what finds the types of the modules that a call ships.

    Args:
        modules: the names of the shipped modules; those that are loaded are looked at.
        namespaces: the globals of modules, by the name that the types carry; they win over ``sys.modules``.
        load: imports one of ``modules`` that is not loaded yet; without it nothing is imported.
    """
    known = dict.fromkeys([*(namespaces or ()), *modules])

    def scope_of(module: str) -> Optional[Mapping[str, Any]]:
        if namespaces and module in namespaces:
            return namespaces[module]
        if module not in sys.modules and load is not None:
            load(module)
        return vars(sys.modules[module]) if module in sys.modules else None

    def find(module: str, name: str) -> Optional[type]:
        names = [module] if module in known else [each for each in known if own_name(each) == own_name(module)]
        found = (_type_in(scope_of(each), each, name) for each in names)
        return next((kind for kind in found if kind is not None), None)

    return find


def own_name(module: str) -> str:
    """Return a module's name as its author knows it, in whichever process it was loaded under whichever name."""
    if module.startswith("unusual_prefix_"):  # Airflow loads DAG files as `unusual_prefix_<digest>_<name>`
        return module.split("_", 3)[-1]
    return "__main__" if module == protocol.MAIN else module


def is_reloaded(kind: Any, found: Any) -> bool:
    """Return whether a type and the one that its name stands for are one definition, of a file that was loaded twice.

    Args:
        kind: the type.
        found: what a resolver found by its module and name.
    """
    if not isinstance(found, type) or (kind.__module__, kind.__qualname__) != (found.__module__, found.__qualname__):
        return False
    parts = ("__dataclass_fields__", "__members__", "_fields")
    return _written_names(kind) == _written_names(found) and all(
        list(getattr(kind, part, ())) == list(getattr(found, part, ())) for part in parts
    )


def _written_names(kind: type) -> List[str]:
    # Python adds names such as `__slotnames__` while a class is used.
    return [name for name in vars(kind) if not name.startswith("__")]


def _type_in(scope: Optional[Mapping[str, Any]], module: str, name: str) -> Optional[type]:
    found: Any = None
    for part in name.split("."):
        found = scope.get(part) if scope is not None else None
        scope = vars(found) if isinstance(found, type) else None
    # What the module itself only imported is not its own.
    return found if isinstance(found, type) and found.__module__ == module else None


def encode(encoder: Encoder, value: Any, depth: int) -> Optional[Node]:
    """Return the node for an instance of a shipped type, or None for any other value."""
    kind = type(value)
    found = encoder.types(kind.__module__, kind.__qualname__) if encoder.types is not None else None
    if found is not kind and not is_reloaded(kind, found):
        return None
    names = {"module": kind.__module__, "name": kind.__qualname__}
    if issubclass(kind, enum.Flag):
        return {"$": "flag", **names, "v": _flag_members(kind, value)}
    if issubclass(kind, enum.Enum):
        member: Any = value
        if kind.__members__.get(member._name_) is not value:
            raise NoCodecError("", f"a member of {kind.__qualname__} that its definition does not name")
        return {"$": "enum", **names, "v": member._name_}
    if issubclass(kind, BaseException):
        return encode_exception(encoder, value, depth)
    if _is_named_tuple(kind):
        if getattr(value, "__dict__", None):
            raise NoCodecError("", f"{kind.__qualname__} with attributes beyond its fields")
        return {"$": "namedtuple", **names, "fields": _encode_fields(encoder, kind, value, kind._fields, depth)}
    if hasattr(kind, "__dataclass_fields__"):
        fields = _field_names(kind)
        extra = _attributes_beside(kind, value, fields)
        node: Node = {"$": "dataclass", **names, "fields": _encode_fields(encoder, kind, value, fields + extra, depth)}
        return {**node, "extra": len(extra)} if extra else node
    return None


def _encode_fields(encoder: Encoder, kind: type, value: Any, names: Any, depth: int) -> List[Any]:
    fields = []
    for name in names:
        try:
            entry = object.__getattribute__(value, name)
        except AttributeError:
            raise NoCodecError(f".{name}", f"a field of {kind.__qualname__} that is not set") from None
        fields.append([name, encoder.at(f".{name}", encoder.node, entry, depth + 1)])
    return fields


def _flag_members(kind: Any, value: Any) -> List[Any]:
    """Return the names of the members that make up a flag, and the bits that have no name, as a number."""
    bits = value.value
    names = [name for name, member in kind.__members__.items() if member.value and member.value & bits == member.value]
    covered = functools.reduce(lambda known, name: known | kind.__members__[name].value, names, 0)
    if _bits(bits & ~covered) > _MOST_BITS:
        raise NoCodecError("", f"a {kind.__qualname__} with too many bits")
    return names if covered == bits else [*names, bits & ~covered]


def _is_named_tuple(kind: Any) -> bool:
    fields = getattr(kind, "_fields", None)
    return issubclass(kind, tuple) and type(fields) is tuple and all(type(name) is str for name in fields)


def _field_names(kind: Any) -> List[str]:
    import dataclasses  # which made the type, so it is loaded

    return [entry.name for entry in dataclasses.fields(kind)]


def _attributes_beside(kind: type, value: Any, fields: List[str]) -> List[str]:
    """Return the attributes of a dataclass that are no fields; what a cached property keeps is made again.

    Raises:
        NoCodecError: the instance is more than attributes.
    """
    if not all(base.__flags__ & _HEAP_TYPE for base in kind.__mro__[:-1]):
        raise NoCodecError("", f"{kind.__qualname__}, a dataclass that is also of a built-in type")
    cached = {name for base in kind.__mro__ for name, of in vars(base).items() if isinstance(of, _CACHED)}
    return [name for name in getattr(value, "__dict__", {}) if name not in fields and name not in cached]


def _find(decoder: Decoder, node: Node) -> Any:
    module, name = field(node, "module", str), field(node, "name", str)
    kind = decoder.types(module, name) if decoder.types is not None else None
    if kind is None:
        raise UnknownTypeError(f"{module}.{name}"[:200])
    return kind


def _member(node: Node, kind: Any, name: Any) -> Any:
    if not issubclass(kind, enum.Enum) or type(name) is not str or name not in kind.__members__:
        raise UnknownTypeError(f"{node['module']}.{node['name']}", f"has no member {str(name)[:80]!r} on this side")
    return kind.__members__[name]


def _decode_enum(decoder: Decoder, node: Node) -> Any:
    return _member(node, _find(decoder, node), node["v"])


def _decode_flag(decoder: Decoder, node: Node) -> Any:
    kind = _find(decoder, node)
    if not issubclass(kind, enum.Flag):
        raise UnknownTypeError(f"{node['module']}.{node['name']}", "is no flag on this side")
    names = field(node, "v", list)
    if len(names) > len(kind.__members__) + 1 or sum(map(_bits, names)) > _MOST_BITS:
        raise MalformedError(f"more members than {kind.__qualname__} can have")
    numbers = [name if type(name) is int else _member(node, kind, name).value for name in names]
    # Made once: a type remembers each combination that was ever made of it.
    return kind(functools.reduce(lambda known, number: known | number, numbers, 0))


def _bits(name: Any) -> int:
    return name.bit_length() if type(name) is int else 0


def _decode_fields(decoder: Decoder, node: Node, expected: List[str]) -> Dict[str, Any]:
    entries = field(node, "fields", list)
    names = [name for name, _ in entries]
    if names != expected:
        raise UnknownTypeError(
            f"{node['module']}.{node['name']}", f"has the fields {expected} on this side, not {str(names)[:200]}"
        )
    return {name: decoder.value(entry) for name, entry in entries}


def _decode_dataclass(decoder: Decoder, node: Node) -> Any:
    kind = _find(decoder, node)
    if not hasattr(kind, "__dataclass_fields__"):
        raise UnknownTypeError(f"{node['module']}.{node['name']}", "is no dataclass on this side")
    entries, known = field(node, "fields", list), _field_names(kind)
    extra = entries[len(known) :] if "extra" in node else []
    if len(extra) != node.get("extra", 0):
        raise MalformedError("a dataclass whose attributes are not as many as announced")
    fields = _decode_fields(decoder, {**node, "fields": entries[: len(entries) - len(extra)]}, known)
    value = object.__new__(kind)
    for name, entry in fields.items():
        object.__setattr__(value, name, entry)
    for name, entry in extra:
        if type(name) is not str or name in fields:
            raise MalformedError(f"no dataclass has an attribute {str(name)[:80]!r} beside its fields")
        value.__dict__[name] = decoder.value(entry)
    return value


def _decode_namedtuple(decoder: Decoder, node: Node) -> Any:
    kind = _find(decoder, node)
    if not _is_named_tuple(kind):
        raise UnknownTypeError(f"{node['module']}.{node['name']}", "is no named tuple on this side")
    return tuple.__new__(kind, _decode_fields(decoder, node, list(kind._fields)).values())


# --- exceptions -------------------------------------------------------------------------------------------

# Attributes of Python's own types that do not follow from the arguments. Not `name_from`: Python shows an
# ImportError that has it by importing the module in `name`.
_KEPT = frozenset(("code", "name", "obj", "path"))
_UNICODE_ERRORS = (UnicodeDecodeError, UnicodeEncodeError, UnicodeTranslateError)
# These make a tuple of their second argument, which may have no end.
_TAKE_APART = (SyntaxError, getattr(builtins, "BaseExceptionGroup", SyntaxError))
_FINITE = (dict, float, int, list, str, tuple, type(None))
# How far a SyntaxError may point into its line: so many signs are shown below it.
_FARTHEST = 1_000_000
_TEXTS, _PLACES = ("filename", "text"), ("lineno", "offset", "end_lineno", "end_offset")


def encode_exception(encoder: Encoder, value: BaseException, depth: int) -> Node:
    """Return the node for an exception of Python's own, or of a type that travels.

    Raises:
        NoCodecError: it could not be made again.
    """
    kind = type(value)
    parts: Any = _built_in(kind).__reduce__(value)
    state = parts[2] if len(parts) > 2 and type(parts[2]) is dict else {}
    attributes = {name: item for name, item in state.items() if name not in ("args", "name_from")}
    problem = why_unsafe(kind, parts[1], value) or next((name for name in attributes if not _fits(kind, name)), "")
    if problem:
        raise NoCodecError("", f"{kind.__qualname__}, of which {problem} cannot be set again")
    args = encoder.at(".args", encoder.nodes, parts[1], depth)
    node: Node = {"$": "exception", "name": kind.__qualname__, "args": args}
    if attributes:
        node["attributes"] = encoder.pairs(attributes.items(), depth)
    return node if kind.__module__ == "builtins" else {**node, "module": kind.__module__}


def make_exception(kind: Any, args: Sequence[Any]) -> Any:
    """Return an exception that only Python's own constructor has seen.

    Args:
        kind: its type.
        args: its arguments.

    Raises:
        MalformedError: Python could not show it.
    """
    problem = why_unsafe(kind, args)
    if not problem:
        base = _built_in(kind)
        made = base.__new__(kind, *args)
        base.__init__(made, *args)
        problem = why_unsafe(kind, args, made)
    if problem:
        raise MalformedError(f"{kind.__qualname__} with {problem} that Python cannot show")
    return made


def why_unsafe(kind: Any, args: Sequence[Any], made: Any = None) -> str:
    """Return the part of an exception that would crash the process or fill its memory; or nothing.

    Args:
        kind: its type.
        args: its arguments.
        made: the exception, once there is one.
    """
    if issubclass(kind, _UNICODE_ERRORS) and any(type(part) is int and part < 0 for part in args):
        return "a position"  # Python would read the memory there
    if issubclass(kind, _TAKE_APART) and not all(isinstance(part, _FINITE) for part in args[1:2]):
        return "an argument"
    if isinstance(made, SyntaxError):
        for name in (*_TEXTS, *_PLACES):
            found: Any = getattr(made, name, None)
            fits = type(found) is str if name in _TEXTS else type(found) is int and -1 <= found <= _FARTHEST
            if not (fits or found is None):
                return name
    return ""


def attribute_setter(kind: type, name: str) -> Optional[Callable[[Any, Any], None]]:
    """Return what gives an exception an attribute without any code of its type, or None where there is no such way.

    Args:
        kind: the exception's type.
        name: the attribute's name.
    """
    from types import GetSetDescriptorType, MemberDescriptorType

    if name.startswith("__"):
        return None
    base = next((base for base in kind.__mro__ if name in vars(base)), None)
    if base is None:
        return lambda error, value: vars(error).__setitem__(name, value)
    member = vars(base)[name]
    if isinstance(member, (GetSetDescriptorType, MemberDescriptorType)):
        return member.__set__ if base.__module__ != "builtins" or name in _KEPT else None
    # No attribute may replace a method.
    if callable(member) or hasattr(type(member), "__set__"):
        return None
    return lambda error, value: vars(error).__setitem__(name, value)


def _fits(kind: type, name: Any) -> bool:
    return type(name) is str and (name == "__notes__" or attribute_setter(kind, name) is not None)


def _built_in(kind: type) -> Any:
    return next(base for base in kind.__mro__ if base.__module__ == "builtins")


def _decode_exception(decoder: Decoder, node: Node) -> Any:
    kind = _exception_type(decoder, node)
    value = make_exception(kind, [decoder.value(part) for part in field(node, "args", list)])
    pairs = [(decoder.value(name), decoder.value(item)) for name, item in node.get("attributes", [])]
    for name, item in pairs:
        if not _fits(kind, name):
            raise MalformedError(f"no exception has an attribute {str(name)[:80]!r} of its own")
        if name == "__notes__":
            _set_notes(value, item)
            continue
        give: Any = attribute_setter(kind, name)
        give(value, item)
    return value


def _set_notes(value: Any, notes: Any) -> None:
    if type(notes) is not list or not all(type(note) is str for note in notes):
        raise MalformedError("notes of an exception that are no list of texts")
    vars(value)["__notes__"] = notes


def _exception_type(decoder: Decoder, node: Node) -> Any:
    kind: Any = _find(decoder, node) if "module" in node else vars(builtins).get(field(node, "name", str))
    if not (isinstance(kind, type) and issubclass(kind, BaseException)):
        raise MalformedError(f"no exception is called {node['name'][:80]!r} on this side")
    return kind


DECODERS: Dict[str, Callable[[Decoder, Node], Any]] = {
    "enum": _decode_enum,
    "flag": _decode_flag,
    "dataclass": _decode_dataclass,
    "namedtuple": _decode_namedtuple,
    "exception": _decode_exception,
}
