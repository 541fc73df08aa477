"""The XCom contract: what Airflow alters is warned of, what it cannot store is refused, each with its path."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
from typing import Any

import pytest

from k8s_venv.errors import CallError
from tests.airflow_home import AIRFLOW, airflow_home

AIRFLOW_3 = AIRFLOW == "airflow.sdk"
only_3 = pytest.mark.skipif(not AIRFLOW_3, reason="Airflow 2 stores it")
only_2 = pytest.mark.skipif(AIRFLOW_3, reason="Airflow 3 stores it")
NONE = "None" if AIRFLOW_3 else "null"
HALF_PAST = datetime.timezone(datetime.timedelta(hours=2, minutes=30))
Point = collections.namedtuple("Point", "x y")


@dataclasses.dataclass
class Plain:
    x: int


class Level(enum.IntEnum):
    LOW = 1


@pytest.fixture
def check() -> Any:
    airflow_home()
    from k8s_venv.airflow.xcom import check_storable

    return lambda value: check_storable(value, "work")


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        -(2**63),
        1.5,
        "text",
        [1, [2]],
        {"a": {"b": (1, 2)}},
        {1, 2},
        datetime.datetime(2026, 1, 1),
        datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        decimal.Decimal("1.5"),
    ],
)
def test_what_airflow_keeps_passes(check: Any, value: object) -> None:
    assert check(value) == []


def test_frames_pass(check: Any) -> None:
    pandas = pytest.importorskip("pandas")

    assert check({"frame": pandas.DataFrame({"a": [1]})}) == []


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"counts": {1: "one"}}, "result['counts'] has the key 1: Airflow stores dictionary keys as text, here '1'."),
        (
            {"price": decimal.Decimal("1.10")},
            "result['price'] is Decimal('1.10'): Airflow stores decimals as floating-point numbers, here 1.1.",
        ),
        ({None: 1}, f"result has the key None: Airflow stores dictionary keys as text, here {NONE!r}."),
        (
            {1: "a", "1": "b"},
            "result has the key 1: Airflow stores dictionary keys as text, here '1', where it takes the place of "
            "another key.",
        ),
        (collections.Counter("a"), "result is a Counter: Airflow stores it as a plain dict."),
        ([Level.LOW], "result[0] is a Level: Airflow stores it as a plain int."),
        ([Point(1, 2)], "result[0] is a Point: Airflow stores named tuples as plain ones."),
    ],
)
def test_what_airflow_alters_is_told(check: Any, value: object, sentence: str) -> None:
    assert check(value) == [sentence]


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"data": b"bytes"}, "result['data'] is builtins.bytes"),
        pytest.param([1, 2**70], "result[1] is an integer of more than 64 bits", marks=only_3),
        pytest.param({"mean": float("nan")}, "result['mean'] is nan, which JSON cannot say", marks=only_3),
        pytest.param([decimal.Decimal("nan")], "result[0] is NaN, which JSON cannot say", marks=only_3),
        pytest.param(["a\ud800"], "result[0] is text with lone surrogates", marks=only_3),
        pytest.param({"a\ud800": 1}, "result has the key 'a\\ud800', which is no text", marks=only_3),
        pytest.param([{(1, 2): 3}], "result[0] has the key (1, 2), which is no text", marks=only_2),
        ({"__type": 1, "__var": 2}, "result is a dictionary with a key that Airflow keeps"),
        ({"__classname__": "x"}, "result is a dictionary with a key that Airflow keeps"),
        ([Plain(1)], "test_xcom.Plain, which Airflow could not read again"),
        ({"when": [1j]}, "result['when'][0] is builtins.complex"),
        ({"at": datetime.datetime(2026, 1, 1, tzinfo=HALF_PAST)}, "result['at'] is datetime.datetime in the zone UTC+"),
        ([b"one", 1, 1j], "result[0] is builtins.bytes; result[2] is builtins.complex."),
        ([b""] * 12, "result[9] is builtins.bytes; and 2 more parts."),
    ],
)
def test_what_airflow_cannot_store_is_refused(check: Any, value: object, place: str) -> None:
    with pytest.raises(CallError) as caught:
        check(value)

    assert place in str(caught.value)
    assert 'result="reference"' in str(caught.value)


def test_arrays_are_refused_with_the_way_out(check: Any) -> None:
    numpy = pytest.importorskip("numpy")

    with pytest.raises(CallError, match=r"result\['x'\] is numpy\.ndarray.*tolist"):
        check({"x": numpy.arange(3)})
