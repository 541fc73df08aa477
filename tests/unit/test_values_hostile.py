"""Whatever a document says, reading it ends in a value or in one of our own errors, and soon."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import decimal
import enum
import fractions
import ipaddress
import json
import pathlib
import re
import tracemalloc
import uuid
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k8s_venv.wire import values
from k8s_venv.wire.errors import MalformedError, MissingLibraryError, NoCodecError
from k8s_venv.wire.registry import MODULE_OF_NAME, codec_module
from k8s_venv.wire.shipped_types import resolver


class Colour(enum.Flag):
    RED = 1
    BLUE = 2


class Point(NamedTuple):
    x: Any


@dataclasses.dataclass
class Thing:
    field: Any


def _with_an_attribute(thing: Thing) -> Thing:
    vars(thing)["more"] = (1,)
    return thing


class Bits(enum.IntFlag):
    ONE = 1


class SetError(Exception):
    ran = 0

    @property
    def code(self) -> int:
        return 1

    @code.setter
    def code(self, value: int) -> None:
        SetError.ran += 1


TYPES = resolver({__name__})
THING = {"$": "dataclass", "module": __name__, "name": "Thing"}
LIMIT = 30_000_000  # bytes that reading a small document may take


def document(value: Any, *buffers: bytes, **entries: Any) -> bytes:
    """Return the bytes of a document as anyone could write them."""
    head = json.dumps({"value": value, "buffers": [len(buffer) for buffer in buffers], **entries}).encode()
    return values.MAGIC + len(head).to_bytes(8, "big") + head + b"".join(buffers)


def read(data: bytes) -> None:
    """Read a document; only our own errors may come out."""
    with contextlib.suppress(MalformedError, MissingLibraryError):
        values.loads(data, types=TYPES)


def refused(data: bytes) -> str:
    """Return why a document is refused."""
    with pytest.raises((MalformedError, MissingLibraryError)) as caught:
        values.loads(data, types=TYPES)
    return str(caught.value)


def samples() -> dict[str, bytes]:
    """Return a small valid document for each kind of value."""
    plain: dict[str, Any] = {
        "json": {"a": [1, 2.5, "x", None]},
        "numbers": (10**5000, float("nan"), complex(1, 2), decimal.Decimal("1.5")),
        "text": {"\ud800": b"bytes", 1: bytearray(b"x")},
        "times": (
            datetime.datetime(2020, 1, 1, fold=1, tzinfo=datetime.timezone(datetime.timedelta(hours=1))),
            datetime.time(1, 2),
            datetime.date(2020, 1, 1),
            datetime.timedelta(1, 2, 3),
        ),
        "scalars": (uuid.UUID(int=5), pathlib.Path("/a"), pathlib.PureWindowsPath("c:")),
        "containers": (
            {1},
            frozenset([2]),
            collections.deque([1], 3),
            collections.Counter("a"),
            collections.defaultdict(list, a=[]),
            collections.OrderedDict(a=(1,)),
        ),
        "types": (Colour.RED, Point(1), Thing((2,)), ValueError("x", 1), _with_an_attribute(Thing(1))),
        "standard": (
            range(1, 5, 2),
            slice(1, None),
            fractions.Fraction(1, 3),
            ipaddress.ip_network("10.0.0.0/8"),
            re.compile("a[b-d]", re.IGNORECASE),
        ),
    }
    try:
        import numpy as np
        import pandas as pd
    except ImportError:
        return {name: values.dumps(value, types=TYPES) for name, value in plain.items()}
    plain["numpy"] = (
        np.arange(4).reshape(2, 2),
        np.float64(1),
        np.array([1, "a"], object),
        np.zeros(1, [("a", "i1")])[0],
    )
    plain["frame"] = pd.DataFrame(
        {"a": [1, 2], "t": ["x", None], "c": pd.Categorical(["a", "b"]), "i": pd.array([1, None], "Int64")},
        index=pd.date_range("2020", periods=2, freq="D", tz="Europe/Berlin"),
    )
    plain["pandas"] = (
        pd.Series(pd.period_range("2020", periods=2, freq="M"), index=pd.MultiIndex.from_tuples([(1, 2), (3, 4)])),
        pd.interval_range(0, 2),
        pd.Timestamp("2020"),
        pd.Timedelta(1),
        pd.Period("2020", "D"),
        pd.Interval(1, 2),
        pd.NaT,
    )
    return {name: values.dumps(value, types=TYPES) for name, value in plain.items()}


SAMPLES = samples()


@pytest.mark.parametrize("name", SAMPLES)
def test_a_document_that_was_cut_off_is_refused(name: str) -> None:
    data = SAMPLES[name]
    for length in range(len(data)):
        refused(data[:length])
    refused(data + b"x")


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(sorted(SAMPLES)), st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1))
def test_flipped_bits_give_a_value_or_our_error(name: str, flips: list[tuple[int, int]]) -> None:
    data = bytearray(SAMPLES[name])
    for place, bits in flips:
        data[13 + place % (len(data) - 13)] ^= bits
    read(bytes(data))


@settings(max_examples=200, deadline=None)
@given(st.binary())
def test_random_bytes_are_refused(data: bytes) -> None:
    refused(data)
    refused(values.MAGIC + data)
    refused(values.MAGIC + len(data).to_bytes(8, "big") + data)


JUNK: list[Any] = [None, True, 0, -1, 10**30, 0.5, 1e300, "", "x", "object", [], [[]], [1, 2, 3], {}, {"$": "x"}]
JUNK += [{"$": "bytes", "b": 0}, {"$": "tuple", "v": []}, [["a", 1]], {"kind": "plain", "b": 0}]


def entries(node: Any) -> list[tuple[Any, Any]]:
    """Return each place inside a node, as its container and key."""
    places = list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
    return [(node, key) for key, _ in places] + [place for _, item in places for place in entries(item)]


@pytest.mark.parametrize("name", SAMPLES)
def test_a_wrong_type_in_any_field_gives_a_value_or_our_error(name: str) -> None:
    data = SAMPLES[name]
    length = int.from_bytes(data[5:13], "big")
    head, rest = json.loads(data[13 : 13 + length]), data[13 + length :]
    for container, key in entries(head):
        kept = container[key]
        for junk in JUNK:
            container[key] = junk
            text = json.dumps(head).encode()
            read(values.MAGIC + len(text).to_bytes(8, "big") + text + rest)
        if isinstance(container, dict):
            del container[key]
            text = json.dumps(head).encode()
            read(values.MAGIC + len(text).to_bytes(8, "big") + text + rest)
        container[key] = kept


def test_every_codec_refuses_a_node_without_its_fields() -> None:
    names = [*MODULE_OF_NAME, "json", "str", "int", "float", "bytes", "bytearray", "tuple", "set", "dict", "custom"]
    for module in set(MODULE_OF_NAME.values()):
        names += codec_module(module).DECODERS
    without_fields = {"pandas.NaT", "pandas.NA"}
    for name in set(names) - without_fields:
        refused(document({"$": name}))
        for junk in JUNK:
            read(
                document({"$": name, "v": junk, "b": junk, "index": junk, "module": junk, "name": junk, "fields": junk})
            )


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "not a value"),
        (b"K8SV\x02" + document(1)[5:], "not a value"),
        (values.MAGIC + b"\xff" * 8 + b"{}", "shorter than announced"),
        (document(1, buffers=[10**18]), "not as long as announced"),
        (document(1, buffers=[-1, 1]), "not as long as announced"),
        (document(1, buffers={}), "without 'buffers'"),
        (document(1, libraries=[]), "without 'libraries'"),
        (document(float("nan")), "NaN is not JSON"),
        (document({"$": "json", "b": 0}, b"[Infinity]"), "Infinity is not JSON"),
        (document({"$": "json", "b": 0}, b"[1"), "JSONDecodeError"),
        (document({"$": "json", "b": 0}, b"\xff"), "UnicodeDecodeError"),
        (document({"$": "json", "b": 0}, b"9" * 10_000), "ValueError|digits"),
        (document({"$": "json", "b": 0}, b"[" * 1_000_000), "nested too deeply|JSONDecodeError"),
        (document({"$": "bytes", "b": 1}, b"x"), "no buffer 1"),
        (document({"$": "bytes", "b": True}, b"x"), "no buffer True"),
        (document([{"$": "bytes", "b": 0}] * 2, b"x"), "buffer 0 is used twice"),
        (document({"$": "os.system", "v": ["true"]}), "unknown codec 'os.system'"),
        (document({"$": ["tuple"]}), "unknown codec"),
        (document({"$": "tuple", "v": "abc"}), "without 'v' of type list"),
        (document({"$": "set", "v": [[]]}), "unhashable"),
        (document({"$": "dict", "v": [[[], 1]]}), "unhashable"),
        (document({"$": "int", "v": "zz"}), "ValueError"),
        (document({"$": "datetime", "v": "now"}), "ValueError"),
        (document({"$": "datetime", "v": "2020-01-01T00:00:00", "zone": "../../etc/passwd"}), "."),
        (document({"$": "datetime", "v": "2020-01-01T00:00:00", "zone": "No/Such"}), "No/Such"),
        (document({"$": "datetime", "v": "2020-01-01T00:00:00", "offset": 1e300}), "OverflowError"),
        (document({"$": "timedelta", "v": [10**12, 0, 0]}), "OverflowError"),
        (document({"$": "decimal", "v": "spam"}), "InvalidOperation"),
        (document({"$": "defaultdict", "factory": "eval", "v": []}), "the factory 'eval'"),
        (document({"$": "defaultdict", "factory": ["list"], "v": []}), "without 'factory'"),
        (document({"$": "range", "v": [0, "1", 1]}), "of type int"),
        (document({"$": "range", "v": [0, 1, 0]}), "ValueError"),
        (document({"$": "slice", "v": []}), "TypeError"),
        (document({"$": "fraction", "v": [1, 0]}), "a fraction whose denominator is not positive"),
        (document({"$": "ipaddress", "kind": "ip_address", "v": "::1"}), "no address is called"),
        (document({"$": "ipaddress", "kind": "IPv4Address", "v": "300.1.1.1"}), "AddressValueError"),
        (document({"$": "pattern", "v": "(", "flags": 0}), "that this Python refuses"),
        (document({"$": "pattern", "v": "a", "flags": 128}), "that no writer makes"),
        (document({"$": "pattern", "v": 5, "flags": 0}), "that no writer makes"),
        (document({"$": "pattern", "v": "[\0-\U0010ffff]" * 500, "flags": 2}), "too long to be compiled"),
        (document([{"$": "pattern", "v": "[\0-\uffff]" * 3, "flags": 0}] * 1000), "too long to be compiled"),
        (document({"$": "pattern", "v": "(" * 5000 + ")" * 5000, "flags": 0}), "."),
        (document({"$": "exception", "name": "eval", "args": ["1"]}), "no exception is called 'eval'"),
        (document({"$": "exception", "module": "subprocess", "name": "CalledProcessError", "args": []}), "not travel"),
        (document({"$": "exception", "module": __name__, "name": "Colour", "args": []}), "no exception is called"),
        (document({"$": "exception", "name": "ValueError", "args": [], "attributes": [["__class__", 1]]}), "__class__"),
        (document({"$": "exception", "name": "UnicodeDecodeError", "args": [1]}), "TypeError"),
        (document({"$": "subclass", "name": "a.B", "v": 1, "b": 0}, b"cos\nsystem\n(S'true'\ntR."), "pickled part"),
        (document({"$": "flag", "module": __name__, "name": "Colour", "v": [64]}), "ValueError"),
        (document({**THING, "fields": [["field", 1]], "extra": 1}), "not as many as announced"),
        (document({**THING, "fields": [["field", 1], [2, 3]], "extra": 1}), "has an attribute '2'"),
        (document({**THING, "fields": [["field", 1], ["field", 3]], "extra": 1}), "has an attribute 'field'"),
        (document({"$": "cloudpickle", "b": 0}, b"cos\nsystem\n(S'true'\ntR."), "pickled part"),
        (document({"$": "enum", "module": "signal", "name": "Signals", "v": "SIGTERM"}), "did not travel"),
        (document({"$": "namedtuple", "module": "os", "name": "terminal_size", "fields": []}), "did not travel"),
        (document({"$": "enum", "module": __name__, "name": "Colour", "v": "__class__"}), "has no member"),
    ],
    ids=lambda part: None if isinstance(part, bytes) else part,
)
def test_what_is_wrong_is_said(data: bytes, problem: str) -> None:
    assert re.search(problem, refused(data))


ENDLESS = {"$": "range", "v": [0, 10**15, 1]}


def exception(kind: str, /, *args: Any, **attributes: Any) -> dict[str, Any]:
    """Return the node for an exception of Python's own."""
    return {"$": "exception", "name": kind, "args": args, "attributes": list(attributes.items())}


@pytest.mark.parametrize(
    ("node", "problem"),
    [
        (exception("ValueError", args=ENDLESS), "has an attribute 'args'"),
        (exception("ValueError", __notes__=ENDLESS), "no list of texts"),
        (exception("ValueError", __notes__=[1]), "no list of texts"),
        (exception("ValueError", with_traceback=1), "has an attribute 'with_traceback'"),
        (exception("SyntaxError", "m", ENDLESS), "an argument"),
        (exception("SyntaxError", "m", ["f", 1, 1, "x", 1, 10**12]), "end_offset"),
        (exception("SyntaxError", "m", ["f", 1, "x", 5]), "text"),
        (exception("SyntaxError", "m", ["f", 1, 1, "x"], end_offset=10**12), "has an attribute 'end_offset'"),
        (exception("ExceptionGroup", "m", ENDLESS), "an argument"),
        (exception("ExceptionGroup", "m", {"$": "ipaddress", "kind": "IPv6Network", "v": "::/0"}), "an argument"),
        (exception("UnicodeEncodeError", "utf8", "x", -(2**62), 1 - 2**62, "r"), "a position"),
        (exception("UnicodeTranslateError", "x", 0, 1, "r", start=-(2**62)), "has an attribute 'start'"),
        # Whoever shows an ImportError with a `name_from` imports the module that it names.
        (exception("ImportError", "m", name="antigravity", name_from="x"), "has an attribute 'name_from'"),
    ],
)
def test_an_exception_that_harms_who_shows_it_is_refused(node: Any, problem: str) -> None:
    assert problem in refused(document(node))


@pytest.mark.parametrize(
    "node",
    [
        exception("UnicodeDecodeError", "utf8", {"$": "bytes", "b": 0}, -(2**62), 1 - 2**62, "r"),
        exception("UnicodeDecodeError", "utf8", {"$": "bytes", "b": 0}, 0, 1, "r", start=-(2**62), end=1 - 2**62),
    ],
)
def test_an_exception_that_reads_any_memory_is_refused(node: Any) -> None:
    assert re.search("a position|has an attribute 'start'", refused(document(node, b"x")))


def test_no_code_of_an_exceptions_type_runs() -> None:
    node = {**exception("SetError", code=1), "module": __name__}

    assert "has an attribute 'code'" in refused(document(node))
    assert SetError.ran == 0


@pytest.mark.parametrize("kind", ["set", "frozenset", "dict", "counter", "ordereddict", "defaultdict"])
def test_keys_that_are_made_to_meet_are_refused(kind: str) -> None:
    # Python's hash of an integer is its remainder, so these are all compared with each other.
    numbers: list[Any] = [{"$": "int", "v": hex(number * (2**61 - 1))} for number in range(1, 30_000)]
    members = numbers if kind in ("set", "frozenset") else [[number, 1] for number in numbers]

    assert "too long to compare" in refused(document({"$": kind, "factory": "list", "v": members}))


def test_an_integer_that_takes_long_to_compare_is_no_key_on_either_side() -> None:
    long = 1 + (2**61 - 1) * 3**100_000  # its hash is that of 1
    number, one = {"$": "int", "v": hex(long)}, {"$": "decimal", "v": "1"}

    for node in (
        {"$": "set", "v": [number, one]},
        {"$": "frozenset", "v": [{"$": "tuple", "v": [number]}, {"$": "tuple", "v": [one]}]},
        {"$": "dict", "v": [[{"$": "fraction", "v": [number, 1]}, 1], [one, 1]]},
    ):
        assert "too long to be compared" in refused(document(node))
    for value in ({long}, {(long,): 1}):
        with pytest.raises(NoCodecError, match="an integer of more than 65,536 bits"):
            values.dumps(value)
    assert values.loads(values.dumps({2**60_000: [long]})) == {2**60_000: [long]}


def test_many_keys_that_differ_are_read() -> None:
    for value in (set(range(-5000, 5000)), {(number, "x"): number for number in range(5000)}):
        assert values.loads(values.dumps(value)) == value


@pytest.mark.parametrize(
    "numbers", [[1 << 10_000], [1 << 3000, 1 << 3000], [1 << place for place in range(60)]], ids=["long", "two", "many"]
)
def test_a_flag_takes_no_more_memory_than_a_flag(numbers: list[int]) -> None:
    known = len(Bits._value2member_map_)

    assert "more members than Bits can have" in refused(
        document({"$": "flag", "module": __name__, "name": "Bits", "v": numbers})
    )
    assert len(Bits._value2member_map_) == known


def test_a_range_of_huge_numbers_is_refused_by_both_sides() -> None:
    huge = {"$": "int", "v": hex(3**40_000)}

    assert "numbers that are too large" in refused(document({"$": "range", "v": [0, huge, huge]}))
    with pytest.raises(NoCodecError, match="too large numbers"):
        values.dumps(range(0, 3**40_000, 3**20_000))


@pytest.mark.parametrize(
    "node",
    [
        {"$": "date", "v": "x" * 100_000},
        {"$": "ipaddress", "kind": "IPv6Network", "v": ":" * 100_000},
        {"$": "complex", "v": ["x" * 100_000, "1"]},
        {"$": "custom", "name": "x" * 100_000, "v": 1},
        {"$": "path", "flavour": "x" * 100_000, "v": "1"},
    ],
    ids=lambda node: node["$"],
)
def test_a_refusal_is_short(node: Any) -> None:
    assert len(refused(document(node))) < 1000


def test_deep_nesting_is_refused() -> None:
    for opening, closing in (("[", "]"), ('{"a":', "}"), ('{"$":"tuple","v":[', "]}")):
        for depth in (500, 5000, 100_000):
            text = ('{"value":' + opening * depth + "1" + closing * depth + ',"buffers":[]}').encode()
            read(values.MAGIC + len(text).to_bytes(8, "big") + text)


def npy(header: str, data: bytes = b"") -> bytes:
    """Return an npy file with any header."""
    text = header.encode("latin-1") + b"\n"
    return document({"$": "numpy.array", "b": 0}, b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data)


@pytest.mark.parametrize(
    "data",
    [
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (4611686018427387904, 4)}"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}", bytes(8)),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (True,)}"),
        npy("{'descr': '<U1000000000', 'fortran_order': False, 'shape': ()}"),
        npy("{'descr': '|V0', 'fortran_order': False, 'shape': (1000000000000,)}"),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"cos\nsystem\n(S'true'\ntR."),
        npy("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (1,)}", bytes(8)),
        npy("{'descr': 'os.system', 'fortran_order': False, 'shape': (1,)}", bytes(8)),
        npy("{'descr': ('<f8', (1000000000,)), 'fortran_order': False, 'shape': (1,)}", bytes(8)),
        npy("{'descr': '<f8', 'shape': (1,)}", bytes(8)),
        npy("(" * 9000),
        npy("[" * 9000 + "]" * 900),
        npy("-" * 9000 + "1"),
        npy("9" * 9000),
        npy("__import__('os').system('true')"),
        npy(" " * 60_000),
        document({"$": "numpy.array", "b": 0}, b"\x93NUMPY\x02\x00\xff\xff\xff\xff"),
        document({"$": "numpy.object", "shape": [10**9, 10**9], "v": [1]}),
        document({"$": "numpy.object", "shape": [-1], "v": [1]}),
        document({"$": "numpy.scalar", "dtype": "<U900000000", "v": ""}),
        document({"$": "numpy.scalar", "dtype": "|O8", "v": "00" * 8}),
        document({"$": "numpy.scalar", "dtype": "<f8", "v": "00"}),
    ],
    ids=range(23),
)
def test_arrays_that_lie_about_themselves_are_refused_without_the_memory_they_ask_for(data: bytes) -> None:
    pytest.importorskip("numpy")
    tracemalloc.start()
    try:
        refused(data)
        assert tracemalloc.get_traced_memory()[1] < LIMIT
    finally:
        tracemalloc.stop()


def test_bytes_that_are_no_arrow_are_refused() -> None:
    pytest.importorskip("pyarrow")
    for name in ("pyarrow.table", "pyarrow.batch"):
        refused(document({"$": name, "b": 0}, b""))
        refused(document({"$": name, "b": 0}, b"\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(100)))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=5))
def test_flipped_bits_in_arrow_give_a_table_or_our_error(flips: list[tuple[int, int]]) -> None:
    pa: Any = pytest.importorskip("pyarrow")
    data = bytearray(values.dumps(pa.table({"a": [1, 2, None], "s": ["x", None, "y"]})))
    start = 13 + int.from_bytes(data[5:13], "big")
    for place, bits in flips:
        data[start + place % (len(data) - start)] ^= bits
    read(bytes(data))


def test_a_fraction_of_huge_numbers_is_read_in_the_time_of_its_length() -> None:
    huge = {"$": "int", "v": hex(3**4_000_000)}

    found = values.loads(document({"$": "fraction", "v": [1, huge]}))

    assert found.denominator == 3**4_000_000
