"""A cluster whose owner grants no `pods/exec`, and a project that says so: together, as they are meant to be used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chart import CHART, NAME, helm, kubeconfig
from tests.cluster.conftest import run_dag_file
from tests.cluster.namespaces import client_of, may, own_namespace


@pytest.fixture
def namespace(client: Any) -> Iterator[str]:
    with own_namespace(client) as name:
        yield name


@pytest.fixture
def worker(client: Any, namespace: str, tmp_path: Path) -> Path:
    account = {"name": "airflow-worker", "namespace": namespace}
    client.create_namespaced_service_account(namespace, {"metadata": {"name": account["name"]}})
    accounts = f"--set-json=airflow.serviceAccounts={json.dumps([account])}"
    helm("install", NAME, str(CHART), "--namespace", namespace, accounts, "--set", "rights.exec=false")
    return kubeconfig(client, account, tmp_path)


@pytest.fixture
def ours(project: Path, tmp_path: Path) -> Path:
    folder = shutil.copytree(project, tmp_path / "project")
    with (folder / "k8s-venv.toml").open("a") as file:
        file.write("\n[values]\nexec = false\n")
    return folder


def test_results_come_back_in_the_pods_status(ours: Path, registry: str, namespace: str, worker: Path) -> None:
    state, tasks = run_dag_file(ours / "waiting.py", "deferring", worker, namespace, K8S_VENV_REGISTRY=registry)

    assert not may(client_of(worker), namespace, "create", "pods/exec")
    assert state == "success"
    assert tasks["large"].value == "x" * 200_000  # it compresses well


def test_what_does_not_fit_there_is_refused_where_it_is_made(
    ours: Path, registry: str, namespace: str, worker: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    state, _ = run_dag_file(ours / "details.py", "large", worker, namespace, K8S_VENV_REGISTRY=registry)

    assert may(client_of(worker), namespace, "create", "pods")
    assert state == "failed"
    assert "`exec = false` allows nothing else. Name a `location` under [values]" in capfd.readouterr().out
