"""`k8s_venv.run` on the cluster, without Airflow."""

from __future__ import annotations

import os
import shutil
import sys
import uuid
from pathlib import Path

import pytest

import k8s_venv
from k8s_venv.backends.kubernetes.backend import KubernetesBackend
from k8s_venv.config.environment import Environment
from k8s_venv.config.project import Project, load_project
from tests.cluster.direct import Cluster
from tests.contract import BackendContract, Runner


def describe(prefix: str, *, size: int) -> dict[str, object]:
    print("said in the pod")
    return {"python": sys.version_info[:2], "text": prefix * size}


@pytest.fixture
def context(worker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be the account that the chart gives its rights, in its namespace."""
    # The client library reads KUBECONFIG only once, when it is imported.
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(worker))


@pytest.mark.usefixtures("context")
@pytest.mark.parametrize(("environment", "python"), [("legacy", (3, 8)), ("current", (3, 12))])
@pytest.mark.parametrize("size", [1, 100_000])
def test_a_call_from_a_script(
    project: Path,
    registry: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    environment: str,
    python: tuple[int, int],
    size: int,
) -> None:
    monkeypatch.setenv("K8S_VENV_PROJECT", str(project))
    monkeypatch.setenv("K8S_VENV_REGISTRY", registry)

    value = k8s_venv.run(environment, describe, "x", size=size)

    assert value == {"python": python, "text": "x" * size}
    assert "said in the pod" in capsys.readouterr().out


@pytest.mark.usefixtures("context")
class TestContract(BackendContract):
    @pytest.fixture
    def run(self, project: Path, registry: str, monkeypatch: pytest.MonkeyPatch) -> Runner:
        monkeypatch.setenv("K8S_VENV_REGISTRY", registry)
        loaded = load_project(project / "k8s-venv.toml")
        return Runner(lambda: KubernetesBackend(loaded, uuid.uuid4().hex), loaded.environment("current"))


@pytest.mark.usefixtures("context")
def test_an_environment_whose_pods_name_their_image_needs_no_lock(cluster: Cluster, tmp_path: Path) -> None:
    pod = {"image": cluster.image}
    environment = Environment(name="unlocked", root=tmp_path, python="3.12", requirements=("idna",), pod=pod)
    backend = KubernetesBackend(Project(path=tmp_path / "k8s-venv.toml"), uuid.uuid4().hex)

    assert Runner(lambda: backend, environment)(len, "four") == 4


def node(*, where: str) -> str:
    return f"{where}: {os.environ['NODE']}"


def test_a_project_says_where_all_its_pods_run(
    project: Path,
    registry: str,
    worker: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pod = f"""
[pod]
config_file = "{worker}"
kubernetes_conn_id = "prod"
node_selector = {{ "kubernetes.io/os" = "linux" }}
env_vars = {{ NODE = "one of the project's" }}
"""
    for file in project.glob("pylock.*"):
        shutil.copy(file, tmp_path)
    (tmp_path / "k8s-venv.toml").write_text(pod + (project / "k8s-venv.toml").read_text())
    monkeypatch.setenv("K8S_VENV_PROJECT", str(tmp_path))
    monkeypatch.setenv("K8S_VENV_REGISTRY", registry)
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))

    assert k8s_venv.run("current", node, where="here") == "here: one of the project's"
    assert "only Airflow uses kubernetes_conn_id" in capsys.readouterr().out
