"""How long tasks take in a whole Airflow (scheduler, LocalExecutor), as Airflow itself records it.

The tasks of a round follow each other, so that each has the machine for itself; the rounds follow each other too, and
the first one, with the first task of a triggerer in it, is shown by itself.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

from tests.airflow_services import rows, services, told
from tests.benchmarks import _cluster
from tests.benchmarks._pool import Pool

PROJECT = f"""
[environments.measured]
python = "{_cluster.HERE}"

[environments.waiting]
python = "{_cluster.HERE}"
warm = {{ min = 1, max = 4 }}
"""
DAG_FILE = """
import os
from datetime import datetime, timedelta

from airflow.sdk import DAG, chain, task

POD = {"image": os.environ["MEASURED_IMAGE"], "namespace": os.environ["MEASURED_NAMESPACE"], "do_xcom_push": True}

# A busy machine is no reason to lose a run: of a task that is tried again, the last try counts.
AGAIN = {"retries": 2, "retry_delay": timedelta(seconds=1)}

with DAG("rounds", schedule="@once", start_date=datetime(2026, 1, 1), catchup=False, is_paused_upon_creation=False,
         default_args=AGAIN):

    @task
    def plain():
        return 1

    @task.isolated("measured")
    def own_pod():
        return 1

    @task.isolated("waiting")
    def waiting_pod():
        return 1

    @task.isolated("measured", deferrable=True)
    def deferrable():
        return 1

    @task.kubernetes(**POD)
    def peer():
        return 1

    tasks = (plain, own_pod, waiting_pod, deferrable, peer)
    chain(*(each.override(task_id=f"{each.function.__name__}-{n}")() for n in range(ROUNDS) for each in tasks))
"""
KINDS = ("plain", "own_pod", "waiting_pod", "deferrable", "peer")
LIMIT = 60  # seconds for a round, on the whole


def main(arguments: list[str]) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="airflow", description=__doc__)
    parser.add_argument("--runs", type=int, default=10, help="counted runs of each kind of task")
    options = parser.parse_args(arguments)
    with _cluster.place(PROJECT) as place:
        home, dags = place.folder / "whole" / "home", place.folder / "whole" / "dags"
        dags.mkdir(parents=True)
        (dags / "rounds.py").write_text(DAG_FILE.replace("ROUNDS", str(options.runs + 1)))
        connection = _cluster.connection(place.namespace, place.image)
        with Pool(place, "waiting").kept(2), services(home, dags, AIRFLOW_CONN_KUBERNETES_DEFAULT=connection):
            state = await_end(home, (options.runs + 1) * LIMIT + 300)
        if state != "success":
            print(f"The run ended as {state}: {told(home)}")
            return 1
        seconds = rows(home, "select task_id, duration, state from task_instance")
    print(json.dumps(report(seconds)))
    return 0


def await_end(home: Any, limit: float) -> str:
    """Return the state in which the run ended."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        found = rows(home, "select state from dag_run where dag_id = 'rounds'")
        if found and found[0][0] in ("success", "failed"):
            return str(found[0][0])
        time.sleep(2)
    return "unfinished"


def report(found: list[tuple[Any, ...]]) -> dict[str, Any]:
    """Print the table; return the figures."""
    figures: dict[str, Any] = {}
    print(f"{'':16}{'median':>9}{'min':>9}{'max':>9}{'first':>9}{'over plain':>12}")
    for kind in KINDS:
        durations = {int(name.rpartition("-")[2]): seconds for name, seconds, _ in found if name.startswith(f"{kind}-")}
        first, each = durations.pop(0), sorted(durations.values())
        median = statistics.median(each)
        over = median - figures["plain"]["median"] if figures else 0.0
        print(f"{kind:16}{median:8.2f}s{each[0]:8.2f}s{each[-1]:8.2f}s{first:8.2f}s{over:11.2f}s")
        figures[kind] = {"median": round(median, 3), "first": round(first, 3), "over_plain": round(over, 3)}
    return figures
