"""The local backend: real environments, real subprocesses."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from k8s_venv.backends.local.backend import LocalBackend
from k8s_venv.backends.local.environments import make_environment
from k8s_venv.backends.process import parse_line
from k8s_venv.cache import uv_folder
from k8s_venv.calls import PackedCall, open_result, pack
from k8s_venv.config.environment import Environment
from k8s_venv.errors import BackendError, K8sVenvError, LockError
from k8s_venv.locks import uv
from k8s_venv.locks.locking import read_lock, write_lock
from tests.contract import BackendContract, Runner
from tests.disks import mounted
from tests.faults import rewrite_lock
from tests.interpreters import interpreter

pytestmark = pytest.mark.usefixtures("no_settings")
HERE = "{}.{}".format(*sys.version_info)
BareEnvironment = Callable[[str], Environment]


def packed_call(function: Callable[..., Any], *args: Any, environment: Environment, **options: Any) -> PackedCall:
    return pack(function, args, {}, environment=environment, transport="source", **options)


def call(environment: Environment, function: Callable[..., Any], *args: Any, **options: Any) -> tuple[Any, list[str]]:
    """Run a function in an environment; return its value and what it printed."""
    lines: list[str] = []
    packed = packed_call(function, *args, environment=environment, **options)
    return open_result(LocalBackend().run(packed, lines.append), packed), lines


def ended(pid: int, seconds: int = 60) -> bool:
    """Wait until a process has ended: killed ones take a moment to go."""
    for _ in range(seconds * 20):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


# What the tests below run in environments. They travel as source, so each imports what it uses.


def version() -> str:
    import sys

    print("running", file=sys.stderr)
    return "{}.{}".format(*sys.version_info)


def environ() -> dict[str, str]:
    import os

    return dict(os.environ)


def place() -> tuple[str, int, list[tuple[str, int]]]:
    import pathlib
    import sys

    folder = pathlib.Path(sys.argv[0]).parent
    return (
        str(folder),
        folder.stat().st_mode & 0o777,
        sorted((file.name, file.stat().st_mode & 0o777) for file in folder.iterdir()),
    )


def print_much() -> None:
    import os

    os.write(1, b"\xff\xfe caf\xc3\xa9\r\n")
    for number in range(20_000):
        print(f"{number:0100}")
    os.write(2, b"x" * 3_000_000)


def leave(code: int) -> None:
    import os

    os._exit(code)


def leave_through_exit(code: Any) -> None:
    import sys

    sys.exit(code)


def crash() -> None:
    import ctypes

    ctypes.string_at(0)


def kill_itself() -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def fork() -> int:
    """Fork a child that outlives the call and keeps its output open."""
    import os
    import time

    child = os.fork()
    if child == 0:
        time.sleep(600)
        os._exit(0)
    return child


def fork_a_daemon() -> int:
    """Fork a child with a session of its own, which no signal to the call's group reaches."""
    import os
    import time

    child = os.fork()
    if child == 0:
        os.setsid()
        time.sleep(600)
        os._exit(0)
    return child


def start_a_child_and_wait() -> None:
    import subprocess
    import sys
    import time

    # A child that does not end when it is asked to.
    code = (
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print('child', os.getpid(), flush=True); time.sleep(600)"
    )
    subprocess.Popen([sys.executable, "-c", code])
    time.sleep(600)


def script_on_path() -> str:
    import subprocess

    return subprocess.check_output(["python", "-c", "import sys; print(sys.prefix)"]).decode().strip()


@pytest.mark.parametrize("python", ["3.8", "3.11", "3.12", "3.13"])
def test_a_call_runs_on_its_environments_python(bare_environment: BareEnvironment, python: str) -> None:
    value, lines = call(bare_environment(python), version)

    assert value == python
    assert [parse_line(line) for line in lines] == [[("stderr", "running")]]


def test_a_task_sees_none_of_the_senders_variables(
    bare_environment: BareEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = bare_environment(HERE)
    for name in ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW_CONN_X", "AWS_SECRET_ACCESS_KEY", "PYTHONPATH"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.com")

    seen, _ = call(environment, environ)

    assert "secret" not in seen.values()
    assert seen["HTTPS_PROXY"] == "http://proxy.example.com"
    assert set(seen) <= {
        *("PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "USER", "LOGNAME", "HTTPS_PROXY", "HTTP_PROXY"),
        *("NO_PROXY", "ALL_PROXY", "no_proxy", "http_proxy", "https_proxy", "all_proxy", "SSL_CERT_FILE"),
        *("SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PYTHONUNBUFFERED", "PYTHONFAULTHANDLER"),
        "K8S_VENV_FILES",
        *(name for name in seen if name.startswith("LC_")),
    }


def test_a_tasks_python_and_scripts_are_the_environments(bare_environment: BareEnvironment) -> None:
    environment = bare_environment("3.11")

    prefix, _ = call(environment, script_on_path)

    assert Path(prefix) == make_environment(environment).parent.parent


def test_the_calls_folder_is_private_and_removed(bare_environment: BareEnvironment) -> None:
    secrets = {"connections": {"db": {"conn_type": "postgres", "password": "secret"}}, "variables": {}, "masked": []}

    (folder, mode, files), _ = call(bare_environment(HERE), place, secrets=secrets)

    assert mode == 0o700
    assert [name for name, _ in files] == ["call.pyz", "result"]  # the secrets are in no file
    assert not Path(folder).exists()


def test_much_output_arrives_whole_and_whatever_it_is(bare_environment: BareEnvironment) -> None:
    _, lines = call(bare_environment(HERE), print_much)

    assert lines[0] == r"\xff\xfe café"
    assert lines[1:20_001] == [f"{number:0100}" for number in range(20_000)]
    assert "".join(lines[20_001:]) == "x" * 3_000_000


DEATHS: dict[str, tuple[Callable[..., Any], tuple[Any, ...], str]] = {
    "os._exit": (leave, (3,), r"leave\(\) ended without a result: its process left with exit code 3 \(os\._exit\?\)"),
    "os._exit with success": (leave, (0,), r"leave\(\) ended without a result: its process left with exit code 0"),
    "a segfault": (crash, (), r"crash\(\) ended without a result: its process was ended by SIGSEGV \(a crash in comp"),
    "being killed": (kill_itself, (), r"its process was ended by SIGKILL \(killed from outside, or out of memory\)"),
}


@pytest.mark.parametrize(("function", "args", "sentence"), DEATHS.values(), ids=DEATHS)
def test_a_process_that_dies_is_a_failure_that_says_how(
    bare_environment: BareEnvironment, function: Callable[..., Any], args: tuple[Any, ...], sentence: str
) -> None:
    with pytest.raises(BackendError, match=sentence):
        call(bare_environment(HERE), function, *args)


def test_a_crash_shows_where_it_happened(bare_environment: BareEnvironment) -> None:
    lines: list[str] = []
    packed = packed_call(crash, environment=bare_environment(HERE))

    with pytest.raises(BackendError):
        LocalBackend().run(packed, lines.append)

    assert any("Segmentation fault" in line for line in lines)
    assert any(f"line {crash.__code__.co_firstlineno + 3} in crash" in line for line in lines)


@pytest.mark.parametrize("function", [fork, fork_a_daemon])
def test_a_call_ends_with_its_own_process_not_with_what_it_forked(
    bare_environment: BareEnvironment, function: Callable[[], int]
) -> None:
    child, _ = call(bare_environment(HERE), function)

    try:
        assert child > 0
        assert function is fork_a_daemon or ended(child)
    finally:
        if function is fork_a_daemon:
            os.kill(child, signal.SIGKILL)


def test_an_exception_in_the_log_ends_the_task_and_its_children(
    bare_environment: BareEnvironment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment = bare_environment(HERE)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    packed = packed_call(start_a_child_and_wait, environment=environment)
    child = 0

    def log(line: str) -> None:
        nonlocal child
        child = int(line.split()[1])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LocalBackend().run(packed, log)

    assert ended(child)
    assert not list(tmp_path.glob("k8s-venv-call-*"))


def test_on_kill_ends_the_task_and_its_children(bare_environment: BareEnvironment) -> None:
    backend = LocalBackend()
    packed = packed_call(start_a_child_and_wait, environment=bare_environment(HERE))
    children: list[int] = []

    def log(line: str) -> None:
        if line.startswith("child"):
            children.append(int(line.split()[1]))
            threading.Thread(target=backend.on_kill).start()

    with pytest.raises(BaseException, match="143"):
        open_result(backend.run(packed, log), packed)

    assert ended(children[0])


def test_a_task_may_leave_through_sys_exit(bare_environment: BareEnvironment) -> None:
    environment = bare_environment(HERE)

    assert call(environment, leave_through_exit, 0)[0] is None
    with pytest.raises(BaseException, match="7"):
        call(environment, leave_through_exit, 7)


@pytest.fixture
def run(bare_environment: BareEnvironment) -> Runner:
    return Runner(LocalBackend, bare_environment(HERE))


class TestContract(BackendContract):
    pass


def old_folders(place: Path) -> list[Path]:
    """Return the calls' folders, which seem an hour old."""
    folders = list(place.glob("k8s-venv-call-*"))
    for folder in folders:
        os.utime(folder, (time.time() - 3600,) * 2)
    return folders


def test_a_call_ends_with_its_sender_and_leaves_nothing(
    bare_environment: BareEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    environment = bare_environment(HERE)
    code = (
        "import pathlib; from k8s_venv.backends.local.backend import LocalBackend; from k8s_venv.calls import pack; "
        "from k8s_venv.config.environment import Environment; "
        "from tests.integration.test_local_backend import start_a_child_and_wait as function; "
        f"environment = Environment(name='bare', root=pathlib.Path({str(environment.root)!r}), python='{HERE}'); "
        "LocalBackend().run(pack(function, (), {}, environment=environment), lambda line: print(line, flush=True))"
    )
    sender = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert sender.stdout is not None
    child = int(sender.stdout.readline().split()[1])
    folders = old_folders(tmp_path)
    call(environment, os.getpid)
    assert [folder.exists() for folder in folders] == [True]  # another call's, which runs

    sender.kill()
    sender.wait()

    assert ended(child, seconds=30)
    call(environment, os.getpid)
    assert [folder.exists() for folder in folders] == [False]


# Environments.


def requiring(root: Path, *requirements: str, python: str = HERE) -> Environment:
    environment = Environment(name="etl", root=root, python=python, requirements=requirements)
    write_lock(environment)
    return environment


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a test a cache of its own, with uv's downloads from the shared one."""
    monkeypatch.setenv("UV_CACHE_DIR", str(uv_folder()))
    monkeypatch.setenv("K8S_VENV_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def installed(python: Path) -> list[str]:
    code = "import importlib.metadata as m; print(*sorted(d.metadata['Name'] for d in m.distributions()))"
    return subprocess.check_output([python, "-c", code], text=True).split()


@pytest.mark.usefixtures("package_index")
def test_an_environment_has_what_its_lock_says_and_nothing_else(own_cache: Path, tmp_path: Path) -> None:
    environment = requiring(tmp_path, "idna==3.6", "certifi")
    lines: list[str] = []

    python = make_environment(environment, lines.append)

    assert installed(python) == ["certifi", "idna"]
    assert list(python.parent.parent.rglob("idna/__pycache__/core.*.pyc"))
    assert any(line.startswith("Installed 2 packages") for line in lines)
    assert make_environment(environment, lines.append) == python


@pytest.mark.usefixtures("package_index")
def test_an_environment_is_made_once_when_several_processes_ask(own_cache: Path, tmp_path: Path) -> None:
    requiring(tmp_path, "idna==3.6")
    code = (
        "import pathlib, sys; from k8s_venv.config.environment import Environment; "
        "from k8s_venv.backends.local.environments import make_environment; "
        f"environment = Environment(name='etl', root=pathlib.Path(sys.argv[1]), python='{HERE}', "
        "requirements=('idna==3.6',)); print(make_environment(environment, print))"
    )

    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(10)
    ]
    outputs = [process.communicate()[0] for process in processes]

    assert [process.returncode for process in processes] == [0] * 10
    assert sum("Installed 1 package" in output for output in outputs) == 1
    assert any("Another process makes the environment etl-" in output for output in outputs)
    assert len({output.splitlines()[-1] for output in outputs}) == 1


def test_one_that_was_left_half_made_is_made_anew(own_cache: Path, bare_environment: BareEnvironment) -> None:
    environment = bare_environment(HERE)
    folder = own_cache / "environments" / f"bare-{HERE}-{read_lock(environment).digest[:20]}"
    (folder.with_name(f"{folder.name}.part-1234") / "bin").mkdir(parents=True)
    (folder / "bin").mkdir(parents=True)

    python = make_environment(environment)

    assert python == folder / "bin" / "python"
    assert installed(python) == []
    assert not list(folder.parent.glob("*.part*"))


def test_one_whose_interpreter_is_gone_is_made_anew(own_cache: Path, bare_environment: BareEnvironment) -> None:
    environment = bare_environment(HERE)
    python = make_environment(environment)
    python.unlink()
    python.symlink_to("/nowhere/python")

    assert make_environment(environment) == python
    assert installed(python) == []


@pytest.mark.usefixtures("package_index")
def test_packages_that_cannot_be_installed_leave_nothing_behind(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = requiring(tmp_path, "idna==3.6")
    lock = environment.lock_path
    lock.write_text(lock.read_text("utf-8").replace("https://", "https://localhost:1/"), "utf-8")
    monkeypatch.setenv("UV_CACHE_DIR", str(own_cache / "uv"))  # where no wheel is yet
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")

    with pytest.raises(BackendError, match=r"Environment 'etl': its packages cannot be installed\.\n"):
        make_environment(environment)

    assert [path.suffix for path in (own_cache / "environments").iterdir()] == [".lock"]


def test_a_python_that_is_nowhere_is_named(
    own_cache: Path, bare_environment: BareEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = bare_environment(HERE).model_copy(update={"python": "3.99"})
    lock = environment.lock_path
    monkeypatch.setattr("k8s_venv.locks.uv.is_known", lambda version: True)
    write_lock(environment)

    with pytest.raises(BackendError, match=r"Python 3\.99 is not installed here and cannot be downloaded\. Install it"):
        make_environment(environment)

    assert lock.exists()
    assert not [path for path in (own_cache / "environments").iterdir() if path.is_dir()]


@pytest.mark.usefixtures("package_index")
def test_a_process_that_is_killed_while_it_makes_one_leaves_no_half(own_cache: Path, tmp_path: Path) -> None:
    environment = requiring(tmp_path, "idna==3.6")
    code = (
        "import os, pathlib, signal, sys; from k8s_venv.config.environment import Environment; "
        "from k8s_venv.backends.local.environments import make_environment; "
        f"environment = Environment(name='etl', root=pathlib.Path(sys.argv[1]), python='{HERE}', "
        "requirements=('idna==3.6',)); "
        "make_environment(environment, lambda line: os.kill(os.getpid(), signal.SIGKILL) if sys.argv[2] in line else 0)"
    )
    for moment in ("Python ", "Installed"):
        killed = subprocess.run([sys.executable, "-c", code, str(tmp_path), moment], check=False)
        assert killed.returncode == -signal.SIGKILL

    python = make_environment(environment)

    assert installed(python) == ["idna"]
    assert not list((own_cache / "environments").glob("*.part*"))


def test_the_workers_python_settings_do_not_reach_the_environment(
    own_cache: Path, tmp_path: Path, bare_environment: BareEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "encodings.py").write_text("raise SystemExit('leaked')")
    environment = bare_environment(HERE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    monkeypatch.setenv("PYTHONSTARTUP", "/nowhere")

    assert call(environment, version)[0] == HERE


def test_a_stale_lock_makes_no_environment(own_cache: Path, bare_environment: BareEnvironment) -> None:
    environment = bare_environment(HERE).model_copy(update={"requirements": ("idna",)})

    with pytest.raises(LockError, match="its lock is stale"):
        make_environment(environment)

    assert not (own_cache / "environments").exists()


# Interpreters that somebody else made.


@pytest.fixture
def python_311(tmp_path: Path) -> Path:
    """Return a virtual environment's Python, with a module that nothing declares."""
    folder = tmp_path / "theirs"
    uv.run(["venv", "--python", interpreter("3.11"), str(folder)])
    (folder / "lib" / "python3.11" / "site-packages" / "theirs.py").write_text("ANSWER = 42")
    return folder / "bin" / "python"


def import_theirs() -> tuple[int, str]:
    import sys

    import theirs  # type: ignore[import-not-found]

    return theirs.ANSWER, sys.executable


@pytest.mark.parametrize("path", ["{python}", "theirs/bin/python"], ids=["absolute", "relative"])
def test_an_existing_interpreter_is_used_as_it_is(own_cache: Path, tmp_path: Path, python_311: Path, path: str) -> None:
    environment = Environment(
        name="etl",
        root=tmp_path,
        python="3.11",
        requirements=("idna==3.6",),  # for the image; there is no lock
        interpreter=path.format(python=python_311),
    )

    value, _ = call(environment, import_theirs)

    assert value == (42, str(python_311))
    assert not (own_cache / "environments").exists()
    assert installed(python_311) == []


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "its interpreter {path} cannot be run: No such file or directory. Correct `interpreter` of [environm"),
        ("#!/bin/sh\necho broken >&2\nexit 3\n", "its interpreter {path} cannot be run: broken."),
        ("#!/bin/sh\necho 3.9\n", "it is declared with Python 3.11, but its interpreter {path} is Python 3.9."),
    ],
    ids=["missing", "broken", "another version"],
)
def test_an_interpreter_that_does_not_fit_is_told(tmp_path: Path, content: str | None, sentence: str) -> None:
    path = tmp_path / "python"
    if content is not None:
        path.write_text(content)
        path.chmod(0o755)
    environment = Environment(name="etl", root=tmp_path, python="3.11", interpreter=str(path))

    with pytest.raises(BackendError) as raised:
        make_environment(environment)

    assert sentence.format(path=path) in str(raised.value)


# Environments that see their Python's own packages.


@pytest.fixture
def seeing(tmp_path: Path) -> Environment:
    """An environment of a Python that has setuptools by itself."""
    listed = subprocess.check_output([interpreter("3.9"), "-c", "import setuptools; print(setuptools.__version__)"])
    assert listed
    return Environment(
        name="etl",
        root=tmp_path,
        python="3.9",
        requirements=("setuptools", "idna==3.6"),
        system_site_packages=True,
    )


def origin_of_setuptools() -> tuple[str, str]:
    import idna
    import setuptools  # type: ignore[import-untyped]

    return setuptools.__file__, idna.__file__


@pytest.mark.usefixtures("package_index")
def test_what_the_interpreter_has_is_seen_and_not_locked(own_cache: Path, seeing: Environment) -> None:
    lock = write_lock(seeing)

    assert [package.name for package in lock.packages] == ["idna"]
    assert [each.partition("==")[0] for each in lock.system or ()] == ["setuptools"]
    (system, own), _ = call(seeing, origin_of_setuptools)
    folder = make_environment(seeing).parent.parent
    assert not Path(system).is_relative_to(folder)
    assert Path(own).is_relative_to(folder)


@pytest.mark.usefixtures("package_index")
def test_a_lock_that_counts_on_another_interpreter_is_told(own_cache: Path, seeing: Environment) -> None:
    lock = write_lock(seeing)
    (requirement,) = lock.system or ()
    rewrite_lock(lock.path, requirement, "setuptools==1.0")

    with pytest.raises(
        BackendError, match=r"packages of Python 3\.9 itself, which lacks setuptools==1\.0 \(it has [\d.]+\)"
    ):
        make_environment(seeing)


@pytest.mark.usefixtures("package_index")
def test_a_lock_is_stale_when_the_interpreters_packages_come_into_view(seeing: Environment) -> None:
    write_lock(seeing)

    with pytest.raises(LockError, match="its `system-site-packages` was true when it was locked, and now false"):
        read_lock(seeing.model_copy(update={"system_site_packages": False}))


# Caches that cannot be used.


@contextlib.contextmanager
def another_user() -> Iterator[None]:
    """Be nobody for a while, as only root can."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_cache_that_cannot_be_written_to_is_named(
    bare_environment: BareEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = bare_environment(HERE)
    monkeypatch.setenv("K8S_VENV_CACHE", "/dev/null/cache")

    with pytest.raises(K8sVenvError, match=r"The cache folder /dev/null/cache cannot be written to"):
        make_environment(environment)


@pytest.mark.usefixtures("package_index")
@pytest.mark.parametrize("size", ["16k", "200k"])
def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str) -> None:
    environment = requiring(tmp_path, "idna==3.6")
    monkeypatch.setenv("UV_CACHE_DIR", str(uv_folder()))

    with mounted(tmp_path / "small", f"size={size}") as cache:
        monkeypatch.setenv("K8S_VENV_CACHE", str(cache))
        with pytest.raises(K8sVenvError, match=r"The cache folder \S+/small has no space left\. `k8s-venv prune` f"):
            make_environment(environment)
        left = list((cache / "environments").glob("*.part*"))

    assert not left


def test_a_read_only_cache_is_told_and_what_is_in_it_is_used(
    bare_environment: BareEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = bare_environment(HERE)
    other = bare_environment("3.11").model_copy(update={"name": "other"})
    write_lock(other)
    write_lock(environment)
    with mounted(tmp_path / "cache", "size=10m") as cache:
        monkeypatch.setenv("K8S_VENV_CACHE", str(cache))
        python = make_environment(environment)
        subprocess.run(["mount", "-o", "remount,ro", str(cache)], check=True)

        assert make_environment(environment) == python
        with pytest.raises(K8sVenvError, match=r"/cache lies on a read-only file system\. Set K8S_VENV_CACHE to a f"):
            make_environment(other)


def test_a_cache_from_which_nothing_can_be_executed_is_told(
    bare_environment: BareEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = bare_environment(HERE)
    with mounted(tmp_path / "cache", "noexec") as cache:
        monkeypatch.setenv("K8S_VENV_CACHE", str(cache))
        with pytest.raises(BackendError, match=r"executes nothing \(mounted noexec\), .* Set K8S_VENV_CACHE to a f"):
            make_environment(environment)


def test_a_cache_of_another_user_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        environment = Environment(name="bare", root=Path(folder), python=HERE)
        write_lock(environment)
        monkeypatch.setenv("K8S_VENV_CACHE", f"{folder}/cache")
        sentence = rf"{folder}/cache cannot be written to by user nobody: {folder} belongs to root\. Set K8S_VENV_CACHE"
        with another_user(), pytest.raises(K8sVenvError, match=sentence):
            make_environment(environment)
