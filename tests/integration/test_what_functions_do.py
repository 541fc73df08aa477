"""Functions that treat their process roughly: each ends as in place, or in one clear sentence."""

from __future__ import annotations

import atexit
import builtins
import concurrent.futures
import decimal
import inspect
import io
import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from k8s_venv.backends.local.backend import LocalBackend
from k8s_venv.calls import open_result, pack
from k8s_venv.config.environment import Environment
from k8s_venv.errors import BackendError, RemoteError
from k8s_venv.locks.uv import find_interpreter

Call = Callable[..., Any]


@pytest.fixture(params=["3.8", "3.10", "3.12", "3.13"])
def call(request: pytest.FixtureRequest, tmp_path: Path, printed: list[str]) -> Call:
    interpreter = find_interpreter(request.param)
    if interpreter is None:
        pytest.skip(f"Python {request.param} is not installed")
    environment = Environment(name="rough", root=tmp_path, python=request.param, interpreter=interpreter)

    def run(function: Callable[..., Any], *args: Any) -> Any:
        packed = pack(function, args, {}, environment=environment, transport="source")
        return open_result(LocalBackend().run(packed, printed.append), packed)

    return run


@pytest.fixture
def printed() -> list[str]:
    return []


def square(number: int) -> int:
    return number * number


def in_pool(method: str) -> list[int]:
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        return list(pool.map(square, [1, 2, 3]))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_process_pools_run_functions_of_the_dag_file(call: Call, method: str) -> None:
    assert call(in_pool, method) == [1, 4, 9]


def forks(end: str) -> tuple[str, int]:
    child = os.fork()
    if child == 0:
        if end == "exit":
            sys.exit(0)
        return "child", 0
    return "parent", os.waitpid(child, 0)[1]


def test_a_forked_process_leaves_the_result_to_its_parent(call: Call, printed: list[str]) -> None:
    assert call(forks, "exit") == ("parent", 0)
    assert call(forks, "return") == ("parent", 256)
    assert any("os._exit()" in line for line in printed)


def closes_its_output() -> int:
    sys.stdout.close()
    sys.stderr.close()
    return 1


def closes_descriptors() -> int:
    os.close(1)
    os.close(2)
    return 1


def has_no_output() -> int:
    sys.stdout = sys.stderr = None
    return 1


def changes_directory_and_mask() -> int:
    os.chdir("/")
    os.umask(0o777)
    return 1


def clears_its_folder() -> decimal.Decimal:
    for path in sys.path:
        if path.endswith(".pyz"):
            shutil.rmtree(Path(path).parent)
    return decimal.Decimal(1)  # of which the runner has to import what it knows


def leaves_exit_handlers() -> int:
    atexit.register(os._exit, 9)
    atexit.register(lambda: 1 / 0)
    return 1


def leaves_a_thread_that_prints() -> int:
    def spam() -> None:
        while True:
            print("spam")
            time.sleep(0.001)

    threading.Thread(target=spam, daemon=True).start()
    return 1


def leaves_a_process() -> int:
    subprocess.Popen(["sleep", "60"])
    return 1


def limits_recursion() -> int:
    sys.setrecursionlimit(80)
    return 1


def clears_what_finds_modules() -> int:
    for found in (sys.path, sys.meta_path, sys.path_hooks, sys.path_importer_cache, sys.modules):
        found.clear()
    return 1


def deletes_what_finds_modules() -> int:
    del sys.path, sys.meta_path, sys.path_hooks, sys.path_importer_cache, sys.modules, sys.stdout, sys.stderr
    return 1


def refuses_imports() -> int:
    class Refusing:
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
            raise ImportError(f"{name} is not allowed")

    sys.meta_path.insert(0, Refusing())
    return 1


def clears_builtins() -> int:
    vars(builtins).clear()
    return 1


def limits_itself() -> int:
    import resource

    for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE):
        resource.setrlimit(limit, (0, resource.getrlimit(limit)[1]))
    return 1


@pytest.mark.parametrize(
    "function",
    [
        changes_directory_and_mask,
        clears_builtins,
        clears_its_folder,
        clears_what_finds_modules,
        closes_descriptors,
        closes_its_output,
        deletes_what_finds_modules,
        has_no_output,
        leaves_a_process,
        leaves_a_thread_that_prints,
        leaves_exit_handlers,
        limits_itself,
        limits_recursion,
        refuses_imports,
    ],
)
def test_the_value_arrives_nevertheless(call: Call, function: Callable[[], Any]) -> None:
    assert call(function) == 1


def fails_in_ruins() -> None:
    error = ValueError("read me")
    clears_what_finds_modules()
    refuses_imports()
    clears_builtins()
    raise error


def test_so_does_the_failure(call: Call) -> None:
    with pytest.raises(ValueError, match="read me"):
        call(fails_in_ruins)


def denies_itself_all_files() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def test_what_cannot_be_reported_is_said_in_the_log(call: Call, printed: list[str]) -> None:
    with pytest.raises(BackendError, match="keeps its result from being written; the end of its log"):
        call(denies_itself_all_files)

    assert len(printed) == 1
    assert "ERROR - the call ended with OSError, which cannot be reported: OSError: [Errno 27]" in printed[0]


def draws_and_replaces_its_output() -> int:
    print("10 %", end="\r")
    print("20 %", end="\r")
    print("30 %", end="")
    sys.stdout = io.StringIO()
    print("never seen")
    return 1


def test_progress_is_not_lost_with_a_replaced_output(call: Call, printed: list[str]) -> None:
    assert call(draws_and_replaces_its_output) == 1
    assert [line for line in printed if "%" in line][-1].endswith("30 %")


def logs_while_output_is_redirected() -> None:
    import contextlib

    with contextlib.redirect_stdout(io.StringIO()):
        logging.getLogger("a").info("nobody looks")
    logging.getLogger("a").info("seen")


def test_records_go_to_the_log_whenever_logging_was_imported(call: Call, printed: list[str]) -> None:
    call(logs_while_output_is_redirected)

    assert [line for line in printed if "seen" in line]


def own_source() -> str:
    return inspect.getsource(own_source)


def test_a_function_can_read_its_own_source(call: Call) -> None:
    assert call(own_source) == inspect.getsource(own_source)


def stops() -> None:
    breakpoint()


def asks() -> str:
    return input("? ")


def test_nobody_is_at_a_terminal(call: Call) -> None:
    with pytest.raises(RuntimeError, match="terminal"):
        call(stops)
    with pytest.raises(EOFError):
        call(asks)


class NotedError(Exception):
    """An exception whose parts are not what they should be."""


NotedError.__module__ = None  # type: ignore[assignment]


def raises_noted() -> None:
    error = NotedError("read me")
    error.__notes__ = 5  # type: ignore[assignment]
    raise error


class StoppingError(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


def raises_stopping() -> None:
    raise StoppingError


def test_an_exception_that_cannot_be_read_is_a_failure_with_its_name(call: Call) -> None:
    with pytest.raises(RemoteError, match="NotedError: read me"):
        call(raises_noted)
    with pytest.raises(RemoteError, match=r"StoppingError: <SystemExit while reading the message>"):
        call(raises_stopping)


def fills_memory() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))
    held = []
    while True:
        held.append(bytearray(1 << 20))


def test_no_memory_is_left_to_say_so(call: Call) -> None:
    with pytest.raises(MemoryError):
        call(fills_memory)


LINGERING = """
import sys, time
from k8s_venv.runner import main
main.LINGER = 0.5
sys.argv[0] = sys.path[0] = sys.argv[1]
sys.exit(main.main(sys.argv[1], sys.argv[2:]))
"""


def lingers() -> None:
    threading.Thread(target=time.sleep, args=(60,)).start()
    atexit.register(time.sleep, 60)


def test_what_lingers_is_ended_with_a_sentence(tmp_path: Path) -> None:
    here = "{}.{}".format(*sys.version_info)
    packed = pack(lingers, (), {}, environment=Environment(name="x", root=tmp_path, python=here), transport="source")
    (tmp_path / "call.pyz").write_bytes(packed.archive)

    done = subprocess.run(
        [sys.executable, "-c", LINGERING, str(tmp_path / "call.pyz"), "--result", str(tmp_path / "result")],
        capture_output=True,
        text=True,
        check=True,
    )

    assert (tmp_path / "result" / "result.json").exists()
    assert "threads or exit handlers" in done.stdout
