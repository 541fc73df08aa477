"""Tasks that wait for their pods in different ways."""

import os
import time
from datetime import timedelta

try:
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task

from k8s_venv import runtime

with DAG("deferring", schedule=None):

    @task.isolated("current", deferrable=True)
    def deferred(size: int) -> str:
        print("said while deferred")
        return "x" * size

    deferred.override(task_id="small")(10)
    deferred.override(task_id="large")(200_000)

with DAG("deferring_failures", schedule=None):

    @task.isolated("current", deferrable=True)
    def fails() -> None:
        raise ValueError("said when it failed")

    @task.isolated("current", deferrable=True)
    def skips() -> None:
        runtime.skip("nothing to do")

    @task.isolated("current", deferrable=True, startup_timeout_seconds=60)
    def dies() -> None:
        os._exit(7)

    fails()
    skips()
    dies()

for name, deferrable in (("timing_out", False), ("timing_out_deferred", True)):
    with DAG(name, schedule=None):

        @task.isolated("current", deferrable=deferrable, execution_timeout=timedelta(seconds=6))
        def slow() -> None:
            time.sleep(200)

        slow()

with DAG("sleeping", schedule=None):

    @task.isolated("current")
    def sleeps() -> None:
        print("asleep", flush=True)
        time.sleep(60)

    sleeps()
