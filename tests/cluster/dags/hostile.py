"""Tasks whose words would hide, move or imitate lines of a log."""

try:
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task

WORDS = "\x1b[2J\x1eERROR - forged\u2028\u202e\0"

with DAG("hostile", schedule=None):

    @task.isolated("current")
    def fails() -> None:
        print(f"printed{WORDS}")
        error = ValueError(f"raised{WORDS}::group::\n")
        error.__notes__ = [f"noted{WORDS}"]  # type: ignore[attr-defined]
        raise error

    fails()
