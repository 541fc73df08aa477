"""Two tasks need versions of one package that cannot be installed together."""

import platform

from airflow.sdk import dag, task


@dag(schedule=None, tags=["k8s-venv"])
def conflicting_requests():
    @task.isolated("requests-old")
    def old() -> str:
        import requests

        print(f"Python {platform.python_version()}, requests {requests.__version__}")
        return requests.__version__

    @task.isolated("requests-new")
    def new() -> str:
        import requests

        print(f"Python {platform.python_version()}, requests {requests.__version__}")
        return requests.__version__

    @task
    def compare(one: str, other: str) -> str:
        if one == other:
            raise ValueError(f"Both tasks ran with requests {one}.")
        return f"requests {one} and {other} in one DAG"

    compare(old(), new())


conflicting_requests()
