"""Load a DAG file and run its DAG in this process, on either line of Airflow."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import itertools
import logging
import os
import pathlib
import sys
import traceback
from typing import TYPE_CHECKING, Any
from unittest import mock

from airflow.utils.session import create_session

from k8s_venv.airflow.compat import AIRFLOW, AIRFLOW_3, redact, restore_xcom
from k8s_venv.calls.exceptions import RemoteTraceback
from k8s_venv.errors import K8sVenvError, readable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from airflow.dag_processing.dagbag import DagBag
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.sdk import DAG
    from sqlalchemy.orm import Session

_DEPTH = "AIRFLOW__CORE__DAGBAG_IMPORT_ERROR_TRACEBACK_DEPTH"


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


def returned_values(run: DagRun, session: Session) -> dict[tuple[str, int], Any]:
    """Return what the tasks of a DAG run returned, by their ids and map indexes.

    Args:
        run: the DAG run.
        session: a session on Airflow's database.
    """
    from sqlalchemy import select

    if TYPE_CHECKING or AIRFLOW_3:
        from airflow.models.xcom import XComModel as Model

        restore = restore_xcom
    else:
        from airflow.models.xcom import BaseXCom as Model

        def restore(value: Any) -> Any:
            return value  # which `deserialize_value` has done

    # Columns, since Airflow 2 decodes whole rows as it loads them, and not their tables.
    columns = select(Model.task_id, Model.map_index, Model.value)
    rows = session.execute(
        columns.where(Model.dag_id == run.dag_id, Model.run_id == run.run_id, Model.key == "return_value")
    )
    found: dict[tuple[str, int], Any] = {}
    for row in rows:
        try:
            found[row.task_id, row.map_index] = restore(Model.deserialize_value(row))
        except ImportError as error:  # of a class that Airflow was not told it may read
            found[row.task_id, row.map_index] = readable(str(error))
    return found


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
    # Who reads the bag tells its faults.
    for name in ("airflow.models.dagbag", "airflow.dag_processing.importers"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    before = os.environ.get(_DEPTH)
    os.environ[_DEPTH] = "100"  # by default two calls, among which the file's own line may not be
    try:
        bag: DagBag = _dagbag_module().DagBag(path)
        return bag
    finally:
        os.environ.pop(_DEPTH)
        if before is not None:
            os.environ[_DEPTH] = before


def run_in_process(dag: DAG) -> DagRun:
    """Run a DAG once in this process.

    Args:
        dag: the DAG.

    Raises:
        K8sVenvError: this version of Airflow cannot run it here.
    """
    if AIRFLOW == (3, 0):
        _refuse_assets(dag)
    with _its_file_alone(dag):
        run: DagRun = dag.test()
    return run


def _refuse_assets(dag: DAG) -> None:
    """Refuse what only a stored DAG can use: ``DAG.test`` of Airflow 3.0 stores none, and its tasks would fail."""
    from airflow.sdk.definitions.asset import BaseAsset

    for task in dag.tasks:
        if any(isinstance(each, BaseAsset) for each in (*task.inlets, *task.outlets)):
            raise K8sVenvError(
                f"Task {task.task_id!r} has an asset as inlet or outlet, with which Airflow 3.0 runs a task only in a "
                "deployment. Here it needs Airflow 3.1 or newer."
            )


@contextlib.contextmanager
def _its_file_alone(dag: DAG) -> Iterator[None]:
    """Have ``DAG.test`` of Airflow 3.1 and later store this DAG as its file is now, without the bundle's other files.

    By itself it loads all of the bundle, and nothing where the database knows a version of the DAG, however old, or was
    given one less than ``[core] min_serialized_dag_update_interval`` ago.
    """
    if not (TYPE_CHECKING or AIRFLOW >= (3, 1)):
        yield
        return
    from airflow import settings
    from airflow.models.dag_version import DagVersion

    at_once = mock.patch.object(settings, "MIN_SERIALIZED_DAG_UPDATE_INTERVAL", 0, create=True)
    dagbag = _dagbag_module()
    kind = "BundleDagBag" if hasattr(dagbag, "BundleDagBag") else "DagBag"
    whole = getattr(dagbag, kind)

    def one_file(dag_folder: Path, **options: Any) -> DagBag:
        if "bundle_path" in options:  # which may be any folder, also one that the file is not in
            options["bundle_path"] = pathlib.Path(dag.fileloc).parent
        bag: DagBag = whole(dag_folder=dag.fileloc, **options)
        return bag

    stored = DagVersion.get_version
    asked = itertools.count()

    def none_at_first(*arguments: Any, **options: Any) -> Any:
        return stored(*arguments, **options) if next(asked) else None

    one_bag = mock.patch.object(dagbag, kind, one_file)
    with at_once, one_bag, mock.patch.object(DagVersion, "get_version", none_at_first):
        yield


def _dagbag_module() -> Any:
    if TYPE_CHECKING or AIRFLOW >= (3, 2):
        from airflow.dag_processing import dagbag
    else:
        from airflow.models import dagbag

    return dagbag


def show_task_logs() -> None:
    """Show what tasks print, once and as it is; ``DAG.test`` of older versions shows it twice or, by its level, not."""
    if TYPE_CHECKING or AIRFLOW >= (3, 2):
        return
    if AIRFLOW >= (3, 1):
        for package in ("airflow._shared", "airflow.sdk._shared"):
            module = importlib.import_module(f"{package}.logging.structlog")
            module.PER_LOGGER_LEVELS["airflow.task.operators"] = logging.INFO
        return
    if AIRFLOW_3:
        _say_plainly()
    from airflow.utils.log.logging_mixin import RedirectStdHandler

    tasks = logging.getLogger("airflow.task")
    if not any(isinstance(handler, logging.StreamHandler) for handler in tasks.handlers):
        handler = RedirectStdHandler("sys.stdout")
        handler.filters = list(tasks.filters)  # which mask secrets
        tasks.addHandler(handler)
    tasks.propagate = False
    logging.getLogger("airflow.task.operators").setLevel(logging.INFO)
    logging.getLogger("airflow.models.dag").setLevel(logging.CRITICAL)  # it repeats the failures of tasks


def _say_plainly() -> None:
    """Let Airflow 3.0 write messages and tracebacks as text; by itself it shows the local variables, unmasked."""
    import structlog

    def as_text(_logger: Any, _method: str, event: Any) -> str:
        event.pop("logger_name", None)
        message, trace = str(event.pop("event")), event.pop("exception", None)
        line = " ".join([message, *(f"{name}={value!r}" for name, value in event.items())])
        return redact(f"{line}\n{trace}" if trace else line)

    structlog.configure(
        processors=[structlog.stdlib.PositionalArgumentsFormatter(), structlog.processors.format_exc_info, as_text],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
    )


def shortened(error: BaseException) -> str:
    """Return what to log of a task's exception instead of its traceback; nothing where that is to be shown whole.

    Args:
        error: one of k8s-venv, or one that was raised in an environment, whose own traceback came with it.
    """
    if isinstance(error.__cause__, RemoteTraceback):
        text = error.__cause__.text.rstrip()
        return "\n".join(["", text, *(note for note in getattr(error, "__notes__", ()) if note not in text)])
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return str(error) if isinstance(error, K8sVenvError) else ""


def sentence(error: BaseException | str) -> str:
    """Return an exception's type, text and notes, or the text alone where k8s-venv raised it."""
    if isinstance(error, str | K8sVenvError):
        return str(error)
    return readable("".join(traceback.format_exception_only(error)).rstrip())


def shorten_tracebacks() -> None:
    """Let Airflow log what ``shortened`` returns; the calls inside Airflow say nothing to who wrote the task."""
    if TYPE_CHECKING or AIRFLOW_3:
        import structlog

        def process(_logger: Any, _method: str, event: Any) -> Any:
            error = sys.exc_info()[1] if event.get("exc_info") else None
            text = shortened(error) if error else ""
            if text:
                del event["exc_info"]
                event["event"] = f"{event['event']}: {text}"
            return event

        structlog.get_config()["processors"].insert(0, process)
        return

    def keep(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        text = shortened(error) if error else ""
        if text:
            record.msg, record.args, record.exc_info, record.exc_text = f"{record.getMessage()}: {text}", (), None, None
        return True

    for handler in logging.getLogger("airflow.task").handlers:
        handler.addFilter(keep)


def tell_failures(failed: Callable[[str, int, str], None]) -> None:
    """Have every failure of a task told from now on.

    Args:
        failed: is called with the task's id, its map index, and what it raised.
    """
    from airflow.listeners import hookimpl

    if TYPE_CHECKING or AIRFLOW >= (3, 2):
        from airflow.sdk.listener import get_listener_manager
    else:
        from airflow.listeners.listener import get_listener_manager

    class Listener:
        @hookimpl
        def on_task_instance_failed(self, task_instance: Any, error: BaseException | str | None) -> None:
            if isinstance(error, KeyboardInterrupt):
                raise error  # Airflow would go on with the next task
            if error is not None:
                failed(task_instance.task_id, task_instance.map_index, redact(sentence(error)))

    listeners: Any = get_listener_manager()
    listeners.add_listener(Listener())
