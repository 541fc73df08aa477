"""The waiting program of a pod: real processes, and deliveries of every kind through the relay."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k8s_venv.backends.process import runner_command, waiting_sidecar_command
from k8s_venv.calls import PackedCall, Result, open_result, pack, parse_document
from k8s_venv.config.environment import Environment
from k8s_venv.wire import protocol
from tests.delivery import WaitingProgram, delivery, waiting_program
from tests.interpreters import interpreter

HERE = "{}.{}".format(*sys.version_info)
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pods run on Linux")
VERSIONS = ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13"]


def packed(folder: Path, function: Callable[..., Any], *args: Any, python: str = HERE, **options: Any) -> PackedCall:
    environment = Environment(name="here", root=folder, python=python)
    return pack(function, args, {}, environment=environment, transport="source", **options)


@pytest.fixture
def program(tmp_path: Path) -> Iterator[WaitingProgram]:
    with waiting_program(tmp_path / "pod") as program:
        yield program


def add(first: int, second: int) -> int:
    print("adds")
    return first + second


# One call.


@pytest.mark.parametrize("python", VERSIONS)
def test_a_call_that_is_delivered_runs_and_its_value_comes_back(tmp_path: Path, python: str) -> None:
    call = packed(tmp_path, add, 2, 3, python=python)

    with waiting_program(tmp_path / "pod", interpreter(python)) as program:
        came = program.deliver(delivery({protocol.ARCHIVE: call.archive}))
        code = program.process.wait(30)

    assert came.first == "delivered"
    assert came.document == program.message.read_bytes()
    assert code == 0
    assert program.log.read_text().split("\n") == [protocol.BEGIN, "adds", f"{protocol.END} {came.token}", ""]


def large() -> bytes:
    return b"large" * 300_000


def test_a_large_value_comes_back_whole(program: WaitingProgram, tmp_path: Path) -> None:
    assert program.run(packed(tmp_path, large)) == b"large" * 300_000


def facts() -> dict[str, Any]:
    import os
    import sys

    return {
        "argv": sys.argv[1:3],
        "path": [entry for entry in sys.path if not entry],
        "main": sorted(vars(sys.modules["__main__"])),
        "umask": os.umask(0o22),
    }


def test_a_function_finds_what_it_finds_in_a_pod_of_its_own(program: WaitingProgram, tmp_path: Path) -> None:
    call = packed(tmp_path, facts)
    archive = tmp_path / protocol.ARCHIVE
    archive.write_bytes(call.archive)

    waited: Any = program.run(call)

    own = tmp_path / "own"
    subprocess.run(runner_command(sys.executable, str(archive), "--result", str(own)), check=True, cwd=tmp_path)
    document = parse_document((own / "result.json").read_bytes(), "here")
    value = open_result(Result(document, (own / "result.bin").read_bytes()), call)
    assert {**waited, "argv": [], "main": []} == {**value, "argv": [], "main": []}
    assert set(waited["main"]) - set(value["main"]) <= {"__builtins__"}
    assert waited["argv"] == ["--result", str(program.result)]


def timed() -> float:
    import time

    time.sleep(1.0)
    return 0.0


def test_the_time_before_the_call_does_not_count(program: WaitingProgram, tmp_path: Path) -> None:
    import json

    time.sleep(1.0)

    came = program.deliver(delivery({protocol.ARCHIVE: packed(tmp_path, add, 1, 2).archive}))

    assert json.loads(came.document)["timings"]["imports"] < 1.0


def leave_work_for_the_end(path: str) -> str:
    import atexit
    import sys
    import threading
    import time

    def late() -> None:
        time.sleep(0.3)
        print("a thread's line")

    class Deleted:
        def __del__(self) -> None:
            print("deleted")

    threading.Thread(target=late).start()
    atexit.register(print, "an exit handler's line")
    module = sys.modules["own"] = type(sys)("own")
    vars(module)["file"] = open(path, "w")  # noqa: PTH123, SIM115 -- Python closes it at its end
    vars(module)["file"].write("written")
    vars(module)["deleted"] = Deleted()
    return "value"


@pytest.mark.parametrize("python", VERSIONS)
def test_the_document_comes_when_nothing_is_left_to_do(tmp_path: Path, python: str) -> None:
    call = packed(tmp_path, leave_work_for_the_end, str(tmp_path / "file"), python=python)

    with waiting_program(tmp_path / "pod", interpreter(python)) as program:
        relay = program.relay()
        assert relay.stdin is not None
        assert relay.stdout is not None
        relay.stdin.write(delivery({protocol.ARCHIVE: call.archive}))
        relay.stdin.flush()
        assert relay.stdout.readline() == b"delivered\n"
        assert relay.stdout.readline().startswith(b"document ")
        log, written = program.log.read_text(), (tmp_path / "file").read_text()
        relay.communicate()

    assert log.split("\n")[1:4] == ["a thread's line", "an exit handler's line", "deleted"]
    assert log.split("\n")[4].startswith(protocol.END)
    assert written == "written"


def leave(code: int) -> None:
    import os

    os._exit(code)


def test_a_process_that_leaves_at_once_brings_no_document(program: WaitingProgram, tmp_path: Path) -> None:
    came = program.deliver(delivery({protocol.ARCHIVE: packed(tmp_path, leave, 7).archive}))

    assert (came.first, came.document) == ("delivered", b"")
    assert program.process.wait(30) == 7


def fork_and_close() -> str:
    import os

    child = os.fork()
    if child == 0:
        raise SystemExit(0)
    os.waitpid(child, 0)
    return "of the parent"


def test_a_process_that_the_function_forks_sends_nothing(program: WaitingProgram, tmp_path: Path) -> None:
    assert program.run(packed(tmp_path, fork_and_close)) == "of the parent"


def close_everything(path: str) -> bool:
    import os

    os.closerange(3, 256)
    other = os.open(path, os.O_CREAT | os.O_WRONLY)
    while other < 40:
        other = os.dup(other)
    return True


def test_a_file_of_the_function_never_gets_what_is_for_the_sender(program: WaitingProgram, tmp_path: Path) -> None:
    came = program.deliver(
        delivery({protocol.ARCHIVE: packed(tmp_path, close_everything, str(tmp_path / "own")).archive})
    )

    assert (came.first, came.document) == ("delivered", b"")
    assert program.process.wait(30) == 0
    assert (tmp_path / "own").read_bytes() == b""
    assert program.message.read_bytes().startswith(b"{")  # as a pod's status shows it


def test_a_call_goes_on_when_its_sender_is_gone(program: WaitingProgram, tmp_path: Path) -> None:
    relay = program.relay()
    assert relay.stdin is not None
    relay.stdin.write(delivery({protocol.ARCHIVE: packed(tmp_path, timed).archive}))
    relay.stdin.flush()
    assert relay.stdout is not None
    relay.stdout.readline()

    relay.kill()
    relay.stdout.close()
    relay.stdin.close()
    relay.wait()

    assert program.process.wait(30) == 0
    assert program.message.read_bytes().startswith(b"{")


def very_large() -> bytes:
    return bytes(50_000_000)


def test_a_large_value_waits_in_its_folder_when_its_sender_is_gone(program: WaitingProgram, tmp_path: Path) -> None:
    relay = program.relay()
    assert relay.stdin is not None
    assert relay.stdout is not None
    relay.stdin.write(delivery({protocol.ARCHIVE: packed(tmp_path, very_large).archive}))
    relay.stdin.flush()
    assert relay.stdout.readline() == b"delivered\n"
    assert relay.stdout.readline().startswith(b"payload 50000")

    relay.stdout.close()
    relay.stdin.close()

    assert program.process.wait(30) == 0
    relay.wait()
    assert (program.result / protocol.PAYLOAD).stat().st_size > 50_000_000
    assert program.message.read_bytes() == (program.result / protocol.DOCUMENT).read_bytes()


def look_at_secrets() -> str | None:
    from k8s_venv import runtime

    return runtime.get_connection("db").password


def test_secrets_arrive_beside_the_archive_for_this_user_alone(program: WaitingProgram, tmp_path: Path) -> None:
    secrets = {"connections": {"db": {"conn_type": "postgres", "password": "planted"}}, "variables": {}, "masked": []}

    assert program.run(packed(tmp_path, look_at_secrets, secrets=secrets)) == "planted"

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in program.call.iterdir()}
    assert modes[protocol.SECRETS] == modes[protocol.ARCHIVE] == 0o600


def test_an_archive_of_a_runner_that_knows_of_no_waiting_works(program: WaitingProgram, tmp_path: Path) -> None:
    import io
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("__main__.py", "import sys\nprint(sys.argv[1], __name__)\nsys.exit(3)\n")

    came = program.deliver(delivery({protocol.ARCHIVE: buffer.getvalue()}))

    assert (came.first, came.document) == ("delivered", b"")
    assert program.process.wait(30) == 3
    assert program.log.read_text() == f"{protocol.BEGIN}\n--result __main__\n"


# Deliveries that are none.

GOOD = delivery({protocol.ARCHIVE: b"PK", protocol.SECRETS: b"{}"})
ANY = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WaitingProgram]:
    """A program that gets many deliveries, none of which is good."""
    with waiting_program(tmp_path_factory.mktemp("patient")) as program:
        yield program


def waits_with_nothing(program: WaitingProgram) -> bool:
    return {path.name for path in program.call.iterdir()} == {"waiting.sock", "waiting.lock"}


@ANY
@given(cut=st.integers(0, len(GOOD) - 1))
def test_a_delivery_that_breaks_off_at_any_byte_leaves_nothing(patient: WaitingProgram, cut: int) -> None:
    came = patient.deliver(GOOD[:cut])

    assert came.first == "refused: it broke off"
    assert waits_with_nothing(patient)


@ANY
@given(data=st.binary(max_size=200))
def test_any_other_bytes_are_refused(patient: WaitingProgram, data: bytes) -> None:
    assert patient.deliver(data).first.startswith("refused: it b")
    assert waits_with_nothing(patient)


@pytest.mark.parametrize(
    "lines",
    [
        *("../x 1", "a/b 1", "/etc/passwd 1", ".hidden 1", " 1", "x", "x -1", "x 1e3", "x 0x10", "x ١", "x 1 1"),
        *("call.pyz 1\ncall.pyz 1", "waiting.sock 1", "waiting.lock 1", "x 99999999999999999999", f"{'x' * 300} 1"),
        *("x\0 1", "ä 1", "x  1", "x\t1", "..", "-x 1"),
    ],
)
def test_names_and_sizes_are_checked(patient: WaitingProgram, lines: str) -> None:
    came = patient.deliver(f"k8s-venv 1\ncall.pyz 2\n{lines}\n\n".encode() + b"x" * 100)

    assert came.first.endswith("names no file and its size")
    assert waits_with_nothing(patient)


def test_a_delivery_without_an_archive_is_refused(patient: WaitingProgram) -> None:
    assert patient.deliver(delivery({"secrets.json": b"{}"})).first == "refused: it has no call.pyz"


def test_a_header_without_an_end_is_refused(patient: WaitingProgram) -> None:
    assert patient.deliver(b"k8s-venv 1\n" + b"x 1\n" * 100_000).first == "refused: its header has no end"
    assert waits_with_nothing(patient)


def test_a_disk_that_is_full_is_named_and_leaves_nothing(patient: WaitingProgram) -> None:
    patient.call.joinpath("secrets.json").mkdir()
    try:
        came = patient.deliver(GOOD)
    finally:
        patient.call.joinpath("secrets.json").rmdir()

    assert "Is a directory" in came.first
    assert waits_with_nothing(patient)


@pytest.mark.parametrize("sent", [b"", b"x"], ids=["nothing", "a byte without descriptors"])
def test_a_program_that_is_no_relay_is_refused(patient: WaitingProgram, sent: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(patient.socket))
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(10) == b""

    assert waits_with_nothing(patient)


def test_another_user_cannot_connect(patient: WaitingProgram) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    assert stat.S_IMODE(patient.socket.stat().st_mode) == 0o600
    code = f"import os, socket; os.setuid(65534); socket.socket(socket.AF_UNIX).connect({str(patient.socket)!r})"

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert "PermissionError" in ran.stderr


def test_another_user_is_refused_where_the_socket_lets_him_in() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    with tempfile.TemporaryDirectory() as folder, waiting_program(Path(folder) / "pod") as program:
        for path in (Path(folder), program.socket):
            path.chmod(0o777)
        connect = f"s.connect({str(program.socket)!r}); print(s.recv(1))"
        code = f"import os, socket; s = socket.socket(socket.AF_UNIX); os.setuid(65534); {connect}"
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

        assert ran.stdout == "b''\n", ran.stderr
        assert waits_with_nothing(program)


def test_a_good_delivery_after_a_broken_one_runs(program: WaitingProgram, tmp_path: Path) -> None:
    program.deliver(GOOD[:-1])
    program.deliver(b"nonsense\n\n")

    assert program.run(packed(tmp_path, add, 1, 2)) == 3


def test_of_two_deliveries_one_is_taken(program: WaitingProgram, tmp_path: Path) -> None:
    data = delivery({protocol.ARCHIVE: packed(tmp_path, timed).archive})
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(program.deliver, [data] * 4))
    late = program.deliver(data)

    assert sorted(came.first for came in answers) == ["delivered", "taken", "taken", "taken"]
    assert sum(bool(came.document) for came in answers) == 1
    assert late.first == "taken"


def test_a_relay_of_a_delivery_that_was_refused_says_so_by_its_exit_code(patient: WaitingProgram) -> None:
    relay = patient.relay()
    relay.communicate(b"nonsense\n\n")

    assert relay.returncode == 4


# Before a call.


def test_sigterm_ends_it_at_once(program: WaitingProgram) -> None:
    program.process.send_signal(signal.SIGTERM)

    assert program.process.wait(30) == 143


def test_sigterm_ends_it_though_a_module_has_a_handler_of_its_own(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "pod").mkdir()
    (tmp_path / "pod" / "own.py").write_text("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    _in_the_path(tmp_path, monkeypatch)

    with waiting_program(tmp_path / "pod", preload=["own"]) as program:
        program.process.send_signal(signal.SIGTERM)

        assert program.process.wait(30) == 143


def test_modules_are_imported_before_the_call(tmp_path: Path) -> None:
    def loaded() -> bool:
        import sys

        return "decimal" in sys.modules

    with waiting_program(tmp_path / "pod", preload=["decimal", "xml.dom"]) as program:
        assert program.run(packed(tmp_path, loaded)) is True


def records() -> None:
    import logging

    logging.getLogger("some").warning("recorded")


def test_records_are_marked_though_logging_is_there_already(tmp_path: Path) -> None:
    with waiting_program(tmp_path / "pod", preload=["logging"]) as program:
        program.run(packed(tmp_path, records))

    assert f"{protocol.MARK}WARNING - recorded" in program.log.read_text().split("\n")


def test_what_modules_print_comes_after_the_beginning_of_the_log(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "pod").mkdir()
    (tmp_path / "pod" / "chatty.py").write_text("for n in range(100): print(n, flush=True)")
    _in_the_path(tmp_path, monkeypatch)

    with waiting_program(tmp_path / "pod", preload=["chatty"]) as program:
        program.run(packed(tmp_path, records))

    assert program.log.read_text().split("\n")[:101] == [protocol.BEGIN, *map(str, range(100))]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("raise ValueError('as planned')", "the preload 'failing' cannot be imported: ValueError: as planned"),
        ("import sys; sys.exit('enough')", "the preload 'failing' cannot be imported: SystemExit: enough"),
        ("import nowhere", "cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        ("import sys; sys.modules['airflow'] = sys", "it imports 'airflow', which only a call may import."),
        ("import sys; sys.modules['k8s_venv'] = sys", "it imports 'k8s_venv', which only a call may import."),
    ],
)
def test_a_module_that_cannot_be_imported_ends_it_with_the_reason(
    tmp_path: Path, monkeypatch: Any, text: str, told: str
) -> None:
    (tmp_path / "pod").mkdir()
    (tmp_path / "pod" / "failing.py").write_text(f"{text}\n")
    _in_the_path(tmp_path, monkeypatch)

    with waiting_program(tmp_path / "pod", preload=["failing"]) as program:
        code = program.process.wait(30)

    assert code == 1
    assert told in program.message.read_text().split("\n")[-1]
    assert told in program.log.read_text()
    assert not program.socket.exists()


def _in_the_path(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tests.delivery.VARIABLES", {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(tmp_path / "pod")})


def test_the_working_folder_is_not_searched_for_modules(tmp_path: Path) -> None:
    (tmp_path / "pod").mkdir()
    (tmp_path / "pod" / "decimal.py").write_text("raise SystemExit('of the working folder')")

    with waiting_program(tmp_path / "pod", preload=["decimal"]) as program:
        assert program.is_ready()


# The container beside it.


def beside(program: WaitingProgram) -> subprocess.Popen[bytes]:
    return subprocess.Popen(waiting_sidecar_command(program.python, str(program.call), str(program.result)))


def test_the_container_beside_hands_a_large_value_over(program: WaitingProgram, tmp_path: Path) -> None:
    sidecar = beside(program)
    program.deliver(delivery({protocol.ARCHIVE: packed(tmp_path, large).archive}))
    assert sidecar.poll() is None

    (program.result / protocol.DOCUMENT).unlink()

    assert sidecar.wait(30) == 0


def test_the_container_beside_ends_with_a_program_that_got_no_call(program: WaitingProgram) -> None:
    sidecar = beside(program)
    program.process.send_signal(signal.SIGTERM)

    assert sidecar.wait(30) == 0


def test_the_container_beside_ends_at_once_at_sigterm(program: WaitingProgram) -> None:
    sidecar = beside(program)
    time.sleep(1)
    sidecar.send_signal(signal.SIGTERM)

    assert sidecar.wait(30) in (0, -signal.SIGTERM)
