"""Time zones, and times in them: the instant is what must not change, in the repeated hour of a year as well."""

from __future__ import annotations

import datetime

from k8s_venv.wire.decoder import field
from k8s_venv.wire.errors import MalformedError, MissingLibraryError, NoCodecError
from k8s_venv.wire.libraries import library

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional

    from k8s_venv.wire.registry import Node

# Names of UTC, which every Python knows without a time zone database.
_UTC = frozenset(["UTC", "Etc/UTC", "GMT"])
_DAY = datetime.timedelta(days=1)


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
