"""The times of pendulum, which Airflow's own context has: read as themselves where this side's pendulum can.

On the wire they are times of the standard library that ask for pendulum's type. A side without pendulum, or with one
that is too old to hold them as they are, makes those of the standard library.
"""

from __future__ import annotations

import datetime
import importlib

from k8s_venv.wire.zones import encode_clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional

    from k8s_venv.wire.decoder import Decoder
    from k8s_venv.wire.encoder import Encoder
    from k8s_venv.wire.registry import Node

_PERIODS = ("Interval", "Period")  # as pendulum 3 and 2 call them; pendulum 1 calls a duration an interval


def encode(encoder: Encoder, value: Any, depth: int) -> Optional[Node]:
    """Return the node for a time of pendulum, or None when it is of another type."""
    name = type(value).__name__
    if name in ("DateTime", "Pendulum"):
        return {"$": "datetime", **encode_clock(value), "pendulum": True}
    if name == "Time":
        return {"$": "time", **encode_clock(value), "pendulum": True}
    if name == "Date":
        return {"$": "date", "v": value.isoformat(), "pendulum": True}
    if name in _PERIODS and hasattr(value, "start"):
        start, end, absolute = value.__reduce__()[1]
        ends = {"start": encoder.node(start, depth + 1), "end": encoder.node(end, depth + 1)}
        return {"$": "timedelta", "v": _parts(value), "pendulum": {**ends, "absolute": bool(absolute)}}
    if name == "Duration":
        return {"$": "timedelta", "v": _parts(value), "pendulum": {"years": value.years, "months": value.months}}
    return None


def _parts(value: Any) -> Any:
    """Return what a duration is to the standard library; pendulum's own attributes leave out months and years."""
    kind: Any = datetime.timedelta
    return [getattr(kind, name).__get__(value) for name in ("days", "seconds", "microseconds")]


def as_pendulum(decoder: Decoder, node: Node, value: Any) -> Any:
    """Return pendulum's own for a time of the standard library, which stays as it is where pendulum cannot say it.

    Args:
        decoder: reads the ends of an interval.
        node: the node that the time was read from.
        value: the time; a datetime without its zone where that needs a library that is not here.
    """
    try:
        return _MAKE[node["$"]](importlib.import_module("pendulum"), decoder, node, value)
    except Exception:  # noqa: BLE001 -- each version of pendulum refuses in its own way
        return value


def _datetime(pendulum: Any, decoder: Decoder, node: Node, value: Any) -> Any:
    clock = (value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond)
    made = pendulum.DateTime(*clock, tzinfo=_zone(pendulum, node), fold=value.fold)
    # A time that a zone skips is another instant to pendulum 2.
    return value if value.tzinfo is not None and made.utcoffset() != value.utcoffset() else made


def _time(pendulum: Any, decoder: Decoder, node: Node, value: Any) -> Any:
    clock = (value.hour, value.minute, value.second, value.microsecond)
    return pendulum.Time(*clock, tzinfo=_zone(pendulum, node), fold=value.fold)


def _zone(pendulum: Any, node: Node) -> Any:
    if "zone" in node:
        return pendulum.timezone(node["zone"])
    if "offset" not in node:
        return None
    if node["offset"] == 0 and "tzname" not in node:
        return pendulum.timezone("UTC")
    if node["offset"] % 1:
        raise ValueError("pendulum's zones count in seconds")
    return pendulum.tz.timezone.FixedTimezone(int(node["offset"]), node.get("tzname"))


def _timedelta(pendulum: Any, decoder: Decoder, node: Node, value: Any) -> Any:
    wanted = node["pendulum"]
    if "start" in wanted:
        kind = next(getattr(pendulum, name) for name in _PERIODS if hasattr(pendulum, name))
        made = kind(decoder.value(wanted["start"]), decoder.value(wanted["end"]), wanted["absolute"])
    else:
        years, months = wanted["years"], wanted["months"]
        days = value.days - 365 * years - 30 * months
        made = pendulum.Duration(days, value.seconds, value.microseconds, years=years, months=months)
    return made if _parts(made) == _parts(value) else value


_MAKE: Dict[str, Callable[[Any, Decoder, Node, Any], Any]] = {
    "datetime": _datetime,
    "time": _time,
    "date": lambda pendulum, decoder, node, value: pendulum.Date(value.year, value.month, value.day),
    "timedelta": _timedelta,
}
