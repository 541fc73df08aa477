"""Codecs for dates, times and durations, of the standard library and of pendulum, which Airflow's own context has.

The instant of a time in a zone is what must not change, in the repeated hour of a year as well. On the wire times of
pendulum are those of the standard library, with a mark. A side without pendulum, or with a version that cannot hold
them as they are, makes those of the standard library.
"""

from __future__ import annotations

import datetime
import importlib

from k8s_venv.wire.decoder import field
from k8s_venv.wire.errors import MalformedError, MissingLibraryError, NoCodecError
from k8s_venv.wire.registry import library

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional

    from k8s_venv.wire.decoder import Decoder
    from k8s_venv.wire.encoder import Encoder
    from k8s_venv.wire.registry import Node

# Names of UTC, which every Python knows without a time zone database.
_UTC = frozenset(["UTC", "Etc/UTC", "GMT"])
_DAY = datetime.timedelta(days=1)
# As pendulum 3 and 2 call an interval; pendulum 1 calls a duration so.
_INTERVALS = ("Interval", "Period")


def encode(encoder: Encoder, value: Any, depth: int) -> Optional[Node]:
    """Return the node for a date, time or duration, or None for a value of another type."""
    kind = type(value)
    # By its name: libraries that stop the clock put their own types into the module.
    name = kind.__name__
    if kind.__module__ != "datetime":
        return _encode_pendulum(encoder, value, name, depth)
    if name in ("datetime", "time"):
        return {"$": name, **encode_clock(value)}
    if name == "date":
        return {"$": "date", "v": value.isoformat()}
    if name == "timedelta":
        return {"$": "timedelta", "v": _length(value)}
    return None


# --- zones ------------------------------------------------------------------------------------------------


def encode_clock(value: Any) -> Node:
    """Return what a time or a datetime shows, and its zone.

    Raises:
        NoCodecError: its zone has neither a name nor one offset.
    """
    fold, tzinfo, naive = value.fold, value.tzinfo, _naive(value)
    node: Node = {"v": naive.isoformat()}
    if tzinfo is not None:
        zone = encode_zone(tzinfo)
        offset = value.utcoffset()
        if "zone" in zone and hasattr(value, "year") and not hasattr(tzinfo, "key"):
            # Other libraries count otherwise what a clock shows twice, or never.
            if not _shows(tzinfo, naive, offset):
                zone = _fixed(offset, value.tzname())
            elif hasattr(tzinfo, "localize"):  # of pytz, which has no fold
                fold = int(_is_second(tzinfo, naive, offset))
        elif "offset" in zone and offset is not None and offset.total_seconds() != zone["offset"]:
            raise NoCodecError("", _without_name(tzinfo))
        node.update(zone)
    if fold:
        node["fold"] = 1
    return node


def _naive(value: Any) -> Any:
    clock = (value.hour, value.minute, value.second, value.microsecond)
    if hasattr(value, "year"):
        return datetime.datetime(value.year, value.month, value.day, *clock)
    return datetime.time(*clock)


def encode_zone(tzinfo: Optional[datetime.tzinfo]) -> Node:
    """Return a zone's IANA name, or its fixed offset in seconds; nothing for no zone.

    Raises:
        NoCodecError: the zone has neither.
    """
    if tzinfo is None:
        return {}
    name = _name(tzinfo)
    offset = tzinfo.utcoffset(None) if name is None else None
    if name is None and offset is None:
        name = getattr(tzinfo, "name", None)  # of pendulum 2; others put there what they like
    if name in _UTC:
        return _fixed(datetime.timedelta(0), "GMT" if name == "GMT" else None)
    if isinstance(name, str):
        return {"zone": name}
    if offset is None:
        raise NoCodecError("", _without_name(tzinfo))
    return _fixed(offset, tzinfo.tzname(None))


def _name(tzinfo: Any) -> Optional[str]:
    # Of zoneinfo and pendulum 3, and of pytz.
    name: Any = getattr(tzinfo, "key", None) or getattr(tzinfo, "zone", None)
    if name is None and type(tzinfo).__module__.startswith("dateutil."):
        file = str(getattr(tzinfo, "_filename", ""))
        name = file.rpartition("/zoneinfo/")[2]
        if not name or name.startswith("/") or "(" in name:  # such as /etc/localtime, or a stream
            return None
    return name if isinstance(name, str) else None


def _fixed(offset: Any, name: Optional[str]) -> Node:
    node: Node = {"offset": offset.total_seconds() or 0}
    if isinstance(name, str) and name != datetime.timezone(offset).tzname(None):
        node["tzname"] = name
    return node


def _without_name(tzinfo: Any) -> str:
    return f"a time zone without a name ({type(tzinfo).__module__}.{type(tzinfo).__name__})"


def _shows(tzinfo: Any, naive: datetime.datetime, offset: Any) -> bool:
    """Return whether clocks of a zone show a time at the instant that it stands for."""
    try:
        shown = tzinfo.fromutc((naive - offset).replace(tzinfo=tzinfo))
    except OverflowError:
        return True
    return bool(shown.replace(tzinfo=None, fold=0) == naive)


def _is_second(tzinfo: Any, naive: datetime.datetime, offset: Any) -> bool:
    """Return whether clocks of a zone of pytz showed a time once before."""
    try:
        before = tzinfo.fromutc((naive - offset - _DAY).replace(tzinfo=tzinfo)).utcoffset()
    except OverflowError:
        return False
    return bool(before > offset and _shows(tzinfo, naive, before))


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
    offset = datetime.timedelta(seconds=node["offset"])
    if "tzname" in node:
        return datetime.timezone(offset, field(node, "tzname", str))
    return datetime.timezone(offset) if offset else datetime.timezone.utc


# --- the standard library ---------------------------------------------------------------------------------


def _decode_datetime(decoder: Decoder, node: Node) -> Any:
    naive = datetime.datetime.fromisoformat(field(node, "v", str)).replace(fold=node.get("fold", 0))
    try:
        return _as_pendulum(decoder, node, naive.replace(tzinfo=decode_zone(node)))
    except MissingLibraryError:  # pendulum knows zones of its own
        value = _as_pendulum(decoder, node, naive)
        if value is naive:
            raise
        return value


def _decode_time(decoder: Decoder, node: Node) -> Any:
    naive = datetime.time.fromisoformat(field(node, "v", str))
    return _as_pendulum(decoder, node, naive.replace(tzinfo=decode_zone(node), fold=node.get("fold", 0)))


def _decode_date(decoder: Decoder, node: Node) -> Any:
    return _as_pendulum(decoder, node, datetime.date.fromisoformat(field(node, "v", str)))


def _decode_timedelta(decoder: Decoder, node: Node) -> Any:
    days, seconds, microseconds = field(node, "v", list)
    return _as_pendulum(decoder, node, datetime.timedelta(days, seconds, microseconds))


DECODERS: Dict[str, Callable[[Decoder, Node], Any]] = {
    "datetime": _decode_datetime,
    "time": _decode_time,
    "date": _decode_date,
    "timedelta": _decode_timedelta,
}


# --- pendulum ---------------------------------------------------------------------------------------------


def _encode_pendulum(encoder: Encoder, value: Any, name: str, depth: int) -> Optional[Node]:
    if name in ("DateTime", "Pendulum"):
        return {"$": "datetime", **encode_clock(value), "pendulum": True}
    if name == "Time":
        return {"$": "time", **encode_clock(value), "pendulum": True}
    if name == "Date":
        return {"$": "date", "v": value.isoformat(), "pendulum": True}
    if name in _INTERVALS and hasattr(value, "start"):
        start, end, absolute = value.__reduce__()[1]
        ends = {"start": encoder.node(start, depth + 1), "end": encoder.node(end, depth + 1)}
        return {"$": "timedelta", "v": _length(value), "pendulum": {**ends, "absolute": bool(absolute)}}
    if name == "Duration":
        return {"$": "timedelta", "v": _length(value), "pendulum": {"years": value.years, "months": value.months}}
    return None


def _length(value: Any) -> Any:
    """Return days, seconds and microseconds of a duration; pendulum's own attributes leave out months and years."""
    kind: Any = datetime.timedelta
    return [getattr(kind, name).__get__(value) for name in ("days", "seconds", "microseconds")]


def _as_pendulum(decoder: Decoder, node: Node, value: Any) -> Any:
    """Return pendulum's own for a time, if the node asks for it and this side has it; else the time as it is.

    Args:
        decoder: reads the ends of an interval.
        node: the node that the time was read from.
        value: the time; a datetime without its zone where that needs a library that is not here.
    """
    if not node.get("pendulum"):
        return value
    try:
        return _PENDULUM[node["$"]](importlib.import_module("pendulum"), decoder, node, value)
    except Exception:  # noqa: BLE001 -- each version of pendulum refuses in its own way
        return value


def _pendulum_datetime(pendulum: Any, decoder: Decoder, node: Node, value: Any) -> Any:
    clock = (value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond)
    made = pendulum.DateTime(*clock, tzinfo=_pendulum_zone(pendulum, node), fold=value.fold)
    # A time that a zone skips is another instant to pendulum 2.
    return value if value.tzinfo is not None and made.utcoffset() != value.utcoffset() else made


def _pendulum_time(pendulum: Any, decoder: Decoder, node: Node, value: Any) -> Any:
    clock = (value.hour, value.minute, value.second, value.microsecond)
    return pendulum.Time(*clock, tzinfo=_pendulum_zone(pendulum, node), fold=value.fold)


def _pendulum_zone(pendulum: Any, node: Node) -> Any:
    if "zone" in node:
        return pendulum.timezone(node["zone"])
    if "offset" not in node:
        return None
    if node["offset"] == 0 and "tzname" not in node:
        return pendulum.timezone("UTC")
    if node["offset"] % 1:
        raise ValueError("pendulum's zones count in seconds")
    return pendulum.tz.timezone.FixedTimezone(int(node["offset"]), node.get("tzname"))


def _pendulum_timedelta(pendulum: Any, decoder: Decoder, node: Node, value: Any) -> Any:
    wanted = node["pendulum"]
    if "start" in wanted:
        kind = next(getattr(pendulum, name) for name in _INTERVALS if hasattr(pendulum, name))
        made = kind(decoder.value(wanted["start"]), decoder.value(wanted["end"]), wanted["absolute"])
    else:
        years, months = wanted["years"], wanted["months"]
        days = value.days - 365 * years - 30 * months
        made = pendulum.Duration(days, value.seconds, value.microseconds, years=years, months=months)
    return made if _length(made) == _length(value) else value


_PENDULUM: Dict[str, Callable[[Any, Decoder, Node, Any], Any]] = {
    "datetime": _pendulum_datetime,
    "time": _pendulum_time,
    "date": lambda pendulum, decoder, node, value: pendulum.Date(value.year, value.month, value.day),
    "timedelta": _pendulum_timedelta,
}
