"""A time stays the same instant, of any library's zone, in the hour that clocks show twice as well."""

from __future__ import annotations

import datetime
import sys
import zoneinfo
from typing import Any

import pytest

from k8s_venv.wire import values
from k8s_venv.wire.errors import NoCodecError

UTC = datetime.UTC
REPEATED = datetime.datetime(2024, 11, 3, 1, 30)  # New York's clocks show it twice
SKIPPED = datetime.datetime(2024, 3, 10, 2, 30)  # and never this


def round_trip(value: Any) -> Any:
    return values.loads(values.dumps(value))


# --- zones of the standard library --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "zone",
    [
        datetime.timezone(datetime.timedelta(hours=2), "CEST"),
        datetime.timezone(datetime.timedelta(0), "Z"),
        datetime.timezone(datetime.timedelta(0), ""),
        datetime.timezone(datetime.timedelta(seconds=-5, microseconds=1), "odd"),
        datetime.timezone(datetime.timedelta(hours=2)),
        UTC,
    ],
    ids=str,
)
def test_a_fixed_offset_keeps_its_name(zone: datetime.timezone) -> None:
    for value in (datetime.datetime(2024, 1, 2, tzinfo=zone), datetime.time(1, 2, tzinfo=zone)):
        assert round_trip(value) == value
        assert round_trip(value).tzname() == value.tzname()


def test_greenwich_stays_greenwich() -> None:
    value = round_trip(datetime.datetime(2024, 1, 2, tzinfo=zoneinfo.ZoneInfo("GMT")))
    assert (value.utcoffset(), value.tzname()) == (datetime.timedelta(0), "GMT")


def test_a_zone_whose_offset_changes_but_has_no_name_is_refused() -> None:
    class Shifting(datetime.tzinfo):
        def utcoffset(self, when: datetime.datetime | None) -> datetime.timedelta:
            return datetime.timedelta(hours=1 if when is None else when.month)

        def tzname(self, when: datetime.datetime | None) -> str:
            return "shifting"

        def dst(self, when: datetime.datetime | None) -> datetime.timedelta:
            return datetime.timedelta(0)

    with pytest.raises(NoCodecError, match="a time zone without a name"):
        values.dumps(datetime.datetime(2024, 7, 1, tzinfo=Shifting()))


def test_a_clock_that_a_test_library_stopped_changes_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    value = [datetime.datetime(2024, 1, 2, 3, 4, tzinfo=UTC), datetime.date(2024, 1, 2)]
    with monkeypatch.context() as stopped:
        stopped.setattr(datetime, "datetime", type("Stopped", (datetime.datetime,), {}))
        stopped.setattr(datetime, "date", type("StoppedDate", (datetime.date,), {}))
        data = values.dumps(value)
    assert values.loads(data) == value


# --- zones of other libraries -------------------------------------------------------------------------------


@pytest.mark.parametrize("fold", [0, 1])
def test_dateutil_zones_arrive_as_those_of_the_standard_library(fold: int) -> None:
    tz: Any = pytest.importorskip("dateutil.tz")
    value = REPEATED.replace(tzinfo=tz.gettz("America/New_York"), fold=fold)

    arrived = round_trip(value)

    assert arrived.tzinfo is zoneinfo.ZoneInfo("America/New_York")
    assert arrived.timestamp() == value.timestamp()


def test_dateutil_zones_with_one_offset_keep_it_and_its_name() -> None:
    tz: Any = pytest.importorskip("dateutil.tz")
    for zone in (tz.tzutc(), tz.UTC, tz.tzoffset("BRST", -7200), tz.tzoffset(None, 3600)):
        value = datetime.datetime(2024, 1, 2, tzinfo=zone)
        assert round_trip(value) == value
        assert round_trip(value).utcoffset() == value.utcoffset()
    assert round_trip(datetime.datetime(2024, 1, 2, tzinfo=tz.tzoffset("BRST", -7200))).tzname() == "BRST"


def test_dateutil_zones_without_a_name_are_refused() -> None:
    tz: Any = pytest.importorskip("dateutil.tz")
    with pytest.raises(NoCodecError, match=r"a time zone without a name \(dateutil"):
        values.dumps(datetime.datetime(2024, 7, 1, tzinfo=tz.tzstr("EST5EDT")))


# --- pendulum ------------------------------------------------------------------------------------------------


def pendulum_times() -> dict[str, Any]:
    pendulum: Any = pytest.importorskip("pendulum")
    start = pendulum.datetime(2024, 2, 29, tz="Europe/Berlin")
    return {
        "date": pendulum.date(2024, 2, 29),
        "time": pendulum.time(1, 2, 3, 4),
        "duration": pendulum.duration(days=2, seconds=3, microseconds=-4),
        "negative": pendulum.duration(days=-2, hours=5),
        "months": pendulum.duration(years=1, months=14, days=-3),
        "interval": pendulum.interval(start, start.add(months=1, hours=3)),
        "backwards": pendulum.interval(start.add(days=1), start),
        "absolute": pendulum.interval(start.add(days=1), start, absolute=True),
        "days": pendulum.interval(pendulum.date(2024, 1, 1), pendulum.date(2024, 3, 1)),
        "first": pendulum.instance(REPEATED.replace(fold=0), tz="America/New_York"),
        "second": pendulum.instance(REPEATED.replace(fold=1), tz="America/New_York"),
        "skipped": pendulum.DateTime(2024, 3, 10, 2, 30, tzinfo=pendulum.timezone("America/New_York")),
    }


def test_times_of_pendulum_stay_what_they_are() -> None:
    for name, value in pendulum_times().items():
        arrived = round_trip([value])[0]
        assert type(arrived) is type(value), name
        assert arrived == value, name
        assert repr(arrived) == repr(value), name
        if isinstance(value, datetime.datetime):
            assert (arrived.fold, arrived.utcoffset()) == (value.fold, value.utcoffset()), name


def test_without_pendulum_they_are_those_of_the_standard_library(monkeypatch: pytest.MonkeyPatch) -> None:
    written = {name: (value, values.dumps(value)) for name, value in pendulum_times().items()}
    monkeypatch.setitem(sys.modules, "pendulum", None)
    for name, (value, data) in written.items():
        arrived = values.loads(data)
        assert type(arrived).__module__ == "datetime", name
        if isinstance(value, datetime.timedelta):
            assert arrived.total_seconds() == value.total_seconds(), name
        else:
            assert arrived.isoformat() == value.isoformat(), name


@pytest.mark.parametrize("broken", [object(), type("Old", (), {"DateTime": None, "Date": 1, "timezone": 0})()])
def test_a_pendulum_that_cannot_say_it_breaks_nothing(broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    written = {name: (value, values.dumps(value)) for name, value in pendulum_times().items()}
    monkeypatch.setitem(sys.modules, "pendulum", broken)
    for name, (value, data) in written.items():
        assert type(values.loads(data)).__module__ == "datetime", name
        assert str(values.loads(data)) == str(value) or isinstance(value, datetime.timedelta), name
