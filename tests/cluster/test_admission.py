"""What a cluster's owners put between a call and its pod: policies, quotas, injected containers, priorities."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import re
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.direct import Cluster, Outcome, add_one, sleep
from tests.cluster.namespaces import make_quota, own_namespace
from tests.waiting import PATIENCE, eventually

CONFINED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def crash() -> None:
    import ctypes

    ctypes.string_at(0)


def noise(seed: int) -> list[int]:
    """Three kilobytes that cannot be compressed: as much as a pod of two containers shows in its status."""
    import random

    numbers = random.Random(seed)
    return [numbers.randrange(2**63) for _ in range(250)]


def hungry() -> int:
    return len(b"x" * 200_000_000)


class Injects:
    """A client whose cluster injects containers into each pod, as a service mesh does.

    Args:
        client: the cluster's.
        containers: run beside the call.
        init_containers: run before it, or also beside it (``restartPolicy: Always``).
    """

    def __init__(self, client: Any, containers: list[Any] | None = None, init_containers: list[Any] | None = None):
        self._client = client
        self._containers = containers or []
        self._init_containers = init_containers or []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def create_namespaced_pod(self, namespace: str, pod: Any, **options: Any) -> Any:
        injected = self._client.api_client.sanitize_for_serialization(pod)
        injected["spec"]["containers"] = [*self._containers, *injected["spec"]["containers"]]
        injected["spec"]["initContainers"] = self._init_containers
        return self._client.create_namespaced_pod(namespace, injected, **options)


def container(cluster: Cluster, name: str, program: str, **fields: Any) -> dict[str, Any]:
    command = ["python", "-c", f"import signal, time; signal.signal(15, lambda *_: exit(143)); {program}"]
    return {"name": name, "image": cluster.image, "command": command, "securityContext": CONFINED, **fields}


def proxies(cluster: Cluster) -> Injects:
    """One that never ends beside the call, one before it, and one that Kubernetes ends after it, with an error."""
    return Injects(
        cluster.client,
        [container(cluster, "proxy", "time.sleep(600)")],
        [
            container(cluster, "prepare", "pass"),
            container(cluster, "native", "time.sleep(600)", restartPolicy="Always"),
        ],
    )


def test_a_call_ends_though_what_was_injected_beside_it_does_not(cluster: Cluster) -> None:
    outcome = cluster.run(cluster.pod(), cluster.call(noise, 7), client=proxies(cluster))

    numbers = random.Random(7)
    assert outcome.value == [numbers.randrange(2**63) for _ in range(250)], outcome.error


def test_a_crash_is_not_blamed_on_what_was_injected(cluster: Cluster) -> None:
    failing = container(cluster, "native", "time.sleep(1); exit(3)", restartPolicy="Always")
    client = Injects(cluster.client, init_containers=[failing])

    outcome = cluster.run(cluster.pod(), cluster.call(crash), client=client)

    assert "SIGSEGV" in str(outcome.error)


def test_a_call_does_not_wait_for_the_image_of_what_was_injected(cluster: Cluster) -> None:
    missing = {**container(cluster, "agent", "pass"), "image": "localhost:5000/nothing/there:1"}

    outcome = cluster.run(cluster.pod(), cluster.call(add_one, 1), client=Injects(cluster.client, [missing]))

    assert outcome.value == 2, outcome.error


# --- limits and quotas ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def elsewhere(cluster: Cluster) -> Iterator[Cluster]:
    with own_namespace(cluster.client) as name:
        yield dataclasses.replace(cluster, namespace=name)


@pytest.fixture(scope="module")
def limited(cluster: Cluster) -> Iterator[Cluster]:
    """A namespace that gives limits to containers without, and takes no small ones."""
    with elsewhere(cluster) as there:
        container = {
            "type": "Container",
            "default": {"memory": "64Mi"},
            "defaultRequest": {"cpu": "20m"},  # else what is allowed at most, for which a busy node may have no room
            "min": {"cpu": "20m"},
            "max": {"cpu": "1"},
        }
        limits = {"metadata": {"name": "limits"}, "spec": {"limits": [container]}}
        there.client.create_namespaced_limit_range(there.namespace, limits)
        yield there


@pytest.fixture(scope="module")
def counted(cluster: Cluster) -> Iterator[Cluster]:
    """A namespace that counts what its containers may use at most."""
    with elsewhere(cluster) as there:
        make_quota(there.client, there.namespace, limits_cpu="4", limits_memory="4Gi")
        yield there


def test_a_limit_of_the_namespaces_is_told(limited: Cluster) -> None:
    outcome = limited.run(limited.pod(), limited.call(hungry))

    assert "used more memory than its container may (limit 64Mi) and was killed" in str(outcome.error)


def test_more_than_a_namespace_allows_is_told(limited: Cluster) -> None:
    outcome = limited.run(limited.pod(container_resources={"limits": {"cpu": "2"}}), limited.call(add_one, 1))

    assert re.search(r"maximum cpu usage per Container is 1.*LimitRange says so", str(outcome.error)), outcome.error


def test_a_quota_that_counts_limits_takes_a_call_that_says_them(counted: Cluster) -> None:
    resources = {"limits": {"cpu": "500m", "memory": "256Mi"}, "requests": {"cpu": "20m", "memory": "32Mi"}}

    outcome = counted.run(counted.pod(container_resources=resources), counted.call(add_one, 1))

    assert outcome.value == 2, outcome.error


def test_a_quota_that_counts_limits_says_what_it_wants(counted: Cluster) -> None:
    outcome = counted.run(counted.pod(), counted.call(add_one, 1))

    assert re.search(r"must specify limits\.cpu.*add it to `container_resources`", str(outcome.error)), outcome.error


# --- policies ---------------------------------------------------------------------------------------------------


@pytest.fixture
def policy(cluster: Cluster) -> Iterator[Cluster]:
    """A namespace in which a policy of the cluster wants a label."""
    from kubernetes.client import AdmissionregistrationV1Api

    api = AdmissionregistrationV1Api(cluster.client.api_client)
    with elsewhere(cluster) as there:
        name = f"{there.namespace}.example.com"
        rules = [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]
        selector = {"matchLabels": {"kubernetes.io/metadata.name": there.namespace}}
        wanted = {"expression": "'cost-centre' in object.metadata.labels", "message": "pods need a cost-centre"}
        body = {"matchConstraints": {"resourceRules": rules}, "validations": [wanted]}
        api.create_validating_admission_policy({"metadata": {"name": name}, "spec": body})
        binding = {"policyName": name, "validationActions": ["Deny"], "matchResources": {"namespaceSelector": selector}}
        api.create_validating_admission_policy_binding({"metadata": {"name": name}, "spec": binding})
        try:
            yield there
        finally:
            api.delete_validating_admission_policy_binding(name)
            api.delete_validating_admission_policy(name)


def test_a_policy_that_denies_a_pod_is_told(policy: Cluster) -> None:
    def refused() -> Exception | None:  # as soon as the API server knows the policy
        return policy.run(policy.pod(), policy.call(add_one, 1)).error

    error = str(eventually(refused))

    assert re.search(r"denied request: pods need a cost-centre.*It is a policy of the cluster", error)
    assert policy.run(policy.pod(labels={"cost-centre": "x"}), policy.call(add_one, 1)).value == 2


def test_a_namespace_that_is_being_deleted_is_told(cluster: Cluster) -> None:
    with elsewhere(cluster) as there:
        held = {"metadata": {"name": "held", "finalizers": ["k8s-venv.example.com/held"]}}
        there.client.create_namespaced_config_map(there.namespace, held)
        there.client.delete_namespace(there.namespace)
        outcome = there.run(there.pod(), there.call(add_one, 1))
        there.client.patch_namespaced_config_map("held", there.namespace, {"metadata": {"finalizers": None}})

    assert "The namespace is being deleted." in str(outcome.error)


# --- priorities -------------------------------------------------------------------------------------------------


@pytest.fixture
def slot(cluster: Cluster) -> Iterator[str]:
    """A resource of which the cluster has one."""
    name = f"k8s-venv.example.com/slot-{uuid.uuid4().hex[:8]}"
    node = cluster.client.list_node().items[0].metadata.name
    path = f"/status/capacity/{name.replace('/', '~1')}"
    cluster.client.patch_node_status(node, [{"op": "add", "path": path, "value": "1"}])
    yield name
    cluster.client.patch_node_status(node, [{"op": "remove", "path": path}])


@pytest.fixture
def priority(cluster: Cluster) -> Iterator[str]:
    from kubernetes.client import SchedulingV1Api

    api = SchedulingV1Api(cluster.client.api_client)
    name = f"k8s-venv-test-{uuid.uuid4().hex[:8]}"
    api.create_priority_class({"metadata": {"name": name}, "value": 1000})
    yield name
    api.delete_priority_class(name)


def test_a_preempted_call_says_so(cluster: Cluster, slot: str, priority: str) -> None:
    resources = {"requests": {slot: "1"}, "limits": {slot: "1"}}
    pod, other = (cluster.pod(container_resources=resources) for _ in range(2))
    other.spec.priority_class_name = priority
    running = threading.Event()
    outcomes: list[Outcome] = []
    first = threading.Thread(
        target=lambda: outcomes.append(cluster.run(pod, cluster.call(sleep, 200), while_running=running.set))
    )
    first.start()
    assert running.wait(PATIENCE)
    second = cluster.run(other, cluster.call(add_one, 1))
    first.join()

    assert second.value == 2, second.error
    assert re.search(r"sleep\(\) was evicted from its node \(PreemptionByScheduler\)", str(outcomes[0].error))


# --- moments ----------------------------------------------------------------------------------------------------


def test_a_pod_that_is_deleted_before_a_node_takes_it(cluster: Cluster) -> None:
    pod = cluster.pod(node_selector={"k8s-venv.example.com/nowhere": "yes"})
    selector = f"metadata.name={pod.metadata.name}"

    def is_looked_at() -> bool:
        found = cluster.client.list_namespaced_pod(cluster.namespace, field_selector=selector).items
        return bool(found and found[0].status.conditions)

    def delete() -> None:
        eventually(is_looked_at)
        cluster.delete(pod)

    thread = threading.Thread(target=delete)
    thread.start()
    outcome = cluster.run(pod, cluster.call(add_one, 1))
    thread.join()

    assert "its pod was deleted from outside" in str(outcome.error)


def test_two_workers_of_one_try_share_its_pod(cluster: Cluster) -> None:
    name = f"moment-{uuid.uuid4().hex[:8]}"
    outcomes: list[Outcome] = []

    def work() -> None:
        outcomes.append(cluster.run(cluster.pod(name), cluster.call(sleep, 3)))

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert [outcome.value for outcome in outcomes] == ["slept", "slept"], outcomes
    assert sum("Taking over pod" in line for outcome in outcomes for line in outcome.said) == 1
    cluster.await_gone(name)


@pytest.mark.parametrize("name", ["ä" * 200, "日本語のタスク", "a" * 250])
def test_ids_of_any_length_and_script_make_pods(cluster: Cluster, name: str) -> None:
    from k8s_venv.backends.kubernetes import render

    outcome = cluster.run(cluster.pod(render.pod_name(name, name)), cluster.call(add_one, 1))

    assert outcome.value == 2, outcome.error
