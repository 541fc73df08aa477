"""The docker backend: a real engine, real containers."""

from __future__ import annotations

import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from k8s_venv.backends.docker.backend import DockerBackend
from k8s_venv.backends.docker.container import LABEL
from k8s_venv.calls import open_result, pack
from k8s_venv.config.environment import Environment
from k8s_venv.config.project import Project
from k8s_venv.errors import BackendError
from tests.airflow_home import require_airflow
from tests.cluster.conftest import RunFile
from tests.conftest import Command
from tests.contract import BackendContract, Runner, describe

if TYPE_CHECKING:
    from docker import DockerClient

pytestmark = pytest.mark.usefixtures("no_settings")
HERE = "{}.{}".format(*sys.version_info)
IMAGE = f"python:{HERE}-slim-bookworm"


@pytest.fixture(scope="session")
def engine() -> Iterator[DockerClient]:
    docker = pytest.importorskip("docker")
    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException as error:
        pytest.skip(f"needs a Docker Engine: {error}")
    try:
        client.images.get(IMAGE)
    except docker.errors.ImageNotFound:
        try:
            client.images.pull(IMAGE)
        except docker.errors.APIError as error:
            pytest.skip(f"needs the image {IMAGE}: {error}")
    yield client
    client.close()


@pytest.fixture
def environment(engine: DockerClient, tmp_path: Path) -> Environment:
    """An environment that no other test uses, in Python's own image."""
    return Environment(name=f"test-{uuid.uuid4().hex[:8]}", root=tmp_path, python=HERE, image=IMAGE)


@pytest.fixture
def no_project(tmp_path: Path) -> Project:
    return Project(path=tmp_path / "k8s-venv.toml")


@pytest.fixture
def run(environment: Environment, no_project: Project) -> Runner:
    return Runner(lambda: DockerBackend(no_project), environment)


@pytest.fixture(autouse=True)
def nothing_is_left(engine: DockerClient, environment: Environment) -> Iterator[None]:
    yield
    assert containers(engine, environment) == []
    assert engine.volumes.list(filters={"label": f"{LABEL}={environment.name}"}) == []


def containers(engine: DockerClient, environment: Environment) -> list[Any]:
    return engine.containers.list(all=True, filters={"label": f"{LABEL}={environment.name}"})


class TestContract(BackendContract):
    pass


# What the tests below run in containers.


def look_around() -> dict[str, Any]:
    import os
    import pathlib

    def can_write(folder: str) -> bool:
        try:
            (pathlib.Path(folder) / "probe").touch()
        except OSError:
            return False
        return True

    status = pathlib.Path("/proc/self/status").read_text()
    return {
        "user": os.getuid(),
        "writable": [folder for folder in ("/", "/usr", "/tmp", "/etc", "/root") if can_write(folder)],
        "capabilities": [line.split()[1] for line in status.splitlines() if line.startswith(("CapEff", "CapBnd"))],
        "new privileges": "NoNewPrivs:\t1" in status,
        "variable": os.environ.get("COLOUR"),
        "home": os.environ["HOME"],
    }


def take_memory() -> int:
    return len(bytearray(300_000_000))


def wait() -> None:
    import time

    print("waiting", flush=True)
    time.sleep(600)


def await_answer() -> bool:
    import time

    print("first", flush=True)
    for _ in range(600):
        if Path("/tmp/answer").exists():
            return True
        time.sleep(0.1)
    return False


def test_a_container_may_do_as_little_as_a_pod(environment: Environment, no_project: Project) -> None:
    environment = environment.model_copy(update={"pod": {"env_vars": {"COLOUR": "red"}, "namespace": "elsewhere"}})
    said: list[str] = []
    run = Runner(lambda: DockerBackend(no_project, progress=said.append), environment)

    assert run(look_around) == {
        "user": 50000,
        "writable": ["/tmp"],
        "capabilities": ["0" * 16, "0" * 16],
        "new privileges": True,
        "variable": "red",
        "home": "/tmp",
    }
    assert said == ["Without effect on the docker backend: namespace (no cluster is asked)."]


def test_nothing_of_a_call_is_in_its_container(
    environment: Environment, no_project: Project, engine: DockerClient
) -> None:
    connections = {"db": {"conn_type": "postgres", "password": "planted-secret"}}
    secrets = {"connections": connections, "variables": {}, "masked": ["planted-secret"]}
    call = pack(wait, (), {}, environment=environment, secrets=secrets)
    backend, seen = DockerBackend(no_project), []

    def log(line: str) -> None:
        (container,) = containers(engine, environment)
        volume = container.get_archive("/k8s-venv")[0]
        seen.extend([str(container.attrs), b"".join(volume).decode("latin-1")])
        assert engine.volumes.list(filters={"label": f"{LABEL}={environment.name}"}) != []  # as every test counts on
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backend.run(call, log)

    assert len(seen) == 2
    assert "planted-secret" not in "".join(seen)


def test_a_limit_of_memory_is_told(environment: Environment, no_project: Project) -> None:
    options = {"container_resources": {"limits": {"memory": "64Mi", "cpu": "500m"}}}
    run = Runner(lambda: DockerBackend(no_project, options), environment)

    with pytest.raises(BackendError, match=r"take_memory\(\) used more memory than its .* may .limit 64Mi"):
        run(take_memory)


@pytest.mark.parametrize(
    ("end", "sentence"),
    [
        (lambda container: container.kill(), r"ended by SIGKILL \(killed from outside, or out of memory\)"),
        (lambda container: container.remove(force=True, v=True), "its container was removed from outside"),
    ],
    ids=["killed", "removed"],
)
def test_a_container_that_is_ended_from_outside(
    run: Runner, engine: DockerClient, end: Callable[[Any], None], sentence: str
) -> None:
    call = pack(wait, (), {}, environment=run.environment)

    with pytest.raises(BackendError, match=sentence):
        run.make().run(call, lambda line: end(containers(engine, run.environment)[0]))


def test_on_kill_ends_and_removes_the_container(
    environment: Environment, no_project: Project, engine: DockerClient
) -> None:
    backend = DockerBackend(no_project)
    call = pack(wait, (), {}, environment=environment)
    killer = threading.Thread(target=backend.on_kill)

    with pytest.raises(BackendError, match=r"wait\(\) was ended, since its task was killed"):
        backend.run(call, lambda line: killer.start())

    killer.join()
    assert containers(engine, environment) == []


def test_a_call_ends_with_its_sender(environment: Environment, no_project: Project, engine: DockerClient) -> None:
    code = (
        "import pathlib, sys, time; from k8s_venv.backends.docker.backend import DockerBackend; "
        "from k8s_venv.calls import pack; from k8s_venv.config.environment import Environment; "
        "from k8s_venv.config.project import Project; from tests.cluster.test_docker import wait; "
        f"environment = Environment(name='{environment.name}', root=pathlib.Path(), python='{HERE}', image='{IMAGE}'); "
        "backend = DockerBackend(Project(path=pathlib.Path('k8s-venv.toml'))); "
        "backend.run(pack(wait, (), {}, environment=environment), lambda line: print(line, flush=True))"
    )
    sender = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert sender.stdout is not None
    assert sender.stdout.readline() == "waiting\n"

    sender.kill()
    sender.wait()

    (container,) = containers(engine, environment)
    container.wait(timeout=180)
    container.remove(v=True)


def test_two_calls_at_once(run: Runner) -> None:
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(Runner(run.make, run.environment)(describe, 1))) for _ in range(2)
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [value["set"] for value in found] == [{1}, {1}]


def test_lines_come_while_the_call_runs(run: Runner, engine: DockerClient) -> None:
    call = pack(await_answer, (), {}, environment=run.environment)

    def answer(line: str) -> None:
        (container,) = containers(engine, run.environment)
        container.exec_run(["touch", "/tmp/answer"])

    assert open_result(run.make().run(call, answer), call) is True


def test_an_image_that_was_never_built(
    environment: Environment, test_registry: str, no_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    from k8s_venv.locks.locking import write_lock

    monkeypatch.setenv("K8S_VENV_REGISTRY", test_registry)
    environment = environment.model_copy(update={"image": None})
    write_lock(environment)

    with pytest.raises(BackendError, match=rf"Is it built\? Run `k8s-venv build-images {environment.name}`\."):
        Runner(lambda: DockerBackend(no_project), environment)(wait)


def test_an_image_is_pulled_where_the_engine_lacks_it(
    environment: Environment, test_registry: str, no_project: Project, engine: DockerClient
) -> None:
    reference = f"{test_registry}/pulled:1"
    engine.images.get(IMAGE).tag(reference)
    engine.images.push(reference)
    engine.images.remove(reference)
    said: list[str] = []

    value = Runner(lambda: DockerBackend(no_project, {"image": reference}, said.append), environment)(describe, 1)

    assert value["set"] == {1}
    assert said == [f"Pulling {reference}"]
    engine.images.remove(reference)


def test_an_image_without_python(
    environment: Environment, test_registry: str, no_project: Project, engine: DockerClient, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    reference = f"{test_registry}/bare:1"
    engine.images.build(path=str(tmp_path), tag=reference)

    with pytest.raises(BackendError, match=r"its image cannot run `python`: .*An image needs `python` on its PATH\."):
        Runner(lambda: DockerBackend(no_project, {"image": reference}), environment)(wait)

    engine.images.remove(reference)


def test_a_wrong_python_is_told(environment: Environment, no_project: Project) -> None:
    environment = environment.model_copy(update={"python": "3.9"})

    with pytest.raises(BaseException, match=r"declared with Python 3\.9, but its `python` is"):
        Runner(lambda: DockerBackend(no_project), environment)(describe, 1)


def test_an_engine_that_does_not_answer(
    environment: Environment, no_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://localhost:1")

    with pytest.raises(BackendError, match=r"No Docker Engine answers at tcp://localhost:1\. Install or start one"):
        Runner(lambda: DockerBackend(no_project), environment)(wait)


def test_a_missing_sdk_is_named(environment: Environment, no_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "docker", None)

    with pytest.raises(BackendError, match=r"Run: pip install 'k8s-venv\[docker\]'"):
        Runner(lambda: DockerBackend(no_project), environment)(wait)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"container_resources": {"limits": {"memory": "lots"}}}, "'lots' in `container_resources` is not a quantity"),
        ({"env_vars": [{"name": "TOKEN", "valueFrom": {}}]}, "'TOKEN' in `env_vars` takes its value from Kubernetes"),
        ({"image": "nobody/nothing", "image_pull_policy": "Never"}, "'Never' forbids pulling"),
        ({"container_resources": {"limits": {"memory": "1Mi"}}}, "the Docker Engine failed: .*[Mm]inimum memory"),
    ],
)
def test_an_option_that_cannot_be_honoured(
    environment: Environment, no_project: Project, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(BackendError, match=sentence):
        Runner(lambda: DockerBackend(no_project, options), environment)(wait)


def test_a_script_runs_where_the_variable_says(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import k8s_venv

    (tmp_path / "k8s-venv.toml").write_text(f'[environments.own]\npython = "{HERE}"\nimage = "{IMAGE}"\n')
    monkeypatch.setenv("K8S_VENV_PROJECT", str(tmp_path))
    monkeypatch.setenv("K8S_VENV_BACKEND", "docker")

    assert k8s_venv.run("own", describe, 5)["set"] == {5}
    assert "printed 5" in capsys.readouterr().out


def test_a_dag_runs_on_the_engine(project: Path, run_file: RunFile, capfd: pytest.CaptureFixture[str]) -> None:
    warehouse = '{"conn_type": "postgres", "host": "db", "login": "me", "password": "planted-secret"}'

    state, tasks = run_file(
        project / "details.py", "connections", K8S_VENV_BACKEND="docker", AIRFLOW_CONN_WAREHOUSE=warehouse
    )

    assert state == "success"
    value = tasks["connect"].value
    assert (value["login"], value["user"], value["writable"]) == ("me", 50000, ["/tmp"])
    captured = capfd.readouterr()
    assert "on the docker backend" in captured.out
    assert "planted-secret" not in captured.out + captured.err


DAG = """
from airflow.sdk import dag, task

@dag(schedule=None)
def one():
    @task.isolated("own")
    def describe():
        import os
        print("said in the container")
        return os.getuid()

    describe()

one()
"""


def test_a_dag_is_tried_on_the_engine_by_command(cli: Command, tmp_path: Path) -> None:
    require_airflow()
    (tmp_path / "k8s-venv.toml").write_text(f'[environments.own]\npython = "{HERE}"\nimage = "{IMAGE}"\n')
    (tmp_path / "one.py").write_text(DAG)

    ran = cli("test", "--backend", "docker", "one.py")

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "on the docker backend" in ran.stdout + ran.stderr
    assert "said in the container" in ran.stdout + ran.stderr
    assert ran.stdout.splitlines()[-1].split()[0::3] == ["describe", "50000"]
    assert ran.stdout.splitlines()[-1].split()[1] == "success"
