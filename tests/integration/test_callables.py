"""Whatever can be called is called there, or refused before anything starts, by its name."""

from __future__ import annotations

import collections
import functools
import math
import operator
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from k8s_venv.calls import open_result, pack
from k8s_venv.capture.functions import place_of
from k8s_venv.config.environment import Environment
from k8s_venv.errors import CallError
from tests.calls import load_dag_file, run_packed

HERE = "{}.{}".format(*sys.version_info)

SOURCE = """
    import dataclasses, enum, functools, importlib.util, sys, types, typing

    @dataclasses.dataclass
    class Order:
        number: int

        @classmethod
        def after(cls, number):
            return cls(number + 1)

        def plus(self, more):
            return self.number + more

    class Point(typing.NamedTuple):
        x: int
        y: int = 0

    class Color(enum.Enum):
        RED = 1

    class Basket:
        @dataclasses.dataclass
        class Item:
            price: int

    class Adds:
        def __call__(self, more):
            return self.start + more

    class AddsFive(Adds):
        start = 5

    class Calls(type):
        def __call__(cls, value):
            return ("made by the metaclass", value)

    class Made(metaclass=Calls):
        pass

    class Plain:
        pass

    def local_class():
        @dataclasses.dataclass
        class Local:
            number: int
        return Local

    def twice(number):
        return number * 2

    def nameless(number):
        return number + 8
    nameless.__module__ = None

    def lost(number):
        return number + 9
    lost.__module__ = "no_such_module"

    def yields(number):
        yield number

    def with_module(*, registered):
        made = types.ModuleType("made_at_run_time")
        exec("start = 1\\ndef plus(more): return start + more", made.__dict__)
        if registered:
            sys.modules[made.__name__] = made
        return lambda more: made.plus(more)

    def from_module():
        with_module(registered=True)
        return sys.modules["made_at_run_time"].plus

    def with_unregistered_file(path):
        spec = importlib.util.spec_from_file_location("a_name_of_its_own", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return lambda more: module.plus(more)

    def from_text(**names):
        exec("def plus(more=1):\\n    return 4 + more\\n", names)
        return names["plus"]
"""


@pytest.fixture(params=["dag file", "beside"])
def shop(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module of the project, loaded as a DAG file is or imported by its name."""
    path = tmp_path / "shop.py"
    path.write_text(textwrap.dedent(SOURCE))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    if request.param == "dag file":
        yield load_dag_file(path)
    else:
        import shop  # type: ignore[import-not-found]

        yield shop
    sys.modules.pop("made_at_run_time", None)


@pytest.fixture
def call(tmp_path: Path) -> Callable[..., Any]:
    def run(function: Any, *args: Any, python: str = HERE) -> Any:
        environment = Environment(name="other", root=tmp_path, python=python)
        packed = pack(function, args, {}, environment=environment)
        return open_result(run_packed(packed, tmp_path / "call"), packed)

    return run


def of_the_project(shop: ModuleType) -> list[tuple[Callable[..., Any], tuple[Any, ...]]]:
    return [
        (shop.Order, (1,)),
        (shop.Point, (1, 2)),
        (shop.Color, (1,)),
        (shop.Basket.Item, (3,)),
        (shop.Made, (1,)),
        (shop.Order.after, (1,)),
        (shop.Order.plus, (shop.Order(2), 3)),
        (shop.Order(2).plus, (3,)),
        (shop.AddsFive(), (1,)),
        (functools.partial(shop.Order, 4), ()),
        (functools.partial(functools.partial(shop.twice), 4), ()),
        (functools.partial(shop.Order.after, 4), ()),
        (shop.nameless, (1,)),
        (shop.lost, (1,)),
    ]


@pytest.mark.parametrize("number", range(14))
def test_callables_of_the_project_are_called_there(shop: ModuleType, call: Callable[..., Any], number: int) -> None:
    function, args = of_the_project(shop)[number]

    for python in ("3.8", HERE):
        value = call(function, *args, python=python)
        assert (value, type(value)) == (function(*args), type(function(*args)))


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (dict, ([(1, 2)],)),
        (collections.Counter, ("aab",)),
        (math.sqrt, (4,)),
        ("x".upper, ()),
        (str.upper, ("x",)),
        (dict.fromkeys, ("ab",)),
        (operator.itemgetter(1), ([1, 2],)),
        (operator.methodcaller("upper"), ("a",)),
        (functools.partial(math.pow, 2), (3,)),
    ],
)
def test_so_are_those_of_python(call: Callable[..., Any], function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    assert call(function, *args, python="3.8") == function(*args)


def without_text_or_import(shop: ModuleType, path: Path) -> dict[str, Callable[..., Any]]:
    path.write_text("def plus(more): return 1 + more\n")
    return {
        "made_at_run_time itself|made_at_run_time, which no import finds": shop.with_module(registered=False),
        "made_at_run_time": shop.with_module(registered=True),
        "plus.. has no source text": shop.from_module(),
        "a_name_of_its_own, which no import finds by that name": shop.with_unregistered_file(path),
        "plus.. has no source text, like code typed": shop.from_text(),
        "plus.. has no source text, like": shop.from_text(__name__="no_such_module"),
    }


@pytest.mark.parametrize("number", range(6))
def test_what_has_no_text_or_no_import_travels_as_bytecode_or_is_refused_by_its_name(
    shop: ModuleType, call: Callable[..., Any], tmp_path: Path, number: int
) -> None:
    problem, function = list(without_text_or_import(shop, tmp_path / "elsewhere.py").items())[number]

    assert call(function, 2, python=HERE) == function(2)
    with pytest.raises(CallError, match=problem):
        call(function, 2, python="3.8")


@pytest.mark.parametrize("python", ["3.8", HERE])
def test_what_cannot_be_called_or_come_back_is_refused_before_anything_starts(
    shop: ModuleType, call: Callable[..., Any], python: str
) -> None:
    with pytest.raises(CallError, match="5 is not a function"):
        call(5, python=python)
    with pytest.raises(CallError, match=r"yields\(\) yields, and a generator cannot travel"):
        call(shop.yields, 1, python=python)
    for kind in (shop.Plain, shop.local_class(), functools.partial(shop.local_class(), 1)):
        with pytest.raises(CallError, match=r"would be a .*, which cannot travel\. Make it a dataclass"):
            call(kind, python=python)


def test_the_project_of_a_class_is_found_from_its_file(shop: ModuleType, tmp_path: Path) -> None:
    assert place_of(functools.partial(shop.Order, 1)) == (str(tmp_path / "shop.py"), None)
    assert place_of(len) == (None, None)
