"""What tests of a real Airflow, of a real registry, or of a real Docker Engine, share."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from k8s_venv.config.project import load_project
from k8s_venv.locks.locking import write_lock
from k8s_venv.registry import Blob
from tests.airflow_home import HEAD, SAME, LoadText, RunText, airflow_home, dags_folder
from tests.registry_proxy import Proxy, registry_proxy

if TYPE_CHECKING:
    from docker import DockerClient


@pytest.fixture
def upstream() -> str:
    registry = os.environ.get("K8S_VENV_TEST_REGISTRY")
    if not registry:
        pytest.skip("needs a registry: K8S_VENV_TEST_REGISTRY=localhost:5000")
    return registry


@pytest.fixture
def proxy(upstream: str) -> Iterator[Proxy]:
    with registry_proxy(upstream) as proxy:
        yield proxy


@pytest.fixture
def blob(tmp_path: Path) -> Blob:
    path = tmp_path / "blob"
    path.write_bytes(os.urandom(3_000_000))
    return Blob(path, f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}", path.stat().st_size)


@pytest.fixture
def repository() -> str:
    return f"test-{uuid.uuid4().hex[:8]}/blobs"


@pytest.fixture(scope="module")
def client() -> Iterator[DockerClient]:
    docker = pytest.importorskip("docker", reason="needs the docker extra")
    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException as error:
        pytest.skip(f"needs a Docker Engine: {error}")
    yield client
    client.close()


@pytest.fixture
def same_environment(tmp_path: Path) -> Path:
    """Return the folder of a project whose one environment, ``same``, has this Python and is locked."""
    airflow_home()
    (tmp_path / "k8s-venv.toml").write_text(SAME)
    write_lock(load_project(tmp_path / "k8s-venv.toml").environment("same"))
    return tmp_path


@pytest.fixture
def load_text(same_environment: Path) -> LoadText:
    """Load the text of a DAG file."""

    def load(text: str) -> Any:
        from k8s_venv.airflow.loading import load_dag

        path = same_environment / "dag.py"
        path.write_text(HEAD + text)
        with dags_folder(same_environment):
            return load_dag(path)

    return load


@pytest.fixture
def run_text(same_environment: Path, load_text: LoadText) -> RunText:
    """Run the text of a DAG file; return the tasks' states and values, by id and, where mapped, number."""

    def run(text: str) -> tuple[dict[str, str], dict[str, Any]]:
        dag = load_text(text)
        with dags_folder(same_environment, K8S_VENV_BACKEND="local"):
            from k8s_venv.airflow.inprocess import run_dag

            _, outcomes = run_dag(dag)
        named = [(o.task_id if o.map_index < 0 else f"{o.task_id}[{o.map_index}]", o) for o in outcomes]
        return {key: o.state for key, o in named}, {key: o.value for key, o in named}

    return run
