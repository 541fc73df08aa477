"""Airflow's tasks at pods that wait for them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("kubernetes", reason="the kubernetes client is not installed")

from k8s_venv.backends.kubernetes import pool, render
from k8s_venv.config.project import load_project
from tests.cluster.conftest import run_dag_file
from tests.cluster.namespaces import own_namespace
from tests.cluster.pools import is_ready
from tests.waiting import eventually

if TYPE_CHECKING:
    from k8s_venv.airflow.inprocess import TaskOutcome

Run = Callable[[str], tuple[str, dict[str, "TaskOutcome"]]]


@pytest.fixture
def namespace(client: Any) -> Iterator[str]:
    with own_namespace(client, enforce="restricted") as name:
        yield name


@pytest.fixture
def ours(project: Path, tmp_path: Path) -> Path:
    """The project, in which one environment has pods waiting."""
    folder = shutil.copytree(project, tmp_path / "project")
    file = folder / "k8s-venv.toml"
    text = file.read_text("utf-8")
    file.write_text(text.replace("[environments.current]", "[environments.current]\nwarm = { max = 2 }"), "utf-8")
    return folder


@pytest.fixture
def fill(client: Any, namespace: str, ours: Path, registry: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that has a pod wait, as the project declares it."""
    monkeypatch.setenv("K8S_VENV_REGISTRY", registry)

    def fill() -> None:
        project = load_project(ours / "k8s-venv.toml")
        pod = pool.declared_pod(project.environment("current"), project)
        client.create_namespaced_pod(namespace, pod)
        waiting = f"{render.SLOT}={pool.pool_key(pod)}"
        eventually(lambda: any(map(is_ready, client.list_namespaced_pod(namespace, label_selector=waiting).items)))

    return fill


@pytest.fixture
def run(ours: Path, namespace: str, registry: str, fill: Callable[[], None]) -> Run:
    """Return a function that runs a DAG of `warm.py`."""

    def run(dag_id: str) -> tuple[str, dict[str, TaskOutcome]]:
        config = Path(os.environ["KUBECONFIG"])
        return run_dag_file(ours / "warm.py", dag_id, config, namespace, K8S_VENV_REGISTRY=registry)

    fill()
    return run


def test_a_task_runs_at_the_pod_that_waits(
    run: Run, client: Any, namespace: str, capfd: pytest.CaptureFixture[str]
) -> None:
    state, tasks = run("soon")

    out = capfd.readouterr().out
    (pod,) = client.list_namespaced_pod(namespace).items
    assert (state, tasks["where"].value) == ("success", [pod.metadata.name, 3]), out
    assert f"Running in pod {namespace}/{pod.metadata.name}." in out
    assert "said 3" in out
    assert "Phases of a warm start" in out
    assert pod.metadata.labels.items() >= {"dag_id": "soon", "task_id": "where", "team": "data"}.items()
    assert pod.metadata.annotations["cost"] == "low"


def test_a_deferred_task_is_left_to_the_triggerer(
    run: Run, fill: Callable[[], None], client: Any, namespace: str
) -> None:
    fill()

    state, tasks = run("later")

    assert state == "success"
    for name, size in (("small", 10), ("large", 200_000)):
        host, _, value = tasks[name].value.partition(" ")
        assert host.startswith("warm-current-")
        assert value == "x" * size
    eventually(lambda: not client.list_namespaced_pod(namespace).items)


def test_a_task_that_takes_too_long_leaves_no_pod(run: Run, client: Any, namespace: str) -> None:
    state, _ = run("too_long")

    assert state == "failed"
    eventually(lambda: not client.list_namespaced_pod(namespace).items)


def test_a_task_with_options_of_its_own_says_which(
    run: Run, client: Any, namespace: str, capfd: pytest.CaptureFixture[str]
) -> None:
    state, tasks = run("other_options")

    assert state == "success"
    assert not tasks["differs"].value.startswith("warm-")
    assert "its pod differs from the environment's waiting pods in `env`" in capfd.readouterr().out
