"""Failures through the real runner, as a subprocess of each Python."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from k8s_venv.backends.local.backend import LocalBackend
from k8s_venv.calls import open_result, pack
from k8s_venv.config.environment import Environment
from k8s_venv.errors import BackendError, CallError, RemoteError
from k8s_venv.locks.locking import write_lock
from k8s_venv.locks.uv import find_interpreter
from k8s_venv.runtime import FailTask, SkipTask, fail, skip

Call = Callable[..., Any]
VERSIONS = ["3.8", "3.11", "3.12", "3.13"]


class OrderError(Exception):
    """An exception of the DAG's own module."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(number, reason)
        self.number = number


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.fixture(params=VERSIONS)
def call(request: pytest.FixtureRequest, tmp_path: Path) -> Call:
    """Call a function in a bare environment of some Python."""
    if find_interpreter(request.param) is None:
        pytest.skip(f"Python {request.param} is not installed")
    environment = Environment(name="bare", root=tmp_path, python=request.param)
    write_lock(environment)

    def run(function: Callable[..., Any], *args: Any) -> Any:
        packed = pack(function, args, {}, environment=environment)
        return open_result(LocalBackend().run(packed, print), packed)

    return run


def divide(a: int, b: int) -> float:
    return a / b


def missing_file() -> None:
    Path("/no/such/file").read_text()


def refuse() -> None:
    raise OrderError(7, "sold out")


def unprintable() -> None:
    raise UnprintableError(1)


def called_process() -> None:
    raise subprocess.CalledProcessError(3, ["ls"])


def with_cause() -> None:
    try:
        divide(1, 0)
    except ZeroDivisionError as error:
        raise ValueError("no average") from error


def noted() -> None:
    error = ValueError("wrong")
    error.__notes__ = ["look at row 3"]
    raise error


def recursive(n: int = 0) -> int:
    return recursive(n + 1)


def import_missing() -> None:
    import no_such_module  # type: ignore[import-not-found] # noqa: F401


def leave(code: object) -> None:
    sys.exit(code)  # type: ignore[arg-type]


def kind_of_the_environment() -> None:
    raise type("OnlyThere", (Exception,), {"__module__": "somewhere"})("here", 1)


def test_a_builtin_exception_is_itself_with_the_remote_lines(call: Call) -> None:
    with pytest.raises(ZeroDivisionError, match="division by zero") as caught:
        call(divide, 1, 0)

    remote = str(caught.value.__cause__)
    assert f'File "{__file__}", line {divide.__code__.co_firstlineno + 1}, in divide' in remote
    assert "return a / b" in remote
    assert "k8s_venv/runner" not in remote


def test_an_oserror_keeps_its_number_and_file(call: Call) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        call(missing_file)

    assert caught.value.filename == "/no/such/file"


def test_the_dags_own_exception_is_itself(call: Call) -> None:
    with pytest.raises(OrderError) as caught:
        call(refuse)

    assert caught.value.number == 7


def test_an_exception_of_the_standard_library_is_itself(call: Call) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        call(called_process)

    assert (caught.value.returncode, caught.value.cmd) == (3, ["ls"])


def test_a_type_that_only_the_environment_has_is_named(call: Call) -> None:
    with pytest.raises(RemoteError, match=r"somewhere\.OnlyThere: \('here', 1\)") as caught:
        call(kind_of_the_environment)

    assert caught.value.arguments == ("here", 1)


def test_an_exception_that_cannot_print_itself_arrives(call: Call) -> None:
    with pytest.raises(RemoteError, match="UnprintableError"):
        call(unprintable)


def test_causes_and_notes_are_shown(call: Call) -> None:
    with pytest.raises(ValueError, match="no average") as caught:
        call(with_cause)
    assert "ZeroDivisionError: division by zero" in str(caught.value.__cause__)
    assert "direct cause" in str(caught.value.__cause__)

    with pytest.raises(ValueError, match="wrong") as caught:
        call(noted)
    assert caught.value.__notes__ == ["look at row 3"]


def test_a_recursion_error_arrives_whole_but_short(call: Call) -> None:
    with pytest.raises(RecursionError) as caught:
        call(recursive)

    assert "more times" in str(caught.value.__cause__)


def test_a_missing_module_says_where_to_add_it(call: Call) -> None:
    with pytest.raises(ModuleNotFoundError) as caught:
        call(import_missing)

    assert caught.value.name == "no_such_module"
    assert any("requirements" in note and "k8s-venv lock bare" in note for note in caught.value.__notes__)


@pytest.mark.parametrize(("code", "says"), [(3, "SystemExit: 3"), ("no data", "SystemExit: no data")])
def test_leaving_with_a_code_is_a_failure(call: Call, code: object, says: str) -> None:
    with pytest.raises(RemoteError, match=says):
        call(leave, code)


@pytest.mark.parametrize("code", [0, None])
def test_leaving_without_one_is_success(call: Call, code: object) -> None:
    assert call(leave, code) is None


def test_skip_and_fail_keep_their_meaning(call: Call) -> None:
    with pytest.raises(SkipTask, match="nothing new"):
        call(skip, "nothing new")
    with pytest.raises(FailTask, match="give up"):
        call(fail, "give up")


def generator() -> Any:
    return {"rows": [(number for number in range(3))]}


def test_a_result_without_a_codec_is_named_by_its_path(call: Call) -> None:
    with pytest.raises(CallError, match=r"result\['rows'\]\[0\] is builtins\.generator"):
        call(generator)


def group() -> None:
    raise ExceptionGroup("two at once", [ValueError("a"), ExceptionGroup("inner", [KeyError("k")])])


@pytest.mark.parametrize("call", ["3.11", "3.12", "3.13"], indirect=True)
def test_a_group_is_a_group(call: Call) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        call(group)

    assert str(caught.value) == "two at once (2 sub-exceptions)"
    first, inner = caught.value.exceptions
    assert isinstance(first, ValueError)
    assert isinstance(inner.exceptions[0], KeyError)


def forked() -> None:
    import os

    child = os.fork()
    if child == 0:
        sys.exit(0)
    os.waitpid(child, 0)
    os._exit(9)


def test_a_forked_child_never_answers_for_the_task(call: Call) -> None:
    with pytest.raises(BackendError, match="exit code 9"):
        call(forked)


class HostileError(ImportError):
    def __init__(self) -> None:
        super().__init__("x")
        self.name = object()  # type: ignore[assignment]
        self.__notes__ = None  # type: ignore[assignment]


def raise_hostile() -> None:
    raise HostileError


def test_a_failure_is_not_lost_to_its_own_facts(call: Call) -> None:
    with pytest.raises(Exception, match=r"HostileError|x") as caught:
        call(raise_hostile)
    assert "raise HostileError" in str(caught.value.__cause__)


def test_the_wrong_python_is_refused(tmp_path: Path) -> None:
    environment = Environment(name="bare", root=tmp_path, python="3.12")
    write_lock(environment)
    packed = pack(divide, (1, 2), {}, environment=environment, transport="source")
    archive = tmp_path / "call.pyz"
    archive.write_bytes(packed.archive)
    other = find_interpreter("3.11")
    if other is None:
        pytest.skip("Python 3.11 is not installed")

    subprocess.run([other, str(archive), "--result", str(tmp_path / "result")], check=False)

    from k8s_venv.calls import Result, parse_document

    document = parse_document((tmp_path / "result" / "result.json").read_text(), "bare")
    result = Result(document, (tmp_path / "result" / "result.bin").read_bytes())
    with pytest.raises(BackendError, match=r"declared with Python 3\.12, but its `python` is 3\.11"):
        open_result(result, packed)
