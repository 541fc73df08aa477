"""Every difference between the lines of Airflow that we support: 2.11 and 3.3.

Types are those of Airflow 3; the branches for Airflow 2 stay unchecked.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
from typing import TYPE_CHECKING, Any
from unittest import mock

import airflow

from k8s_venv.runner.encoder import is_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow.dag_processing.dagbag import DagBag
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.sdk import DAG
    from sqlalchemy.orm import Session

AIRFLOW_3 = not airflow.__version__.startswith("2.")
_DEPTH = "AIRFLOW__CORE__DAGBAG_IMPORT_ERROR_TRACEBACK_DEPTH"

if TYPE_CHECKING or AIRFLOW_3:
    from airflow.sdk import BaseHook, BaseOperator
    from airflow.sdk.bases.branch import BranchMixIn
    from airflow.sdk.bases.decorator import DecoratedOperator, TaskDecorator, task_decorator_factory
    from airflow.sdk.bases.skipmixin import SkipMixin
    from airflow.sdk.configuration import conf
    from airflow.sdk.definitions.context import KNOWN_CONTEXT_KEYS, Context
    from airflow.sdk.exceptions import (
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSkipException,
        AirflowTaskTimeout,
    )

    OLD_CONTEXT_KEYS: tuple[str, ...] = ()
    XCOM_BACKEND = "airflow.sdk.execution_time.xcom.BaseXCom"
else:
    from airflow.configuration import conf
    from airflow.decorators.base import DecoratedOperator, TaskDecorator, task_decorator_factory
    from airflow.exceptions import (
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSkipException,
        AirflowTaskTimeout,
    )
    from airflow.hooks.base import BaseHook
    from airflow.models.baseoperator import BaseOperator
    from airflow.models.skipmixin import SkipMixin
    from airflow.operators.branch import BranchMixIn
    from airflow.utils.context import KNOWN_CONTEXT_KEYS, Context

    # Plain values of the context that Airflow 3 has no more.
    OLD_CONTEXT_KEYS = (
        *("execution_date", "next_execution_date", "prev_execution_date", "prev_execution_date_success"),
        *("next_ds", "next_ds_nodash", "prev_ds", "prev_ds_nodash"),
        *("tomorrow_ds", "tomorrow_ds_nodash", "yesterday_ds", "yesterday_ds_nodash"),
    )
    XCOM_BACKEND = "airflow.models.xcom.BaseXCom"

__all__ = [
    "AIRFLOW_3",
    "KNOWN_CONTEXT_KEYS",
    "OLD_CONTEXT_KEYS",
    "XCOM_BACKEND",
    "AirflowFailException",
    "AirflowNotFoundException",
    "AirflowSkipException",
    "AirflowTaskTimeout",
    "BaseHook",
    "BaseOperator",
    "BranchMixIn",
    "Context",
    "DecoratedOperator",
    "SkipMixin",
    "TaskDecorator",
    "can_store_fraction",
    "can_store_integer",
    "can_store_text",
    "conf",
    "deployment",
    "find_variable",
    "is_sensitive",
    "mask_secret",
    "read_dag_file",
    "redact",
    "restore_xcom",
    "returned_values",
    "run_in_process",
    "serialize_xcom",
    "show_task_logs",
    "skip_tasks",
    "stored_key",
    "task_decorator_factory",
    "task_times",
]


def deployment() -> str:
    """Return what tells this Airflow's tasks from those of another Airflow that shares a namespace with it."""
    if AIRFLOW_3:
        address = conf.get("core", "execution_api_server_url", fallback=None)
        return str(address or conf.get("api", "base_url", fallback=""))
    return str(conf.get("webserver", "base_url", fallback=""))


def can_store_integer(value: int) -> bool:
    """Say whether an XCom may hold an integer.

    Airflow 3 sends values from the task's process to its API as MessagePack, whose integers end at 64 bits; Airflow 2
    writes them into its database as JSON.
    """
    return not AIRFLOW_3 or -(2**63) <= value < 2**64


def can_store_text(text: str) -> bool:
    """Say whether an XCom may hold a text: Airflow 3 sends it as UTF-8, Airflow 2 escapes what that cannot say."""
    return not AIRFLOW_3 or is_text(text)


def can_store_fraction(value: Any) -> bool:
    """Say whether an XCom may hold a real number or a decimal: Airflow 3's API takes JSON without ``NaN``."""
    return not AIRFLOW_3 or math.isfinite(value)


def stored_key(key: Any) -> str | None:
    """Return the text as which a dictionary's key is stored, or None where it cannot be.

    Airflow 3 stores what ``str`` says; Airflow 2 what ``json`` does, which takes plain keys only.
    """
    if AIRFLOW_3:
        return str(key)
    try:
        return str(next(iter(json.loads(json.dumps({key: None})))))
    except TypeError:
        return None


def skip_tasks(operator: SkipMixin, context: Context, tasks: list[Any]) -> None:
    """Skip tasks that come after a running one.

    Args:
        operator: the running one.
        context: Airflow's.
        tasks: which ones.
    """
    if TYPE_CHECKING or AIRFLOW_3:
        operator.skip(ti=context["ti"], tasks=tasks)
    elif tasks:
        run = context["dag_run"]
        operator.skip(run, run.execution_date, tasks, map_index=context["ti"].map_index)


def find_variable(key: str) -> str | None:
    """Return an Airflow variable's text, or None where it is not defined."""
    if TYPE_CHECKING or AIRFLOW_3:
        from airflow.sdk import Variable

        found = Variable.get(key, default=None)
    else:
        from airflow.models.variable import Variable

        found = Variable.get(key, default_var=None)
    return None if found is None else str(found)


def mask_secret(text: str) -> None:
    """Let Airflow hide a text in logs and rendered templates from now on."""
    if TYPE_CHECKING or AIRFLOW_3:
        from airflow.sdk.log import mask_secret
    else:
        from airflow.utils.log.secrets_masker import mask_secret

    mask_secret(text)


def redact(text: str) -> str:
    """Hide in a text what Airflow was told to mask in this process."""
    if TYPE_CHECKING or AIRFLOW_3:
        from airflow.sdk._shared.secrets_masker import redact
    else:
        from airflow.utils.log.secrets_masker import redact

    return str(redact(text))


def is_sensitive(name: str) -> bool:
    """Say whether what has this name is secret, by Airflow's list and ``[core] sensitive_var_conn_names``."""
    if TYPE_CHECKING or AIRFLOW_3:
        from airflow.sdk._shared.secrets_masker import should_hide_value_for_key
    else:
        from airflow.utils.log.secrets_masker import should_hide_value_for_key

    return bool(should_hide_value_for_key(name))  # type: ignore[no-untyped-call]


def serialize_xcom(value: Any) -> Any:
    """Return a value as Airflow stores it, or raise what Airflow raises when it cannot."""
    if TYPE_CHECKING or AIRFLOW_3:
        from airflow.sdk.serde import serialize
    else:
        from airflow.serialization.serde import serialize

    return serialize(value)


def restore_xcom(stored: Any) -> Any:
    """Return what Airflow makes of a value that it stored, or raise what Airflow raises when it cannot."""
    if TYPE_CHECKING or AIRFLOW_3:
        from airflow.sdk.serde import deserialize
    else:
        from airflow.serialization.serde import deserialize

    return deserialize(stored)


def returned_values(run: DagRun, session: Session) -> dict[tuple[str, int], Any]:
    """Return what the tasks of a DAG run returned, by their ids and map indexes.

    Args:
        run: the DAG run.
        session: a session on Airflow's database.
    """
    from sqlalchemy import select

    if TYPE_CHECKING or AIRFLOW_3:
        from airflow.models.xcom import XComModel as Model
        from airflow.sdk.serde import deserialize
    else:
        from airflow.models.xcom import BaseXCom as Model

        def deserialize(value: Any) -> Any:
            return value  # which `deserialize_value` has done

    # Columns, since Airflow 2 decodes whole rows as it loads them, and not their tables.
    columns = select(Model.task_id, Model.map_index, Model.value)
    rows = session.execute(
        columns.where(Model.dag_id == run.dag_id, Model.run_id == run.run_id, Model.key == "return_value")
    )
    return {(row.task_id, row.map_index): deserialize(Model.deserialize_value(row)) for row in rows}


def task_times(run: DagRun, session: Session) -> list[tuple[TaskInstance, float]]:
    """Return the tasks of a DAG run, in the order in which they ran, and how many seconds each took.

    Args:
        run: a DAG run of ``run_in_process``.
        session: a session on Airflow's database.
    """
    instances = run.get_task_instances(session=session)
    if TYPE_CHECKING or AIRFLOW_3:
        return [(ti, ti.duration or 0.0) for ti in sorted(instances, key=lambda ti: str(ti.start_date or "~"))]
    # In Airflow 2 the worker notes a task's start, but none is part of `DAG.test`, where one runs after another.
    instances.sort(key=lambda ti: str(ti.end_date or "~"))
    ends = [ti.end_date or run.end_date for ti in instances]
    starts = [run.start_date, *ends]
    return [(ti, (end - start).total_seconds()) for ti, start, end in zip(instances, starts, ends, strict=False)]


def read_dag_file(path: Path) -> DagBag:
    """Load a DAG file as Airflow does.

    Args:
        path: the file.
    """
    if TYPE_CHECKING or AIRFLOW_3:
        from airflow.dag_processing.dagbag import DagBag
    else:
        from airflow.models.dagbag import DagBag

    # Who reads the bag tells its faults.
    for name in ("airflow.models.dagbag", "airflow.dag_processing.importers"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    before = os.environ.get(_DEPTH)
    os.environ[_DEPTH] = "100"  # by default two calls, among which the file's own line may not be
    try:
        return DagBag(path)
    finally:
        os.environ.pop(_DEPTH)
        if before is not None:
            os.environ[_DEPTH] = before


def run_in_process(dag: DAG) -> DagRun:
    """Run a DAG once in this process.

    Args:
        dag: the DAG.
    """
    with _its_file_alone(dag):
        run: DagRun = dag.test()
    return run


@contextlib.contextmanager
def _its_file_alone(dag: DAG) -> Iterator[None]:
    """Keep ``DAG.test`` of Airflow 3 from loading every other file of the DAG's bundle, and telling their faults."""
    if not (TYPE_CHECKING or AIRFLOW_3):
        yield
        return
    from airflow.dag_processing import dagbag

    whole = dagbag.BundleDagBag

    def one_file(dag_folder: Path, **options: Any) -> DagBag:
        return whole(dag_folder=dag.fileloc, **options)

    with mock.patch.object(dagbag, "BundleDagBag", one_file):
        yield


def show_task_logs() -> None:
    """Show what tasks print, once and as it is; ``DAG.test`` of Airflow 2 shows it twice or, by its level, not."""
    if TYPE_CHECKING or AIRFLOW_3:
        return
    from airflow.utils.log.logging_mixin import RedirectStdHandler

    tasks = logging.getLogger("airflow.task")
    if not any(isinstance(handler, logging.StreamHandler) for handler in tasks.handlers):
        handler = RedirectStdHandler("sys.stdout")
        handler.filters = list(tasks.filters)  # which mask secrets
        tasks.addHandler(handler)
    tasks.propagate = False
    logging.getLogger("airflow.task.operators").setLevel(logging.INFO)
    logging.getLogger("airflow.models.dag").setLevel(logging.CRITICAL)  # it repeats the failures of tasks
