"""Airflow's rights to Leases, which calls of environments with waiting pods need: without one, a call says so."""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from rights import Right, expand

pytest.importorskip("kubernetes", reason="the kubernetes client is not installed")

import kubernetes

from tests.chart import CHART, NAME, WARM, helm, kubeconfig
from tests.cluster.direct import Cluster, add_one
from tests.cluster.namespaces import client_of, own_namespace
from tests.cluster.pools import WarmCluster
from tests.waiting import eventually

LEASES = ("create", "get", "delete")


@dataclasses.dataclass
class Account:
    """Airflow's account where an environment declares waiting pods, which the test makes itself.

    Args:
        warm: makes the pods, as the cluster's administrator.
        client: reaches the cluster as the account.
        rbac: changes the account's rights.
    """

    warm: WarmCluster
    client: Any
    rbac: Any

    def rules(self) -> list[dict[str, Any]]:
        role = self.rbac.read_namespaced_role(f"{NAME}-launcher", self.warm.namespace)
        found: list[dict[str, Any]] = self.rbac.api_client.sanitize_for_serialization(role.rules)
        return found

    def grant(self, rules: list[dict[str, Any]]) -> None:
        self.rbac.patch_namespaced_role(f"{NAME}-launcher", self.warm.namespace, {"rules": rules})
        eventually(lambda: {verb for verb in LEASES if self.may(verb)} == granted(rules))

    def may(self, verb: str) -> bool:
        wanted = {"namespace": self.warm.namespace, "group": "coordination.k8s.io", "resource": "leases", "verb": verb}
        api = kubernetes.client.AuthorizationV1Api(self.client.api_client)
        review = api.create_self_subject_access_review({"spec": {"resourceAttributes": wanted}})
        return bool(review.status.allowed)


def granted(rules: list[dict[str, Any]]) -> set[str]:
    return {right.verb for right in expand(rules) if right.resource == "leases"}


@pytest.fixture(scope="module")
def account(cluster: Cluster, client: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    with own_namespace(client) as tasks:
        client.create_namespaced_service_account(tasks, {"metadata": {"name": "airflow-worker"}})
        given = {"name": "airflow-worker", "namespace": tasks}
        environments = {"x": {"image": cluster.image, "python": "3.12", "warm": WARM}}
        values = {"airflow.serviceAccounts": [given], "environments": environments, "warm.enabled": False}
        told = [f"--set-json={key}={json.dumps(value)}" for key, value in values.items()]
        helm("install", NAME, str(CHART), "--namespace", tasks, *told)
        worker = client_of(kubeconfig(client, given, tmp_path_factory.mktemp("account")))
        rbac = kubernetes.client.RbacAuthorizationV1Api(client.api_client)
        yield Account(WarmCluster(client, tasks, cluster.image, cluster.folder), worker, rbac)


def said_without(account: Account, verb: str) -> list[str]:
    """Return what a call says without a right, whose task has a lock that belongs to no pod."""
    name, rules = f"rights-{uuid.uuid4().hex[:8]}", account.rules()
    leases = kubernetes.client.CoordinationV1Api(account.warm.client.api_client)
    account.warm.fill()
    account.grant([{**r, "verbs": [v for v in r["verbs"] if (r["resources"], v) != (["leases"], verb)]} for r in rules])
    if verb != "create":
        leases.create_namespaced_lease(account.warm.namespace, {"metadata": {"name": name}})
    try:
        outcome = account.warm.run(account.warm.pod(name), account.warm.call(add_one, 1), client=account.client)
    finally:
        account.grant(rules)
    assert outcome.value == 2, outcome
    assert outcome.start.kind == "cold", outcome.said
    return outcome.said


def test_a_call_takes_a_waiting_pod_with_all_rights(account: Account) -> None:
    account.warm.fill()

    outcome = account.warm.run(account.warm.pod("allowed"), account.warm.call(add_one, 1), client=account.client)

    assert (outcome.value, outcome.start.kind) == (2, "warm"), outcome
    assert granted(account.rules()) == set(LEASES)
    assert Right("", "pods/exec", "create") in set(expand(account.rules()))


@pytest.mark.parametrize("verb", LEASES)
def test_without_a_right_to_leases_a_call_says_so_and_takes_a_pod_of_its_own(account: Account, verb: str) -> None:
    said = said_without(account, verb)

    assert [line for line in said if f"the right to `{verb}` `leases`" in line], "\n".join(said)
