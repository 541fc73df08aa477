"""What a call says where its account lacks one right: which one, and what follows."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("kubernetes", reason="the kubernetes client is not installed")

import kubernetes

from k8s_venv.backends.kubernetes.engine import PodRun
from k8s_venv.backends.kubernetes.stages import Timeouts
from tests.cluster.direct import PATIENCE, Cluster, add_one, sleep
from tests.cluster.namespaces import may
from tests.waiting import eventually

RIGHTS = {
    "pods": ["create", "get", "list", "watch", "delete", "patch"],
    "pods/log": ["get"],
    "events": ["list"],
    "secrets": ["create"],
}
Without = Callable[[str, str], Any]


@pytest.fixture
def without(client: Any, namespace: str) -> Without:
    """Return a function that gives a client of an account which has all rights of a worker but one."""

    def make(verb: str, resource: str) -> Any:
        rights = copy.deepcopy(RIGHTS)
        rights[resource].remove(verb)
        name = f"lacks-{uuid.uuid4().hex[:6]}"
        rules = [{"apiGroups": [""], "resources": [each], "verbs": verbs} for each, verbs in rights.items() if verbs]
        rbac = kubernetes.client.RbacAuthorizationV1Api(client.api_client)
        client.create_namespaced_service_account(namespace, {"metadata": {"name": name}})
        rbac.create_namespaced_role(namespace, {"metadata": {"name": name}, "rules": rules})
        account = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
        rbac.create_namespaced_role_binding(
            namespace, {"metadata": {"name": name}, "roleRef": role, "subjects": [account]}
        )
        token = client.create_namespaced_service_account_token(name, namespace, {"spec": {"expirationSeconds": 3600}})
        configuration = kubernetes.client.Configuration.get_default_copy()
        configuration.cert_file = configuration.key_file = None
        configuration.api_key = {"authorization": f"Bearer {token.status.token}"}
        api = kubernetes.client.CoreV1Api(kubernetes.client.ApiClient(configuration))
        eventually(lambda: all(may(api, namespace, each, what) for what, verbs in rights.items() for each in verbs))
        return api

    return make


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
    run = PodRun(without("patch", "pods"), pod, cluster.call(add_one, 1), print, said.append, PATIENCE)
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
