"""Instances of subclasses arrive as the type beneath, and somebody is told."""

from __future__ import annotations

import collections
import datetime
import enum
import http
import os
import pickle
import time
from decimal import Decimal
from typing import Any

import pytest

from k8s_venv.wire import values
from k8s_venv.wire.errors import MalformedError, NoCodecError, Notes


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "something else"


class Number(int):
    def __int__(self) -> int:
        return 7


class Fraction(float):
    pass


class Mapping(dict[Any, Any]):
    pass


class Ordered(collections.OrderedDict[Any, Any]):
    pass


class Rows(list[Any]):
    pass


class Moment(datetime.datetime):
    pass


class Code(enum.IntEnum):
    FINE = 200


def carried(value: Any) -> tuple[Any, list[str]]:
    """Return a value that travelled without a pickle, and what is said of it."""
    notes = Notes()
    data = b"".join(values.buffers(values.dump_parts(value, notes=notes)))
    return values.loads(data), notes.sentences(lambda path: f"result{path}")


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Text("a"), "a"),
        (Text("\ud800"), "\ud800"),
        (Number(2**70), 2**70),
        (Fraction("inf"), float("inf")),
        (Mapping(a=1), {"a": 1}),
        (Mapping({1: 2}), {1: 2}),
        (Ordered(a=1), collections.OrderedDict(a=1)),
        (Rows([1, 2]), [1, 2]),
        (Moment(2024, 11, 3, 1, 30, fold=1), datetime.datetime(2024, 11, 3, 1, 30, fold=1)),
        (type("Bytes", (bytes,), {})(b"x"), b"x"),
        (type("Buffer", (bytearray,), {})(b"x"), bytearray(b"x")),
        (type("Row", (tuple,), {})((1, 2)), (1, 2)),
        (type("Set", (set,), {})([1]), {1}),
        (type("Frozen", (frozenset,), {})([1]), frozenset([1])),
        (type("Complex", (complex,), {})(-0.0, 1), complex(-0.0, 1)),
        (type("Length", (datetime.timedelta,), {})(-1, 2, 3), datetime.timedelta(-1, 2, 3)),
        (type("Day", (datetime.date,), {})(2024, 2, 29), datetime.date(2024, 2, 29)),
        (type("Money", (Decimal,), {})("1.50"), Decimal("1.50")),
        (type("Queue", (collections.deque,), {})([1], 3), collections.deque([1], 3)),
        (type("Groups", (collections.defaultdict,), {})(list, a=[1]), collections.defaultdict(list, a=[1])),
        (type("Counts", (collections.Counter,), {})(a=-1), collections.Counter(a=-1)),
        (Code.FINE, 200),
        (http.HTTPStatus.OK, 200),
        (enum.StrEnum("Colour", "RED").RED, "red"),  # type: ignore[attr-defined]
        (os.terminal_size((80, 25)), (80, 25)),
        (time.gmtime(0), (1970, 1, 1, 0, 0, 0, 3, 1, 0)),
    ],
    ids=lambda part: type(part).__name__,
)
def test_a_subclass_arrives_as_what_it_is_beneath_with_a_note(value: Any, plain: Any) -> None:
    arrived, said = carried([value])

    assert type(arrived[0]) is type(plain)
    assert arrived[0] == plain
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    assert said == [f"result[0] is of the type {name}, which arrives as a plain {type(plain).__name__}."]


def test_each_place_is_named_and_no_value() -> None:
    arrived, said = carried({"a": [1, Mapping({"b": (Text("secret"),)})]})

    assert arrived == {"a": [1, {"b": ("secret",)}]}
    assert [sentence.partition(" is ")[0] for sentence in said] == ["result['a'][1]['b'][0]", "result['a'][1]"]
    assert "secret" not in "".join(said)


def test_of_many_the_first_are_named_and_the_others_counted() -> None:
    arrived, said = carried([Text("x")] * 1000)

    assert arrived == ["x"] * 1000
    assert len(said) == 11
    assert said[-1] == "990 more parts arrive as something plainer."


def test_keys_and_members_that_would_be_lost_are_refused() -> None:
    class Own(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            return self is other

        def __hash__(self) -> int:
            return id(self)

    assert carried({Own("a"): 1, Own("b"): 2})[0] == {"a": 1, "b": 2}
    for value in ({Own("a"): 1, Own("a"): 2}, {Own("a"), Own("a")}):
        with pytest.raises(NoCodecError, match="would be fewer once they are plain"):
            carried(value)


def test_what_fails_while_it_is_read_is_refused() -> None:
    class Broken(dict[str, int]):
        def items(self) -> Any:
            raise RuntimeError("closed")

    with pytest.raises(NoCodecError, match=r"\['a'\]: .*Broken, which cannot be read as a dict \(closed\)"):
        carried({"a": Broken(x=1)})


def test_subclasses_of_arrays_and_frames_are_refused() -> None:
    np: Any = pytest.importorskip("numpy")
    pd: Any = pytest.importorskip("pandas")
    kept_otherwise = [
        np.matrix([[1]]),
        np.ma.array([1, 2], mask=[False, True]),
        np.rec.array([(1,)], dtype=[("a", "i4")]),
        type("Frame", (pd.DataFrame,), {})({"a": [1]}),
        type("Float", (np.float64,), {})(1.5),
    ]
    for value in kept_otherwise:
        with pytest.raises(NoCodecError):
            carried(value)


def test_without_anybody_to_tell_a_subclass_is_refused() -> None:
    with pytest.raises(NoCodecError, match="Text"):
        values.dumps([Text("x")])


# --- between equal minor versions of Python, where it is pickled as well ------------------------------------


def test_who_can_unpickle_it_gets_the_type_itself() -> None:
    notes = Notes()
    data = b"".join(values.buffers(values.dump_parts({"a": Rows([Text("x")])}, pickle.dumps, notes=notes)))

    arrived = values.loads(data, pickle.loads, notes=notes)

    assert type(arrived["a"]) is Rows
    assert type(arrived["a"][0]) is Text
    assert notes.sentences(str) == []


def test_who_cannot_gets_what_it_is_beneath_with_a_note() -> None:
    def unpickle(data: memoryview) -> Any:
        raise ModuleNotFoundError("No module named 'markupsafe'")

    data = b"".join(values.buffers(values.dump_parts({"a": Rows([Text("x")])}, pickle.dumps, notes=Notes())))
    notes = Notes()

    assert values.loads(data, unpickle, notes=notes) == {"a": ["x"]}
    assert notes.sentences(str) == [
        f"['a'] is of the type {__name__}.Rows, which arrives as a plain list "
        "(ModuleNotFoundError: No module named 'markupsafe')."
    ]
    with pytest.raises(ModuleNotFoundError):
        values.loads(data, unpickle)
    with pytest.raises(MalformedError, match="a pickled part, which this reader does not accept"):
        values.loads(data, notes=Notes())


def test_what_a_subclass_holds_may_still_be_pickled_as_a_whole() -> None:
    value = Rows([object()])
    data = b"".join(values.buffers(values.dump_parts(value, pickle.dumps, notes=Notes())))

    assert type(values.loads(data, pickle.loads, notes=Notes())) is Rows
