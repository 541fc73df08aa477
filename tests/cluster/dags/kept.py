"""Tasks whose calls are kept at a bucket when they fail."""

import os

from airflow.decorators import dag, task

PLACE = {"location": os.environ.get("KEPT_AT", "s3://bucket/kept")}


@task.isolated("current", keep="failed", values=PLACE)
def divide(by: int) -> float:
    return 1 / by


@task.isolated("current", keep="failed", values=PLACE, deferrable=True)
def divide_deferred(by: int) -> float:
    return 1 / by


@dag(schedule=None)
def keeping():
    divide(0)
    divide_deferred.override(task_id="fails")(0)
    divide_deferred.override(task_id="succeeds")(2)


keeping()
