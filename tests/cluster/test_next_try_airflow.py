"""Tasks of Airflow whose worker died, and that run again: as they were, or after somebody has changed them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.airflow_home import HEAD, require_airflow
from tests.waiting import eventually

# Runs a file's DAG, each time as the same run, and prints what its task returned.
WORKER = """
import datetime
import json
import sys
from pathlib import Path
from airflow.utils.session import create_session
from k8s_venv.airflow import inprocess
from k8s_venv.airflow.compat import AIRFLOW_3
from k8s_venv.airflow.loading import load_dag

inprocess.show_task_logs()
# A run is known by one of them: by which, depends on the line of Airflow.
dates = ("logical_date", "run_after") if AIRFLOW_3 else ("execution_date",)
date = dict.fromkeys(dates, datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc))
dag = load_dag(Path(sys.argv[1]))
with inprocess._storing_only(dag):
    run = dag.test(**date, run_conf=json.loads(sys.argv[2]))
with create_session() as session:
    values = inprocess.returned_values(run, session)
print(json.dumps({"state": str(run.state), "values": [values[key] for key in sorted(values)]}))
"""

DAG = """
import time

@dag(schedule=None, params={{"factor": 1}})
def {name}():
    @task.isolated("current", deferrable={deferrable})
    def work(table, params=None):
        print("begun with", table)
        time.sleep({seconds})
        return "{code} on " + table + " times " + str(params["factor"])

    {call}

{name}()
"""


class Airflow:
    """One Airflow whose workers are processes of their own.

    Args:
        folder: an empty folder.
        project: the project with its images.
        environ: more variables of the surroundings.
    """

    def __init__(self, folder: Path, project: Path, client: Any, namespace: str, **environ: str) -> None:
        self.client, self.namespace = client, namespace
        self.name = f"next_try_{uuid.uuid4().hex[:8]}"
        self.file = folder / "dags" / "dag.py"
        self.file.parent.mkdir()
        for file in (project / "k8s-venv.toml", *project.glob("pylock.*")):
            shutil.copy(file, self.file.parent)
        self._environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
            "AIRFLOW_HOME": str(folder / "home"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.file.parent),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            **environ,
        }
        self._run("-m", "airflow", "db", "migrate").communicate()

    def write(
        self, seconds: int = 3, code: str = "first", table: str = "a", *, deferrable: bool = False, mapped: bool = False
    ) -> None:
        """Write the DAG file."""
        call = f"work.expand(table=['{table}', '{table}2'])" if mapped else f"work('{table}')"
        values = {"name": self.name, "deferrable": deferrable, "seconds": seconds, "code": code, "call": call}
        self.file.write_text(HEAD + DAG.format(**values))

    def run(self, **conf: int) -> tuple[list[Any], str]:
        """Run the DAG to its end; return what its tasks returned, and the log."""
        log = self._start(conf).communicate()[0]
        ended = json.loads(log.splitlines()[-1])
        assert ended["state"] == "success", log
        return ended["values"], log

    def run_and_kill(self) -> None:
        """Run the DAG with a worker that is killed while its pod runs, and wait until the pod has succeeded."""
        worker = self._start({})
        pod = eventually(self.running_pod)
        worker.kill()
        worker.communicate()
        eventually(lambda: self._read(pod).status.phase == "Succeeded")

    def running_pod(self) -> str | None:
        pods = self.client.list_namespaced_pod(self.namespace, label_selector=f"dag_id={self.name}").items
        return next((pod.metadata.name for pod in pods if pod.status.phase == "Running"), None)

    def pods(self) -> list[str]:
        pods = self.client.list_namespaced_pod(self.namespace, label_selector=f"dag_id={self.name}").items
        return [pod.metadata.name for pod in pods if pod.metadata.deletion_timestamp is None]

    def _read(self, pod: str) -> Any:
        return self.client.read_namespaced_pod(pod, self.namespace)

    def _start(self, conf: dict[str, int]) -> subprocess.Popen[str]:
        return self._run("-c", WORKER, str(self.file), json.dumps(conf))

    def _run(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *arguments],
            env=self._environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture
def airflow(project: Path, registry: str, client: Any, namespace: str, worker: Path, tmp_path: Path) -> Airflow:
    require_airflow()
    extra = {"namespace": namespace, "kube_config_path": str(worker)}
    connection = json.dumps({"conn_type": "kubernetes", "extra": extra})
    return Airflow(
        tmp_path, project, client, namespace, AIRFLOW_CONN_KUBERNETES_DEFAULT=connection, K8S_VENV_REGISTRY=registry
    )


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_task_that_was_not_changed_takes_the_result_that_was_not_read(airflow: Airflow, deferrable: bool) -> None:
    airflow.write(deferrable=deferrable)
    airflow.run_and_kill()

    values, log = airflow.run()

    assert values == ["first on a times 1"]
    assert "Taking over pod" in log, log
    assert not airflow.pods()


@pytest.mark.parametrize(
    ("deferrable", "change", "conf", "value"),
    [
        (False, {"code": "second", "table": "b"}, {}, "second on b times 1"),
        (True, {"code": "second", "table": "b"}, {}, "second on b times 1"),
        (False, {}, {"factor": 2}, "first on a times 2"),
    ],
    ids=["code and argument", "code and argument of a deferred task", "params"],
)
def test_a_task_that_was_changed_runs_again(
    airflow: Airflow, deferrable: bool, change: dict[str, str], conf: dict[str, int], value: str
) -> None:
    airflow.write(deferrable=deferrable)
    airflow.run_and_kill()

    airflow.write(**change, deferrable=deferrable)  # type: ignore[arg-type]
    values, log = airflow.run(**conf)

    assert values == [value]
    assert "it runs another call, since the function, its arguments" in log
    assert not airflow.pods()


def test_of_a_mapped_task_whose_list_has_changed_each_instance_has_its_own_argument(airflow: Airflow) -> None:
    airflow.write(mapped=True)
    airflow.run_and_kill()

    airflow.write(mapped=True, table="b")
    values, log = airflow.run()

    assert values == ["first on b times 1", "first on b2 times 1"]
    assert log.count("it runs another call") == 1
