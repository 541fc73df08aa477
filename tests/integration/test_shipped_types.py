"""Instances of the DAG's own types travel both ways, as do users' own codecs and values by reference."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from k8s_venv import load
from k8s_venv.backends.local.backend import LocalBackend
from k8s_venv.calls import open_result, pack, sealed_value, to_document
from k8s_venv.config.environment import Environment
from k8s_venv.errors import CallError
from k8s_venv.locks.locking import write_lock
from k8s_venv.locks.uv import find_interpreter
from k8s_venv.wire.values import sha256_of


class Color(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Order:
    number: int
    color: Color


class Point(NamedTuple):
    x: int
    y: int


class Opaque:
    def __init__(self, value: int) -> None:
        self.value = value


def twice(order: Order, point: Point) -> dict[str, Any]:
    changed = dataclasses.replace(order, number=order.number * 2)
    return {"order": changed, "red": order.color is Color.RED, "point": Point(point.y, point.x)}


async def later(number: int) -> int:
    return number + 1


def value_of(opaque: Opaque) -> int:
    return Opaque(opaque.value + 1).value


def total(values: list[list[int]]) -> int:
    return sum(sum(each) for each in values)


@pytest.fixture(params=["3.8", "3.11", "3.12", "3.13"])
def environment(request: pytest.FixtureRequest, tmp_path: Path) -> Environment:
    if find_interpreter(request.param) is None:
        pytest.skip(f"Python {request.param} is not installed")
    environment = Environment(name="bare", root=tmp_path, python=request.param)
    write_lock(environment)
    return environment


@pytest.fixture
def call(environment: Environment) -> Callable[..., Any]:
    def run(function: Callable[..., Any], *args: Any, sealed: bool = False) -> Any:
        packed = pack(function, args, {}, environment=environment)
        result = LocalBackend().run(packed, print)
        return sealed_value(result, packed) if sealed else open_result(result, packed)

    return run


def test_the_dags_own_types_travel_both_ways(call: Callable[..., Any]) -> None:
    value = call(twice, Order(3, Color.RED), Point(1, 2))

    assert value == {"order": Order(6, Color.RED), "red": True, "point": Point(2, 1)}
    assert type(value["point"]) is Point


def test_asynchronous_functions_are_awaited(call: Callable[..., Any]) -> None:
    assert call(later, 1) == 2


def test_any_other_argument_travels_between_equal_versions_only(
    call: Callable[..., Any], environment: Environment
) -> None:
    import sys

    if environment.python == "{}.{}".format(*sys.version_info):
        assert call(value_of, Opaque(4)) == 5
    else:
        with pytest.raises(CallError, match=r"opaque is .*Opaque\. Pass plain data"):
            call(value_of, Opaque(4))


def by_reference(payload: Any) -> dict[str, Any]:
    return to_document(payload, sha256_of(payload))


def test_values_handed_on_by_reference_arrive_as_themselves(call: Callable[..., Any]) -> None:
    document = by_reference(call(list, (1, 2), sealed=True))

    assert load(document) == [1, 2]
    assert call(total, [document, [3]]) == 6


def test_a_damaged_reference_is_refused_before_anything_starts(call: Callable[..., Any]) -> None:
    document = {**by_reference(b"anything"), "sha256": "0" * 64}

    with pytest.raises(CallError, match="its checksum does not match"):
        call(total, [document])
    with pytest.raises(CallError, match="is damaged"):
        call(total, [by_reference(b"anything")])


def describe(order: Any) -> str:
    return f"{order.number} {order.color.name} {isinstance(order, Order)}"


def make_order() -> Order:
    return Order(5, Color.RED)


def test_a_type_of_the_project_travels_by_reference_too(call: Callable[..., Any]) -> None:
    document = by_reference(call(make_order, sealed=True))

    assert call(describe, document) == "5 RED True"


class CodedError(Exception):
    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def fail_with_code() -> None:
    raise CodedError("no stock", 3)


def test_an_exception_with_a_constructor_of_its_own_is_itself(call: Callable[..., Any]) -> None:
    with pytest.raises(CodedError, match="no stock"):
        call(fail_with_code)
