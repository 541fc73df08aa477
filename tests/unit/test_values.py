"""Values come out as they went in."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import ipaddress
import json
import math
import pathlib
import pickle
import re
import subprocess
import sys
import uuid
import zoneinfo
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k8s_venv.runtime import register_codec
from k8s_venv.wire import values
from k8s_venv.wire.errors import (
    MalformedError,
    MissingLibraryError,
    NoCodecError,
    UnknownCodecError,
    UnknownTypeError,
)
from k8s_venv.wire.registry import MAX_DEPTH
from k8s_venv.wire.shipped_types import resolver
from tests.interpreters import CHECKOUT


def round_trip(value: Any) -> Any:
    return values.loads(values.dumps(value))


def same(one: Any, other: Any) -> bool:
    """Return whether two values are equal to the last bit, with their types, order and NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return one.hex() == float(other).hex()
    if isinstance(one, complex):
        return same(one.real, other.real) and same(one.imag, other.imag)
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()))
    if isinstance(one, list | tuple | collections.deque):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, decimal.Decimal):
        return str(one) == str(other)
    if isinstance(one, datetime.datetime | datetime.time):
        zones = one.tzinfo is None if other.tzinfo is None else one.utcoffset() == other.utcoffset()
        return zones and one.replace(tzinfo=None) == other.replace(tzinfo=None) and one.fold == other.fold
    return bool(one == other)


offsets = st.timedeltas(datetime.timedelta(hours=-23, minutes=-59), datetime.timedelta(hours=23, minutes=59))
zones = st.none() | st.timezones() | offsets.map(datetime.timezone)
texts = st.text(st.characters())
hashables = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers().map(lambda number: number << 15000)
    | st.floats(allow_nan=False)
    | texts
    | st.just("$")
    | st.binary(max_size=20)
    | st.dates()
    | st.datetimes(timezones=zones, allow_imaginary=False)
    | st.times(timezones=offsets.map(datetime.timezone))
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.complex_numbers(allow_nan=False)
    | st.sampled_from([pathlib.Path("/a/b"), pathlib.PurePosixPath("a b"), pathlib.PureWindowsPath("c:\\x\\y")]),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)
anything = st.recursive(
    hashables
    | st.floats()
    | st.complex_numbers()
    | st.decimals()
    | st.binary(max_size=20).map(bytearray)
    | st.sampled_from([decimal.Decimal("sNaN12"), decimal.Decimal("-0.00"), decimal.Decimal("1E+99999")]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.sets(hashables, max_size=4)
        | st.dictionaries(hashables, inner, max_size=4)
        | st.dictionaries(texts, inner, max_size=4)
        | st.dictionaries(texts, inner, max_size=4).map(collections.OrderedDict)
        | st.lists(inner, max_size=4).map(lambda items: collections.deque(items, 3))
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(anything)
def test_any_plain_value_comes_out_as_it_went_in(value: Any) -> None:
    assert same(round_trip(value), value)


@settings(max_examples=100, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts, st.lists))
def test_plain_json_comes_out_as_it_went_in(value: Any) -> None:
    assert same(round_trip({"value": value}), {"value": value})


@pytest.mark.parametrize(
    "value",
    [
        10**4301,
        -(16**5000),
        -0.0,
        math.nan,
        -math.inf,
        "\ud800",
        "\ud800\udc00",  # two lone surrogates, not the character that they spell in UTF-16
        "\U0001f40d",
        {"\udfff": 1},
        {"$": "tuple", "v": [1]},
        {1: "int", "1": "str", (): "tuple", None: "none"},
        {True: 1, 2.5: {"a": (1, [2, {3}])}},
        [[], (), {}, set(), frozenset(), "", b""],
        complex(-0.0, math.inf),
        datetime.datetime(2020, 10, 25, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
        datetime.datetime(1, 1, 1, tzinfo=datetime.timezone(-datetime.timedelta(seconds=7, microseconds=9))),
        datetime.time(1, 2, 3, 4, fold=1, tzinfo=zoneinfo.ZoneInfo("Asia/Kolkata")),
        datetime.timedelta.min,
        decimal.Decimal("-NaN123"),
        collections.Counter({"a": 2, "b": -1}),
        collections.defaultdict(list, {"a": [1]}),
        collections.defaultdict(None, {1: 2}),
        collections.deque([1, 2], 5),
    ],
    ids=lambda value: type(value).__name__,
)
def test_special_values_come_out_as_they_went_in(value: Any) -> None:
    assert same(round_trip(value), value)
    assert same(round_trip({"in": [(value,)]}), {"in": [(value,)]})


@pytest.mark.parametrize(
    "value",
    [
        range(3),
        range(5, -(10**30), -7),
        slice(None, 5, (1, 2)),
        fractions.Fraction(-3, 7),
        ipaddress.ip_address("10.0.0.1"),
        ipaddress.ip_address("fe80::1%eth0"),
        ipaddress.ip_network("10.0.0.0/8"),
        ipaddress.ip_interface("::1/64"),
        re.compile(r"(?P<a>x)+\d", re.VERBOSE | re.IGNORECASE),
        re.compile(b"[a-z]", re.MULTILINE),
        re.compile("[\U0001f600-\U0001f64f\u2600-\u26ff]"),
        collections.defaultdict(collections.OrderedDict, {1: collections.OrderedDict(a=1)}),
        collections.defaultdict(collections.Counter),
    ],
    ids=repr,
)
def test_more_of_the_standard_library_comes_out_as_it_went_in(value: Any) -> None:
    assert round_trip(value) == value
    assert type(round_trip([value])[0]) is type(value)
    assert getattr(round_trip(value), "default_factory", None) is getattr(value, "default_factory", None)


def with_a_note(error: Exception) -> Exception:
    error.add_note("seen twice")
    return error


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x", 1),
        KeyError((1, 2)),
        FileNotFoundError(2, "No such file", "/a", None, "/b"),
        ModuleNotFoundError("no module", name="a", path="/a"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        StopIteration(5),
        SystemExit(3),
        ExceptionGroup("both", [ValueError(1), TypeError("x")]),
        with_a_note(RuntimeError("late")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_exceptions_are_values_as_pickle_keeps_them(error: BaseException) -> None:
    decoded, pickled = round_trip([error])[0], pickle.loads(pickle.dumps(error))

    assert type(decoded) is type(error)
    assert (repr(decoded), str(decoded)) == (repr(pickled), str(pickled))
    assert vars(decoded) == vars(pickled)
    for name in ("errno", "filename", "filename2", "name", "path", "value", "code", "object"):
        assert getattr(decoded, name, None) == getattr(pickled, name, None)


def test_regular_expressions_that_take_long_to_compile_are_refused() -> None:
    wide = re.compile("[\x00-\uffff]" * 9)
    round_trip(wide)
    with pytest.raises(NoCodecError, match=r"\[\d+\]: a regular expression that is too long"):
        values.dumps([wide] * 40)
    with pytest.raises(NoCodecError, match="too long"):
        values.dumps(re.compile("a" * 20_001))


def test_zones_keep_their_names_and_utc_needs_no_database() -> None:
    berlin = round_trip(datetime.datetime(2020, 7, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")))
    utc = round_trip(datetime.datetime(2020, 7, 1, tzinfo=zoneinfo.ZoneInfo("UTC")))

    assert berlin.tzinfo is zoneinfo.ZoneInfo("Europe/Berlin")
    assert utc.tzinfo is datetime.UTC


def test_a_defaultdict_goes_on_making_defaults() -> None:
    value = round_trip(collections.defaultdict(list))
    value["new"].append(1)
    assert value == {"new": [1]}


def test_deque_keeps_its_bound() -> None:
    assert round_trip(collections.deque([1, 2], 7)).maxlen == 7


def test_airflows_own_datetime_stays_one() -> None:
    pendulum = pytest.importorskip("pendulum")
    for value in (
        pendulum.datetime(2020, 10, 25, 2, 30, tz="Europe/Berlin", fold=1),
        pendulum.datetime(2020, 1, 1, tz="UTC"),
        pendulum.datetime(2020, 1, 1, tz=5.5),
        pendulum.naive(2020, 1, 1),
    ):
        decoded = round_trip(value)
        assert type(decoded) is type(value)
        assert same(decoded, value)
        assert decoded.timezone_name == value.timezone_name


# --- what cannot travel -----------------------------------------------------------------------------------


class OwnText(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (object(), ""),
        ({"model": [1, {"tree": object()}]}, "['model'][1]['tree']"),
        ([(1, object())], "[0][1]"),
        ({1: object()}, "[1]"),
        ({"a": OwnText("x")}, "['a']"),
        ([collections.OrderedDict(a=object())], "[0]['a']"),
        (collections.defaultdict(lambda: 1), ""),
        ({10**5000: object()}, "[<int>]"),
    ],
    ids=lambda part: type(part).__name__,
)
def test_what_has_no_codec_is_named_with_its_place(value: Any, path: str) -> None:
    with pytest.raises(NoCodecError) as caught:
        values.dumps(value)
    assert caught.value.path == path


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop += [loop, loop]
    with pytest.raises(NoCodecError, match="containing itself"):
        values.dumps(loop)


def test_the_deepest_value_that_is_accepted_is_also_read() -> None:
    value: Any = object()
    for _ in range(10 * MAX_DEPTH):
        value = [value]
    with pytest.raises(NoCodecError, match="nested more than"):
        values.dumps(value)
    for wrap in (lambda inner: [inner], lambda inner: {(1,): inner}):
        value = 1
        for _ in range(MAX_DEPTH - 1):
            value = wrap(value)
        assert round_trip(value) == value


def test_a_pickled_part_is_read_only_by_who_accepts_it() -> None:
    data = values.dumps({"a": OwnText("x")}, lambda value: str(value).encode())

    assert values.loads(data, lambda part: bytes(part).decode()) == {"a": "x"}
    with pytest.raises(MalformedError, match="pickled"):
        values.loads(data)


def test_what_unpickling_raises_is_passed_on() -> None:
    def unpickle(part: memoryview) -> Any:
        raise ModuleNotFoundError("no sklearn", name="sklearn")

    data = values.dumps([object()], lambda value: b"pickle")
    with pytest.raises(ModuleNotFoundError, match="no sklearn"):
        values.loads(data, unpickle)


# --- types of the modules that travel with the call -------------------------------------------------------


class Colour(enum.Enum):
    RED = "r"
    ALIAS = "r"
    BLUE = ("b", 1)


class Level(enum.IntEnum):
    LOW = 1


class Permission(enum.Flag):
    READ = 1
    WRITE = 2
    EXECUTE = 4


class Mode(enum.IntFlag):
    READ = 1
    WRITE = 2


class RefusedError(OSError):
    def __init__(self, reason: str, code: int) -> None:
        super().__init__(f"{reason}, {code}")
        self.code = code


class Point(NamedTuple):
    x: int
    y: Any = None


@dataclasses.dataclass
class Base:
    name: str
    _: dataclasses.KW_ONLY
    computed: int = dataclasses.field(init=False, default=7)

    @functools.cached_property
    def slow(self) -> str:
        return self.name * 2


@dataclasses.dataclass
class Child(Base):
    points: list[Any] = dataclasses.field(default_factory=list)
    check: dataclasses.InitVar[int] = 1

    def __post_init__(self, check: int) -> None:
        assert check, "decoding must not run this again"
        self.computed += 1


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    key: Any


class Outer:
    @dataclasses.dataclass
    class Inner:
        value: Any


SHIPPED = resolver({__name__})


@pytest.mark.parametrize(
    "value",
    [
        Colour.RED,
        Colour.ALIAS,
        Colour.BLUE,
        Level.LOW,
        Permission.READ,
        Permission.READ | Permission.EXECUTE,
        Permission(0),
        Point(1, Colour.RED),
        Base("a"),
        Child("a", points=[Point(1), Outer.Inner(b"x")]),
        Frozen((1, 2)),
        Outer.Inner({Point(1, 2): {Colour.RED}, Frozen(1): 1}),
    ],
    ids=repr,
)
def test_instances_of_shipped_types_come_out_as_they_went_in(value: Any) -> None:
    decoded = values.loads(values.dumps([value], types=SHIPPED), types=SHIPPED)[0]

    assert decoded == value
    assert type(decoded) is type(value)
    if isinstance(value, enum.Enum):
        assert decoded is value


def test_a_cached_property_is_made_again() -> None:
    value = Base("a")
    assert value.slow == "aa"
    decoded = values.loads(values.dumps(value, types=SHIPPED), types=SHIPPED)
    assert "slow" not in vars(decoded)
    assert decoded.slow == "aa"


def test_an_attribute_that_is_no_field_travels_as_well() -> None:
    value = Child("a")
    vars(value).update(extra=[1], _more={2})
    decoded = values.loads(values.dumps(value, types=SHIPPED), types=SHIPPED)

    assert decoded == value
    assert vars(decoded) == vars(value)
    vars(value)["extra"] = object()
    with pytest.raises(NoCodecError, match=r"\['a'\]\.extra: builtins.object"):
        values.dumps({"a": value}, types=SHIPPED)


@pytest.mark.parametrize("value", [Mode(5), Mode(8), Mode.READ | 64, Mode(0)], ids=repr)
def test_bits_without_a_name_stay_in_a_flag(value: Mode) -> None:
    decoded = values.loads(values.dumps([value], types=SHIPPED), types=SHIPPED)[0]
    assert (type(decoded), int(decoded)) == (Mode, int(value))


def test_exceptions_that_travel_keep_their_arguments_and_attributes() -> None:
    value = RefusedError("no", 5)
    decoded = values.loads(values.dumps({"a": value}, types=SHIPPED), types=SHIPPED)["a"]

    assert type(decoded) is RefusedError
    assert (decoded.args, decoded.code, str(decoded)) == (value.args, 5, str(value))
    with pytest.raises(NoCodecError, match=r"RefusedError"):
        values.dumps(value)
    with pytest.raises(UnknownTypeError, match="did not travel"):
        values.loads(values.dumps(value, types=SHIPPED))


def test_types_that_did_not_travel_are_refused_on_both_sides() -> None:
    with pytest.raises(NoCodecError, match=r"test_values\.Point"):
        values.dumps(Point(1))
    with pytest.raises(UnknownTypeError, match=r"Point, which did not travel with the call"):
        values.loads(values.dumps(Point(1), types=SHIPPED))


@pytest.mark.parametrize("name", ["json.JSONDecoder", "os.PathLike", "collections.OrderedDict", "pathlib.Path"])
def test_the_resolver_finds_nothing_that_a_module_only_imported(name: str) -> None:
    module, _, kind = name.partition(".")
    assert SHIPPED(module, kind) is None
    assert SHIPPED(__name__, kind) is None
    assert SHIPPED(__name__, f"{module}.{kind}") is None


def test_the_resolver_looks_into_given_namespaces() -> None:
    find = resolver((), {__name__: {"Point": Point, "Path": pathlib.Path}})
    assert find(__name__, "Point") is Point
    assert find(__name__, "Path") is None
    assert find("os", "PathLike") is None


@pytest.mark.parametrize(
    ("value", "now", "problem"),
    [
        (Point(1), NamedTuple("Point", [("x", int)]), r"has the fields \['x'\] on this side"),
        (Point(1), Base, "is no named tuple on this side"),
        (Base("a"), Point, "is no dataclass on this side"),
        (Base("a"), dataclasses.make_dataclass("Base", ["other"]), r"has the fields \['other'\]"),
        (Colour.RED, Level, "has no member 'RED'"),
        (Colour.RED, Point, "has no member 'RED'"),
        (Permission.READ, Point, "is no flag"),
    ],
    ids=repr,
)
def test_a_type_that_is_another_one_here_is_refused(value: Any, now: Any, problem: str) -> None:
    data = values.dumps(value, types=SHIPPED)
    with pytest.raises(UnknownTypeError, match=problem):
        values.loads(data, types=lambda module, name: now)


# --- users' own codecs ------------------------------------------------------------------------------------


class Money:
    def __init__(self, cents: int) -> None:
        self.cents = cents


def test_a_registered_codec_carries_a_type_of_the_users() -> None:
    register_codec(Money, "test.money", lambda money: {"cents": money.cents}, lambda plain: Money(plain["cents"]))
    decoded = round_trip([Money(5)])[0]
    assert (type(decoded), decoded.cents) == (Money, 5)


def test_a_later_registration_replaces_the_earlier() -> None:
    class Newer(Money):
        pass

    register_codec(Money, "test.replaced", lambda money: money.cents, Money)
    register_codec(Newer, "test.replaced", lambda money: money.cents, Newer)
    assert type(round_trip(Newer(1))) is Newer
    with pytest.raises(NoCodecError):
        values.dumps(Money(1))


def test_a_codec_that_is_not_registered_here_is_named() -> None:
    data = values.dumps(1).replace(b'"value":1', b'"value":{"$":"custom","name":"test.unknown","v":1}')
    head = data[13:]
    with pytest.raises(UnknownCodecError, match=r"'test\.unknown', which is not registered here"):
        values.loads(data[:5] + len(head).to_bytes(8, "big") + head)


def test_a_codec_that_fails_is_named() -> None:
    def fail(value: Any) -> Any:
        raise ZeroDivisionError("oops")

    register_codec(Money, "test.failing", fail, fail)
    with pytest.raises(NoCodecError, match=r"codec 'test\.failing' failed \(oops\)"):
        values.dumps(Money(1))
    register_codec(Money, "test.failing", lambda money: 1, fail)
    with pytest.raises(MalformedError, match=r"the codec 'test\.failing' failed: ZeroDivisionError: oops"):
        round_trip(Money(1))


def test_a_library_that_a_codec_misses_is_named() -> None:
    def need(plain: Any) -> Any:
        raise MissingLibraryError("moneylib")

    register_codec(Money, "test.needy", lambda money: 1, need)
    with pytest.raises(MissingLibraryError, match="needs moneylib"):
        round_trip(Money(1))


# --- cost -------------------------------------------------------------------------------------------------


def test_importing_the_codecs_loads_nothing_that_a_plain_value_does_not_need() -> None:
    code = """
import json, struct, sys
from k8s_venv.wire import values
values.loads(values.dumps({"args": [1, "a", {"b": [1.5, None]}], "kwargs": {}}))
print(json.dumps(sorted(sys.modules)))
"""
    output = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True
    ).stdout
    loaded = set(json.loads(output))
    assert not loaded & {"datetime", "decimal", "uuid", "pathlib", "dataclasses", "inspect", "numpy", "pandas"}
    codecs = {"arrays", "frames", "masking", "restoring", "shipped_types", "standard", "times"}
    assert not {f"k8s_venv.wire.{name}" for name in codecs} & loaded


def test_bytes_are_not_copied_by_the_encoder() -> None:
    large = bytearray(1000)
    assert any(part is large for part in values.dump_parts({"a": [large]}))


def test_uuid_from_any_source() -> None:
    assert round_trip(uuid.uuid1()).variant == uuid.RFC_4122
