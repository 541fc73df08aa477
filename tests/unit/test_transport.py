"""Which of the two ways a function travels: the task says, else the project file, else the rule."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import k8s_venv
from k8s_venv.calls.capturing import capture
from k8s_venv.config.environment import Environment
from k8s_venv.errors import CallError

HERE = "{}.{}".format(*sys.version_info)
OTHER = "3.8"


def add(a: int, b: int) -> int:
    return a + b


def made_by_exec() -> Any:
    names: dict[str, Any] = {}
    exec("def add(a, b): return a + b", names)
    return names["add"]


def way(function: Any, python: str, *, task: Any = None, project: Any = None) -> str:
    environment = Environment(name="etl", root=Path(__file__).parent, python=python, transport=project)
    return capture(function, environment, task).transport


@pytest.mark.parametrize(
    ("python", "task", "project", "expected"),
    [
        (HERE, None, None, "source"),
        (OTHER, None, None, "source"),
        (HERE, None, "cloudpickle", "cloudpickle"),
        (OTHER, None, "cloudpickle", "source"),
        (HERE, None, "source", "source"),
        (HERE, "source", "cloudpickle", "source"),
        (HERE, "cloudpickle", "source", "cloudpickle"),
        (OTHER, "source", "cloudpickle", "source"),
    ],
)
def test_a_task_wins_over_the_project_and_that_over_the_rule(
    python: str, task: str | None, project: str | None, expected: str
) -> None:
    assert way(add, python, task=task, project=project) == expected


def test_what_has_no_source_is_pickled_unless_source_is_asked_for() -> None:
    assert way(made_by_exec(), HERE) == "cloudpickle"
    for task, project in (("source", None), (None, "source")):
        with pytest.raises(CallError, match=r"add\(\) has no source text"):
            way(made_by_exec(), HERE, task=task, project=project)


def test_a_task_cannot_ask_for_what_there_is_not() -> None:
    with pytest.raises(CallError, match=r'add\(\): transport="cloudpickle" needs equal minor versions of Python'):
        way(add, OTHER, task="cloudpickle")
    with pytest.raises(CallError, match=r"transport is \"source\" or \"cloudpickle\", or left out, not 'pickle'"):
        way(add, HERE, task="pickle")


def test_a_function_in_the_place_of_the_environment_is_named() -> None:
    with pytest.raises(CallError, match=r"run\(\) takes an environment and a function"):
        k8s_venv.run(len, "etl")  # type: ignore[arg-type]
