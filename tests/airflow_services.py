"""The processes of a whole Airflow: API server, DAG processor, scheduler with its workers, and triggerer."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.waiting import eventually


@contextlib.contextmanager
def services(home: Path, dags: Path, **variables: str) -> Iterator[None]:
    """Start the processes, whose logs lie beside the home; end them when the block ends.

    Args:
        home: Airflow's home, with its database.
        dags: the folder of the DAG files.
        variables: more variables of the processes' surroundings.
    """
    environ = _environ(home, dags, variables)
    command = [sys.executable, "-m", "airflow"]
    subprocess.run([*command, "db", "migrate"], env=environ, check=True, capture_output=True)
    with contextlib.ExitStack() as stack:

        def start(name: str, *options: str) -> None:
            log = stack.enter_context((home.parent / f"{name}.log").open("w"))
            started = [*command, name, *options]
            process = subprocess.Popen(started, env=environ, stdout=log, stderr=log, start_new_session=True)
            stack.callback(_end, process)

        start("api-server", "--port", "0")
        port = eventually(lambda: _port_of(home.parent / "api-server.log"))  # a task that starts earlier fails
        environ["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] = f"http://localhost:{port}/execution/"
        start("dag-processor")
        start("scheduler", "--skip-serve-logs")
        start("triggerer", "--skip-serve-logs")
        yield


def rows(home: Path, query: str) -> list[tuple[object, ...]]:
    """Return what a query finds in Airflow's database."""
    with contextlib.closing(sqlite3.connect(f"file:{home}/airflow.db?mode=ro", uri=True, timeout=30)) as database:
        return database.execute(query).fetchall()


def told(home: Path) -> str:
    """Return what the processes said last, and how far the run came."""
    states = rows(home, "select task_id, map_index, state, try_number from task_instance")
    ends = [f"{path.name}: {path.read_text()[-2000:]}" for path in home.parent.glob("*.log")]
    tasks = [f"{path}: {path.read_text()[-1500:]}" for path in home.glob("logs/dag_id=*/**/*.log")]
    return "\n\n".join([str(states), *ends, *tasks])


def _environ(home: Path, dags: Path, variables: Mapping[str, str]) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "3",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db?timeout=60",  # for each other, in seconds
        **variables,
    }


def _port_of(log: Path) -> str | None:
    """Return the port on which the API server says that it runs."""
    found = re.search(r"Uvicorn running on http://\S+:(\d+)", log.read_text())
    return found[1] if found else None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 15)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    process.wait()
