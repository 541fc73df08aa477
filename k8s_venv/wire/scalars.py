"""Codecs for single values of the standard library: dates and times, decimals, UUIDs, paths."""

from __future__ import annotations

import datetime
import sys

from k8s_venv.wire.decoder import field
from k8s_venv.wire.errors import MissingLibraryError
from k8s_venv.wire.registry import codec_module
from k8s_venv.wire.zones import decode_zone, encode_clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional

    from k8s_venv.wire.decoder import Decoder
    from k8s_venv.wire.encoder import Encoder
    from k8s_venv.wire.registry import Node


def encode(encoder: Encoder, value: Any, depth: int) -> Optional[Node]:
    """Return the node for a single value, or None when it is of another type."""
    kind = type(value)
    # By its name: libraries that stop the clock put their own types into the module.
    name = kind.__name__ if kind.__module__ == "datetime" else ""
    if name in ("datetime", "time"):
        return {"$": name, **encode_clock(value)}
    if name == "date":
        return {"$": "date", "v": value.isoformat()}
    if name == "timedelta":
        return {"$": "timedelta", "v": [value.days, value.seconds, value.microseconds]}
    if kind is getattr(sys.modules.get("decimal"), "Decimal", None):
        return {"$": "decimal", "v": str(value)}
    if kind is getattr(sys.modules.get("uuid"), "UUID", None):
        return {"$": "uuid", "v": value.hex}
    return _encode_path(encoder, value, kind)


def _encode_path(encoder: Encoder, value: Any, kind: type) -> Optional[Node]:
    pathlib: Any = sys.modules.get("pathlib")
    if pathlib is None:
        return None
    if kind is type(pathlib.Path()):
        return {"$": "path", "flavour": "native", "v": encoder.node(value.as_posix())}
    if kind is pathlib.PurePosixPath:
        return {"$": "path", "flavour": "posix", "v": encoder.node(str(value))}
    if kind is pathlib.PureWindowsPath:
        return {"$": "path", "flavour": "windows", "v": encoder.node(str(value))}
    return None


def _decode_datetime(decoder: Decoder, node: Node) -> Any:
    naive = datetime.datetime.fromisoformat(field(node, "v", str)).replace(fold=node.get("fold", 0))
    try:
        return _with_pendulum(decoder, node, naive.replace(tzinfo=decode_zone(node)))
    except MissingLibraryError:  # pendulum knows zones of its own
        value = _with_pendulum(decoder, node, naive)
        if value is naive:
            raise
        return value


def _with_pendulum(decoder: Decoder, node: Node, value: Any) -> Any:
    """Return pendulum's own for a time, where the node asks for it and this side has it."""
    return codec_module("pendulum_types").as_pendulum(decoder, node, value) if node.get("pendulum") else value


def _decode_time(decoder: Decoder, node: Node) -> Any:
    naive = datetime.time.fromisoformat(field(node, "v", str))
    return _with_pendulum(decoder, node, naive.replace(tzinfo=decode_zone(node), fold=node.get("fold", 0)))


def _decode_date(decoder: Decoder, node: Node) -> Any:
    return _with_pendulum(decoder, node, datetime.date.fromisoformat(field(node, "v", str)))


def _decode_timedelta(decoder: Decoder, node: Node) -> Any:
    days, seconds, microseconds = field(node, "v", list)
    return _with_pendulum(decoder, node, datetime.timedelta(days, seconds, microseconds))


def _decode_decimal(decoder: Decoder, node: Node) -> Any:
    from decimal import Decimal

    return Decimal(field(node, "v", str))


def _decode_uuid(decoder: Decoder, node: Node) -> Any:
    from uuid import UUID

    return UUID(hex=field(node, "v", str))


def _decode_path(decoder: Decoder, node: Node) -> Any:
    import pathlib

    kinds = {"native": pathlib.Path, "posix": pathlib.PurePosixPath, "windows": pathlib.PureWindowsPath}
    return kinds[node["flavour"]](decoder.value(node["v"]))


DECODERS: Dict[str, Callable[[Decoder, Node], Any]] = {
    "datetime": _decode_datetime,
    "time": _decode_time,
    "date": _decode_date,
    "timedelta": _decode_timedelta,
    "decimal": _decode_decimal,
    "uuid": _decode_uuid,
    "path": _decode_path,
}
