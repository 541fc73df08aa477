"""``k8s-venv test``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from k8s_venv.backends import BACKEND_VARIABLE
from k8s_venv.cli.airflow_home import airflow_home
from k8s_venv.cli.console import aligned, locked_option
from k8s_venv.cli.lock import lock_outdated
from k8s_venv.cli.sync import make_environments
from k8s_venv.config import BackendName
from k8s_venv.errors import K8sVenvError
from k8s_venv.locks.locking import read_locks_once

if TYPE_CHECKING:
    from collections.abc import Iterable

    from k8s_venv.airflow.inprocess import TaskOutcome
    from k8s_venv.check.tasks import Task

# Beside a kubeconfig, these may say which cluster is meant; an Airflow of one's own has connections.
_OTHER_CLUSTERS = {
    *("AIRFLOW_CONN_KUBERNETES_DEFAULT", "AIRFLOW_HOME", "AIRFLOW__SECRETS__BACKEND", "KUBERNETES_SERVICE_HOST"),
    *("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__CORE__SQL_ALCHEMY_CONN"),
}
_CLUSTER_OPTIONS = {"config_file", "kubernetes_conn_id", "in_cluster"}
_LONGEST_VALUE = 2000  # characters of a value in the table


@click.command()
@click.argument("dag_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--backend", type=click.Choice(get_args(BackendName)), help="Where isolated tasks run.")
@click.option("--dag", "dag_id", help="The DAG's id, when the file has several.")
@locked_option
@click.pass_obj
def test(given: Path | None, dag_file: Path, backend: str | None, dag_id: str | None, locked: bool) -> None:
    """Run a DAG file's DAG once, in this process.

    --backend local needs no cluster: each environment is made here from its lock, and locked first if its
    requirements changed.
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
    knows_clusters = backend is not None or not _OTHER_CLUSTERS.isdisjoint(os.environ)
    with airflow_home(dag_file, given, log_level="WARNING"), read_locks_once():
        state, outcomes = _run(dag_file.resolve(), dag_id, locked=locked, knows_clusters=knows_clusters)
    _show(outcomes)
    if state != "success":
        raise K8sVenvError(_failure(dag_file, state, outcomes))


def _run(dag_file: Path, dag_id: str | None, *, locked: bool, knows_clusters: bool) -> tuple[str, list[TaskOutcome]]:
    from k8s_venv.airflow.inprocess import run_dag
    from k8s_venv.airflow.loading import isolated_tasks, load_dag

    dag = load_dag(dag_file, dag_id)
    tasks = list(isolated_tasks(dag))
    if not knows_clusters:
        _require_cluster(tasks, dag_file)
    local = {task.environment.name: task.environment for task in tasks if task.backend == "local"}
    if not locked:
        lock_outdated(local.values())
    make_environments(local.values())
    return run_dag(dag)


def _require_cluster(tasks: Iterable[Task], dag_file: Path) -> None:
    """Refuse a run whose pods have no cluster: each task would find that out for itself, after its retries.

    Raises:
        K8sVenvError: a task runs on Kubernetes, and nothing says which cluster that is.
    """
    from kubernetes.config.kube_config import KUBE_CONFIG_DEFAULT_LOCATION

    files = [Path(part).expanduser() for part in KUBE_CONFIG_DEFAULT_LOCATION.split(os.pathsep)]
    if any(file.exists() for file in files):
        return
    for task in tasks:
        if task.backend == "kubernetes" and _CLUSTER_OPTIONS.isdisjoint(task.declared.pod):
            raise K8sVenvError(
                f"Task {task.name!r} runs on Kubernetes, and no cluster is configured here: {files[0]} does not exist. "
                f"Run it on this machine, with k8s-venv test --backend local {dag_file.name}, or set KUBECONFIG."
            )


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
    from k8s_venv.calls.references import is_document

    if isinstance(value, dict) and is_document(value):
        return f"by reference, {value['size']:,} bytes"
    text = "" if value is None else redact(repr(value))
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}… ({len(text):,} characters)"
