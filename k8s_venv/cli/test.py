"""``k8s-venv test``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from k8s_venv.backends import BACKEND_VARIABLE
from k8s_venv.cli.airflow_home import airflow_home
from k8s_venv.cli.console import aligned
from k8s_venv.cli.lock import lock_missing
from k8s_venv.cli.sync import make_environments
from k8s_venv.config import BackendName
from k8s_venv.errors import K8sVenvError

if TYPE_CHECKING:
    from k8s_venv.airflow.inprocess import TaskOutcome

_LONGEST_VALUE = 2000  # characters of a value in the table


@click.command()
@click.argument("dag_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--backend", type=click.Choice(get_args(BackendName)), help="Where isolated tasks run.")
@click.option("--dag", "dag_id", help="The DAG's id, when the file has several.")
@click.pass_obj
def test(given: Path | None, dag_file: Path, backend: str | None, dag_id: str | None) -> None:
    """Run a DAG file's DAG once, in this process.

    --backend local needs no cluster: each environment is made here from its lock, and locked first if it never was.
    --backend docker needs a Docker Engine and the images that `k8s-venv build-images` made. Without it, tasks run where
    the DAG, K8S_VENV_BACKEND or the project says, by default on Kubernetes.

    \b
    Examples:
        k8s-venv test --backend local dags/sales.py
        k8s-venv test dags/sales.py --dag sales_daily

    Airflow needs no set-up: unless AIRFLOW_HOME is set, the run gets a database of its own, which is removed at the
    end.
    """  # noqa: D301 -- click leaves the lines after a \b as they are
    if backend:
        os.environ[BACKEND_VARIABLE] = backend
    with airflow_home(dag_file, given, log_level="WARNING"):
        state, outcomes = _run(dag_file.resolve(), dag_id)
    _show(outcomes)
    if state != "success":
        raise K8sVenvError(_failure(dag_file, state, outcomes))


def _run(dag_file: Path, dag_id: str | None) -> tuple[str, list[TaskOutcome]]:
    from k8s_venv.airflow.inprocess import run_dag
    from k8s_venv.airflow.loading import isolated_tasks, load_dag

    dag = load_dag(dag_file, dag_id)
    local = {task.environment.name: task.environment for task in isolated_tasks(dag) if task.backend == "local"}
    # No image is made here, so none of its base is pinned.
    lock_missing([environment for environment in local.values() if environment.interpreter is None], pin=False)
    make_environments(local.values())
    return run_dag(dag)


def _show(outcomes: list[TaskOutcome]) -> None:
    rows = [(_name(each), each.state, f"{each.seconds:.1f}", _shown(each.value)) for each in outcomes]
    click.echo(aligned(("task", "state", "seconds", "value"), rows))


def _failure(dag_file: Path, state: str, outcomes: list[TaskOutcome]) -> str:
    """Return a sentence with the tasks that failed, and their causes."""
    failed = [(_name(outcome), outcome.error) for outcome in outcomes if outcome.state == "failed"]
    if not failed:
        return f"The run of {dag_file} ended as {state}."
    if len(failed) == 1:
        name, error = failed[0]
        return f"The run of {dag_file} failed in {name}" + (f": {error}" if error else ".")
    causes = ((name, error.replace("\n", "\n    ") or "see its log above") for name, error in failed)
    lines = "".join(f"\n  {name}: {cause}" for name, cause in causes)
    return f"The run of {dag_file} failed in {len(failed)} tasks:{lines}"


def _name(outcome: TaskOutcome) -> str:
    return outcome.task_id if outcome.map_index < 0 else f"{outcome.task_id}[{outcome.map_index}]"


def _shown(value: object) -> str:
    from k8s_venv.airflow.compat import redact
    from k8s_venv.calls.results import is_document

    if isinstance(value, dict) and is_document(value):
        return f"by reference, {value['size']:,} bytes"
    text = "" if value is None else redact(repr(value))
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}… ({len(text):,} characters)"
