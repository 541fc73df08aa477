"""Load a DAG file and run its DAG in this process, as ``dag.test()`` does."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

from airflow.utils.session import create_session

from k8s_venv.airflow.failures import shorten_tracebacks, tell_failures
from k8s_venv.airflow.inprocess import read_dag_file, returned_values, run_in_process, show_task_logs, task_times
from k8s_venv.airflow.loading import first_problem, is_ours
from k8s_venv.errors import K8sVenvError, did_you_mean

if TYPE_CHECKING:
    from pathlib import Path

    from airflow.sdk import DAG


@dataclasses.dataclass(frozen=True)
class TaskOutcome:
    """How one task of a DAG run ended.

    Args:
        task_id: the task.
        map_index: its number where it is mapped, else -1.
        state: its state in Airflow's words.
        seconds: how long it ran.
        value: what it returned, None when it returned nothing.
        error: what it raised, where it failed.
    """

    task_id: str
    map_index: int
    state: str
    seconds: float
    value: Any
    error: str = ""


def load_dag(path: Path, dag_id: str | None = None) -> DAG:
    """Load a DAG file as Airflow does and return its DAG.

    Args:
        path: the file.
        dag_id: which DAG, when there are several.

    Raises:
        K8sVenvError: the file cannot be loaded, or has no such DAG.
    """
    bag = read_dag_file(path)
    for text in bag.import_errors.values():
        if not is_ours(text):
            print(text.rstrip(), file=sys.stderr)  # noqa: T201 -- which helper it was, only a traceback tells
        broken = first_problem(path, text)
        raise K8sVenvError(f"{path} cannot be loaded: line {broken.line}: {broken.message}")
    names = ", ".join(sorted(bag.dags)) or "none"
    if dag_id is None and len(bag.dags) == 1:
        return next(iter(bag.dags.values()))
    if not bag.dags:
        raise K8sVenvError(f"{path} has no DAG. Is it called, as in `pipeline()` at its end?")
    if dag_id is None:
        raise K8sVenvError(f"{path} has not exactly one DAG: name one with --dag. It has: {names}.")
    if dag_id not in bag.dags:
        raise K8sVenvError(f"{path} has no DAG {dag_id!r}.{did_you_mean(dag_id, bag.dags)} It has: {names}.")
    return bag.dags[dag_id]


def run_dag(dag: DAG) -> tuple[str, list[TaskOutcome]]:
    """Run a DAG once in this process, with the log of its tasks on standard output.

    Args:
        dag: the DAG.

    Returns:
        The run's state, and how each task ended, in the order in which they started.
    """
    errors: dict[tuple[str, int], str] = {}
    show_task_logs()
    shorten_tracebacks()
    tell_failures(lambda task_id, map_index, text: errors.update({(task_id, map_index): text}))
    run = run_in_process(dag)
    with create_session() as session:
        values = returned_values(run, session)
        outcomes = [
            TaskOutcome(
                ti.task_id,
                ti.map_index,
                str(ti.state),
                seconds,
                values.get((ti.task_id, ti.map_index)),
                errors.get((ti.task_id, ti.map_index), "") if ti.state == "failed" else "",
            )
            for ti, seconds in task_times(run, session)
        ]
    return str(run.state), outcomes
