"""What happens in pods: values, failures, connections, what is left behind."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import RunFile
from tests.cluster.direct import Cluster


@pytest.mark.parametrize(("task", "python", "label"), [("on_legacy", "3.8", "old"), ("on_current", "3.12", "new")])
def test_a_dag_that_was_not_written_for_us(
    project: Path, run_file: RunFile, task: str, python: str, label: str
) -> None:
    _, tasks = run_file(project / "orders.py")

    value = tasks[task].value
    assert value["python"] == python
    assert value["weights"] == [2, 3, 10]
    assert value["sizes"] == {"small": 1, "large": 1, "medium": 1}
    assert str(value["last"]).startswith("2026-01-04")
    assert value["scaled"] == [2.0, 4.0, 6.0]
    assert value["price"] == 75.0
    assert value["frame"]["weight"].tolist() == [2, 3, 10]
    assert value["label"] == f"order {label}"
    assert value["task"] == task


@pytest.mark.parametrize("task", ["broken_on_legacy", "broken_on_current"])
def test_a_failure_shows_the_lines_of_the_dag(
    project: Path, run_file: RunFile, capfd: pytest.CaptureFixture[str], task: str
) -> None:
    state, tasks = run_file(project / "orders.py")

    assert state == "failed"
    assert tasks[task].state == "failed"
    printed = capfd.readouterr().out
    assert "ValueError: not an order: 'huge'" in printed
    assert 'raise ValueError(f"not an order: {code!r}")' in printed
    assert 'return weight("huge")' in printed


def test_large_results_come_through_the_sidecar(project: Path, run_file: RunFile) -> None:
    state, tasks = run_file(project / "details.py", "large")

    assert state == "success"
    assert tasks["sizes"].value == [10_000_000, 10_000_000]


def test_connections_are_delivered_and_nothing_else(
    project: Path, run_file: RunFile, client: Any, namespace: str, capfd: pytest.CaptureFixture[str]
) -> None:
    warehouse = json.dumps({"conn_type": "postgres", "host": "db", "login": "me", "password": "planted-secret"})

    state, tasks = run_file(
        project / "details.py", "connections", AIRFLOW_CONN_WAREHOUSE=warehouse, AIRFLOW_CONN_OTHER=warehouse
    )

    assert state == "success"
    assert tasks["connect"].value == {
        "login": "me",
        "length": len("planted-secret"),
        "variable": True,
        "others": [],
        "token": False,
        "user": 50000,
        "writable": ["/tmp"],
    }
    events = client.list_namespaced_event(namespace)
    assert "planted-secret" not in str(events)
    captured = capfd.readouterr()
    assert "planted-secret" not in captured.out + captured.err


def test_a_task_can_skip_itself(project: Path, run_file: RunFile) -> None:
    state, tasks = run_file(project / "details.py", "skipping")

    assert state == "success"
    assert tasks["skipped"].state == "skipped"
    assert tasks["after"].state == "skipped"


def test_a_pod_template_keeps_what_it_says(project: Path, run_file: RunFile, registry: str) -> None:
    from k8s_venv.config.project import load_project
    from k8s_venv.locks.locking import read_lock

    environment = load_project(project / "k8s-venv.toml").environment("current")
    image = environment.image_reference(registry, read_lock(environment).digest)

    state, tasks = run_file(project / "details.py", "template", TEST_IMAGE=image)

    assert state == "success"
    value = tasks["from_template"].value
    assert len(value.pop("noise")) == 2400
    assert value == {"user": 12345, "template": "yes", "proxy": False}


def test_pods_run_as_any_user_and_carry_labels(project: Path, run_file: RunFile, client: Any, namespace: str) -> None:
    user = random.randrange(1_000_600_000, 1_000_700_000)

    state, tasks = run_file(project / "details.py", "any_user", TEST_USER=str(user))

    assert state == "success"
    value = tasks["any_user"].value
    assert len(value.pop("frame")) == 20
    assert value == {"user": user, "written": "written"}
    (pod,) = client.list_namespaced_pod(namespace, label_selector="dag_id=any_user").items
    client.delete_namespaced_pod(pod.metadata.name, namespace)
    assert pod.metadata.labels.items() >= {
        ("app.kubernetes.io/name", "legacy"),
        ("app.kubernetes.io/component", "task"),
        ("app.kubernetes.io/part-of", "k8s-venv"),
        ("app.kubernetes.io/managed-by", "k8s-venv"),
        ("task_id", "any_user"),
        ("team", "orders"),
    }


def test_pod_options_are_templated(project: Path, run_file: RunFile) -> None:
    state, tasks = run_file(project / "details.py", "templated")

    assert state == "success"
    assert tasks["templated"].value is True


@pytest.mark.parametrize(
    ("dag", "sentence"),
    [
        ("dying", "dies() ended without a result: its process left with exit code 7"),
        ("memory", "hungry() used more memory than its container may (limit 64Mi) and was killed."),
        ("never_built", "its image localhost:5000/nothing/here:1 cannot be pulled."),
    ],
)
def test_a_pod_without_a_result_says_why(
    project: Path, run_file: RunFile, capfd: pytest.CaptureFixture[str], dag: str, sentence: str
) -> None:
    state, _ = run_file(project / "details.py", dag)

    assert state == "failed"
    assert sentence in capfd.readouterr().out


def test_an_image_that_was_never_built(
    project: Path, run_file: RunFile, registry: str, capfd: pytest.CaptureFixture[str]
) -> None:
    state, _ = run_file(project / "details.py", "dying", K8S_VENV_REGISTRY=f"{registry}/elsewhere")

    assert state == "failed"
    assert "Is it built? Run `k8s-venv build-images current`." in capfd.readouterr().out


def test_nothing_is_left(project: Path, run_file: RunFile, cluster: Cluster) -> None:
    run_file(project / "details.py", "skipping")

    cluster.await_gone("")
