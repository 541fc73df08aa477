"""Codecs for exceptions as values: Python's own, and those of the types that travel with a call.

As with a pickle, their arguments and attributes travel, and neither traceback nor cause. What is read may come from
anyone: no method of a type runs, and no exception is made that Python itself cannot show.
"""

from __future__ import annotations

import builtins

from k8s_venv.wire.decoder import field
from k8s_venv.wire.errors import MalformedError, NoCodecError, UnknownTypeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional, Sequence

    from k8s_venv.wire.decoder import Decoder
    from k8s_venv.wire.encoder import Encoder
    from k8s_venv.wire.registry import Node

# Attributes of Python's own types that do not follow from the arguments. Not `name_from`: whoever shows an ImportError
# that has it imports the module that `name` says.
_KEPT = frozenset(("code", "name", "obj", "path"))
_UNICODE_ERRORS = (UnicodeDecodeError, UnicodeEncodeError, UnicodeTranslateError)
# These make a tuple of their second argument, which may have no end.
_TAKE_APART = (SyntaxError, getattr(builtins, "BaseExceptionGroup", SyntaxError))
_FINITE = (dict, float, int, list, str, tuple, type(None))
# How far a SyntaxError may point into its line: so many signs are shown below it.
_FARTHEST = 1_000_000
_TEXTS, _PLACES = ("filename", "text"), ("lineno", "offset", "end_lineno", "end_offset")


def encode(encoder: Encoder, value: BaseException, depth: int) -> Node:
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


def make(kind: Any, args: Sequence[Any]) -> Any:
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
    """Return what of an exception would harm those who make or show it: crash, or fill the memory; or nothing.

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
    # Nothing that an exception says may take the place of what it does.
    if callable(member) or hasattr(type(member), "__set__"):
        return None
    return lambda error, value: vars(error).__setitem__(name, value)


def _fits(kind: type, name: Any) -> bool:
    return type(name) is str and (name == "__notes__" or attribute_setter(kind, name) is not None)


def _built_in(kind: type) -> Any:
    return next(base for base in kind.__mro__ if base.__module__ == "builtins")


def _decode(decoder: Decoder, node: Node) -> Any:
    kind = _find(decoder, node)
    value = make(kind, [decoder.value(part) for part in field(node, "args", list)])
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


def _find(decoder: Decoder, node: Node) -> Any:
    name = field(node, "name", str)
    if "module" in node:
        module = field(node, "module", str)
        kind: Any = decoder.types(module, name) if decoder.types is not None else None
        if kind is None:
            raise UnknownTypeError(f"{module}.{name}"[:200])
    else:
        kind = vars(builtins).get(name)
    if not (isinstance(kind, type) and issubclass(kind, BaseException)):
        raise MalformedError(f"no exception is called {name[:80]!r} on this side")
    return kind


DECODERS: Dict[str, Callable[[Decoder, Node], Any]] = {"exception": _decode}
