"""What a call says where its account lacks one right: which one, and what follows."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("kubernetes", reason="the kubernetes client is not installed")

import kubernetes

from k8s_venv.backends.kubernetes.pod_runner import PodRunner
from k8s_venv.backends.kubernetes.pod_state import Timeouts
from tests.airflow_home import airflow_home
from tests.chart import kubeconfig
from tests.cluster.direct import PATIENCE, Cluster, add_one, sleep
from tests.cluster.namespaces import GROUPS, client_of, may
from tests.cluster.test_triggers import Deferred
from tests.waiting import eventually

RIGHTS = {
    "pods": ["create", "get", "list", "watch", "delete", "patch"],
    "pods/log": ["get"],
    "events": ["list"],
    "secrets": ["create"],
}
# What a call at a waiting pod needs.
WARM_RIGHTS = {**RIGHTS, "pods/exec": ["create", "get"], "leases": ["create", "get", "delete"]}
Without = Callable[..., Any]


@pytest.fixture
def account_without(client: Any, namespace: str, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that gives the kubeconfig of an account which has all rights of a worker but one."""

    def make(verb: str, resource: str, all_rights: dict[str, list[str]] = RIGHTS) -> Path:
        rights = copy.deepcopy(all_rights)
        rights[resource].remove(verb)
        name = f"lacks-{uuid.uuid4().hex[:6]}"
        rules = [
            {"apiGroups": [GROUPS.get(each, "")], "resources": [each], "verbs": verbs}
            for each, verbs in rights.items()
            if verbs
        ]
        rbac = kubernetes.client.RbacAuthorizationV1Api(client.api_client)
        client.create_namespaced_service_account(namespace, {"metadata": {"name": name}})
        rbac.create_namespaced_role(namespace, {"metadata": {"name": name}, "rules": rules})
        account = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
        rbac.create_namespaced_role_binding(
            namespace, {"metadata": {"name": name}, "roleRef": role, "subjects": [account]}
        )
        config = kubeconfig(client, {"name": name, "namespace": namespace}, tmp_path)
        api = client_of(config)
        eventually(lambda: all(may(api, namespace, each, what) for what, verbs in rights.items() for each in verbs))
        return config

    return make


@pytest.fixture
def without(account_without: Callable[..., Path]) -> Without:
    """Return a function that gives a client of such an account."""
    return lambda *right: client_of(account_without(*right))


def named(verb: str, resource: str) -> str:
    return f"needs the right to `{verb}` `{resource}` in that namespace"


@pytest.mark.parametrize(("verb", "resource"), [("create", "pods"), ("create", "secrets"), ("watch", "pods")])
def test_what_a_call_cannot_do_without_fails_and_is_named(
    cluster: Cluster, without: Without, verb: str, resource: str
) -> None:
    outcome = cluster.run(cluster.pod(), cluster.call(add_one, 1), client=without(verb, resource))

    assert named(verb, resource) in str(outcome.error)


def test_a_log_that_may_not_be_read_is_named(cluster: Cluster, without: Without) -> None:
    outcome = cluster.run(cluster.pod(), cluster.call(sleep, 1), client=without("get", "pods/log"))

    assert outcome.value == "slept"
    assert any("log of pod" in said and named("get", "pods/log") in said for said in outcome.said)


def test_a_pod_that_may_not_be_deleted_is_named(cluster: Cluster, without: Without) -> None:
    pod = cluster.pod()

    outcome = cluster.run(pod, cluster.call(add_one, 1), client=without("delete", "pods"))

    assert outcome.value == 2
    assert any("could not be deleted and is still there" in s and named("delete", "pods") in s for s in outcome.said)
    cluster.delete(pod)


def test_a_kept_pod_that_may_not_be_marked_is_named(cluster: Cluster, without: Without) -> None:
    said: list[str] = []
    pod = cluster.pod()
    run = PodRunner(without("patch", "pods"), pod, cluster.call(add_one, 1), print, said.append, PATIENCE)
    run.create()
    run.wait()

    run.finish("keep_pod")

    assert any("could not be marked as read" in line and named("patch", "pods") in line for line in said)
    cluster.delete(pod)


def test_complaints_that_may_not_be_read_are_named(cluster: Cluster, without: Without) -> None:
    outcome = cluster.run(
        cluster.pod(container_resources={"requests": {"cpu": "1000"}}),
        cluster.call(add_one, 1),
        client=without("list", "events"),
        timeouts=Timeouts(schedule=5, startup=60),
    )

    assert "no node could take its pod" in str(outcome.error)
    assert any(named("list", "events") in said for said in outcome.said)


def test_a_trigger_names_the_right_that_it_lacks(
    cluster: Cluster, account_without: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    airflow_home()
    extra = {"kube_config_path": str(account_without("list", "pods"))}
    connection = json.dumps({"conn_type": "kubernetes", "extra": extra})
    monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", connection)
    deferred = Deferred(cluster, sleep, 30)

    event = asyncio.run(deferred.fired())

    assert named("list", "pods") in event["refused"]
    deferred.remove()


def test_a_task_that_cannot_be_killed_says_so_and_what_is_missing(
    project: Path,
    registry: str,
    client: Any,
    namespace: str,
    account_without: Callable[[str, str], Path],
) -> None:
    config = account_without("delete", "pods")
    extra = {"namespace": namespace, "kube_config_path": str(config)}
    connection = json.dumps({"conn_type": "kubernetes", "extra": extra})
    environ = {**os.environ, "K8S_VENV_REGISTRY": registry, "AIRFLOW_CONN_KUBERNETES_DEFAULT": connection}
    command = ["k8s-venv", "test", "--dag", "sleeping", str(project / "waiting.py")]

    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        said = [next(line for line in process.stdout if line == "asleep\n")]
        process.terminate()
        said += process.stdout

    printed = "".join(said)
    assert "Killing sleeps() failed, and its pod goes on" in printed
    assert named("delete", "pods") in printed
    assert process.returncode == 1
    for pod in client.list_namespaced_pod(namespace, label_selector="dag_id=sleeping").items:
        client.delete_namespaced_pod(pod.metadata.name, namespace, grace_period_seconds=1)


def test_the_pod_of_another_call_that_may_not_be_deleted_is_named_and_keeps_its_task_from_starting(
    cluster: Cluster, without: Without
) -> None:
    name = f"other-{uuid.uuid4().hex[:8]}"
    run = PodRunner(cluster.client, cluster.pod(name), cluster.call(sleep, 60), print, print, PATIENCE)
    left = run.create()

    outcome = cluster.run(cluster.pod(name, attempt="2"), cluster.call(add_one, 1), client=without("delete", "pods"))

    assert named("delete", "pods") in str(outcome.error)
    assert any("it runs another call" in said for said in outcome.said)
    assert cluster.client.read_namespaced_pod(name, cluster.namespace).metadata.uid == left.metadata.uid
    run.finish("delete_pod")
