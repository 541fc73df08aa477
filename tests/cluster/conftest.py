"""A namespace on the cluster that KUBECONFIG names, and images in the registry that both sides reach."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.airflow_home import dags_folder
from tests.chart import CHART, helm, kubeconfig
from tests.cluster.direct import Cluster
from tests.cluster.namespaces import own_namespace

if TYPE_CHECKING:
    from k8s_venv.airflow.inprocess import TaskOutcome

ROOT = Path(__file__).parents[2]
RunFile = Callable[..., tuple[str, dict[str, "TaskOutcome"]]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def registry() -> str:
    registry = os.environ.get("K8S_VENV_TEST_REGISTRY")
    if not registry or not os.environ.get("KUBECONFIG"):
        pytest.skip("needs a cluster: set KUBECONFIG, and K8S_VENV_TEST_REGISTRY to a registry that both sides reach")
    return f"{registry}/test-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="session")
def client(registry: str) -> Any:
    import kubernetes

    kubernetes.config.load_kube_config()
    return kubernetes.client.CoreV1Api()


@pytest.fixture(scope="session")
def namespace(client: Any) -> Iterator[str]:
    """A namespace that admits only what the `restricted` Pod Security Standard allows."""
    with own_namespace(client, enforce="restricted") as name:
        yield name


@pytest.fixture(scope="session")
def worker(client: Any, namespace: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kubeconfig of an account that may do what the chart grants to Airflow, and nothing else."""
    account = {"name": "airflow-worker", "namespace": namespace}
    client.create_namespaced_service_account(namespace, {"metadata": {"name": account["name"]}})
    accounts = f"--set-json=airflow.serviceAccounts={json.dumps([account])}"
    helm("install", "k8s-venv", str(CHART), "--namespace", namespace, accounts)
    return kubeconfig(client, account, tmp_path_factory.mktemp("worker"))


def _build(folder: Path, registry: str) -> Path:
    environ = {**os.environ, "K8S_VENV_REGISTRY": registry}
    subprocess.run(["k8s-venv", "build-images"], cwd=folder, env=environ, check=True)
    return folder


@pytest.fixture(scope="session")
def examples(registry: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples, as a user has them, with their images built and pushed."""
    folder = tmp_path_factory.mktemp("examples") / "examples"
    shutil.copytree(ROOT / "examples", folder, ignore=shutil.ignore_patterns("pylock.*", "__pycache__"))
    return _build(folder, registry)


@pytest.fixture(scope="session")
def project(registry: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that somebody else wrote, with its images built and pushed."""
    folder = tmp_path_factory.mktemp("project") / "project"
    shutil.copytree(Path(__file__).parent / "dags", folder, ignore=shutil.ignore_patterns("__pycache__"))
    return _build(folder, registry)


@pytest.fixture
def run_file(registry: str, namespace: str, worker: Path) -> RunFile:
    """Run a DAG file's DAG on the cluster with `dag.test()`, as the account that the chart gives its rights."""

    def run(path: Path, dag_id: str | None = None, **variables: str) -> tuple[str, dict[str, TaskOutcome]]:
        return run_dag_file(path, dag_id, worker, namespace, **{"K8S_VENV_REGISTRY": registry, **variables})

    return run


@pytest.fixture
def folder(project: Path, registry: str, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own with the project's file, whose images are built."""
    for file in (*project.glob("pylock.*"), project / "k8s-venv.toml"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with (tmp_path / "k8s-venv.toml").open("a") as config:
        config.write(f'\n[pod]\nnamespace = "{namespace}"\n')
    monkeypatch.setenv("K8S_VENV_REGISTRY", registry)
    return tmp_path


@pytest.fixture(scope="session")
def cluster(client: Any, namespace: str, project: Path, registry: str) -> Cluster:
    """What runs calls as pods, with the project's image."""
    from k8s_venv.config.project import load_project
    from k8s_venv.locks.locking import read_lock

    environment = load_project(project / "k8s-venv.toml").environment("current")
    image = environment.image_reference(registry, read_lock(environment).digest)
    return Cluster(client, namespace, image, project)


def run_dag_file(
    path: Path, dag_id: str | None, config: Path, namespace: str, **variables: str
) -> tuple[str, dict[str, TaskOutcome]]:
    """Run a DAG file's DAG with the cluster that a kubeconfig names; return its state and the tasks' outcomes."""
    with worker_environment(path.parent, config, namespace, **variables):
        from k8s_venv.airflow.inprocess import run_dag
        from k8s_venv.airflow.loading import load_dag

        state, outcomes = run_dag(load_dag(path, dag_id))
    return state, {outcome.task_id: outcome for outcome in outcomes}


@contextmanager
def worker_environment(folder: Path, config: Path, namespace: str, **variables: str) -> Iterator[None]:
    """Be a worker of Airflow with a folder of DAGs and the cluster that a kubeconfig names."""
    extra = {"namespace": namespace, "kube_config_path": str(config)}
    connection = json.dumps({"conn_type": "kubernetes", "extra": extra})
    with dags_folder(folder, AIRFLOW_CONN_KUBERNETES_DEFAULT=connection, **variables):
        yield
