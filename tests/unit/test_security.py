"""What a user says of security contexts goes over ours, key by key."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("kubernetes", reason="the kubernetes client is not installed")

from kubernetes.client import ApiClient
from kubernetes.client import models as k8s

from k8s_venv.backends.kubernetes import render
from k8s_venv.backends.kubernetes.options import container_security, pod_security
from k8s_venv.errors import K8sVenvError

POD = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
CONTAINER = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


def plain(thing: Any) -> Any:
    return ApiClient().sanitize_for_serialization(thing)


@pytest.mark.parametrize(
    ("given", "added"),
    [
        (None, {}),
        ({}, {}),
        ({"runAsUser": 1000}, {"runAsUser": 1000}),
        (k8s.V1PodSecurityContext(run_as_user=1000, fs_group=2000), {"runAsUser": 1000, "fsGroup": 2000}),
        ({"seccompProfile": {"type": "Unconfined"}}, {"seccompProfile": {"type": "Unconfined"}}),
        ({"runAsNonRoot": False}, {"runAsNonRoot": False}),
        ({"runAsUser": 0}, {"runAsUser": 0, "runAsNonRoot": False}),
    ],
)
def test_what_is_said_of_a_pod_leaves_the_rest_as_it_was(given: Any, added: dict[str, Any]) -> None:
    assert plain(pod_security(given)) == {**POD, **added}


@pytest.mark.parametrize(
    ("given", "added"),
    [
        ({"readOnlyRootFilesystem": False}, {"readOnlyRootFilesystem": False}),
        (
            {"capabilities": {"add": ["NET_BIND_SERVICE"]}},
            {"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}},
        ),
        (k8s.V1SecurityContext(run_as_user=1000), {"runAsUser": 1000}),
    ],
)
def test_what_is_said_of_a_container_leaves_the_rest_as_it_was(given: Any, added: dict[str, Any]) -> None:
    assert plain(container_security(given)) == {**CONTAINER, **added}


def test_a_default_can_be_taken_away() -> None:
    assert plain(pod_security({"seccompProfile": None})) == {"runAsNonRoot": True}


def test_what_kubernetes_would_refuse_together_is_not_asked_for() -> None:
    assert "allowPrivilegeEscalation" not in plain(container_security({"privileged": True}))


def test_later_ones_win() -> None:
    template = k8s.V1PodSecurityContext(run_as_user=1, run_as_group=2)

    assert plain(pod_security(template, {"runAsUser": 3})) == {**POD, "runAsUser": 3, "runAsGroup": 2}


def test_a_misspelt_key_is_refused() -> None:
    with pytest.raises(K8sVenvError, match=r"security_context has no key 'run_as_user'.*Did you mean 'runAsUser'"):
        pod_security({"run_as_user": 1000})


def test_a_call_outside_airflow_takes_them_too() -> None:
    options = {"image": "x:1", "security_context": {"fsGroup": 5}, "container_security_context": {"runAsUser": 6}}

    spec = plain(render.pod("work-1", "x", options, secret="a"))["spec"]

    assert spec["securityContext"] == {**POD, "fsGroup": 5}
    assert [container["securityContext"] for container in spec["containers"]] == [{**CONTAINER, "runAsUser": 6}] * 2


@pytest.mark.parametrize(
    ("limits", "sidecar"),
    [
        ({}, {}),
        ({"cpu": "500m"}, {"cpu": "500m"}),
        ({"cpu": "8", "memory": "4Gi", "nvidia.com/gpu": "1"}, {"cpu": "1"}),
        ({"ephemeral-storage": "2Gi"}, {"ephemeral-storage": "16Mi"}),
    ],
)
def test_the_sidecar_limits_what_its_call_limits(limits: dict[str, str], sidecar: dict[str, str]) -> None:
    pod = render.pod("work-1", "x", {"image": "x:1", "container_resources": {"limits": limits}}, secret="a")

    assert pod.spec.containers[1].resources.limits == {"memory": "128Mi", **sidecar}


def test_a_message_may_be_as_long_as_the_kubelet_leaves_room_for() -> None:
    pod = render.pod("work-1", "x", {"image": "x:1"}, secret="a")
    assert render.message_limit(pod) == 4096

    pod.spec.init_containers = [k8s.V1Container(name="prepare")]
    pod.spec.containers.append(k8s.V1Container(name="proxy"))

    assert render.message_limit(pod) == 12 * 1024 // 5
