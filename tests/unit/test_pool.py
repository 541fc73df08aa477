"""The pods that wait for calls: what they are, and which calls they fit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("kubernetes", reason="the kubernetes client is not installed")

from kubernetes.client import ApiClient
from kubernetes.client import models as k8s

from k8s_venv.backends.kubernetes import pool, render
from k8s_venv.config.environment import Environment
from k8s_venv.config.warm import WarmPool
from tests.rendered import golden

OPTIONS = {"image": "registry/etl:1", "env_vars": {"REGION": "eu"}, "image_pull_secrets": ["pull"]}


def environment(*preload: str, name: str = "etl") -> Environment:
    return Environment(name=name, root=Path(), python="3.12", warm=WarmPool(preload=preload))


def own(**options: Any) -> k8s.V1Pod:
    """Return the pod that a call would have of its own."""
    return render.pod("etl-work-1", "etl", {**OPTIONS, **options}, secret="etl-work-1-a", namespace="tasks")


def key(pod: k8s.V1Pod) -> str:
    return pool.pool_key(pool.from_call(pod, environment()))


def test_a_waiting_pod_is_the_golden_one() -> None:
    pod = ApiClient().sanitize_for_serialization(pool.pool_pod(environment("pandas", "numpy"), OPTIONS))

    for container in pod["spec"]["containers"]:
        container["command"][2] = "PROGRAM"  # it may change; the key changes with it
    key = pod["metadata"]["labels"]["k8s-venv/slot"]
    assert pod["metadata"]["annotations"] == {"k8s-venv/pool": key, "k8s-venv/environment": "etl"}
    pod["metadata"]["labels"]["k8s-venv/slot"] = pod["metadata"]["annotations"]["k8s-venv/pool"] = "KEY"
    assert pod == golden("waiting")


def test_its_key_is_in_its_labels_and_annotations() -> None:
    pod = pool.pool_pod(environment(), OPTIONS)

    key = pool.pool_key(pod)
    assert len(key) == 20
    assert pod.metadata.labels[render.SLOT] == pod.metadata.annotations[pool.POOL] == key
    assert pool.is_pool_pod(pod)


@pytest.mark.parametrize(
    "change",
    [
        {"labels": {"team": "data"}, "annotations": {"cost": "low"}},
        {"active_deadline_seconds": 60},
        {"tolerations": [], "node_selector": {}, "volumes": []},
    ],
    ids=["labels and annotations", "a deadline", "options that are empty"],
)
def test_a_pod_fits_calls_that_differ_in_what_a_claim_changes(change: dict[str, Any]) -> None:
    assert key(own(**change)) == pool.pool_key(pool.pool_pod(environment(), OPTIONS))


def test_what_the_provider_writes_where_nothing_was_asked_changes_no_key() -> None:
    written = own()
    written.spec.host_network, written.spec.dns_policy, written.spec.affinity = False, "ClusterFirst", {}
    written.spec.containers[0].termination_message_policy, written.spec.containers[0].ports = "File", []

    assert key(written) == key(own())


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"image": "registry/etl:2"}, ["image"]),
        ({"env_vars": {"REGION": "us"}}, ["env"]),
        ({"tolerations": [{"key": "spot", "operator": "Exists"}]}, ["tolerations"]),
        ({"container_resources": {"limits": {"memory": "1Gi"}}}, ["resources"]),
        ({"automount_service_account_token": None}, ["automountServiceAccountToken"]),
        (
            {"container_security_context": {"runAsUser": 7}, "node_selector": {"a": "b"}},
            ["nodeSelector", "securityContext"],
        ),
    ],
    ids=["image", "variables", "tolerations", "resources", "a token", "two"],
)
def test_a_pod_that_differs_has_another_key_and_the_difference_a_name(change: dict[str, Any], names: list[str]) -> None:
    own_pod, declared = pool.from_call(own(**change), environment()), pool.pool_pod(environment(), OPTIONS)

    assert pool.pool_key(own_pod) != pool.pool_key(declared)
    assert pool.differences(own_pod, declared) == names


def test_modules_that_are_imported_before_have_a_key_of_their_own() -> None:
    keys = {pool.pool_key(pool.pool_pod(environment(*names), OPTIONS)) for names in ((), ("pandas",), ("numpy",))}

    assert len(keys) == 3


def add_a_container(pod: k8s.V1Pod) -> None:
    pod.spec.containers.append(k8s.V1Container(name="proxy", image="proxy:1"))


def add_an_init_container(pod: k8s.V1Pod) -> None:
    pod.spec.init_containers = [k8s.V1Container(name="prepare", image="prepare:1")]


@pytest.mark.parametrize(
    ("change", "name"),
    [(add_a_container, "container 'proxy'"), (add_an_init_container, "initContainers")],
    ids=["a container", "an init container"],
)
def test_what_a_cluster_adds_to_a_call_is_named(change: Callable[[k8s.V1Pod], None], name: str) -> None:
    pod = own()
    change(pod)

    changed = pool.from_call(pod, environment())

    assert pool.differences(changed, pool.pool_pod(environment(), OPTIONS)) == [name]


def test_rendering_leaves_the_call_s_own_pod_as_it_is() -> None:
    pod = own()
    before = copy.deepcopy(pod)

    pool.from_call(pod, environment("pandas"))

    assert pod == before


def test_a_name_that_no_pod_may_have_is_made_fit() -> None:
    assert pool.pool_pod(environment(name="my_etl"), OPTIONS).metadata.generate_name == "warm-my-etl-"
    long = pool.pool_pod(environment(name="e" * 63), OPTIONS).metadata.generate_name
    assert len(long) + 5 <= 63
