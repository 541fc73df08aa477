"""Load a DAG file and run its DAG in this process, as ``dag.test()`` does."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from airflow.utils.session import create_session

from k8s_venv.airflow.compat import conf, read_dag_file, returned_values
from k8s_venv.airflow.operators import IsolatedOperator
from k8s_venv.backends import choose_backend
from k8s_venv.errors import K8sVenvError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow.sdk import DAG

    from k8s_venv.environment import Environment
    from k8s_venv.project import BackendName, Project


@dataclasses.dataclass(frozen=True)
class TaskOutcome:
    """How one task of a DAG run ended.

    Args:
        task_id: the task.
        map_index: its number where it is mapped, else -1.
        state: its state in Airflow's words.
        seconds: how long it ran.
        value: what it returned, None when it returned nothing.

    """

    task_id: str
    map_index: int
    state: str
    seconds: float
    value: Any


def load_dag(path: Path, dag_id: str | None = None) -> DAG:
    """Load a DAG file as Airflow does and return its DAG.

    Args:
        path: the file.
        dag_id: which DAG, when there are several.

    Raises:
        K8sVenvError: the file cannot be loaded, or has no such DAG.

    """
    bag = read_dag_file(path)
    if bag.import_errors:
        raise K8sVenvError(f"{path} cannot be loaded.\n\n{next(iter(bag.import_errors.values())).strip()}")
    names = ", ".join(sorted(bag.dags)) or "none"
    if dag_id is None and len(bag.dags) == 1:
        return next(iter(bag.dags.values()))
    if dag_id is None:
        raise K8sVenvError(f"{path} has not exactly one DAG: name one with --dag. It has: {names}.")
    if dag_id not in bag.dags:
        raise K8sVenvError(f"{path} has no DAG {dag_id!r}.{did_you_mean(dag_id, bag.dags)} It has: {names}.")
    return bag.dags[dag_id]


def isolated_tasks(dag: DAG) -> Iterator[tuple[Project, Environment, BackendName]]:
    """Yield where each isolated task of a DAG will run."""
    configured = conf.get("k8s_venv", "backend", fallback=None)
    for task in dag.tasks:
        operator: Any = task
        if not isinstance(operator, IsolatedOperator):
            continue
        project = operator.project()
        yield (
            project,
            project.environment(operator.environment),
            choose_backend(operator.backend, project, configured),
        )


def run_dag(dag: DAG) -> tuple[str, list[TaskOutcome]]:
    """Run a DAG once in this process.

    Args:
        dag: the DAG.

    Returns:
        The run's state, and how each task ended, in the order in which they started.

    """
    run = dag.test()
    with create_session() as session:
        values = returned_values(run, session)
        instances = sorted(run.get_task_instances(session=session), key=lambda ti: str(ti.start_date or "~"))
        outcomes = [
            TaskOutcome(
                ti.task_id,
                ti.map_index,
                str(ti.state),
                ti.duration or 0.0,
                values.get((ti.task_id, ti.map_index)),
            )
            for ti in instances
        ]
    return str(run.state), outcomes
