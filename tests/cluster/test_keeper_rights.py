"""The keeper's Role: each right is needed; and what the keeper does when it cannot reach the API server."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("kubernetes", reason="the kubernetes client is not installed")

import kubernetes
from api import FAILURES, Api
from keeper import Keeper
from rights import Right, expand

from tests.chart import NAME, WARM
from tests.cluster.keepers import KEEPER, Warm, pool, warm_release
from tests.gate import Gate
from tests.waiting import eventually

LEASES = "coordination.k8s.io"
# What the keeper says without each right, once its pods have failed and it has started again.
NEEDED = {
    Right("", "pods", "create"): 'cannot create resource "pods"',
    Right("", "pods", "list"): 'cannot list resource "pods"',
    Right("", "pods", "watch"): 'cannot watch resource "pods"',
    Right("", "pods", "delete"): 'cannot delete resource "pods"',
    Right("", "events", "create"): "The event of this could not be made",
    Right("", "resourcequotas", "list"): 'cannot list resource "resourcequotas"',
    Right(LEASES, "leases", "get"): 'cannot get resource "leases"',
    Right(LEASES, "leases", "update"): 'cannot update resource "leases"',
}


@pytest.fixture(scope="module")
def warm(client: Any) -> Iterator[Warm]:
    with warm_release(client, {"etl": pool()}) as release:
        yield release


@pytest.fixture(scope="module")
def rbac(client: Any) -> Any:
    return kubernetes.client.RbacAuthorizationV1Api(client.api_client)


def rules_without(rules: list[dict[str, Any]], taken: Right) -> list[dict[str, Any]]:
    """Return a Role's rules without one right."""
    kept = []
    for rule in rules:
        matches = taken.group in rule["apiGroups"] and taken.resource in rule["resources"]
        verbs = [verb for verb in rule["verbs"] if not (matches and verb == taken.verb)]
        kept += [{**rule, "verbs": verbs}] if verbs else []
    return kept


def rules_of(rbac: Any, warm: Warm) -> list[dict[str, Any]]:
    role = rbac.read_namespaced_role(KEEPER, warm.namespace)
    rules: list[dict[str, Any]] = rbac.api_client.sanitize_for_serialization(role.rules)
    return rules


def test_every_right_of_the_role_is_among_the_tested(warm: Warm, rbac: Any) -> None:
    assert set(expand(rules_of(rbac, warm))) == NEEDED.keys()
    assert [rule.get("resourceNames") for rule in rules_of(rbac, warm) if rule["apiGroups"] == [LEASES]] == [[KEEPER]]


@pytest.mark.parametrize("right", NEEDED, ids=lambda right: f"{right.verb} {right.resource}")
def test_each_right_is_needed(warm: Warm, rbac: Any, right: Right) -> None:
    (waiting, *_) = eventually(warm.ready)
    rules = rules_of(rbac, warm)
    rbac.patch_namespaced_role(KEEPER, warm.namespace, {"rules": rules_without(rules, right)})

    try:
        warm.end(waiting)
        (keeper,) = warm.keepers()
        warm.client.delete_namespaced_pod(keeper.metadata.name, warm.namespace)

        eventually(lambda: NEEDED[right] in warm.log())
    finally:
        rbac.patch_namespaced_role(KEEPER, warm.namespace, {"rules": rules})

    eventually(lambda: [pod for pod in warm.ready() if pod.metadata.uid != waiting.metadata.uid])


# --- away from the API server ---------------------------------------------------------------------------------


@pytest.fixture
def account(warm: Warm, tmp_path: Path) -> Iterator[Path]:
    """What a pod of the keeper's account has mounted, with the chart's own keeper out of the way."""
    scale = warm.apps.patch_namespaced_deployment_scale
    scale(KEEPER, warm.namespace, {"spec": {"replicas": 0}})
    eventually(lambda: not warm.keepers())
    template = warm.apps.read_namespaced_deployment(KEEPER, warm.namespace).spec.template
    template.spec.containers[0].command = ["python", "-c", "import time; time.sleep(3600)"]
    pod = {"metadata": {"name": "stand-in"}, "spec": template.spec}
    made = warm.client.create_namespaced_pod(warm.namespace, pod)
    bound = {"kind": "Pod", "apiVersion": "v1", "name": "stand-in", "uid": made.metadata.uid}
    request = {"spec": {"expirationSeconds": 3600, "boundObjectRef": bound}}
    token = warm.client.create_namespaced_service_account_token(KEEPER, warm.namespace, request).status.token
    root = warm.client.read_namespaced_config_map("kube-root-ca.crt", warm.namespace).data["ca.crt"]
    for name, content in {"token": token, "ca.crt": root, "namespace": warm.namespace}.items():
        (tmp_path / name).write_text(content, "utf-8")
    yield tmp_path
    warm.client.delete_namespaced_pod("stand-in", warm.namespace, grace_period_seconds=0)
    scale(KEEPER, warm.namespace, {"spec": {"replicas": 1}})


def test_a_keeper_goes_on_after_an_absence_of_the_api_server(warm: Warm, account: Path) -> None:
    address = urlsplit(warm.client.api_client.configuration.host)
    gate = Gate(address.hostname or "", address.port or 443)
    keeper = Keeper(Api(f"127.0.0.1:{gate.port}", account), NAME, [{"environment": "etl", **pool()}])
    stopped = threading.Event()
    failures: list[BaseException] = []

    def keep() -> None:
        while not stopped.is_set():
            try:
                for _ in keeper.turns():
                    if stopped.is_set():
                        break
            except FAILURES as error:
                failures.append(error)
                time.sleep(0.2)

    thread = threading.Thread(target=keep)
    thread.start()
    (first, *_) = eventually(warm.ready)
    eventually(lambda: warm.leader() == "stand-in")

    gate.shut()
    assert warm.claim(first)  # while the keeper sees nothing
    eventually(lambda: failures)
    gate.open()

    eventually(lambda: [pod for pod in warm.ready() if pod.metadata.uid != first.metadata.uid])
    stopped.set()
    thread.join()
    assert first.metadata.uid in {pod.metadata.uid for pod in warm.pods()}


def test_pools_are_plain_text(client: Any) -> None:
    """What a worker's mutation hook may have put into a pod survives the way through the chart."""
    odd = pool(code="print('{{ .Values }} \\u2028 <&> \"\\\\')\nimport signal; signal.signal(15, exit); signal.pause()")

    with warm_release(client, {"etl": odd}) as warm:
        (made, *_) = warm.until_ready(WARM["min"])

    assert made.spec.containers[0].command == odd["pod"]["spec"]["containers"][0]["command"]
