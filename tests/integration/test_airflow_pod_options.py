"""Pod options of isolated tasks on each backend: honoured, or refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from k8s_venv.calls import PackedCall
from k8s_venv.config.environment import Environment
from k8s_venv.config.project import Project
from k8s_venv.errors import K8sVenvError
from tests.airflow_home import LoadText, RunText, airflow_home
from tests.rendered import golden, rendered

MANY = """
@dag(schedule=None, default_args={"environment": "same"})
def options():
    def stage():
        import os
        return [os.environ.get("STAGE"), os.environ.get("OF_ENVIRONMENT")]

    def print_much():
        print("heard")

    def task_(name, function=stage, **options):
        task.isolated(task_id=name, **options)(function)()

    task_("plain")
    task_("own", env_vars={"STAGE": "prod"})
    task_("rendered", env_vars={"STAGE": "{{ dag.dag_id }}"})
    task_("listed", env_vars=[{"name": "STAGE", "value": "list"}])
    task_("number", env_vars={"STAGE": 7})
    task_("silent", print_much, get_logs=False)
    task_("placed", namespace="team", node_selector={"disk": "ssd"})
    task_("mounts", volumes=[{"name": "a"}], volume_mounts=[{"name": "a", "mountPath": "/a"}])
    task_("from_secret", env_from=[{"secretRef": {"name": "a"}}])
    IsolatedOperator(task_id="classic", python_callable=stage, env_vars={"STAGE": "classic"})

options()
"""


def test_on_the_local_backend_options_are_honoured_or_their_reason_is_said(
    run_text: RunText, same_environment: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (same_environment / "k8s-venv.toml").open("a") as file:
        file.write('pod = { env_vars = { OF_ENVIRONMENT = "yes" } }\n')

    states, values = run_text(MANY)

    printed = capfd.readouterr().out
    assert values["plain"] == [None, "yes"]
    assert values["own"] == ["prod", None]
    assert values["rendered"] == ["options", None]
    assert values["listed"] == ["list", None]
    assert values["number"] == ["7", None]
    assert values["classic"] == ["classic", None]
    assert states["silent"] == "success"
    assert "heard" not in printed.replace("get_logs", "")
    assert states["placed"] == "success"
    assert "Without effect on the local backend: namespace (no cluster is asked); node_selector (nothing" in printed
    assert (states["mounts"], states["from_secret"]) == ("failed", "failed")
    assert "the option `env_from` needs a pod; on the local backend, there are no ConfigMaps and Secrets." in printed


def test_an_option_that_the_tasks_own_backend_cannot_do_without_is_told_when_the_dag_is_parsed(
    load_text: LoadText,
) -> None:
    with pytest.raises(K8sVenvError, match="Task 'work': the option `volumes` needs a pod; on the docker backend, no"):
        load_text("""
@dag(schedule=None)
def options():
    @task.isolated("same", backend="docker", volumes=[{"name": "a"}])
    def work(): ...
    work()

options()
""")


def test_secrets_of_a_project_file_are_refused_when_the_dag_is_parsed(
    load_text: LoadText, same_environment: Path
) -> None:
    with (same_environment / "k8s-venv.toml").open("a") as file:
        file.write('pod = { secrets = [{ secret = "a" }] }\n')

    with pytest.raises(K8sVenvError, match="environment 'same': `secrets` can be given on a task only"):
        load_text("""
@dag(schedule=None)
def options():
    @task.isolated("same")
    def work(): ...
    work()

options()
""")


# What each option makes of a pod: a sample, and where it stands in the manifest (or on the operator).
OF_THE_POD: dict[str, tuple[Any, Any, str]] = {
    "active_deadline_seconds": (60, 60, "spec.activeDeadlineSeconds"),
    "affinity": ({"podAffinity": {}}, {"podAffinity": {}}, "spec.affinity"),
    "annotations": ({"a": "b"}, {"a": "b"}, "metadata.annotations"),
    "automount_service_account_token": (True, True, "spec.automountServiceAccountToken"),
    "configmaps": (["a"], [{"configMapRef": {"name": "a"}}], "spec.containers.0.envFrom"),
    "container_resources": ({"limits": {"cpu": "1"}}, {"cpu": "1"}, "spec.containers.0.resources.limits"),
    "container_security_context": ({"runAsUser": 5}, 5, "spec.containers.0.securityContext.runAsUser"),
    "dns_config": ({"nameservers": ["10.0.0.1"]}, {"nameservers": ["10.0.0.1"]}, "spec.dnsConfig"),
    "dnspolicy": ("None", "None", "spec.dnsPolicy"),
    "env_from": ([{"secretRef": {"name": "a"}}], [{"secretRef": {"name": "a"}}], "spec.containers.0.envFrom"),
    "env_vars": ({"A": 1}, {"name": "A", "value": "1"}, "spec.containers.0.env.3"),
    "full_pod_spec": ({"spec": {"hostIPC": True, "containers": [{"name": "base"}]}}, True, "spec.hostIPC"),
    "host_aliases": ([{"ip": "1.2.3.4"}], [{"ip": "1.2.3.4"}], "spec.hostAliases"),
    "hostname": ("h", "h", "spec.hostname"),
    "hostnetwork": (True, True, "spec.hostNetwork"),
    "image": ("x:2", "x:2", "spec.containers.0.image"),
    "image_pull_policy": ("Always", "Always", "spec.containers.0.imagePullPolicy"),
    "image_pull_secrets": (["a"], [{"name": "a"}], "spec.imagePullSecrets"),
    "init_containers": ([{"name": "i"}], [{"name": "i"}], "spec.initContainers"),
    "labels": ({"team": "a"}, "a", "metadata.labels.team"),
    "name": ("own", "own", "metadata.name"),
    "namespace": ("team", "team", "metadata.namespace"),
    "node_selector": ({"a": "b"}, {"a": "b"}, "spec.nodeSelector"),
    "pod_runtime_info_envs": ([{"name": "N"}], {"name": "N"}, "spec.containers.0.env.3"),
    "pod_template_dict": ({"spec": {"hostPID": True, "containers": [{"name": "base"}]}}, True, "spec.hostPID"),
    "ports": ([{"containerPort": 80}], [{"containerPort": 80}], "spec.containers.0.ports"),
    "priority_class_name": ("low", "low", "spec.priorityClassName"),
    "runtime_class_name": ("gvisor", "gvisor", "spec.runtimeClassName"),
    "schedulername": ("own", "own", "spec.schedulerName"),
    "security_context": ({"fsGroup": 5}, 5, "spec.securityContext.fsGroup"),
    "service_account_name": ("robot", "robot", "spec.serviceAccountName"),
    "subdomain": ("s", "s", "spec.subdomain"),
    "termination_grace_period": (7, 7, "spec.terminationGracePeriodSeconds"),
    "tolerations": ([{"key": "spot"}], [{"key": "spot"}], "spec.tolerations"),
    "volume_mounts": (
        [{"name": "a", "mountPath": "/a"}],
        {"name": "a", "mountPath": "/a"},
        "spec.containers.0.volumeMounts.0",
    ),
    "volumes": ([{"name": "a", "emptyDir": {}}], {"name": "a", "emptyDir": {}}, "spec.volumes.0"),
}
OF_THE_OPERATOR: dict[str, Any] = {
    "cluster_context": "prod",
    "config_file": "/kubeconfig",
    "get_logs": False,
    "in_cluster": False,
    "kubernetes_conn_id": "other",
    "on_finish_action": "keep_pod",
    "on_kill_action": "keep_pod",
    "schedule_timeout_seconds": 5,
    "startup_timeout_seconds": 6,
}
ELSEWHERE = {"pod_template_file", "secrets"}  # these have tests below


class TaskInstance:
    dag_id, task_id, run_id, map_index = "dag", "task", "run", -1


class Outer:
    """As far as a pod's operator asks its task's one."""

    execution_timeout = None
    task_id = "task"


def operator_for(options: dict[str, Any], pod: dict[str, Any] | None = None) -> Any:
    from k8s_venv.airflow.pod_operator import IsolatedPodOperator

    environment = Environment(name="etl", root=Path(), python="3.12", image="x:1", pod=pod or {})
    call = PackedCall(environment=environment, function="work", transport="source", archive=b"zip")
    context: Any = {"ti": TaskInstance()}
    return IsolatedPodOperator.for_call(call, Project(path=Path("p.toml")), options, Outer(), context)  # type: ignore[arg-type]


def manifest_of(operator: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    from kubernetes.client import ApiClient

    # Only the hook knows them, which would ask for a cluster.
    monkeypatch.setattr(type(operator), "hook", type("Hook", (), {"is_in_cluster": False}))
    operator.namespace = operator.namespace or "default"
    return ApiClient().sanitize_for_serialization(operator.build_pod_request_obj())


# A whole specification by its author, with a sidecar and volumes, and options of each kind over it.
FULL: dict[str, Any] = {
    "full_pod_spec": {
        "metadata": {"labels": {"team": "data"}, "annotations": {"owner": "me"}},
        "spec": {
            "volumes": [{"name": "shared", "emptyDir": {}}],
            "initContainers": [{"name": "prepare", "image": "prepare:1"}],
            "securityContext": {"runAsUser": 1000},
            "nodeSelector": {"disk": "ssd"},
            "containers": [
                {
                    "name": "main",
                    "env": [{"name": "HOME", "value": "/home"}, {"name": "STAGE", "value": "template"}],
                    "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
                    "resources": {"limits": {"cpu": "2"}},
                    "securityContext": {"readOnlyRootFilesystem": False},
                },
                {"name": "proxy", "image": "proxy:1", "volumeMounts": [{"name": "shared", "mountPath": "/shared"}]},
            ],
        },
    },
    "annotations": {"cost": "low"},
    "labels": {"tier": "batch"},
    "env_vars": {"STAGE": "prod", "PYTHONUNBUFFERED": ""},
    "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
    "volume_mounts": [{"name": "data", "mountPath": "/data", "readOnly": True}],
    "container_security_context": {"runAsUser": 2000},
    "image_pull_policy": "Always",
    "image_pull_secrets": ["pull"],
    "service_account_name": "robot",
    "tolerations": [{"key": "spot", "operator": "Exists"}],
    "init_containers": [{"name": "more", "image": "more:1"}],
    "priority_class_name": "low",
}


@pytest.mark.parametrize(("name", "options"), [("airflow-plain", {}), ("airflow-full", FULL)])
def test_a_rendered_pod_is_the_golden_one(name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    airflow_home()

    manifest = manifest_of(operator_for(options), monkeypatch)

    assert rendered(manifest) == golden(name)


def at(place: str, manifest: Any) -> Any:
    for part in place.split("."):
        manifest = manifest[int(part) if part.isdigit() else part]
    return manifest


@pytest.mark.parametrize("on_task", [True, False], ids=["task", "project"])
@pytest.mark.parametrize("option", OF_THE_POD)
def test_each_option_is_in_the_pod(option: str, on_task: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    airflow_home()
    sample, expected, place = OF_THE_POD[option]

    operator = operator_for({option: sample}) if on_task else operator_for({}, {option: sample})

    found = at(place, manifest_of(operator, monkeypatch))
    assert found == expected or (option == "name" and found.startswith("own-"))


@pytest.mark.parametrize("option", OF_THE_OPERATOR)
def test_each_other_option_reaches_the_operator(option: str) -> None:
    airflow_home()

    operator = operator_for({option: OF_THE_OPERATOR[option]})

    own = f"_{option}"  # what older providers lack, the operator keeps itself
    value = getattr(operator, own if own in vars(operator) else option)
    assert getattr(value, "value", value) == OF_THE_OPERATOR[option]


def test_a_template_file_and_secrets_are_in_the_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    airflow_home()
    from airflow.providers.cncf.kubernetes.secret import Secret

    (tmp_path / "pod.yaml").write_text("spec: {shareProcessNamespace: true, containers: [{name: base}]}")
    options = {"pod_template_file": str(tmp_path / "pod.yaml"), "secrets": [Secret("env", "TOKEN", "api", "token")]}  # type: ignore[no-untyped-call]

    manifest = manifest_of(operator_for(options), monkeypatch)

    assert manifest["spec"]["shareProcessNamespace"] is True
    reference = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"key": "token", "name": "api"}}}
    assert reference in manifest["spec"]["containers"][0]["env"]


def test_the_tables_are_about_each_option() -> None:
    airflow_home()
    from k8s_venv.airflow.options import OPTIONS
    from k8s_venv.backends.pod_options import HONOURED, NEEDED, WITHOUT_EFFECT

    assert OF_THE_POD.keys() | OF_THE_OPERATOR.keys() | ELSEWHERE == OPTIONS
    assert HONOURED["local"] | NEEDED.keys() | WITHOUT_EFFECT.keys() == OPTIONS
    assert HONOURED["docker"] <= OPTIONS
