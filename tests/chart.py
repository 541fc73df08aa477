"""Run Helm on the chart."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

CHART = Path(__file__).parents[1] / "charts" / "k8s-venv"
NAME = "k8s-venv"
NAMESPACE = "airflow-tasks"
# Beside the chart's default for what it cannot know.
ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "snowpark": {"image": "registry.example.com/airflow/snowpark:1", "python": "3.8", "packages": {"pandas": "2.0.3"}},
    "training_gpu": {
        "image": "registry.example.com/airflow/training_gpu:2",
        "python": "3.12",
        "resources": {"limits": {"memory": "2Gi"}},
        "imagePullSecrets": [{"name": "registry"}],
        "nodeSelector": {"gpu": "yes"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "serviceAccount": {"name": "trainer", "annotations": {"eks.amazonaws.com/role-arn": "arn:trainer"}},
    },
}
# A pool as `k8s-venv helm-values` writes it, for an environment whose pods only sleep.
WARM: dict[str, Any] = {
    "min": 1,
    "max": 4,
    "idleSeconds": 600,
    "key": "0123456789abcdef0123",
    "pod": {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"labels": {"app.kubernetes.io/managed-by": "k8s-venv", "app.kubernetes.io/name": "snowpark"}},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 50000,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "base",
                    "image": "registry.example.com/airflow/snowpark:1",
                    "command": ["python", "-c", "import signal; signal.signal(15, exit); signal.pause()"],
                    "resources": {"requests": {"cpu": "1m", "memory": "8Mi"}},
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    },
}


def require_helm() -> None:
    """Skip the test where Helm is not installed; where a cluster is required, fail it."""
    if shutil.which("helm") is None:
        reason = "needs Helm 3 on the PATH: https://helm.sh/docs/intro/install/"
        if os.environ.get("K8S_VENV_REQUIRE_CLUSTER"):
            pytest.fail(reason)
        pytest.skip(reason)


def helm(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run Helm; what it says on failure is in the error."""
    require_helm()
    run = subprocess.run(["helm", *arguments], capture_output=True, encoding="utf-8", check=False)
    assert run.returncode == 0 or not check, f"helm {' '.join(arguments)}\n{run.stdout}\n{run.stderr}"
    return run


def template(values: dict[str, Any] | None = None, *more: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Render the chart with values; also what only `helm test` makes."""
    given = [f"--set-json={key}={json.dumps(value)}" for key, value in (values or {}).items()]
    fixed = [NAME, str(CHART), "--namespace", NAMESPACE, "--kube-version", "1.34"]
    return helm("template", *fixed, *given, *more, check=check)


def rendered(values: dict[str, Any] | None = None) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the chart's objects by kind and name."""
    objects = [each for each in yaml.safe_load_all(template(values).stdout) if each]
    found = {(each["kind"], each["metadata"]["name"]): each for each in objects}
    assert len(found) == len(objects), "two objects of one name"
    return found


def refusal(values: dict[str, Any]) -> str:
    """Return what Helm says of values that it refuses."""
    run = template(values, check=False)
    assert run.returncode != 0
    return run.stderr


def kubeconfig(client: Any, account: dict[str, str], folder: Path) -> Path:
    """Write a kubeconfig with which one is a service account, for an hour, in its own namespace.

    Args:
        client: a `CoreV1Api` of somebody who may make tokens.
        account: its name and namespace.
        folder: where to write it.
    """
    name, namespace = account["name"], account["namespace"]
    request = {"spec": {"expirationSeconds": 3600}}
    token = client.create_namespaced_service_account_token(name, namespace, request).status.token
    content = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text("utf-8"))
    content["users"] = [{"name": name, "user": {"token": token}}]
    for each in content["contexts"]:
        each["context"] |= {"user": name, "namespace": namespace}
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(content), "utf-8")
    return path
