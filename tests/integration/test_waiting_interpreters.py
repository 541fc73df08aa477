"""Interpreters that wait on this machine for the next call of the same process: as without them, but faster."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from k8s_venv.backends.local.backend import LocalBackend
from k8s_venv.backends.local.environments import make_environment
from k8s_venv.backends.local.interpreters import interpreters
from k8s_venv.calls import open_result, pack
from k8s_venv.config.environment import Environment
from tests.interpreters import interpreter
from tests.waiting import eventually

pytestmark = [
    pytest.mark.usefixtures("no_settings"),
    pytest.mark.skipif(sys.platform != "linux", reason="asks /proc about processes"),
]
HERE = "{}.{}".format(*sys.version_info)
BareEnvironment = Callable[[str], Environment]


@pytest.fixture
def environment(bare_environment: BareEnvironment) -> Iterator[Environment]:
    """An environment in which calls have been made, so that an interpreter waits for the next one."""
    interpreters.end()
    environment = bare_environment(HERE)
    for _ in range(2):
        call(environment, os.getpid)
    yield environment
    interpreters.end()


def call(environment: Environment, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    packed = pack(function, args, {}, environment=environment, transport="source")
    return open_result(LocalBackend(**options).run(packed, lambda line: None), packed)


def started_before(clock: float) -> bool:
    """Return whether this process had started before a time, in seconds since the system started."""
    import os
    import pathlib

    started = int(pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return started / os.sysconf("SC_CLK_TCK") < clock


def now() -> float:
    time.sleep(0.1)  # the system counts the starts of processes in hundredths of a second
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def leave_traces() -> list[str]:
    """Return the traces of calls before, and leave some."""
    import builtins
    import os
    import sys

    found = [name for name in ("trace",) if name in os.environ or name in sys.modules or hasattr(builtins, name)]
    os.environ["trace"] = "here"  # noqa: SIM112
    sys.modules["trace"] = sys
    builtins.trace = 1  # type: ignore[attr-defined]
    return found


def surroundings() -> dict[str, Any]:
    import os

    os.mkdir("made")  # noqa: PTH102
    mode = os.stat("made").st_mode & 0o777  # noqa: PTH116
    os.rmdir("made")  # noqa: PTH106
    return {"mode": mode, "folder": os.getcwd(), "zone": os.environ.get("TZ")}  # noqa: PTH109


def zone_of_a_process(clock: float) -> tuple[str | None, bool]:
    import os

    return os.environ.get("TZ"), started_before(clock)


def parent() -> int:
    import os

    return os.getppid()


def limit() -> int:
    import resource

    return resource.getrlimit(resource.RLIMIT_CORE)[0]


def sleep() -> str:
    import time

    time.sleep(0.5)
    return "slept"


def fail_after_printing(number: int) -> int:
    if number % 2:
        raise ValueError(number)
    return number


def test_only_the_first_calls_of_a_process_start_an_interpreter_of_their_own(bare_environment: BareEnvironment) -> None:
    interpreters.end()
    environment = bare_environment(HERE).model_copy(update={"name": "new"})
    environment.lock_path.write_bytes(bare_environment(HERE).lock_path.read_bytes())

    assert [call(environment, started_before, now()) for _ in range(4)] == [False, False, True, True]


def test_no_call_sees_anything_of_another(environment: Environment) -> None:
    assert [call(environment, leave_traces) for _ in range(4)] == [[]] * 4
    assert len({call(environment, os.getpid) for _ in range(4)}) == 4


def test_a_call_finds_the_folder_variables_and_modes_of_its_own_moment(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    found = []

    for folder, zone, umask in [("first", "UTC", 0o022), ("second", "CET", 0o077), ("second", "CET", 0o002)]:
        monkeypatch.chdir(tmp_path / folder)
        monkeypatch.setenv("TZ", zone)
        before = os.umask(umask)
        try:
            found.append(call(environment, surroundings))
        finally:
            os.umask(before)

    assert found == [
        {"mode": 0o755, "folder": str(tmp_path / "first"), "zone": "UTC"},
        {"mode": 0o700, "folder": str(tmp_path / "second"), "zone": "CET"},
        {"mode": 0o775, "folder": str(tmp_path / "second"), "zone": "CET"},
    ]


def test_tasks_with_variables_of_their_own_take_turns(environment: Environment) -> None:
    def in_zone(zone: str) -> Any:
        return call(environment, zone_of_a_process, now(), options={"env_vars": {"TZ": zone}})

    found = [in_zone(zone) for _ in range(3) for zone in ("EST", "MST")]

    assert [zone for zone, _ in found] == ["EST", "MST"] * 3
    assert [waited for _, waited in found][-2:] == [True, True]


def test_a_call_has_the_limits_of_its_own_moment(environment: Environment) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_CORE)
    wanted = 4096 if before[0] != 4096 else 8192
    resource.setrlimit(resource.RLIMIT_CORE, (wanted, before[1]))
    try:
        assert call(environment, limit) == wanted
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)


def test_an_environment_that_was_removed_and_made_again_works(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("K8S_VENV_CACHE", str(tmp_path / "cache"))
    pids = [call(environment, os.getpid) for _ in range(2)]
    shutil.rmtree(make_environment(environment).parent.parent)

    pids += [call(environment, os.getpid) for _ in range(2)]

    assert len(set(pids)) == 4


def test_one_that_was_killed_while_it_waited_is_replaced(environment: Environment) -> None:
    (waiting,) = interpreters._waiting.values()
    waiting.kill()
    waiting.wait()

    assert call(environment, os.getpid) > 0


def test_calls_of_several_threads_at_once(environment: Environment) -> None:
    with ThreadPoolExecutor(8) as pool:
        pids = list(pool.map(lambda _: call(environment, os.getpid), range(24)))

    assert len(set(pids)) == 24


def test_a_fork_of_the_process_has_interpreters_of_its_own(environment: Environment) -> None:
    """As Airflow forks the processes of tasks."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            parents = [call(environment, parent) for _ in range(3)]
            os.write(writing, repr((os.getpid(), parents)).encode())
            interpreters.end()
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    told = os.read(reading, 1000).decode()
    os.close(reading)

    assert os.waitpid(child, 0)[1] == 0
    assert told == repr((child, [child] * 3))
    assert [call(environment, parent) for _ in range(3)] == [os.getpid()] * 3


def test_few_interpreters_wait_however_many_environments_there_are(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("k8s_venv.backends.local.interpreters._MOST", 2)
    pythons = [tmp_path / str(number) / "bin" / "python" for number in range(5)]
    for python in pythons:
        python.parent.mkdir(parents=True)
        python.symlink_to(sys.executable)
        for _ in range(2):
            interpreters.prepare(python, {})

    commands: list[Any] = [process.args for process in interpreters._waiting.values()]
    assert [command[0] for command in commands] == list(map(str, pythons[-2:]))


def test_failures_and_values_come_in_turn(environment: Environment) -> None:
    for number in range(6):
        if number % 2:
            with pytest.raises(ValueError, match=str(number)):
                call(environment, fail_after_printing, number)
        else:
            assert call(environment, fail_after_printing, number) == number


LOOP = """
import os, pathlib, signal, sys
from k8s_venv.backends.local.backend import LocalBackend
from k8s_venv.backends.local.interpreters import interpreters
from k8s_venv.calls import pack
from k8s_venv.config.environment import Environment
from tests.integration.test_waiting_interpreters import sleep
environment = Environment(name="bare", root=pathlib.Path(sys.argv[1]), python=sys.argv[2])
for _ in range(3):
    LocalBackend().run(pack(sleep, (), {}, environment=environment), print)
(waiting,) = interpreters._waiting.values()
print(waiting.pid, flush=True)
"""


@pytest.mark.parametrize("end", ["", "os._exit(3)", "os.kill(os.getpid(), signal.SIGKILL)", "sys.exit(4)"])
def test_what_waits_ends_with_its_process(environment: Environment, end: str) -> None:
    code = textwrap.dedent(LOOP) + end
    command = [sys.executable, "-W", "error", "-c", code, str(environment.root), HERE]

    ran = subprocess.run(command, capture_output=True, text=True, check=False)

    waiting = int(ran.stdout)
    eventually(lambda: not _lives(waiting))
    assert ran.stderr == ""
    assert ran.returncode == {"": 0, "os._exit(3)": 3, "sys.exit(4)": 4}.get(end, -signal.SIGKILL)


def _lives(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_an_interpreter_of_somebody_else_never_waits(tmp_path: Path) -> None:
    """Its packages may change between two calls, and a process reads some files only when it starts."""
    interpreters.end()
    environment = Environment(name="theirs", root=tmp_path, python=HERE, interpreter=interpreter(HERE))

    assert [call(environment, started_before, now()) for _ in range(3)] == [False] * 3
