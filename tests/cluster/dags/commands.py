"""Commands in pods, and functions that read data files of the project."""

from pathlib import Path

try:
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task

with DAG("commands", schedule=None, params={"day": "monday"}):

    @task.isolated_cmd("current", files=["models/**"], env={"DAY": "{{ params.day }}"})
    def models(*arguments: str) -> list[str]:
        return ["python", "models/run.py", "staging/*.sql", *arguments]

    @task.isolated("legacy", files=["models/staging/*.sql"])
    def length() -> int:
        return len((Path(__file__).parent / "models" / "staging" / "orders.sql").read_text())

    models()
    models.override(task_id="fails")("fail")
    models.override(task_id="deferred", deferrable=True)()
    length()
