"""What is asked of Kubernetes, compared whole, and what its answers mean."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("kubernetes", reason="the kubernetes client is not installed")

from pathlib import Path

from kubernetes.client import ApiClient
from kubernetes.client import models as k8s

from k8s_venv.backends.kubernetes import diagnose, render
from k8s_venv.backends.kubernetes.logs import _split
from k8s_venv.calls import PackedCall
from k8s_venv.environment import Environment
from k8s_venv.errors import CallError

ENVIRONMENT = Environment(name="x", root=Path(), python="3.12")
MOUNTS = [
    {"name": "k8s-venv-call", "mountPath": "/k8s-venv/call", "readOnly": True},
    {"name": "k8s-venv-result", "mountPath": "/k8s-venv/result"},
]
SCRATCH = {"name": "k8s-venv-scratch", "mountPath": "/tmp"}
SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def call(archive: bytes = b"zip", **connections: Any) -> PackedCall:
    return PackedCall(ENVIRONMENT, "work", frozenset(), "source", archive, connections)


def plain(thing: Any) -> Any:
    return ApiClient().sanitize_for_serialization(thing)


def test_the_whole_pod() -> None:
    options = {"image": "registry/x:1", "env_vars": {"REGION": "eu"}, "image_pull_secrets": ["pull"]}

    pod = plain(render.pod("work-1", "tasks", 600, options))

    assert pod == {
        "metadata": {
            "name": "work-1",
            "namespace": "tasks",
            "labels": {"app.kubernetes.io/managed-by": "k8s-venv"},
        },
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": 600,
            "automountServiceAccountToken": False,
            "imagePullSecrets": [{"name": "pull"}],
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [
                {"name": "k8s-venv-call", "secret": {"secretName": "work-1"}},
                {"name": "k8s-venv-scratch", "emptyDir": {}},
                {"name": "k8s-venv-result", "emptyDir": {}},
            ],
            "containers": [
                {
                    "name": "base",
                    "image": "registry/x:1",
                    "command": [
                        *("python", "/k8s-venv/call/call.pyz", "--result", "/k8s-venv/result"),
                        *("--message", "/dev/termination-log"),
                    ],
                    "env": [
                        {"name": "HOME", "value": "/tmp"},
                        {"name": "PYTHONUNBUFFERED", "value": "1"},
                        {"name": "PYTHONFAULTHANDLER", "value": "1"},
                        {"name": "REGION", "value": "eu"},
                    ],
                    "volumeMounts": [*MOUNTS, SCRATCH],
                    "securityContext": SECURITY,
                },
                {
                    "name": "result",
                    "image": "registry/x:1",
                    "command": ["python", "/k8s-venv/call/call.pyz", "--hand-over", "/k8s-venv/result"],
                    "volumeMounts": MOUNTS,
                    "securityContext": SECURITY,
                    "resources": {"requests": {"cpu": "1m", "memory": "16Mi"}, "limits": {"memory": "128Mi"}},
                },
            ],
        },
    }


def test_the_secret_belongs_to_its_pod() -> None:
    pod = k8s.V1Pod(metadata=k8s.V1ObjectMeta(name="work-1", namespace="tasks", uid="u1"))

    secret = plain(render.call_secret(pod, call(db={"conn_type": "postgres", "password": "hidden"})))

    assert secret["immutable"] is True
    assert secret["metadata"]["ownerReferences"] == [{"apiVersion": "v1", "kind": "Pod", "name": "work-1", "uid": "u1"}]
    assert set(secret["data"]) == {"call.pyz", "connections.json"}


def test_a_call_that_no_secret_holds_is_refused() -> None:
    with pytest.raises(CallError, match=r"take 1,048,577 bytes packed; a Secret holds 1,048,576\. Pass a reference"):
        render.secret_files(call(b"0" * (render.SECRET_LIMIT + 1)))


def test_a_call_shows_no_secret() -> None:
    assert "hidden" not in repr(call(db={"password": "hidden"}))


@pytest.mark.parametrize("label", ["Sales.Report__daily", "x" * 300, "ÄÖ", "", "-a-"])
def test_names_are_valid_and_stable(label: str) -> None:
    name = render.pod_name(label, "identity")

    assert name == render.pod_name(label, "identity") != render.pod_name(label, "another")
    assert len(name) <= render.NAME_LIMIT
    assert name.strip("-") == name
    assert name.replace("-", "").isalnum()
    assert name == name.lower()


def test_log_lines_compare_by_time_whatever_their_precision() -> None:
    assert _split("2026-01-01T00:00:00.5Z said") == ("2026-01-01T00:00:00.500000000", "said")
    assert _split("2026-01-01T00:00:00Z ") == ("2026-01-01T00:00:00.000000000", "")
    assert _split("2026-01-01T02:00:00.5+02:00 said") == ("2026-01-01T00:00:00.500000000", "said")
    assert _split("no time") == ("", "no time")


def waiting(reason: str, message: str) -> Any:
    state = SimpleNamespace(waiting=SimpleNamespace(reason=reason, message=message), terminated=None, running=None)
    status = SimpleNamespace(name="base", image="registry/x:1", state=state)
    return SimpleNamespace(status=SimpleNamespace(init_container_statuses=None, container_statuses=[status]))


def test_an_image_that_may_come_yet_is_waited_for() -> None:
    assert diagnose.startup_failure(waiting("ErrImagePull", "429 Too Many Requests"), ENVIRONMENT) is None
    failure = diagnose.startup_failure(waiting("ErrImagePull", "not found"), ENVIRONMENT)
    assert "k8s-venv build-images x" in str(failure)


@pytest.mark.parametrize(
    ("code", "says"),
    [(139, "SIGSEGV (a crash in compiled code)"), (137, "SIGKILL"), (7, "exit code 7"), (250, "exit code 250")],
)
def test_the_exit_code_tells_the_cause(code: int, says: str) -> None:
    ended = SimpleNamespace(reason="Error", exit_code=code, message=None)
    status = SimpleNamespace(name="base", state=SimpleNamespace(terminated=ended))
    pod = SimpleNamespace(
        metadata=SimpleNamespace(deletion_timestamp=None),
        status=SimpleNamespace(reason=None, phase="Failed", container_statuses=[status], init_container_statuses=None),
    )

    assert says in str(diagnose.death(pod, ENVIRONMENT, "work"))
