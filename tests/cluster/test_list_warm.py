"""`k8s-venv list --warm` with pods that wait on a real cluster."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.namespaces import own_namespace
from tests.readme import ROOT, commands
from tests.waiting import eventually

PROGRAM = [sys.executable, "-c", "from k8s_venv.cli import main; main(prog_name='k8s-venv')"]


@pytest.fixture
def own(client: Any) -> Iterator[str]:
    with own_namespace(client, enforce="restricted") as name:
        yield name


@pytest.fixture
def folder(registry: str, own: str, tmp_path: Path) -> Path:
    """A project whose images need not be built, and whose pods go to a namespace of the test's own."""
    base = os.environ.get("K8S_VENV_BASE_REGISTRY", "docker.io/library")
    (tmp_path / "k8s-venv.toml").write_text(
        f"""
        [pod]
        namespace = "{own}"
        security_context = {{ runAsUser = 1000 }}
        [environments.etl]
        python = "3.12"
        image = "{base}/python:3.12-slim-bookworm"
        warm = {{ min = 2, preload = ["json"] }}
        [environments.missing]
        python = "3.12"
        image = "{registry}/missing:1"
        warm = {{ min = 1 }}
        [environments.cold]
        python = "3.12"
        image = "{registry}/cold:1"
        """
    )
    return tmp_path


def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, **variables}
    return subprocess.run([*PROGRAM, *arguments], cwd=folder, env=environ, capture_output=True, text=True, check=False)


def list_warm(folder: Path) -> dict[str, dict[str, Any]]:
    ran = run(folder, "list", "--warm", "--json")
    assert ran.returncode == 0, ran.stderr
    return {row["environment"]: row["warm"] for row in json.loads(ran.stdout)}


def waiting_pods(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the pods that the chart would keep."""
    values = yaml.safe_load(run(folder, "helm-values", "etl", "missing").stdout)["environments"]
    return {name: environment["warm"]["pod"] for name, environment in values.items()}


def earlier(pod: dict[str, Any]) -> dict[str, Any]:
    """Return the pod of an earlier pool."""
    made = copy.deepcopy(pod)
    made["metadata"]["labels"]["k8s-venv/slot"] = made["metadata"]["annotations"]["k8s-venv/pool"] = "0" * 20
    return made


def test_pods_that_wait_start_and_run_a_call_are_counted(folder: Path, client: Any, own: str) -> None:
    pods = waiting_pods(folder)
    made = [client.create_namespaced_pod(own, pods["etl"]) for _ in range(3)]
    client.create_namespaced_pod(own, earlier(pods["etl"]))
    client.create_namespaced_pod(own, pods["missing"])
    eventually(lambda: list_warm(folder)["etl"]["waiting"] == 3)

    claim = {"metadata": {"labels": {"k8s-venv/slot": "sales-load-0123456789"}}}
    client.patch_namespaced_pod(made[0].metadata.name, own, claim)

    eventually(lambda: list_warm(folder)["missing"]["problem"])
    found = list_warm(folder)
    assert found["etl"] == {"namespace": own, "waiting": 2, "starting": 0, "claimed": 1, "stale": 1, "problem": None}
    assert found["cold"] == {"namespace": own, "waiting": 0, "starting": 0, "claimed": 0, "stale": 0, "problem": None}
    assert found["missing"]["starting"] == 1
    assert "ImagePull" in found["missing"]["problem"]
    table = run(folder, "list", "--warm", "etl")
    assert table.stdout.splitlines()[0].split()[-4:] == ["waiting", "starting", "claimed", "stale"]
    assert table.stdout.splitlines()[-1].split()[-4:] == ["2", "0", "1", "1"]
    assert "etl: no call takes the stale pods, which are of an earlier image, pod options or" in table.stderr


def test_what_the_keeper_reported_is_shown_while_it_makes_no_pods(folder: Path, client: Any, own: str) -> None:
    for name, reason in {"etl": "no module named 'pandas'\nLeave it out.", "other": "the quota is used up."}.items():
        event = {
            "metadata": {"generateName": "keeper-"},
            "involvedObject": {"kind": "Pod", "namespace": own, "name": "keeper"},
            "type": "Warning",
            "reason": "WarmPodFailed",
            "message": f"Warm pods of the environment {name!r} do not start: {reason}",
        }
        client.create_namespaced_event(own, event)

    found = list_warm(folder)

    assert found["etl"]["problem"] == "no module named 'pandas' Leave it out."
    assert found["missing"]["problem"] is None


def test_an_environment_for_which_no_pod_waits_says_what_is_missing(folder: Path, own: str) -> None:
    (command,) = commands(ROOT / "README.md", "Speed")
    ran = run(folder, *command.split()[1:])

    assert ran.returncode == 0, ran.stderr
    assert f"etl: no pod waits for its calls in namespace {own!r}. Has the chart `warm.enabled` there" in ran.stderr


def test_without_a_cluster_there_is_one_sentence(folder: Path) -> None:
    ran = run(folder, "list", "--warm", "etl", KUBECONFIG=str(folder / "nowhere"))

    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
    assert ran.stderr.startswith("Error: Environment 'etl': no cluster is configured (")


def test_a_namespace_that_only_a_task_knows(folder: Path, own: str) -> None:
    project = folder / "k8s-venv.toml"
    project.write_text(project.read_text().replace(own, "{{ var.value.namespace }}"))

    ran = run(folder, "list", "--warm", "--json", "etl")

    assert ran.returncode == 1
    assert "its pod option 'namespace' is a template, '{{ var.value.namespace }}', which only a" in ran.stderr
    assert json.loads(ran.stdout)[0]["warm"] is None


def test_an_api_server_that_does_not_answer(folder: Path) -> None:
    config = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    for cluster in config["clusters"]:
        cluster["cluster"]["server"] = "https://127.0.0.1:1"
    (folder / "config").write_text(yaml.safe_dump(config))

    ran = run(folder, "list", "--warm", "etl", KUBECONFIG=str(folder / "config"))

    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
    assert "cannot be listed: " in ran.stderr
