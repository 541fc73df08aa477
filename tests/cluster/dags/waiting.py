"""Tasks that wait for their pods in different ways."""

import os
import sys
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

with DAG("deferring_late", schedule=None):

    @task.isolated("current", deferrable=True, defer_after=120)
    def short() -> int:
        print("said by a short call")
        return 1

    @task.isolated("current", deferrable=True, defer_after=120)
    def fails_soon() -> None:
        raise ValueError("said when it failed soon")

    @task.isolated("current", deferrable=True, defer_after=0.5)
    def long() -> int:
        print("said by a long call")
        time.sleep(4)
        return 2

    short()
    fails_soon()
    long()

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


class StoppedError(Exception):
    pass


with DAG("deferring_own_error", schedule=None):

    @task.isolated("current", deferrable=True)
    def stops() -> None:
        raise StoppedError("stopped by itself")

    stops()

with DAG("exit_codes", schedule=None):
    for deferrable in (False, True):
        kind = "deferred" if deferrable else "watched"

        @task.isolated("current", deferrable=deferrable, skip_on_exit_code=[10, 11], task_id=f"leaves_{kind}")
        def leaves() -> None:
            sys.exit(10)

        @task.isolated("current", deferrable=deferrable, skip_on_exit_code=[10, 11], task_id=f"dies_{kind}")
        def dies_at_once() -> None:
            os._exit(11)

        @task.branch_isolated("current", deferrable=deferrable, do_xcom_push=False, task_id=f"chooses_{kind}")
        def chooses(left: str) -> str:
            return left

        @task.isolated("current", env_vars=[{"name": "STAGE", "value": "prod"}], task_id=f"left_{kind}")
        def left() -> str:
            return os.environ["STAGE"]

        @task.isolated("current", task_id=f"right_{kind}")
        def right() -> None: ...

        leaves()
        dies_at_once()
        chooses(f"left_{kind}") >> [left(), right()]

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
