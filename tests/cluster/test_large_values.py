"""Large results and arguments on a real cluster, with what can go wrong on their way."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("kubernetes", reason="the kubernetes client is not installed")

import kubernetes

from k8s_venv.backends.kubernetes import backend as kubernetes_backend
from k8s_venv.backends.kubernetes.backend import KubernetesBackend
from k8s_venv.backends.kubernetes.exec_channel import ExecChannel
from k8s_venv.backends.kubernetes.options import Namespace
from k8s_venv.backends.kubernetes.payload import PodResult
from k8s_venv.calls import PackedCall, Result, open_result, pack, refer
from k8s_venv.calls.references import load
from k8s_venv.calls.transfer import location_at
from k8s_venv.config.project import Project, load_project
from k8s_venv.errors import BackendError, CallError, K8sVenvError
from tests.cluster.conftest import RunFile
from tests.cluster.namespaces import may
from tests.object_store import object_store
from tests.waiting import eventually

MEGABYTE = 1024 * 1024


class Cluster:
    """Runs functions in pods of one namespace, as somebody whom the namespace belongs to."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.said: list[str] = []

    def run(self, function: Any, *args: Any, **settings: Any) -> Any:
        result, call = self.result(function, *args, **settings)
        return open_result(result, call)

    def result(
        self, function: Any, *args: Any, pod: dict[str, Any] | None = None, **settings: Any
    ) -> tuple[Result, PackedCall]:
        environment = self.project.environment("current").with_values(settings).model_copy(update={"pod": pod or {}})
        call = pack(function, args, {}, environment=environment)
        backend = KubernetesBackend(self.project, uuid.uuid4().hex)
        return backend.run(call, self.said.append), call


@pytest.fixture
def cluster(project: Path, namespace: str, client: Any, registry: str, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("K8S_VENV_REGISTRY", registry)
    monkeypatch.setattr(kubernetes_backend, "connect", lambda environment: (client, Namespace(namespace, "")))
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
    starts, frames = [], ExecChannel._frames

    def breaking(self: ExecChannel, *options: Any) -> Iterator[bytes]:
        starts.append(0)
        for data in frames(self, *options):
            yield data
            starts[-1] += len(data)
            if starts[-1] > 20 * MEGABYTE:
                raise ConnectionResetError("the connection broke")

    monkeypatch.setattr(ExecChannel, "_frames", breaking)

    value = cluster.run(noise, 50 * MEGABYTE)

    assert len(value) == 50 * MEGABYTE
    assert len(starts) >= 3
    assert sum(starts) < 51 * MEGABYTE  # each took up where the one before broke off


class StartsLate:
    """A client of a cluster that starts the container `result` only when it is asked for the result."""

    def __init__(self, client: Any, namespace: str) -> None:
        self._client = client
        self._namespace = namespace
        self._late = f"late-{uuid.uuid4().hex[:8]}"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def create_namespaced_pod(self, namespace: str, pod: Any, **options: Any) -> Any:
        pod.spec.containers[1].env_from = [{"configMapRef": {"name": self._late}}]
        return self._client.create_namespaced_pod(namespace, pod, **options)

    @property
    def connect_get_namespaced_pod_exec(self) -> Any:
        with contextlib.suppress(kubernetes.client.ApiException):  # it is there already
            self._client.create_namespaced_config_map(self._namespace, {"metadata": {"name": self._late}})
        return self._client.connect_get_namespaced_pod_exec


def test_a_large_result_waits_for_the_container_that_hands_it_over(
    cluster: Cluster, client: Any, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = StartsLate(client, namespace)
    monkeypatch.setattr(kubernetes_backend, "connect", lambda environment: (late, Namespace(namespace, "")))

    assert len(cluster.run(noise, MEGABYTE)) == MEGABYTE


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
    configuration.cert_file = configuration.key_file = configuration.refresh_api_key_hook = None
    configuration.api_key = {"authorization": f"Bearer {token.status.token}"}
    api = kubernetes.client.CoreV1Api(kubernetes.client.ApiClient(configuration))
    eventually(
        lambda: all(may(api, namespace, verb, r) for rule in rules for r in rule["resources"] for verb in rule["verbs"])
    )
    return api


def test_a_refused_exec_names_the_right_that_is_missing(
    cluster: Cluster, without_exec: Any, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes_backend, "connect", lambda environment: (without_exec, Namespace(namespace, "")))

    assert len(cluster.run(noise, 100)) == 100
    with pytest.raises(BackendError, match=r"403 Forbidden.* the right to `create` and `get` `pods/exec`"):
        cluster.run(noise, MEGABYTE)


def check(data: bytes, digest: str) -> int:
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError("other data")
    return len(data)


@pytest.mark.parametrize("size", [900_000, 6_000_000])
def test_arguments_come_in_one_secret_or_several(cluster: Cluster, client: Any, namespace: str, size: int) -> None:
    data = os.urandom(size)

    assert cluster.run(check, data, hashlib.sha256(data).hexdigest()) == size
    secrets = [s for s in client.list_namespaced_secret(namespace).items if s.type == "Opaque"]  # not Helm's own
    assert not [s for s in secrets if not s.metadata.owner_references]


def test_arguments_that_no_secrets_hold_are_refused_before_there_is_a_pod(cluster: Cluster) -> None:
    with pytest.raises(CallError, match=r"take 20,000,\d+ bytes, more than 8 Secrets hold"):
        cluster.run(check, os.urandom(20_000_000), "")


# --- through a location -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(client: Any) -> Iterator[str]:
    """A folder that the test and the cluster's node share."""
    path = Path(f"/var/tmp/k8s-venv-test-{uuid.uuid4().hex[:8]}")
    path.mkdir()
    path.chmod(0o777)
    yield str(path)
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def volume(client: Any, namespace: str, folder: str) -> Iterator[dict[str, Any]]:
    """Pod options with that folder as a persistent volume; `restricted` forbids `hostPath` in pods."""
    name = Path(folder).name
    spec = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany"], "storageClassName": name}
    client.create_persistent_volume({"metadata": {"name": name}, "spec": {**spec, "hostPath": {"path": folder}}})
    claim = {"accessModes": ["ReadWriteMany"], "storageClassName": name, "resources": {"requests": {"storage": "1Gi"}}}
    client.create_namespaced_persistent_volume_claim(namespace, {"metadata": {"name": name}, "spec": claim})
    yield {
        "volumes": [{"name": "values", "persistentVolumeClaim": {"claimName": name}}],
        "volume_mounts": [{"name": "values", "mountPath": folder}],
    }
    client.delete_namespaced_persistent_volume_claim(name, namespace)
    client.delete_persistent_volume(name)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of a server that pods reach under the address of this machine."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        probe.connect(("192.0.2.1", 9))  # nothing is sent
        address = os.environ.get("K8S_VENV_TEST_HOST") or probe.getsockname()[0]
    with object_store(address) as url:
        yield url


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest) -> dict[str, Any]:
    if request.param == "folder":
        return {"location": request.getfixturevalue("folder"), "pod": request.getfixturevalue("volume")}
    return {"location": request.getfixturevalue("bucket")}


def names_in(location: str) -> list[str]:
    if location.startswith("/"):
        return [path.name for path in Path(location).iterdir()]
    import fsspec

    files = fsspec.filesystem("s3")
    files.invalidate_cache()
    return list(files.find(location))


def mirror(data: bytes) -> bytes:
    return data[::-1]


def test_large_values_go_both_ways_without_exec_and_status(
    cluster: Cluster, place: dict[str, Any], without_exec: Any, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes_backend, "connect", lambda environment: (without_exec, Namespace(namespace, "")))
    data = os.urandom(12 * MEGABYTE)

    assert cluster.run(mirror, data, exec=False, status=False, **place) == data[::-1]
    assert cluster.run(len, b"small", exec=False, status=False, **place) == 5
    assert names_in(place["location"]) == []


def test_a_value_is_handed_on_by_reference(cluster: Cluster, place: dict[str, Any]) -> None:
    result, call = cluster.result(noise, 3 * MEGABYTE, **place)
    document = refer(result, call)

    assert len(str(document)) < 400
    assert cluster.run(check, document, document_digest(load(document)), **place) == 3 * MEGABYTE
    assert len(names_in(place["location"])) == 1  # it stays for whoever takes it next
    for path in names_in(place["location"]):
        location_at(place["location"]).delete(Path(path).name)


def document_digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_location_that_refuses_loses_nothing(cluster: Cluster, place: dict[str, Any]) -> None:
    def broken(*args: Any, **kwargs: Any) -> dict[str, str]:
        return {"path": "/nowhere/result"} if place["location"].startswith("/") else {"url": "http://127.0.0.1:9/x"}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(location_at(place["location"])), "entry", broken)
        assert len(cluster.run(noise, 2 * MEGABYTE, **place)) == 2 * MEGABYTE
        with pytest.raises(BackendError, match="could not be put into the location for large values"):
            cluster.run(noise, 2 * MEGABYTE, exec=False, **place)

    assert any("it goes through the pod itself instead" in line for line in cluster.said)


def test_a_folder_that_pods_do_not_see_is_told_at_once(cluster: Cluster, folder: str) -> None:
    with pytest.raises(BackendError, match=r"its pods do not see .* give it `volumes` and `volume_mounts`"):
        cluster.run(noise, 10, location=folder)


def fails_at_length() -> None:
    raise ValueError(os.urandom(100_000).hex())


def test_without_exec_and_location_what_is_large_is_refused_by_the_runner(cluster: Cluster) -> None:
    with pytest.raises(BackendError, match=r"its result takes 1,048,\d+ bytes; .* `exec = false`.* Name a `location`"):
        cluster.run(noise, MEGABYTE, exec=False)
    with pytest.raises(ValueError, match=r"^[0-9a-f]{500}\[…\]$"):
        cluster.run(fails_at_length, exec=False)


def test_values_stay_out_of_the_pods_status(
    cluster: Cluster, client: Any, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    fetch = PodResult.fetch

    def remembering(self: PodResult, document: Any) -> Result:
        read.append(document)
        return fetch(self, document)

    monkeypatch.setattr(PodResult, "fetch", remembering)

    assert cluster.run(len, b"small", status=False) == 5
    assert [document.inline for document in read] == [None]


def lose(folder: str) -> bytes:
    """Leave a result, and remove it as nobody should."""
    import atexit

    atexit.register(lambda: next(Path(folder).glob("*.result")).unlink())
    return os.urandom(2_000_000)


def cut(folder: str) -> bytes:
    import atexit

    atexit.register(lambda: os.truncate(next(Path(folder).glob("*.result")), 1_000_000))
    return os.urandom(2_000_000)


@pytest.mark.parametrize(
    ("function", "sentence"), [(lose, r"There is no .*\.result in"), (cut, "0 bytes instead of 2,000,")]
)
def test_a_lost_result_is_never_none(
    cluster: Cluster, volume: dict[str, Any], folder: str, function: Any, sentence: str
) -> None:
    with pytest.raises(K8sVenvError, match=sentence):
        cluster.run(function, folder, location=folder, pod=volume)


def damage(how: str) -> bytes:
    import atexit

    def alter() -> None:
        payload = Path("/k8s-venv/result/result.bin")
        if how == "altered":
            with payload.open("r+b") as stream:
                stream.write(b"altered")
        elif how == "cut":
            os.truncate(payload, 50_000)
        else:
            payload.unlink()

    atexit.register(alter)
    return os.urandom(100_000)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("altered", "its checksum does not match"),
        ("cut", "it ended after 50,000 bytes"),
        ("removed", "command terminated with non-zero exit code"),
    ],
)
def test_a_result_that_is_damaged_in_the_pod_is_told(cluster: Cluster, how: str, sentence: str) -> None:
    with pytest.raises(BackendError, match=sentence):
        cluster.run(damage, how)


@pytest.mark.parametrize("dag_id", ["bulk", "bulk_deferred"])
def test_tasks_hand_on_large_values(
    project: Path, run_file: RunFile, volume: dict[str, Any], folder: str, dag_id: str
) -> None:
    state, tasks = run_file(project / "bulk.py", dag_id, TEST_FOLDER=folder)

    assert state == "success"
    assert tasks["rows"].value["location"] == folder
    assert tasks["size"].value == 300_000
    assert names_in(folder) == [tasks["rows"].value["name"]]  # arguments and results were removed, the reference stays
    location_at(folder).delete(tasks["rows"].value["name"])


@pytest.mark.parametrize("dag_id", ["bulk_late", "bulk_late_deferred"])
def test_a_task_that_takes_too_long_leaves_no_arguments_and_shows_no_secret(
    project: Path,
    run_file: RunFile,
    volume: dict[str, Any],
    folder: str,
    capfd: pytest.CaptureFixture[str],
    dag_id: str,
) -> None:
    warehouse = json.dumps({"conn_type": "postgres", "password": "planted-secret"})

    for seconds in ("10", "30", "90"):  # of which a loaded machine may take most until the function begins
        variables = {"TEST_SECONDS": seconds, "AIRFLOW_CONN_WAREHOUSE": warehouse}
        state, _ = run_file(project / "bulk.py", dag_id, TEST_FOLDER=folder, **variables)
        printed = capfd.readouterr().out
        if "letters for" in printed:
            break

    assert state == "failed"
    assert "2,000,000 letters for ***" in printed
    assert "planted-secret" not in printed
    assert names_in(folder) == []
