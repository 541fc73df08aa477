"""What is asked of Kubernetes, compared whole, and what its answers mean."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("kubernetes", reason="the kubernetes client is not installed")

from pathlib import Path

from kubernetes.client import ApiClient
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException

from k8s_venv.backends import limits
from k8s_venv.backends.kubernetes import diagnose, pod_state, render, takeover
from k8s_venv.backends.kubernetes.api import PodApi
from k8s_venv.backends.kubernetes.backend import KubernetesBackend
from k8s_venv.backends.kubernetes.options import typed
from k8s_venv.backends.kubernetes.payload import CallSecrets, withdraw_arguments
from k8s_venv.backends.process import runner_command
from k8s_venv.calls import PackedCall, pack, transfer
from k8s_venv.calls.packed import Spool
from k8s_venv.config.environment import Environment
from k8s_venv.config.project import Project
from k8s_venv.wire import protocol
from tests.rendered import golden, rendered

PYTHON = runner_command("python", "")[:-1]
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


def call(archive: bytes = b"zip", **secrets: Any) -> PackedCall:
    return PackedCall(environment=ENVIRONMENT, function="work", transport="source", archive=archive, secrets=secrets)


def plain(thing: Any) -> Any:
    return ApiClient().sanitize_for_serialization(thing)


def test_the_whole_pod() -> None:
    options = {"image": "registry/x:1", "env_vars": {"REGION": "eu"}, "image_pull_secrets": ["pull"]}

    pod = plain(render.pod("work-1", "x", options, secret="work-1-a", namespace="tasks"))

    assert pod == {
        "metadata": {
            "name": "work-1",
            "namespace": "tasks",
            "labels": {
                "app.kubernetes.io/name": "x",
                "app.kubernetes.io/component": "task",
                "app.kubernetes.io/part-of": "k8s-venv",
                "app.kubernetes.io/managed-by": "k8s-venv",
                "k8s-venv/slot": "work-1",
            },
        },
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": 7 * 24 * 3600,
            "automountServiceAccountToken": False,
            "imagePullSecrets": [{"name": "pull"}],
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [
                {"name": "k8s-venv-call", "secret": {"secretName": "work-1-a"}},
                {"name": "k8s-venv-scratch", "emptyDir": {}},
                {"name": "k8s-venv-result", "emptyDir": {}},
            ],
            "containers": [
                {
                    "name": "base",
                    "image": "registry/x:1",
                    "command": [
                        *(*PYTHON, "/k8s-venv/call/call.pyz", "--result", "/k8s-venv/result"),
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
                    "command": [*PYTHON, "/k8s-venv/call/call.pyz", "--hand-over", "/k8s-venv/result"],
                    "volumeMounts": MOUNTS,
                    "securityContext": SECURITY,
                    "resources": {"requests": {"cpu": "1m", "memory": "16Mi"}, "limits": {"memory": "128Mi"}},
                },
            ],
        },
    }


def test_a_pod_rendered_outside_airflow_is_the_golden_one() -> None:
    pod = {
        "image": "registry/x:1",
        "labels": {"team": "data"},
        "annotations": {"cost": "low"},
        "env_vars": {"STAGE": "prod"},
        "volumes": [{"name": "data", "emptyDir": {}}],
        "volume_mounts": [{"name": "data", "mountPath": "/data"}],
        "container_resources": {"limits": {"cpu": "2", "memory": "1Gi"}},
        "container_security_context": {"runAsUser": 2000},
        "security_context": {"fsGroup": 5},
        "image_pull_policy": "Always",
        "image_pull_secrets": ["pull"],
        "service_account_name": "robot",
        "node_selector": {"disk": "ssd"},
        "tolerations": [{"key": "spot", "operator": "Exists"}],
    }
    environment = Environment(name="x", root=Path(), python="3.12", pod=pod)
    backend = KubernetesBackend(Project(path=Path("k8s-venv.toml")), "me")

    manifest = backend._pod(dataclasses.replace(call(), environment=environment), "tasks")

    assert rendered(manifest) == golden("run")


def test_the_secret_belongs_to_its_pod() -> None:
    pod = render.pod("work-1", "x", {"image": "registry/x:1"}, secret=render.fresh_secret_name("work-1"))
    pod.metadata.uid = "u1"
    with_connection = call(connections={"db": {"conn_type": "postgres", "password": "hidden"}})

    secret = plain(CallSecrets(with_connection, pod).for_pod(pod)[0])

    assert secret["immutable"] is True
    assert secret["metadata"]["name"] == pod.spec.volumes[0].secret.secret_name != "work-1"
    assert secret["metadata"]["ownerReferences"] == [{"apiVersion": "v1", "kind": "Pod", "name": "work-1", "uid": "u1"}]
    assert set(secret["data"]) == {"call.pyz", "secrets.json"}


def test_the_arguments_of_a_pod_that_was_removed_do_not_stay_where_large_values_are_kept(tmp_path: Path) -> None:
    mounted = typed({"volume_mounts": [{"name": "shared", "mountPath": str(tmp_path)}]})
    left = render.pod("a", "x", {"image": "registry/x:1", **mounted}, secret="a")
    values = ENVIRONMENT.with_values({"location": str(tmp_path), "above": 0})
    large = dataclasses.replace(call(), environment=values, arguments=Spool([b"x" * 100]))
    CallSecrets(large, left)  # and then the worker died
    assert [path.name for path in tmp_path.iterdir()] == ["a.arguments"]

    withdraw_arguments(large, left)

    assert not list(tmp_path.iterdir())


def test_a_closed_call_leaves_no_file_though_somebody_holds_it() -> None:
    large = dataclasses.replace(call(), arguments=Spool([b"x" * 100]))
    assert large.arguments is not None
    assert large.arguments.path.exists()

    large.close()

    assert not large.arguments.path.exists()


def test_a_signed_url_lives_as_long_as_a_pod() -> None:
    assert transfer._EXPIRY == limits.POD_DEADLINE


class Refusing:
    """Answers each request about a pod as an API server does that has another one of its name."""

    def __init__(self) -> None:
        self.asked = 0

    def delete_namespaced_pod(self, *arguments: Any, **options: Any) -> None:
        self.asked += 1
        error = ApiException(409, "Conflict")
        error.body = json.dumps({"reason": "Conflict", "message": "the UID in the precondition does not match"})
        raise error


def test_a_pod_that_another_one_replaced_is_not_deleted_again_and_again() -> None:
    client, said = Refusing(), list[str]()

    PodApi(client, "tasks", ENVIRONMENT, said.append).delete("work-1", "u1")

    assert client.asked == 1
    assert not said


def test_rendering_leaves_a_template_and_a_pod_as_they_were() -> None:
    template = k8s.V1Pod(spec=k8s.V1PodSpec(containers=[k8s.V1Container(name="main", env=[])]))
    before = plain(template)

    pod = render.pod("work-1", "x", {"image": "registry/x:1"}, secret="a", template=template)
    rendered_before = plain(pod)
    render.with_secrets(pod, 3)
    render.with_metadata(pod, name="work-1-2")
    larger = render.with_sidecar_defaults(pod)

    assert plain(template) == before
    assert plain(pod) == rendered_before
    assert larger is not None
    assert [container.resources for container in larger.spec.containers] == [None, None]


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


def pod_with(state: dict[str, Any], *, deleted: dict[str, Any] | None = None, **status: Any) -> Any:
    """A pod as the API server tells it, with the call's container in a state."""
    container = {"name": "base", "image": "registry/x:1", "imageID": "", "ready": False, "restartCount": 0}
    return pod_state.to_pod(
        {
            "metadata": {"name": "work-1", "namespace": "tasks", "uid": "u1", **(deleted or {})},
            "spec": {"containers": [{"name": "base"}]},
            "status": {"containerStatuses": [{**container, "state": state}], **status},
        }
    )


def waiting(reason: str, message: str) -> Any:
    return pod_with({"waiting": {"reason": reason, "message": message}})


def ended(code: int, reason: str = "Error", message: str = "", at: str = "2026-01-01T00:00:10Z") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message, "finishedAt": at}}


PULLING = 'failed to pull and unpack image "registry/x:1": failed to do request: Head "https://registry/v2/": '


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("ErrImagePull", "429 Too Many Requests"),
        ("ErrImagePull", f"{PULLING}dial tcp 10.0.0.1:5000: connect: connection refused"),
        ("ImagePullBackOff", f'Back-off pulling image "registry/x:1": ErrImagePull: {PULLING}connection refused'),
        ("ImagePullBackOff", 'Back-off pulling image "registry/x:1"'),  # which says nothing of the reason
        ("ErrImagePull", f"{PULLING}dial tcp 10.0.0.1:5000: connect: no route to host"),
        ("ErrImagePull", f"{PULLING}net/http: TLS handshake timeout"),
        ("ErrImagePull", f"{PULLING}unexpected EOF"),
        ("ErrImagePull", f"{PULLING}lookup registry on 10.0.0.10:53: server misbehaving"),
    ],
)
def test_an_image_that_may_come_yet_is_waited_for(reason: str, message: str) -> None:
    pod = waiting(reason, message)
    pod.status.conditions = [k8s.V1PodCondition(type="PodScheduled", status="True")]

    assert pod_state.cannot_start(pod) is None
    late = str(diagnose.startup_timeout(pod, ENVIRONMENT, 120))
    assert "Is it built?" not in late
    assert "is the registry there, and does the node reach it?" in late


@pytest.mark.parametrize("name", ["registry/x:1", "registry/timeout-gateway:1", "registry/eof@sha256:0"])
def test_an_image_that_does_not_exist_is_not_waited_for_whatever_its_name(name: str) -> None:
    pod = waiting("ErrImagePull", f'failed to resolve reference "{name}": {name}: not found')
    pod.status.container_statuses[0].image = name

    assert pod_state.cannot_start(pod)
    assert "named by the task's or the environment's `image`" in str(diagnose.startup_failure(pod, ENVIRONMENT))


def test_an_image_that_was_not_built_is_named_with_the_command_that_builds_it() -> None:
    pod = waiting("ErrImagePull", "not found")
    pod.status.container_statuses[0].image = ENVIRONMENT.image_reference("registry", "a lock's digest")

    assert "Is it built? Run `k8s-venv build-images x`." in str(diagnose.startup_failure(pod, ENVIRONMENT))


def test_a_registry_that_no_node_finds_is_not_a_missing_build() -> None:
    pod = waiting("ErrImagePull", f"{PULLING}dial tcp: lookup registry: no such host")
    pod.status.container_statuses[0].image = ENVIRONMENT.image_reference("registry", "a lock's digest")

    said = str(diagnose.startup_failure(pod, ENVIRONMENT))

    assert "is its name right" in said
    assert "Is it built?" not in said


@pytest.mark.parametrize(
    ("code", "says"),
    [(139, "SIGSEGV (a crash in compiled code)"), (137, "SIGKILL"), (7, "exit code 7"), (250, "exit code 250")],
)
def test_the_exit_code_tells_the_cause(code: int, says: str) -> None:
    assert says in str(diagnose.death(pod_with(ended(code), phase="Failed"), ENVIRONMENT, "work"))


@pytest.mark.parametrize(
    ("at", "was"), [("2026-01-01T00:00:10Z", False), ("2026-01-01T00:00:30Z", True), ("2026-01-01T00:00:59Z", True)]
)
def test_what_ended_before_its_pod_was_deleted_ended_by_itself(at: str, was: bool) -> None:
    deleted = {"deletionTimestamp": "2026-01-01T00:01:00Z", "deletionGracePeriodSeconds": 30}

    assert pod_state.was_ended(pod_with(ended(1, at=at), deleted=deleted)) is was


def test_a_message_of_the_users_is_no_result() -> None:
    assert pod_state.message(pod_with(ended(1, message='{"level": "info"}'))) == ""
    assert pod_state.message(pod_with(ended(0, message='{"protocol": 1}'))) == '{"protocol": 1}'


def document(outcome: str) -> str:
    return json.dumps(protocol.Document(outcome, 0, "", "3.12.0", {}).to_json())


def add(number: int) -> int:
    return number + 1


def identity(number: int = 1, image: str = "registry/x:1", **options: Any) -> takeover.CallIdentity:
    packed = pack(add, (number,), {}, environment=Environment(name="x", root=Path(__file__).parent, python="3.12"))
    return takeover.CallIdentity(packed, render.pod("work-1", "x", {"image": image, **options}, secret="a"))


def of_try(pod: Any, number: str, what: takeover.CallIdentity | None = None) -> Any:
    """Return a pod as a try of some call made it."""
    pod.metadata.labels = {render.TRY: number}
    pod.metadata.annotations = {takeover.CALL: (what or identity()).seal()}
    return pod


ENDS = [
    ({"waiting": {}}, takeover.ExistingPod.TAKEN),
    ({"running": {}}, takeover.ExistingPod.TAKEN),
    (ended(0, message=document("value")), takeover.ExistingPod.TAKEN),
    (ended(0, message=document("skip")), takeover.ExistingPod.TAKEN),
    (ended(1, message=document("fail")), takeover.ExistingPod.TAKEN),
    (ended(1, message=document("failure")), takeover.ExistingPod.FAILED),
    (ended(137, "OOMKilled"), takeover.ExistingPod.FAILED),
]


@pytest.mark.parametrize(("state", "fate"), ENDS)
def test_what_becomes_of_the_pod_of_an_earlier_try(state: dict[str, Any], fate: takeover.ExistingPod) -> None:
    assert takeover.decide(of_try(pod_with(state), "1"), "2", identity()) is fate
    assert takeover.decide(of_try(pod_with(state), "1"), "1", identity()) is takeover.ExistingPod.TAKEN


@pytest.mark.parametrize("state", [state for state, _ in ENDS])
@pytest.mark.parametrize(
    "other",
    [
        lambda: identity(number=2),
        lambda: identity(image="registry/x:2"),
        lambda: identity(env_vars={"STAGE": "prod"}),
    ],
)
def test_a_pod_of_another_call_is_never_taken_over(
    state: dict[str, Any], other: Callable[[], takeover.CallIdentity]
) -> None:
    pod = of_try(pod_with(state), "1", other())

    assert takeover.decide(pod, "2", identity()) is takeover.ExistingPod.OTHER
    assert takeover.decide(pod, "1", identity()) is takeover.ExistingPod.OTHER


@pytest.mark.parametrize("annotations", [None, {}, {"other": "thing"}])
def test_a_pod_that_does_not_say_which_call_it_runs_is_never_taken_over(annotations: dict[str, str] | None) -> None:
    pod = of_try(pod_with(ended(0, message=document("value"))), "1")
    pod.metadata.annotations = annotations

    assert takeover.decide(pod, "2", identity()) is takeover.ExistingPod.UNKNOWN


@pytest.mark.parametrize("garbled", ["x", "zz.00", "00", "00.00", ".", "\u00e4." + "0" * 64])
def test_an_annotation_that_somebody_garbled_says_another_call(garbled: str) -> None:
    pod = of_try(pod_with({"running": {}}), "1")
    pod.metadata.annotations = {takeover.CALL: garbled}

    assert takeover.decide(pod, "1", identity()) is takeover.ExistingPod.OTHER


def test_two_pods_of_the_same_call_cannot_be_told_to_be_so_by_looking_at_them() -> None:
    assert identity().seal() != identity().seal()


def test_a_pod_that_leaves_or_was_dealt_with_is_never_taken_over() -> None:
    leaving = {"deletionTimestamp": "2026-01-01T00:01:00Z"}
    assert takeover.decide(pod_with({"running": {}}, deleted=leaving), "1", identity()) is takeover.ExistingPod.LEAVING
    checked = {"labels": {render.CHECKED: "True"}}
    assert takeover.decide(pod_with(ended(0), deleted=checked), "1", identity()) is takeover.ExistingPod.CHECKED


@pytest.mark.parametrize(("what", "fate"), [(1, takeover.ExistingPod.TAKEN), (2, takeover.ExistingPod.OTHER)])
@pytest.mark.parametrize("state", [{"waiting": {}}, {"running": {}}])
def test_beside_a_kept_pod_that_still_runs_no_other_starts(
    state: dict[str, Any], what: int, fate: takeover.ExistingPod
) -> None:
    kept = of_try(pod_with(state), "1")
    kept.metadata.labels[render.CHECKED] = "True"

    assert takeover.decide(kept, "2", identity(what)) is fate


def test_an_end_travels_as_plain_data() -> None:
    pod = {
        "metadata": {"name": "work-1", "namespace": "tasks", "uid": "u1", "annotations": {"a": "hidden"}},
        "spec": {
            "containers": [{"name": "base", "env": [{"name": "TOKEN", "value": "hidden"}]}],
            "volumes": [{"name": "k8s-venv-call", "secret": {"secretName": "work-1-a"}}, {"name": "hidden"}],
        },
        "status": {"phase": "Failed", "reason": "Evicted", "message": "no disk"},
    }
    end = pod_state.PodOutcome("ended", pod_state.to_pod(pod), {"created": 1.0}, 120.0)

    fields = json.loads(json.dumps(end.to_json(pod_state.summary(pod))))

    assert "hidden" not in str(fields)
    again = pod_state.PodOutcome.from_json(fields)
    assert render.secret_names(again.pod) == ["work-1-a"]
    assert (again.reason, again.seen, again.allowed) == ("ended", {"created": 1.0}, 120.0)
    assert "evicted from its node: no disk." in str(diagnose.death(again.pod, ENVIRONMENT, "work"))
