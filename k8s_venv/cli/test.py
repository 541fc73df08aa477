"""``k8s-venv test``."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click
from filelock import FileLock
from rich.console import Console
from rich.table import Table

from k8s_venv import uv
from k8s_venv.backends import BACKEND_VARIABLE
from k8s_venv.cli.console import console, progress
from k8s_venv.cli.lock import lock_missing
from k8s_venv.errors import K8sVenvError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k8s_venv.airflow.testing import TaskOutcome
    from k8s_venv.environment import Environment


@click.command()
@click.argument("dag_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--backend", type=click.Choice(["kubernetes", "local"]), help="Where isolated tasks run.")
@click.option("--dag", "dag_id", help="The DAG's id, when the file has several.")
@click.pass_obj
def test(given: Path | None, dag_file: Path, backend: str | None, dag_id: str | None) -> None:
    """Run a DAG file's DAG once, in this process.

    With --backend local no cluster is needed: each environment is made here from its lock (and locked first, where it
    never was). Without it, tasks run where the DAG, K8S_VENV_BACKEND or the project say, by default on Kubernetes.

    Airflow needs no set-up: unless AIRFLOW_HOME is set, the run gets a database of its own, which is removed
    afterwards.
    """
    if importlib.util.find_spec("airflow") is None:
        raise K8sVenvError("Running DAGs needs Airflow: pip install 'k8s-venv[airflow]'.")
    if backend:
        os.environ[BACKEND_VARIABLE] = backend
    if given:
        os.environ["K8S_VENV_PROJECT"] = str(given.resolve())
    with _airflow_home(dag_file.resolve().parent):
        state, outcomes = _run(dag_file.resolve(), dag_id)
    _show(outcomes)
    if state != "success":
        raise K8sVenvError(f"The run of {dag_file} ended as {state}.")


def _run(dag_file: Path, dag_id: str | None) -> tuple[str, list[TaskOutcome]]:
    from k8s_venv.airflow.testing import isolated_tasks, load_dag, run_dag

    dag = load_dag(dag_file, dag_id)
    local: dict[str, Environment] = {}
    for _, environment, backend in isolated_tasks(dag):
        if backend == "local":
            local[environment.name] = environment
    lock_missing(local.values())
    _make_local(local)
    return run_dag(dag)


def _make_local(environments: dict[str, Environment]) -> None:
    from k8s_venv.backends.local import make_environment

    with progress(list(environments)) as (report, finished):
        for name, environment in environments.items():

            def said(line: str, name: str = name) -> None:
                report(name, line)

            python = make_environment(environment, said)
            finished(name, f"ready: Python {environment.python} in {python.parent.parent}")


@contextlib.contextmanager
def _airflow_home(dags: Path) -> Iterator[None]:
    """Give Airflow a home for one run, unless the user has one; this must come before Airflow's import."""
    os.environ.setdefault("AIRFLOW__CORE__DAGS_FOLDER", str(dags))
    os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
    # What tasks print, and what goes wrong; not what Airflow's parts tell one another.
    os.environ.setdefault("AIRFLOW__LOGGING__LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("AIRFLOW__LOGGING__NAMESPACE_LEVELS", "airflow.task.operators=INFO")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    if "AIRFLOW_HOME" in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="k8s-venv-airflow-") as home:
        os.environ["AIRFLOW_HOME"] = home
        os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"sqlite:///{home}/airflow.db"
        shutil.copy(_empty_database(), Path(home) / "airflow.db")
        yield


def _empty_database() -> Path:
    """Return an empty Airflow database, made once for each version of Airflow."""
    version = importlib.metadata.version("apache-airflow-core")
    path = uv.cache_folder() / f"airflow-{version}.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"), tempfile.TemporaryDirectory() as home:
        if not path.exists():
            console.print(f"Preparing a database for Airflow {version} (once)")
            partial = Path(home) / "airflow.db"
            environ = {
                **os.environ,
                "AIRFLOW_HOME": home,
                "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{partial}",
            }
            made = subprocess.run(
                [sys.executable, "-m", "airflow", "db", "migrate"],
                env=environ,
                capture_output=True,
                text=True,
                check=False,
            )
            if made.returncode:
                raise K8sVenvError(f"Airflow's database could not be prepared:\n{made.stderr or made.stdout}")
            shutil.move(partial, path)
    return path


def _show(outcomes: list[TaskOutcome]) -> None:
    table = Table("task", "state", "seconds", "value", box=None, pad_edge=False)
    for outcome in outcomes:
        name = outcome.task_id if outcome.map_index < 0 else f"{outcome.task_id}[{outcome.map_index}]"
        value = "" if outcome.value is None else repr(outcome.value)
        table.add_row(name, outcome.state, f"{outcome.seconds:.1f}", value)
    Console(highlight=False).print(table, markup=False)
