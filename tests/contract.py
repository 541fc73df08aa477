"""What every backend does alike: the same calls, run on each of them.

A test class of a backend inherits these tests and gives the fixture ``run``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from k8s_venv.backends import Backend
from k8s_venv.backends.process import parse_line
from k8s_venv.calls import open_result, pack
from k8s_venv.config.environment import Environment
from k8s_venv.errors import BackendError
from k8s_venv.runtime import SkipTask

SECRET = "planted-secret"


class Runner:
    """Runs functions with one backend in one environment.

    Args:
        make: returns a new backend.
        environment: where functions run.
    """

    def __init__(self, make: Callable[[], Backend], environment: Environment) -> None:
        self.make = make
        self.environment = environment
        self.lines: list[str] = []

    def __call__(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        self.lines.clear()
        call = pack(function, args, {}, environment=self.environment, transport="source", **options)
        return open_result(self.make().run(call, self.lines.append), call)


def describe(number: int) -> dict[str, Any]:
    import logging
    import sys

    print("printed", number)
    print("said", file=sys.stderr)
    logging.getLogger("some").warning("recorded")
    return {"python": "{}.{}".format(*sys.version_info), "set": {number}, "none": None, "arguments": sys.argv[1:1]}


def repeat(data: bytes, times: int) -> bytes:
    return data * times


def fail() -> None:
    raise ValueError("as planned")


def skip() -> None:
    from k8s_venv import runtime

    runtime.skip("nothing to do")


def leave(code: int) -> None:
    import os

    os._exit(code)


def crash() -> None:
    import ctypes

    ctypes.string_at(0)


def look_for(text: str) -> tuple[str | None, list[str]]:
    """Return the connection's password, and where else it can be seen."""
    import os
    import pathlib

    from k8s_venv import runtime

    places = ("/proc/self/cmdline", "/proc/self/environ")
    seen = [place for place in places if text.encode() in pathlib.Path(place).read_bytes()]
    assert text in os.environ["AIRFLOW_CONN_DB"]
    return runtime.get_connection("db").password, seen


def read_input() -> str:
    import sys

    return sys.stdin.read()


def print_lines() -> None:
    import os

    os.write(1, b"\xff caf\xc3\xa9\n")
    for number in range(2000):
        print(f"{number:0100}")
    os.write(1, b"without an end")


class BackendContract:
    def test_a_value_and_what_is_printed(self, run: Runner) -> None:
        value = run(describe, 3)

        assert value == {"python": run.environment.python, "set": {3}, "none": None, "arguments": []}
        assert sorted(part for line in run.lines for part in parse_line(line)) == [
            ("", "printed 3"),
            ("WARNING", "recorded"),
            ("stderr", "said"),
        ]

    def test_large_arguments_and_values(self, run: Runner) -> None:
        assert run(repeat, b"abcdefghij" * 50_000, 10) == b"abcdefghij" * 500_000

    def test_a_failure_is_raised_as_itself_with_its_lines(self, run: Runner) -> None:
        with pytest.raises(ValueError, match="as planned") as raised:
            run(fail)

        notes = "\n".join(getattr(raised.value, "__notes__", [])) + str(raised.value.__cause__)
        assert 'raise ValueError("as planned")' in notes

    def test_a_call_can_skip_itself(self, run: Runner) -> None:
        with pytest.raises(SkipTask, match="nothing to do"):
            run(skip)

    @pytest.mark.parametrize(
        ("function", "args", "reason"),
        [
            (leave, (7,), r"its process left with exit code 7 \(os\._exit\?\)"),
            (leave, (0,), "its process left with exit code 0"),
            (crash, (), r"its process was ended by SIGSEGV \(a crash in compiled code\)"),
        ],
        ids=["os._exit", "os._exit with success", "a segfault"],
    )
    def test_a_process_that_dies_is_a_failure_that_says_how(
        self, run: Runner, function: Callable[..., Any], args: tuple[Any, ...], reason: str
    ) -> None:
        with pytest.raises(BackendError, match=rf"{function.__name__}\(\) ended without a result: {reason}"):
            run(function, *args)

    def test_connections_are_seen_by_the_function_alone(self, run: Runner) -> None:
        connections = {"db": {"conn_type": "postgres", "password": SECRET}}
        secrets = {"connections": connections, "variables": {}, "masked": []}

        assert run(look_for, SECRET, secrets=secrets) == (SECRET, [])

    def test_standard_input_is_empty(self, run: Runner) -> None:
        assert run(read_input) == ""

    def test_much_output_arrives_whole_and_in_order(self, run: Runner) -> None:
        run(print_lines)

        assert run.lines[0] == r"\xff café"
        assert run.lines[1:2001] == [f"{number:0100}" for number in range(2000)]
        assert run.lines[2001] == "without an end"
