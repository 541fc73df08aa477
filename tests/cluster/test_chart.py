"""The chart's whole life on a real cluster: install, run, test, upgrade, roll back, clean up, uninstall."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("kubernetes", reason="the kubernetes client is not installed")

import kubernetes
from kubernetes.utils import create_from_dict

import k8s_venv
from tests.chart import CHART, ENVIRONMENTS, NAME, helm, kubeconfig, template
from tests.cluster.conftest import run_dag_file
from tests.cluster.namespaces import own_namespace
from tests.readme import ROOT, blocks, commands
from tests.unit.test_chart import SCENARIOS
from tests.waiting import eventually


@dataclasses.dataclass
class Release:
    """The chart as a platform engineer installs it, with Airflow in a namespace of its own.

    Args:
        client: reaches the cluster as its administrator.
        namespace: where isolated tasks run.
        airflow: Airflow's namespace.
        values: the file that `k8s-venv helm-values` wrote.
        config: a kubeconfig of Airflow's worker.
    """

    client: Any
    namespace: str
    airflow: str
    values: Path
    config: Path

    def helm(self, command: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a Helm command on this release."""
        return helm(command, NAME, *arguments, "--namespace", self.namespace, check=check)

    def apply(self, command: str, *more: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Install or upgrade with the environments, Airflow's accounts and more values."""
        accounts = [{"name": name, "namespace": self.airflow} for name in ("airflow-worker", "airflow-triggerer")]
        given = f"--set-json=airflow.serviceAccounts={json.dumps(accounts)}"
        never = "--set=janitor.schedule=0 0 29 2 *"  # by itself, in the middle of a test
        return self.helm(command, str(CHART), "--values", str(self.values), given, never, *more, check=check)

    def things(self) -> set[tuple[str, str]]:
        """Return what is in the task namespace, but for what every namespace has."""
        api = self.client.api_client  # Airflow changes what the client library takes as its default
        rbac, network = kubernetes.client.RbacAuthorizationV1Api(api), kubernetes.client.NetworkingV1Api(api)
        apps, batch = kubernetes.client.AppsV1Api(api), kubernetes.client.BatchV1Api(api)
        lists = {
            "Pod": self.client.list_namespaced_pod,
            "Secret": self.client.list_namespaced_secret,
            "ConfigMap": self.client.list_namespaced_config_map,
            "ServiceAccount": self.client.list_namespaced_service_account,
            "ResourceQuota": self.client.list_namespaced_resource_quota,
            "LimitRange": self.client.list_namespaced_limit_range,
            "Role": rbac.list_namespaced_role,
            "RoleBinding": rbac.list_namespaced_role_binding,
            "NetworkPolicy": network.list_namespaced_network_policy,
            "DaemonSet": apps.list_namespaced_daemon_set,
            "CronJob": batch.list_namespaced_cron_job,
            "Job": batch.list_namespaced_job,
        }
        found = {(kind, each.metadata.name) for kind, ask in lists.items() for each in ask(self.namespace).items}
        return found - {("ConfigMap", "kube-root-ca.crt"), ("ServiceAccount", "default")}


@pytest.fixture(scope="module")
def release(client: Any, examples: Path, registry: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    folder = tmp_path_factory.mktemp("release")
    values = folder / "environments.yaml"
    environ = {**os.environ, "K8S_VENV_REGISTRY": registry}
    subprocess.run(["k8s-venv", "helm-values", "--output", str(values)], cwd=examples, env=environ, check=True)
    with own_namespace(client, enforce="restricted") as tasks, own_namespace(client, enforce="restricted") as airflow:
        for name in ("airflow-worker", "airflow-triggerer"):
            client.create_namespaced_service_account(airflow, {"metadata": {"name": name}})
        config = kubeconfig(client, {"name": "airflow-worker", "namespace": airflow}, folder)
        yield Release(client, tasks, airflow, values, config)


# --- one life, in the order of the tests ----------------------------------------------------------------------


def test_installing_for_an_account_that_does_not_exist_is_refused(release: Release) -> None:
    nobody = '--set-json=airflow.serviceAccounts=[{"name": "nobody", "namespace": "default"}]'

    refused = release.apply("install", nobody, check=False)

    assert refused.returncode != 0
    assert 'there is no service account "nobody" in the namespace "default"' in refused.stderr
    assert release.things() == set()


def test_installing_says_what_to_do_next(release: Release) -> None:
    notes = release.apply("install", "--set=imagePuller.enabled=true,janitor.enabled=true").stdout

    assert f"helm test {NAME} --namespace {release.namespace}" in notes
    assert f'{{"namespace": "{release.namespace}"}}' in notes
    assert 'pod = { service_account_name = "k8s-venv-snowpark" }' in notes
    assert "WARNING" not in notes


def _manifest(release: Release) -> str:
    return helm("get", "manifest", NAME, "--namespace", release.namespace).stdout


def test_upgrading_with_the_same_values_changes_nothing(release: Release) -> None:
    daemons = kubernetes.client.AppsV1Api(release.client.api_client)
    manifest, things = _manifest(release), release.things()
    version = daemons.read_namespaced_daemon_set(f"{NAME}-image-puller", release.namespace).metadata.generation

    release.helm("upgrade", str(CHART), "--reuse-values")

    assert _manifest(release) == manifest
    assert {each for each in release.things() ^ things if each[0] not in ("Secret", "Pod")} == set()
    again = daemons.read_namespaced_daemon_set(f"{NAME}-image-puller", release.namespace).metadata.generation
    assert again == version


@pytest.mark.parametrize("dag", ["conflicting_requests", "clean_and_train", "snowpark"])
def test_the_examples_run_as_the_bound_account(release: Release, examples: Path, registry: str, dag: str) -> None:
    file = examples / "dags" / f"{dag}.py"

    state, _ = run_dag_file(file, None, release.config, release.namespace, K8S_VENV_REGISTRY=registry)

    assert state == "success"


def test_the_image_puller_holds_every_image(release: Release) -> None:
    daemons = kubernetes.client.AppsV1Api(release.client.api_client)

    def ready() -> bool:
        status = daemons.read_namespaced_daemon_set(f"{NAME}-image-puller", release.namespace).status
        return bool(status.desired_number_scheduled == status.number_ready > 0)

    eventually(ready)


def test_helm_test_passes_and_leaves_nothing(release: Release) -> None:
    before = release.things()

    said = release.helm("test").stdout

    environments = yaml.safe_load(release.values.read_text("utf-8"))["environments"]
    assert said.count("Phase:          Succeeded") == len(environments) + 1
    assert release.things() <= before


def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


def test_upgrade_and_rollback_leave_a_running_task_alone(
    release: Release, examples: Path, registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The client library reads KUBECONFIG only once, when it is imported.
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(as_namespace(release)))
    monkeypatch.setenv("K8S_VENV_PROJECT", str(examples))
    monkeypatch.setenv("K8S_VENV_REGISTRY", registry)
    values: list[str] = []
    task = threading.Thread(target=lambda: values.append(k8s_venv.run("requests-new", sleep, 15.0)))
    task.start()
    label = "app.kubernetes.io/managed-by=k8s-venv"

    def running() -> list[str]:
        pods = release.client.list_namespaced_pod(release.namespace, label_selector=label).items
        return [pod.metadata.uid for pod in pods if pod.status.phase == "Running"]

    before = eventually(running)

    release.apply("upgrade", "--set=imagePuller.enabled=false,janitor.enabled=true,commonLabels.team=data")
    release.helm("rollback", "1")

    assert set(running()) <= set(before)  # none took its place
    task.join()
    assert values == ["slept"]


def as_namespace(release: Release) -> Path:
    """Return the worker's kubeconfig with the task namespace as the current one."""
    content = yaml.safe_load(release.config.read_text("utf-8"))
    for each in content["contexts"]:
        each["context"]["namespace"] = release.namespace
    path = release.config.with_name("in-namespace")
    path.write_text(yaml.safe_dump(content), "utf-8")
    return path


def task_pod(release: Release, name: str, code: str) -> None:
    """Make a pod as the engine does, with a Secret that it owns."""
    from k8s_venv.backends.kubernetes import render

    image = next(iter(yaml.safe_load(release.values.read_text("utf-8"))["environments"].values()))["image"]
    pod = render.pod(name, "x", {"image": image}, secret=name, namespace=release.namespace)
    pod.spec.containers = pod.spec.containers[:1]
    pod.spec.containers[0].command = ["python", "-c", code]
    pod.spec.containers[0].volume_mounts = []
    pod.spec.volumes = []
    made = release.client.create_namespaced_pod(release.namespace, pod)
    owner = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": made.metadata.uid}
    release.client.create_namespaced_secret(
        release.namespace, {"metadata": {"name": name, "ownerReferences": [owner]}, "stringData": {"a": "b"}}
    )


def log_of(release: Release, name: str) -> str:
    log = release.client.read_namespaced_pod_log(name, release.namespace, _preload_content=False)
    return str(log.data.decode())


def run_janitor(release: Release) -> str:
    """Run the janitor now; return what it said."""
    batch = kubernetes.client.BatchV1Api(release.client.api_client)
    template = batch.read_namespaced_cron_job(f"{NAME}-janitor", release.namespace).spec.job_template
    name = f"janitor-{uuid.uuid4().hex[:6]}"
    batch.create_namespaced_job(release.namespace, {"metadata": {"name": name}, "spec": template.spec})
    eventually(lambda: batch.read_namespaced_job(name, release.namespace).status.succeeded == 1)
    pods = release.client.list_namespaced_pod(release.namespace, label_selector=f"job-name={name}").items
    said = log_of(release, pods[0].metadata.name)
    batch.delete_namespaced_job(name, release.namespace, propagation_policy="Foreground")
    return said


def test_the_janitor_deletes_what_is_long_gone_and_nothing_that_runs(release: Release) -> None:
    task_pod(release, "finished", "pass")
    task_pod(release, "running", "import time; time.sleep(3600)")
    phases = {"finished": "Succeeded", "running": "Running"}
    read = release.client.read_namespaced_pod
    eventually(lambda: all(read(n, release.namespace).status.phase == p for n, p in phases.items()))

    kept = run_janitor(release)
    release.apply("upgrade", "--set=janitor.enabled=true,janitor.finishedAfterHours=0,janitor.dryRun=true")
    shown = run_janitor(release)
    release.apply("upgrade", "--set=janitor.enabled=true,janitor.finishedAfterHours=0")
    deleted = run_janitor(release)

    assert "0 pods to delete" in kept
    assert re.search(r"Would delete finished: it succeeded 0\.\d h ago", shown)
    assert re.search(
        r"Deleting finished: it succeeded 0\.\d h ago\n1 pods to delete, 0 of them could not be\.", deleted
    )
    left = {("Pod", "finished"), ("Secret", "finished")}
    eventually(lambda: not left & release.things())
    assert {("Pod", "running"), ("Secret", "running")} <= release.things()
    release.client.delete_namespaced_pod("running", release.namespace, grace_period_seconds=0)


def failing_test(release: Release, values: dict[str, Any], name: str) -> str:
    """Return what a test says that fails with these values."""
    release.apply("upgrade", *(f"--set-json={key}={json.dumps(value)}" for key, value in values.items()))
    failed = release.helm("test", "--filter", f"name={NAME}-test-{name}", check=False)
    assert failed.returncode != 0
    said = log_of(release, f"{NAME}-test-{name}")
    release.client.delete_namespaced_pod(f"{NAME}-test-{name}", release.namespace)
    return said


def test_helm_test_reports_an_image_that_is_not_the_locked_one(release: Release) -> None:
    wrong = {"environments.requests-old.packages": {"requests": "2.0.0"}, "environments.requests-old.python": "3.8"}

    said = failing_test(release, wrong, "requests-old")

    assert "The image's `python` is 3.12" in said
    assert "The package requests is locked at 2.0.0, but the image has 2.25.1." in said


def test_helm_test_reports_a_missing_right(release: Release) -> None:
    said = failing_test(release, {"rights.create": False}, "rights")

    assert f"{release.airflow}/airflow-triggerer may not watch pods in {release.namespace}." in said


def test_helm_test_reports_an_account_that_does_not_exist(release: Release) -> None:
    account = {"create": False, "name": "nobody"}
    release.apply("upgrade", f"--set-json=environments.cleaning.serviceAccount={json.dumps(account)}")

    failed = release.helm("test", "--filter", f"name={NAME}-test-cleaning", check=False)

    assert 'serviceaccount "nobody" not found' in failed.stderr


def test_uninstalling_leaves_nothing(release: Release) -> None:
    release.helm("uninstall")

    eventually(lambda: release.things() == set())


def test_the_readmes_commands_and_values(release: Release, examples: Path, registry: str) -> None:
    namespace = f"chart-readme-{uuid.uuid4().hex[:8]}"
    readme = CHART / "README.md"
    values = next(block.text for block in blocks(readme) if block.language == "yaml")
    (examples / "values.yaml").write_text(values.replace("namespace: data", f"namespace: {release.airflow}"), "utf-8")
    environ = {**os.environ, "K8S_VENV_REGISTRY": registry}
    chosen = commands(readme)
    assert set(commands(ROOT / "README.md", "On a cluster: the chart")) < set(chosen)

    try:
        for command in chosen:
            here = command.replace("charts/k8s-venv", str(CHART)).replace("airflow-tasks", namespace)
            ran = subprocess.run(
                ["bash", "-euc", here], cwd=examples, env=environ, capture_output=True, text=True, check=False
            )
            assert ran.returncode == 0, f"{here}\n{ran.stdout}\n{ran.stderr}"
    finally:
        release.client.delete_namespace(namespace)


# --- what the API server says of everything that the chart can make -------------------------------------------


@pytest.fixture
def empty_namespace(client: Any) -> Iterator[str]:
    with own_namespace(client, enforce="restricted") as name:
        yield name


def test_the_api_server_takes_every_scenario(client: Any, empty_namespace: str) -> None:
    for values, expected in SCENARIOS.values():
        text = template({"environments": ENVIRONMENTS, **values}, "--namespace", empty_namespace).stdout
        objects = [each for each in yaml.safe_load_all(text) if each]

        for each in objects:
            if each["kind"] == "Pod":  # its own account was not made either
                each["spec"]["serviceAccountName"] = "default"
            create_from_dict(client.api_client, each, namespace=empty_namespace, dry_run="All")

        assert len(objects) == len(expected)
