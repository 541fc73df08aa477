"""One DAG for each thing that pods do."""

import os
from pathlib import Path

from airflow.sdk import DAG, task
from kubernetes.client import models as k8s

from k8s_venv import IsolatedOperator, runtime

SECURE = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}

with DAG("large", schedule=None):

    @task.isolated("current")
    def large() -> str:
        return "0123456789" * 1_000_000

    @task.isolated("legacy")
    def incompressible() -> bytes:
        return os.urandom(20_000)

    @task
    def sizes(text: str, noise: str) -> list[int]:
        return [len(text), len(noise)]

    @task.isolated("legacy")
    def as_text(data: str) -> str:
        return data

    sizes(large(), as_text(large.override(task_id="again")()))


def connect() -> dict[str, object]:
    connection = runtime.get_connection("warehouse")
    return {
        "login": connection.login,
        "length": len(connection.password or ""),
        "variable": "AIRFLOW_CONN_WAREHOUSE" in os.environ,
        "others": [name for name in os.environ if name.startswith("AIRFLOW_CONN_") and "WAREHOUSE" not in name],
        "token": Path("/var/run/secrets/kubernetes.io/serviceaccount/token").exists(),
        "user": os.getuid(),
        "writable": [folder for folder in ("/", "/opt", "/tmp") if os.access(folder, os.W_OK)],
    }


with DAG("connections", schedule=None):
    IsolatedOperator(task_id="connect", environment="legacy", python_callable=connect, connections=["warehouse"])

with DAG("skipping", schedule=None):

    @task.isolated("current")
    def skipped() -> None:
        runtime.skip("nothing to do")

    @task
    def after(value: object) -> str:
        return "ran"

    after(skipped())

with DAG("dying", schedule=None):

    @task.isolated("current")
    def dies() -> None:
        os._exit(7)

    dies()

with DAG("memory", schedule=None):

    @task.isolated("current", container_resources={"limits": {"memory": "64Mi"}})
    def hungry() -> int:
        return len(bytearray(512 * 1024 * 1024))

    hungry()

with DAG("templated", schedule=None):

    @task.isolated(
        "current", env_vars=[k8s.V1EnvVar(name="RUN", value="{{ run_id }}")], labels={"task": "{{ task.task_id }}"}
    )
    def templated(run_id: str) -> bool:
        return os.environ["RUN"] == run_id and os.environ["HOME"] == "/tmp"

    templated()

TEMPLATE = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"labels": {"from": "template"}},
    "spec": {
        "securityContext": {"runAsUser": 12345},
        "initContainers": [
            {
                "name": f"prepare-{n}",
                "image": os.environ.get("TEST_IMAGE", "none"),
                "command": ["python", "-c", "pass"],
                "securityContext": SECURE,
            }
            for n in range(2)
        ],
        "containers": [
            {
                "name": "base",
                "image": os.environ.get("TEST_IMAGE", "none"),
                "env": [{"name": "FROM_TEMPLATE", "value": "yes"}],
            },
            {
                "name": "proxy",
                "image": os.environ.get("TEST_IMAGE", "none"),
                "command": ["python", "-c", "import time; time.sleep(1)"],
                "env": [{"name": "PROXY_TOKEN", "value": "t"}],
                "securityContext": SECURE,
            },
        ],
    },
}

with DAG("template", schedule=None):

    @task.isolated("current", pod_template_dict=TEMPLATE, image=os.environ.get("TEST_IMAGE", "none"))
    def from_template() -> dict[str, object]:
        noise = os.urandom(1200).hex()
        return {
            "user": os.getuid(),
            "template": os.environ.get("FROM_TEMPLATE"),
            "proxy": "PROXY_TOKEN" in os.environ,
            "noise": noise,
        }

    from_template()

with DAG("never_built", schedule=None):

    @task.isolated("never-built")
    def never() -> None:
        return None

    never()

# As OpenShift starts pods: with a user of the namespace's range and the group 0.
USER = int(os.environ.get("TEST_USER", "1000"))
ANY_USER = {"runAsUser": USER, "runAsGroup": 0, "fsGroup": USER}

with DAG("any_user", schedule=None):

    @task.isolated("legacy", security_context=ANY_USER, on_finish_action="keep_pod", labels={"team": "orders"})
    def any_user() -> dict[str, object]:
        import pandas as pd

        (Path.home() / "file").write_text("written")
        frame = pd.DataFrame({"noise": [os.urandom(500).hex() for _ in range(20)]})
        return {"user": os.getuid(), "written": (Path.home() / "file").read_text(), "frame": frame}

    any_user()
