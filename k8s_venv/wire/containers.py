"""Codecs for the containers of ``collections``."""

from __future__ import annotations

import collections

from k8s_venv.wire.decoder import field
from k8s_venv.wire.errors import MalformedError, NoCodecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional

    from k8s_venv.wire.decoder import Decoder
    from k8s_venv.wire.encoder import Encoder
    from k8s_venv.wire.registry import Node

_FACTORIES: Dict[str, Optional[type]] = {
    kind.__name__: kind
    for kind in (
        *(bool, bytearray, bytes, complex, dict, float, frozenset, int, list, set, str, tuple),
        *(collections.Counter, collections.OrderedDict, collections.defaultdict, collections.deque),
    )
}
_FACTORIES["None"] = None


def encode(encoder: Encoder, value: Any, depth: int) -> Optional[Node]:
    """Return the node for a container of ``collections``, or None when it is of another type."""
    kind = type(value)
    if kind is collections.deque:
        return {"$": "deque", "v": encoder.nodes(value, depth), "maxlen": value.maxlen}
    if kind is collections.OrderedDict:
        return {"$": "ordereddict", "v": encoder.pairs(value.items(), depth)}
    if kind is collections.Counter:
        return {"$": "counter", "v": encoder.pairs(value.items(), depth)}
    if kind is collections.defaultdict:
        factory = next((name for name, made in _FACTORIES.items() if made is value.default_factory), None)
        if factory is None:
            raise NoCodecError("", f"collections.defaultdict with the factory {value.default_factory!r}")
        return {"$": "defaultdict", "factory": factory, "v": encoder.pairs(value.items(), depth)}
    return None


def _decode_counter(decoder: Decoder, node: Node) -> Any:
    counter: Any = collections.Counter()
    dict.update(counter, decoder.pairs(node))  # its own method would add, and refuse other counts than numbers
    return counter


def _decode_deque(decoder: Decoder, node: Node) -> Any:
    maxlen = None if node["maxlen"] is None else field(node, "maxlen", int)
    return collections.deque(decoder.items(node), maxlen)


def _decode_defaultdict(decoder: Decoder, node: Node) -> Any:
    name = field(node, "factory", str)
    if name not in _FACTORIES:
        raise MalformedError(f"a defaultdict with the factory {name[:80]!r}")
    return collections.defaultdict(_FACTORIES[name], decoder.pairs(node))


DECODERS: Dict[str, Callable[[Decoder, Node], Any]] = {
    "deque": _decode_deque,
    "ordereddict": lambda decoder, node: collections.OrderedDict(decoder.pairs(node)),
    "counter": _decode_counter,
    "defaultdict": _decode_defaultdict,
}
