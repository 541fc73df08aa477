"""Values that are handed on still encoded: whoever takes one decodes it, with the types of its own call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, NamedTuple, Optional, Tuple

from k8s_venv.wire import values
from k8s_venv.wire.decoder import field
from k8s_venv.wire.errors import MalformedError

if TYPE_CHECKING:
    from k8s_venv.wire.decoder import Decoder
    from k8s_venv.wire.encoder import Encoder
    from k8s_venv.wire.registry import Node

# Where the values are that this call's arguments only name, the call's folder, and one to put them together in.
delivered: Tuple[Dict[str, Any], str, str] = ({}, "", "")
# Loads what another task pickled; only where this one's serializer says so.
unpickle: Optional[Callable[[memoryview], Any]] = None


class Reference(NamedTuple):
    """An encoded value inside another one.

    Args:
        payload: what ``values.dumps`` wrote.
    """

    payload: bytes


class KeptReference(NamedTuple):
    """An encoded value that is kept somewhere; the sender says where.

    Args:
        sha256: its digest, in hexadecimal.
        start: its beginning, up to the end of its JSON document.
    """

    sha256: str
    start: bytes


def encode(encoder: Encoder, value: Any, depth: int) -> Any:
    """Return the node for a reference, or None for anything else of this package."""
    if not isinstance(value, (Reference, KeptReference)):
        return None
    start = value.payload if isinstance(value, Reference) else value.start
    if encoder.types is not None:
        # Whoever decodes it needs the types that it names: they have to travel with this call as well.
        for module, name in _types_in(values.document_of(start)["value"]):
            encoder.types(module, name)
    if isinstance(value, KeptReference):
        return {"$": "kept", "v": value.sha256}
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


def _fetch(decoder: Decoder, node: Node) -> Any:
    known, folder, scratch = delivered
    entry = known.get(field(node, "v", str))
    if entry is None:
        raise MalformedError("a value that is kept elsewhere, and delivery.json does not say where")
    from k8s_venv.wire.delivery import fetch

    payload = fetch(folder, entry, scratch, "a value handed on by reference")
    return values.loads(payload, unpickle, decoder.types)


DECODERS: Dict[str, Callable[[Decoder, Node], Any]] = {"reference": _decode, "kept": _fetch}
