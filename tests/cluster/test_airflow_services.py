"""A whole Airflow: API server, DAG processor, scheduler with its workers, and triggerer, as processes of their own."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes.stream import stream

from tests.airflow_home import AIRFLOW
from tests.airflow_services import rows, services, told
from tests.waiting import eventually

if AIRFLOW != "airflow.sdk":
    pytest.skip("Airflow 2 has other processes", allow_module_level=True)

DAG = """
import os
import time
from datetime import datetime, timedelta

from airflow.sdk import DAG, task

with DAG("services", schedule="@once", start_date=datetime(2026, 1, 1), catchup=False, is_paused_upon_creation=False,
         default_args={"environment": "current"}):

    @task.isolated
    def numbers():
        return [1, 2]

    @task.isolated
    def double(n):
        return 2 * n

    @task.isolated(retries=1, retry_delay=timedelta(seconds=1))
    def second_try(ti=None):
        if ti.try_number == 1:
            raise ValueError("not yet")
        return ti.try_number

    @task.isolated(deferrable=True)
    def deferred(values):
        while not os.path.exists("/tmp/go"):
            time.sleep(0.1)
        print("deferred, with", list(values))
        return sum(values)

    @task
    def end(total, tries):
        return [total, tries]

    end(deferred(double.expand(n=numbers())), second_try())
"""


@pytest.fixture
def airflow(project: Path, registry: str, namespace: str, worker: Path, tmp_path: Path) -> Iterator[Path]:
    """Start the processes; return Airflow's home."""
    home, dags = tmp_path / "home", tmp_path / "dags"
    dags.mkdir()
    for file in (project / "k8s-venv.toml", *project.glob("pylock.*")):
        shutil.copy(file, dags)
    (dags / "services.py").write_text(DAG)
    cluster = {"conn_type": "kubernetes", "extra": {"namespace": namespace, "kube_config_path": str(worker)}}
    variables = {"AIRFLOW_CONN_KUBERNETES_DEFAULT": json.dumps(cluster), "K8S_VENV_REGISTRY": registry}
    with services(home, dags, **variables):
        yield home


def has_seen_deferral(home: Path) -> bool:
    """Return whether the scheduler has read that the worker of the deferred task ended.

    Where the trigger fires before that, Airflow may fail the task (apache/airflow#72716).
    """
    log = (home.parent / "scheduler.log").read_text()
    return bool(re.search(r"Received executor event with state success .*task_id='deferred'", log))


def has_ended(home: Path) -> bool:
    return rows(home, "select state from dag_run") in ([("success",)], [("failed",)])


def let_go(client: Any, namespace: str) -> bool:
    """Tell the deferred task to go on, and whether its container was there to be told."""
    (pod,) = client.list_namespaced_pod(namespace, label_selector="dag_id=services,task_id=deferred").items
    if pod.status.phase != "Running":
        return False
    execute, command = client.connect_get_namespaced_pod_exec, ["sh", "-c", "touch /tmp/go && echo told"]
    return "told" in stream(execute, pod.metadata.name, namespace, container="base", command=command, stdout=True)


def test_a_dag_of_isolated_tasks_on_a_whole_airflow(airflow: Path, client: Any, namespace: str) -> None:
    try:
        eventually(lambda: has_seen_deferral(airflow), 400)
        eventually(lambda: let_go(client, namespace))
        eventually(lambda: has_ended(airflow), 400)
    except AssertionError as error:
        pytest.fail(f"{error}: {told(airflow)}")

    assert rows(airflow, "select state from dag_run") == [("success",)], told(airflow)
    ended = rows(airflow, "select task_id, map_index, state, try_number from task_instance order by 1, 2")
    assert ended == [
        ("deferred", -1, "success", 1),
        ("double", 0, "success", 1),
        ("double", 1, "success", 1),
        ("end", -1, "success", 1),
        ("numbers", -1, "success", 1),
        ("second_try", -1, "success", 2),
    ]
    ((value,),) = rows(airflow, "select value from xcom where task_id = 'end' and key = 'return_value'")
    assert json.loads(str(value)) == [6, 2]
    logs = [path.read_text() for path in airflow.glob("logs/dag_id=services/**/task_id=deferred/**/*.log*")]
    assert "".join(logs).count("deferred, with [2, 4]") == 1
    logs.append((airflow.parent / "triggerer.log").read_text())  # of what comes after Airflow closed the trigger's own
    assert any("Trigger fired event" in log for log in logs), "the triggerer had no part in it"
    left = client.list_namespaced_pod(namespace, label_selector="dag_id=services").items
    assert [pod.metadata.name for pod in left if pod.metadata.deletion_timestamp is None] == []
