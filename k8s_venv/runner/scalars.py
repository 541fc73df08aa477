"""Codecs for single values of the standard library: dates and times, zones, decimals, UUIDs, paths."""

from __future__ import annotations

import datetime
import sys

from k8s_venv.runner.decoder import field
from k8s_venv.runner.errors import MalformedError, MissingLibraryError, NoCodecError
from k8s_venv.runner.libraries import library

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional

    from k8s_venv.runner.decoder import Decoder
    from k8s_venv.runner.encoder import Encoder
    from k8s_venv.runner.registry import Node

# Names of UTC, which every Python knows without a time zone database.
_UTC = frozenset(["UTC", "Etc/UTC", "GMT"])


def encode(encoder: Encoder, value: Any, depth: int) -> Optional[Node]:
    """Return the node for a single value, or None when it is of another type."""
    kind = type(value)
    if kind is complex:
        return {"$": "complex", "v": [repr(value.real), repr(value.imag)]}
    if kind is datetime.datetime or _is_pendulum(kind):
        node = {"$": "datetime", **_clock(value)}
        return node if kind is datetime.datetime else {**node, "pendulum": True}
    if kind is datetime.time:
        return {"$": "time", **_clock(value)}
    if kind is datetime.date:
        return {"$": "date", "v": value.isoformat()}
    if kind is datetime.timedelta:
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


def _is_pendulum(kind: type) -> bool:
    """Tell whether a type is the datetime that Airflow's own context uses."""
    return kind.__name__ == "DateTime" and kind.__module__.partition(".")[0] == "pendulum"


def _clock(value: Any) -> Node:
    if value.tzinfo is None and not value.fold:
        return {"v": value.isoformat()}
    node: Node = {"v": value.replace(tzinfo=None, fold=0).isoformat(), **encode_zone(value.tzinfo)}
    if value.fold:
        node["fold"] = 1
    return node


def encode_zone(tzinfo: Optional[datetime.tzinfo]) -> Node:
    """Return a zone's IANA name, or its fixed offset in seconds; nothing for no zone.

    Raises:
        NoCodecError: the zone has neither.
    """
    if tzinfo is None:
        return {}
    # Of zoneinfo and pendulum 3, and of pytz; pendulum 2 says it in `name`, where others put what they like.
    name = getattr(tzinfo, "key", None) or getattr(tzinfo, "zone", None)
    offset = tzinfo.utcoffset(None) if name is None else None
    if name is None and offset is None:
        name = getattr(tzinfo, "name", None)
    if name in _UTC:
        return {"offset": 0}
    if isinstance(name, str):
        return {"zone": name}
    if offset is None:
        kind = type(tzinfo)
        raise NoCodecError("", f"a time zone without a name ({kind.__module__}.{kind.__name__})")
    return {"offset": offset.total_seconds()}


def decode_zone(node: Node) -> Optional[datetime.tzinfo]:
    """Return the zone in a node, or None.

    Raises:
        MissingLibraryError: Python 3.8 needs ``backports.zoneinfo`` for named zones, and all need the database.
    """
    if "zone" in node:
        name = field(node, "zone", str)
        zoneinfo = library("zoneinfo", "backports.zoneinfo")
        try:
            return zoneinfo.ZoneInfo(name)  # type: ignore[no-any-return]
        except zoneinfo.ZoneInfoNotFoundError:
            if "UTC" in zoneinfo.available_timezones():
                raise MalformedError(f"no time zone {name[:80]!r} is known here") from None
            raise MissingLibraryError("tzdata") from None
    if "offset" not in node:
        return None
    if node["offset"] == 0:
        return datetime.timezone.utc
    return datetime.timezone(datetime.timedelta(seconds=node["offset"]))


def _decode_datetime(decoder: Decoder, node: Node) -> datetime.datetime:
    naive = datetime.datetime.fromisoformat(field(node, "v", str)).replace(fold=node.get("fold", 0))
    value = naive.replace(tzinfo=decode_zone(node))
    if not node.get("pendulum"):
        return value
    try:
        pendulum = library("pendulum")
    except MissingLibraryError:  # the standard type says the same instant in the same zone
        return value
    zone = pendulum.timezone(node["zone"]) if "zone" in node else value.tzinfo
    return pendulum.instance(naive, tz=zone)  # type: ignore[no-any-return]


def _decode_time(decoder: Decoder, node: Node) -> datetime.time:
    naive = datetime.time.fromisoformat(field(node, "v", str))
    return naive.replace(tzinfo=decode_zone(node), fold=node.get("fold", 0))


def _decode_timedelta(decoder: Decoder, node: Node) -> datetime.timedelta:
    days, seconds, microseconds = field(node, "v", list)
    return datetime.timedelta(days, seconds, microseconds)


def _decode_complex(decoder: Decoder, node: Node) -> complex:
    real, imaginary = field(node, "v", list)
    return complex(float(real), float(imaginary))


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
    "complex": _decode_complex,
    "datetime": _decode_datetime,
    "time": _decode_time,
    "date": lambda decoder, node: datetime.date.fromisoformat(field(node, "v", str)),
    "timedelta": _decode_timedelta,
    "decimal": _decode_decimal,
    "uuid": _decode_uuid,
    "path": _decode_path,
}
