"""A value that is handed on still encoded: whoever takes it decodes it, with the types of its own call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, NamedTuple, Optional, Tuple

from k8s_venv.runner import values

if TYPE_CHECKING:
    from k8s_venv.runner.decoder import Decoder
    from k8s_venv.runner.encoder import Encoder
    from k8s_venv.runner.registry import Node


# Loads what another task pickled; only where this one's serializer says so.
unpickle: Optional[Callable[[memoryview], Any]] = None


class Reference(NamedTuple):
    """An encoded value inside another one.

    Args:
        payload: what ``values.dumps`` wrote.
    """

    payload: bytes


def encode(encoder: Encoder, value: Any, depth: int) -> Any:
    """Return the node for a reference, or None for anything else of this package."""
    if not isinstance(value, Reference):
        return None
    if encoder.types is not None:
        # Whoever decodes it needs the types that it names: they have to travel with this call as well.
        for module, name in _types_in(values.document_of(value.payload)["value"]):
            encoder.types(module, name)
    return {"$": "reference", "b": encoder.buffer(value.payload)}


def _types_in(node: Any) -> Iterator[Tuple[str, str]]:
    if isinstance(node, list):
        for item in node:
            yield from _types_in(item)
    elif isinstance(node, dict):
        if "$" in node and "module" in node:
            yield str(node["module"]), str(node["name"])
        yield from _types_in(list(node.values()))


def _decode(decoder: Decoder, node: Node) -> Any:
    return values.loads(decoder.buffer(node["b"]), unpickle, decoder.types)


DECODERS: Dict[str, Callable[[Decoder, Node], Any]] = {"reference": _decode}
