"""Tasks of an environment that has pods waiting for them."""

import os
import time
from datetime import timedelta

try:
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task

with DAG("soon", schedule=None):

    @task.isolated("current", on_finish_action="keep_pod", labels={"team": "data"}, annotations={"cost": "low"})
    def where(number: int) -> list[object]:
        print("said", number)
        return [os.environ["HOSTNAME"], number]

    where(3)

with DAG("later", schedule=None):

    @task.isolated("current", deferrable=True)
    def deferred(size: int) -> str:
        print("said while deferred")
        time.sleep(2)
        return f"{os.environ['HOSTNAME']} " + "x" * size

    deferred.override(task_id="small")(10) >> deferred.override(task_id="large")(200_000)

with DAG("too_long", schedule=None):

    @task.isolated("current", execution_timeout=timedelta(seconds=4))
    def endless() -> None:
        print("begun")
        time.sleep(600)

    endless()

with DAG("other_options", schedule=None):

    @task.isolated("current", env_vars={"STAGE": "prod"})
    def differs() -> str:
        return os.environ["HOSTNAME"]

    differs()
