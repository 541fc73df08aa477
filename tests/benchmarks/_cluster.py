"""What the benchmarks on a cluster share: a project with a built image, a namespace, an Airflow without a scheduler."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import logging
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from tests.conftest import pytest_configure

HERE = "{}.{}".format(*sys.version_info)
PROJECT = f"""
calls = {{ defer_after = 0 }}
[environments.measured]
python = "{HERE}"
"""
DAG_FILE = """
from airflow.sdk import DAG, task

with DAG("measured") as dag:

    @task.isolated("measured")
    def ours(number: int) -> int:
        return number + 1

    ours(1)

    PATIENT = {"schedule_timeout_seconds": 3600, "startup_timeout_seconds": 3600}

    @task.isolated("measured", **PATIENT)
    def many(number: int) -> int:
        return number + 1

    many(1)

    @task.isolated("measured", deferrable=True, **PATIENT)
    def deferred(number: int) -> int:
        return number + 1

    deferred(1)
"""
PEERS_FILE = """
import os
from airflow.sdk import DAG, task

POD = {"image": os.environ["MEASURED_IMAGE"], "namespace": os.environ["MEASURED_NAMESPACE"], "do_xcom_push": True}

with DAG("peers") as dag:

    @task.kubernetes(**POD)
    def as_it_comes(number: int) -> int:
        return number + 1

    as_it_comes(1)

    @task.kubernetes(**POD, startup_check_interval_seconds=1, base_container_status_polling_interval=1)
    def every_second(number: int) -> int:
        return number + 1

    every_second(1)
"""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a benchmark runs.

    Args:
        folder: the project's folder, with the DAG files in it.
        namespace: the namespace on the cluster, which is removed in the end.
        image: the environment's image, which is on the node.
    """

    folder: Path
    namespace: str
    image: str


@contextlib.contextmanager
def place(project: str = PROJECT) -> Iterator[Place]:
    """Make a project with built images, a namespace and Airflow's settings.

    Args:
        project: the project file; the environment ``measured`` is in it.
    """
    registry = os.environ.get("K8S_VENV_TEST_REGISTRY")
    if not registry or not os.environ.get("KUBECONFIG"):
        sys.exit("needs a cluster: set KUBECONFIG, and K8S_VENV_TEST_REGISTRY to a registry that both sides reach")
    with tempfile.TemporaryDirectory() as name:
        folder, namespace = Path(name), f"k8s-venv-bench-{uuid.uuid4().hex[:8]}"
        (folder / "k8s-venv.toml").write_text(project)
        (folder / "dag.py").write_text(DAG_FILE)
        (folder / "peers.py").write_text(PEERS_FILE)
        os.environ.update(settings(folder, f"{registry}/bench-{uuid.uuid4().hex[:8]}", namespace))
        pytest_configure()  # takes base images from where the tests do
        subprocess.run(["k8s-venv", "build-images"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        import kubernetes

        kubernetes.config.load_kube_config()
        client = kubernetes.client.CoreV1Api()
        client.create_namespace({"metadata": {"name": namespace}})
        _await_account(client, namespace)
        try:
            image = _image(folder)
            os.environ.update(MEASURED_IMAGE=image, MEASURED_NAMESPACE=namespace)
            os.environ["AIRFLOW_CONN_KUBERNETES_DEFAULT"] = connection(namespace, image)
            yield Place(folder, namespace, image)
        finally:
            client.delete_namespace(namespace)


def settings(folder: Path, registry: str, namespace: str) -> dict[str, str]:
    """Return the variables of an Airflow of one's own."""
    return {
        "AIRFLOW_HOME": str(folder / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(folder),
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        "K8S_VENV_PROJECT": str(folder),
        "K8S_VENV_REGISTRY": registry,
        "AIRFLOW_CONN_KUBERNETES_DEFAULT": connection(namespace, ""),
    }


def connection(namespace: str, sidecar: str) -> str:
    """Return the connection to the cluster; the peer's sidecar is an image that is on the node as well."""
    extra = {"namespace": namespace, "xcom_sidecar_container_image": sidecar}
    return json.dumps({"conn_type": "kubernetes", "extra": extra})


def load_tasks(file: Path) -> dict[str, Any]:
    """Return the tasks of a DAG file, by their ids."""
    import importlib.util

    spec = importlib.util.spec_from_file_location(f"measured_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return {task.task_id: task for task in module.dag.tasks}


def execute(task: Any, map_index: int = -1) -> tuple[float, Any]:
    """Execute a task as a worker does, without a database behind it; return the seconds and the value."""
    context = make_context(task, map_index)
    prepared = task.prepare_for_execution()
    started = time.perf_counter()
    value = prepared.execute(context)
    return time.perf_counter() - started, value


def make_context(task: Any, map_index: int = -1) -> Any:
    """Return the context of a task instance that nobody scheduled."""
    run_id = f"run-{uuid.uuid4().hex[:12]}"
    ti = SimpleNamespace(
        dag_id=task.dag.dag_id,
        task_id=task.task_id,
        run_id=run_id,
        map_index=map_index,
        try_number=1,
        max_tries=0,
        id=uuid.uuid4().hex,
        start_date=datetime.datetime.now(datetime.UTC),
        xcom_push=lambda **_: None,
    )
    return {"ti": ti, "task_instance": ti, "dag": task.dag, "task": task, "run_id": run_id, "params": {}}


class Requests:
    """Counts what the Kubernetes clients of this process ask the API server."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count while the block runs."""
        from kubernetes.client.rest import RESTClientObject
        from kubernetes.stream import ws_client

        def counting(function: Any) -> Any:
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                thread = threading.get_ident()
                self._counts[thread] = self._counts.get(thread, 0) + 1
                return function(*args, **kwargs)

            return wrapper

        with (
            patch.object(RESTClientObject, "request", counting(RESTClientObject.request)),
            patch.object(ws_client, "create_websocket", counting(ws_client.create_websocket)),
        ):
            yield

    def take(self) -> int:
        """Return this thread's count and begin again."""
        return self._counts.pop(threading.get_ident(), 0)

    def total(self) -> int:
        """Return the count of all threads since the last look."""
        total = sum(self._counts.values())
        self._counts.clear()
        return total


def random_moment() -> None:
    """Wait up to a second: the kubelet looks once a second, and nobody shall be in step with it."""
    time.sleep(random.random())


def quiet() -> None:
    """Keep the tasks' logs off the screen."""
    logging.disable(logging.ERROR)
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def _image(folder: Path) -> str:
    from k8s_venv.config.project import load_project
    from k8s_venv.locks.locking import read_lock

    project = load_project(folder / "k8s-venv.toml")
    environment = project.environment("measured")
    return environment.image_reference(project.require_registry(), read_lock(environment).digest)


def _await_account(client: Any, namespace: str) -> None:
    for _ in range(100):
        if client.list_namespaced_service_account(namespace).items:
            return
        time.sleep(0.1)
    raise TimeoutError("the namespace has no service account yet")
