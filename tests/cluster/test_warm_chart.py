"""Warm environments as users have them: declared in the project, kept by the chart, used as Airflow's account."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("kubernetes", reason="the kubernetes client is not installed")

import k8s_venv
from tests.chart import CHART, NAME, helm, kubeconfig
from tests.cluster.keepers import Warm
from tests.cluster.namespaces import own_namespace
from tests.waiting import eventually

WARM = 'warm = { min = 1, max = 2, preload = ["pandas"] }\n'


@pytest.fixture(scope="module")
def declared(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a warm environment, whose image is built already."""
    folder = tmp_path_factory.mktemp("warm") / "project"
    shutil.copytree(project, folder)
    file = folder / "k8s-venv.toml"
    head = "[environments.current]\n"
    file.write_text(file.read_text("utf-8").replace(head, head + WARM), "utf-8")
    return folder


@pytest.fixture
def warm(client: Any, declared: Path, registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Warm]:
    """The chart with that project's environment; calls run as Airflow's account."""
    values = tmp_path / "environments.yaml"
    monkeypatch.setenv("K8S_VENV_PROJECT", str(declared))
    monkeypatch.setenv("K8S_VENV_REGISTRY", registry)
    monkeypatch.setenv("K8S_VENV_BACKEND", "kubernetes")
    command = ["k8s-venv", "helm-values", "current", "--output", str(values)]
    subprocess.run(command, cwd=declared, env=os.environ, check=True)
    with own_namespace(client, enforce="restricted") as tasks, own_namespace(client, enforce="restricted") as airflow:
        account = {"name": "airflow-worker", "namespace": airflow}
        client.create_namespaced_service_account(airflow, {"metadata": {"name": account["name"]}})
        given = f"--set-json=airflow.serviceAccounts={json.dumps([account])}"
        helm("install", NAME, str(CHART), "--namespace", tasks, "--values", str(values), given)
        config = kubeconfig(client, account, tmp_path)
        content = yaml.safe_load(config.read_text("utf-8"))
        for each in content["contexts"]:
            each["context"]["namespace"] = tasks
        config.write_text(yaml.safe_dump(content), "utf-8")
        # The client library reads KUBECONFIG only once, when it is imported.
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(config))
        release = Warm(client, tasks)
        release.until_ready(1, "current")
        yield release


def modules_before_the_call() -> bool:
    import sys

    return "pandas" in sys.modules


def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


def test_a_call_takes_a_pod_that_the_chart_keeps(warm: Warm) -> None:
    (waiting,) = warm.ready("current")

    assert k8s_venv.run("current", modules_before_the_call) is True

    later = warm.until_ready(2, "current")  # the claim took the last one
    assert waiting.metadata.uid not in {pod.metadata.uid for pod in later}


def test_what_runs_outlives_the_release_and_what_waits_does_not(warm: Warm) -> None:
    (waiting,) = warm.ready("current")
    values: list[str] = []
    call = threading.Thread(target=lambda: values.append(k8s_venv.run("current", sleep, 20.0)))
    call.start()
    eventually(lambda: waiting.metadata.uid not in {pod.metadata.uid for pod in warm.waiting("current")})
    assert waiting.metadata.uid in {pod.metadata.uid for pod in warm.pods("current")}

    # The account's rights go as well, so the release stays and the keeper alone goes.
    helm("upgrade", NAME, str(CHART), "--namespace", warm.namespace, "--reuse-values", "--set=warm.enabled=false")

    eventually(lambda: not warm.waiting("current"))
    call.join()
    assert values == ["slept"]
    assert k8s_venv.run("current", sleep, 0.1) == "slept"  # in a pod of its own
