"""Large results and arguments on a real cluster, with what can go wrong on their way."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("kubernetes", reason="the kubernetes client is not installed")

import kubernetes

from k8s_venv.backends.kubernetes import backend as kubernetes_backend
from k8s_venv.backends.kubernetes.backend import KubernetesBackend
from k8s_venv.backends.kubernetes.payload import PodPayload
from k8s_venv.calls import open_result, pack
from k8s_venv.errors import BackendError
from k8s_venv.project import Project, load_project

MEGABYTE = 1024 * 1024


class Cluster:
    """Runs functions in pods of one namespace, as somebody whom the namespace belongs to."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.said: list[str] = []

    def run(self, function: Any, *args: Any, **options: Any) -> Any:
        environment = self.project.environment("current").model_copy(update=options)
        call = pack(function, args, {}, environment=environment)
        backend = KubernetesBackend(self.project, uuid.uuid4().hex)
        return open_result(backend.run(call, self.said.append), call)


@pytest.fixture
def cluster(project: Path, namespace: str, client: Any, registry: str, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("K8S_VENV_REGISTRY", registry)
    monkeypatch.setattr(kubernetes_backend, "_connect", lambda environment: (client, namespace))
    return Cluster(load_project(project / "k8s-venv.toml"))


def noise(size: int) -> bytes:
    return os.urandom(size)


def cleaning(size: int) -> bytes:
    for entry in Path("/tmp").iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    return os.urandom(size)


def test_a_large_result_arrives_whole_though_the_connection_breaks(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts, frames = [], PodPayload._frames

    def breaking(self: PodPayload, socket: Any) -> Iterator[bytes]:
        starts.append(0)
        for data in frames(self, socket):
            yield data
            starts[-1] += len(data)
            if starts[-1] > 20 * MEGABYTE:
                raise ConnectionResetError("the connection broke")

    monkeypatch.setattr(PodPayload, "_frames", breaking)

    value = cluster.run(noise, 50 * MEGABYTE)

    assert len(value) == 50 * MEGABYTE
    assert len(starts) == 3
    assert sum(starts) < 51 * MEGABYTE  # each took up where the one before broke off


def test_emptying_tmp_loses_nothing(cluster: Cluster) -> None:
    assert len(cluster.run(cleaning, MEGABYTE)) == MEGABYTE


@pytest.fixture
def without_exec(client: Any, namespace: str) -> Any:
    """A client of somebody who may do what a worker needs, except `pods/exec`."""
    name = f"no-exec-{uuid.uuid4().hex[:6]}"
    rules = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["create", "get", "list", "watch", "delete"]},
        {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["list"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
    ]
    rbac = kubernetes.client.RbacAuthorizationV1Api(client.api_client)
    client.create_namespaced_service_account(namespace, {"metadata": {"name": name}})
    rbac.create_namespaced_role(namespace, {"metadata": {"name": name}, "rules": rules})
    rbac.create_namespaced_role_binding(
        namespace,
        {
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        },
    )
    token = client.create_namespaced_service_account_token(name, namespace, {"spec": {"expirationSeconds": 3600}})
    configuration = kubernetes.client.Configuration.get_default_copy()
    configuration.cert_file = configuration.key_file = None
    configuration.api_key = {"authorization": f"Bearer {token.status.token}"}
    return kubernetes.client.CoreV1Api(kubernetes.client.ApiClient(configuration))


def test_a_refused_exec_names_the_right_that_is_missing(
    cluster: Cluster, without_exec: Any, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes_backend, "_connect", lambda environment: (without_exec, namespace))

    assert len(cluster.run(noise, 100)) == 100
    with pytest.raises(BackendError, match=r"403 Forbidden.* the right to `create` and `get` `pods/exec`"):
        cluster.run(noise, MEGABYTE)
