"""Which calls are the same, by their digests."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import importlib.util
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k8s_venv.calls import PackedCall, pack
from k8s_venv.calls.call_digest import call_digest, pickle_digest
from k8s_venv.config.environment import Environment

LIMIT = {"rows": 10}


@dataclasses.dataclass(frozen=True)
class Key:
    name: str


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


def work(*args: Any, **kwargs: Any) -> Any:
    return LIMIT, args, kwargs


def packed(*args: Any, function: Callable[..., Any] = work, python: str = "3.12", **options: Any) -> PackedCall:
    environment = Environment(name="x", root=Path(__file__).parent, python=python)
    return pack(function, args, options.pop("kwargs", {}), environment=environment, **options)


def closing_over(value: Any, given: Any = None) -> Callable[..., Any]:
    def inner(default: Any = given) -> Any:
        return value, default

    return inner


def digest(*args: Any, **options: Any) -> str:
    return call_digest(packed(*args, **options))


def context(attempt: int = 1, **changes: Any) -> dict[str, Any]:
    """What Airflow says of one try of a task."""
    now = datetime.datetime(2026, 1, attempt, tzinfo=datetime.UTC)
    values = {"try_number": attempt, "ts": now.isoformat(), "params": {"table": "a"}, "templates_dict": None}
    run = {"conf": {"table": "a"}, "start_date": now}
    objects = {"dag_run": run, "ti": {"try_number": attempt}, "task": {"retries": attempt}}
    for name, value in changes.items():
        (run if name == "conf" else values)[name] = value
    return {"values": values, "objects": objects, "parameters": ["params"]}


def module(folder: Path, text: str, name: str = "made") -> Any:
    """Import a file."""
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.py"
    file.write_text(text)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


# --- the same call --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "items",
    [
        (0, 8),  # small sets of these two are walked in the order in which they were made
        ((0, b"x"), (8, b"yy")),
        (b"x", b"yy", b"zzz"),
        (Key("a"), Key("b"), Key("c")),
        (Colour.RED, Colour.BLUE),
        (frozenset([0, 8]), frozenset([8, 16])),
        (datetime.date(2026, 1, 1), datetime.date(2026, 1, 2)),
    ],
)
@pytest.mark.parametrize("python", ["3.8", "3.12"])
def test_the_order_of_a_set_does_not_count(items: tuple[Any, ...], python: str) -> None:
    there, back = dict.fromkeys(items), dict.fromkeys(reversed(items))

    assert digest(set(there), python=python) == digest(set(back), python=python)
    assert digest([{"a": frozenset(there)}, b"x"], python=python) == digest(
        [{"a": frozenset(back)}, b"x"], python=python
    )
    assert digest(set(there), python=python) != digest(set(items[1:]), python=python)


def test_what_differs_between_two_tries_does_not_count() -> None:
    secrets = {"connections": {"db": {"conn_type": "postgres", "password": "hidden"}}, "variables": {}, "masked": []}

    first = digest(1, context=context(1))

    assert first == digest(1, context=context(2))
    assert first == digest(1, context=context(1), secrets=secrets)


def test_what_only_carries_a_call_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    call = packed(1)
    first = call_digest(call)
    monkeypatch.setattr("k8s_venv.calls.packing.__version__", "99.0")
    for module in ("capturing", "call_digest"):
        monkeypatch.setattr(f"k8s_venv.calls.{module}.MADE_AGAIN", b"import another_runner\n")
    monkeypatch.setattr("platform.python_version", lambda: "3.12.99")
    later = packed(1)
    assert later.archive != call.archive

    assert call_digest(later) == first


def test_neither_the_place_of_a_file_nor_what_else_stands_in_it_counts(tmp_path: Path) -> None:
    text = "LIMIT = 3\n\n\ndef work(x):\n    return x + LIMIT\n"
    one = module(tmp_path / "one", text)
    other = module(tmp_path / "other", f"# a comment\n\n\ndef unused():\n    return 1\n\n\n{text}")

    digests = {
        call_digest(
            pack(each.work, (1,), {}, environment=Environment(name="x", root=Path(each.__file__).parent, python="3.8"))
        )
        for each in (one, other)
    }

    assert len(digests) == 1


# --- another call ---------------------------------------------------------------------------------------------


OTHERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "an argument": ({"args": (1,)}, {"args": (2,)}),
    "its type": ({"args": (1,)}, {"args": (1.0,)}),
    "true and one": ({"args": (True,)}, {"args": (1,)}),
    "the order of arguments": ({"args": (1, 2)}, {"args": (2, 1)}),
    "a keyword": ({"kwargs": {"a": 1}}, {"kwargs": {"b": 1}}),
    "a list and a tuple": ({"args": ([1, 2],)}, {"args": ((1, 2),)}),
    "a set and a frozenset": ({"args": ({1, 2},)}, {"args": (frozenset([1, 2]),)}),
    "the order in a dictionary": ({"args": ({"a": 1, "b": 2},)}, {"args": ({"b": 2, "a": 1},)}),
    "bytes beside a set": ({"args": ({1}, b"a", b"b")}, {"args": ({1}, b"b", b"a")}),
    "bytes in a set": ({"args": ({b"a", b"b"},)}, {"args": ({b"a", b"c"},)}),
    "where bytes are cut": ({"args": ({1}, b"ab", b"c")}, {"args": ({1}, b"a", b"bc")}),
    "a key like a codec's": ({"args": ({"b": 0, "c": {1}}, b"x")}, {"args": ({"b": 0, "c": {1}}, b"y")}),
    "a large argument": ({"args": (b"x" * 100_000,)}, {"args": (b"y" * 100_000,)}),
    "one beside a large argument": ({"args": ({1}, b"x" * 100_000)}, {"args": ({2}, b"x" * 100_000)}),
    "params": ({"context": context()}, {"context": context(params={"table": "b"})}),
    "a run's conf": ({"context": context()}, {"context": context(conf={"table": "b"})}),
    "templates_dict": ({"context": context()}, {"context": context(templates_dict={"table": "b"})}),
    "Python": ({"python": "3.8"}, {"python": "3.9"}),
    "whether a value is wanted": ({"discard_value": False}, {"discard_value": True}),
    "the transport": ({"transport": "source"}, {"transport": "cloudpickle"}),
    "what a lambda uses": ({"function": lambda: LIMIT}, {"function": lambda: Key}),
    "a closure's variable": ({"function": closing_over(1)}, {"function": closing_over(2)}),
    "a pickled closure's variable": (
        {"function": closing_over(1), "transport": "cloudpickle"},
        {"function": closing_over(2), "transport": "cloudpickle"},
    ),
    "a closure's default": ({"function": closing_over(0, 1)}, {"function": closing_over(0, 2)}),
}


@pytest.mark.parametrize("difference", OTHERS)
def test_another_call_has_another_digest(difference: str) -> None:
    one, other = (dict(options) for options in OTHERS[difference])

    digests = {digest(*options.pop("args", ()), **options) for options in (one, other)}

    assert len(digests) == 2


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("return x + LIMIT", "return x - LIMIT"),
        ("LIMIT = 3", "LIMIT = 4"),
        ('NAMES = {"a", "b"}', 'NAMES = {"a", "c"}'),
        ("DAY = datetime.date(2026, 1, 1)", "DAY = datetime.date(2026, 1, 2)"),
        ("return 1  # helper", "return 2  # helper"),
    ],
)
@pytest.mark.parametrize("transport", ["source", "cloudpickle"])
def test_other_code_has_another_digest(tmp_path: Path, before: str, after: str, transport: Any) -> None:
    text = (
        'import datetime\n\nLIMIT = 3\nNAMES = {"a", "b"}\nDAY = datetime.date(2026, 1, 1)\n\n\n'
        "def helper():\n    return 1  # helper\n\n\n"
        "def work(x):\n    assert NAMES and DAY and helper()\n    return x + LIMIT\n"
    )
    assert before in text
    environment = Environment(name="x", root=tmp_path, python="3.12")

    def of(source: str, folder: str) -> str:
        work = module(tmp_path / folder, source).work
        return call_digest(pack(work, (1,), {}, environment=environment, transport=transport))

    assert of(text, "one") != of(text.replace(before, after), "two")


def test_a_module_beside_the_file_counts(tmp_path: Path) -> None:
    text = "import beside_the_file\n\n\ndef work():\n    return beside_the_file.RATE\n"
    environment = Environment(name="x", root=tmp_path, python="3.8")

    def of(rate: int) -> str:
        (tmp_path / "beside_the_file.py").write_text(f"RATE = {rate}\n")
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(tmp_path)
            work = module(tmp_path, text).work
            return call_digest(pack(work, (), {}, environment=environment))

    assert of(1) != of(2)


@settings(deadline=None, max_examples=30)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text() | st.binary(), lambda inner: st.lists(inner)))
def test_a_digest_covers_all_that_travels_and_is_a_digest(value: Any) -> None:
    assert digest(value) == digest(value)
    assert digest(value) != digest([value])
    assert len(digest(value)) == 64


# --- pickles --------------------------------------------------------------------------------------------------


def in_order(*items: Any) -> set[Any]:
    return set(dict.fromkeys(items))


def test_pickles_of_equal_values_have_one_digest() -> None:
    there, back = in_order(0, 8), in_order(8, 0)
    assert pickle.dumps(there) != pickle.dumps(back)

    assert pickle_digest(pickle.dumps(there)) == pickle_digest(pickle.dumps(back))
    assert pickle_digest(pickle.dumps([there, {1: back}])) == pickle_digest(pickle.dumps([back, {1: there}]))


@pytest.mark.parametrize("version", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_other_values_have_other_digests(version: int) -> None:
    containing_itself: list[Any] = [1]
    containing_itself.append(containing_itself)
    values: list[Any] = [
        *(None, True, False, 0, 1, -1, 2**70, 1.0, "1", "", b"1", b"", bytearray(b"1"), (), [], {}, set(), frozenset()),
        *([1], (1,), [1, 2], [2, 1], {1: 2}, {2: 1}, {1, 2}, {1, 3}, [[1], 2], [[1, 2]], [1, [2]]),
        *(Key("a"), Key("b"), Colour.RED, Colour.BLUE, datetime.date(2026, 1, 1), Key, Colour, containing_itself),
        *({"a": {"b": 1}}, {"a": {"b": 2}}, "0" * 32, "1" * 32, ["0" * 32]),
    ]

    digests = [pickle_digest(pickle.dumps(value, version)) for value in values]

    assert len(set(digests)) == len(values)


def test_a_class_that_cloudpickle_takes_by_value_has_one_digest() -> None:
    import cloudpickle

    def made(value: str) -> bytes:
        kind = type("Made", (), {"value": value, "__module__": "__main__"})
        data: bytes = cloudpickle.dumps(kind)
        return data

    # Another class object of the same content gets another random number.
    assert made("x") != made("x")
    assert pickle_digest(made("x")) == pickle_digest(made("x"))
    assert pickle_digest(made("0" * 32)) != pickle_digest(made("1" * 32))


def test_classes_that_cloudpickle_takes_by_value_are_told_apart() -> None:
    import cloudpickle

    def made(*names: str) -> bytes:
        data: bytes = cloudpickle.dumps([type(name, (), {"__module__": "__main__"}) for name in names])
        return data

    assert pickle_digest(made("A", "B", "C")) != pickle_digest(made("A", "B", "D"))


@pytest.mark.parametrize("data", [b"", b"\x80", b"no pickle", b"\x80\x05h\x00.", b"\x80\x05e.", b"\x80\x05N0."])
def test_what_is_no_pickle_has_a_digest_all_the_same(data: bytes) -> None:
    assert len(pickle_digest(data)) == 64
