"""Codecs for exceptions as values: Python's own, and those of the types that travel with a call.

As with a pickle, their arguments and attributes travel, and neither traceback nor cause.
"""

from __future__ import annotations

import builtins

from k8s_venv.runner.decoder import field
from k8s_venv.runner.errors import MalformedError, UnknownTypeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict

    from k8s_venv.runner.decoder import Decoder
    from k8s_venv.runner.encoder import Encoder
    from k8s_venv.runner.registry import Node


def encode(encoder: Encoder, value: BaseException, depth: int) -> Node:
    """Return the node for an exception of Python's own, or of a type that travels."""
    kind = type(value)
    parts: Any = _built_in(kind).__reduce__(value)
    state = parts[2] if len(parts) > 2 and type(parts[2]) is dict else {}
    args = encoder.at(".args", encoder.nodes, parts[1], depth)
    node: Node = {"$": "exception", "name": kind.__qualname__, "args": args}
    if state:
        node["attributes"] = encoder.pairs(((name, item) for name, item in state.items() if name != "args"), depth)
    return node if kind.__module__ == "builtins" else {**node, "module": kind.__module__}


def _built_in(kind: type) -> Any:
    return next(base for base in kind.__mro__ if base.__module__ == "builtins")


def _decode(decoder: Decoder, node: Node) -> Any:
    kind, args = _find(decoder, node), [decoder.value(part) for part in field(node, "args", list)]
    # The type's own methods do not run.
    base = _built_in(kind)
    value = base.__new__(kind, *args)
    base.__init__(value, *args)
    pairs = [(decoder.value(name), decoder.value(item)) for name, item in node.get("attributes", [])]
    for name, item in pairs:
        if type(name) is not str or (name.startswith("__") and name != "__notes__"):
            raise MalformedError(f"no exception has an attribute {str(name)[:80]!r} of its own")
        BaseException.__setattr__(value, name, item)
    return value


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
