"""Load a DAG file and run its DAG in this process, with each version of Airflow."""

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


def read_dag_file(path: Path) -> DagBag:
    """Load a DAG file as Airflow does.

    Args:
        path: the file.
    """
    # The caller reports the faults in the bag.
    for name in ("airflow.models.dagbag", "airflow.dag_processing.importers"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    before = os.environ.get(_DEPTH)
    os.environ[_DEPTH] = "100"  # the default of two calls may not include the file's own line
    try:
        bag: DagBag = _dagbag_module().DagBag(path)
        return bag
    finally:
        os.environ.pop(_DEPTH)
        if before is not None:
            os.environ[_DEPTH] = before


def _dagbag_module() -> Any:
    if TYPE_CHECKING or AIRFLOW >= (3, 2):
        from airflow.dag_processing import dagbag
    else:
        from airflow.models import dagbag

    return dagbag


@dataclasses.dataclass(frozen=True)
class TaskOutcome:
    """How one task of a DAG run ended.

    Args:
        task_id: the task.
        map_index: its number if it is mapped, else -1.
        state: its state in Airflow's words.
        seconds: its duration.
        value: its returned value, or None.
        error: its exception, if it failed.
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
    report_failures(lambda task_id, map_index, text: errors.update({(task_id, map_index): text}))
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


def run_in_process(dag: DAG) -> DagRun:
    """Run a DAG once in this process.

    Args:
        dag: the DAG.

    Raises:
        K8sVenvError: this version of Airflow cannot run it outside a deployment.
    """
    if AIRFLOW == (3, 0):
        _refuse_assets(dag)
    with _storing_only(dag):
        run: DagRun = dag.test()
    return run


def _refuse_assets(dag: DAG) -> None:
    """Refuse assets, which only a stored DAG can use: ``DAG.test`` of Airflow 3.0 stores none, and tasks would fail."""
    from airflow.sdk.definitions.asset import BaseAsset

    for task in dag.tasks:
        if any(isinstance(each, BaseAsset) for each in (*task.inlets, *task.outlets)):
            raise K8sVenvError(
                f"Task {task.task_id!r} has an asset as inlet or outlet, with which Airflow 3.0 runs a task only in a "
                "deployment. Here it needs Airflow 3.1 or newer."
            )


@contextlib.contextmanager
def _storing_only(dag: DAG) -> Iterator[None]:
    """Let ``DAG.test`` of Airflow 3.1 and later store this DAG as its file is now, without the bundle's other files.

    Without this it loads the whole bundle, or nothing if the database has any version of the DAG, or a version that was
    stored less than ``[core] min_serialized_dag_update_interval`` ago.
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
        if "bundle_path" in options:  # it may be a folder that does not contain the file
            options["bundle_path"] = pathlib.Path(dag.fileloc).parent
        bag: DagBag = whole(dag_folder=dag.fileloc, **options)
        return bag

    stored = DagVersion.get_version
    asked = itertools.count()

    def absent_at_first(*arguments: Any, **options: Any) -> Any:
        return stored(*arguments, **options) if next(asked) else None

    one_bag = mock.patch.object(dagbag, kind, one_file)
    with at_once, one_bag, mock.patch.object(DagVersion, "get_version", absent_at_first):
        yield


def returned_values(run: DagRun, session: Session) -> dict[tuple[str, int], Any]:
    """Return the values that the tasks of a DAG run returned, by their ids and map indexes.

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
            return value  # `deserialize_value` has restored it

    # Columns, since Airflow 2 decodes whole rows as it loads them, and not their tables.
    columns = select(Model.task_id, Model.map_index, Model.value)
    rows = session.execute(
        columns.where(Model.dag_id == run.dag_id, Model.run_id == run.run_id, Model.key == "return_value")
    )
    found: dict[tuple[str, int], Any] = {}
    for row in rows:
        try:
            found[row.task_id, row.map_index] = restore(Model.deserialize_value(row))
        except ImportError as error:  # a class that Airflow's configuration does not let it read
            found[row.task_id, row.map_index] = readable(str(error))
    return found


def task_times(run: DagRun, session: Session) -> list[tuple[TaskInstance, float]]:
    """Return the tasks of a DAG run in the order in which they ran, each with its duration in seconds.

    Args:
        run: a DAG run of ``run_in_process``.
        session: a session on Airflow's database.
    """
    instances = run.get_task_instances(session=session)
    if TYPE_CHECKING or AIRFLOW_3:
        return [(ti, ti.duration or 0.0) for ti in sorted(instances, key=lambda ti: str(ti.start_date or "~"))]
    # In Airflow 2 a worker notes a task's start, and `DAG.test` has no worker: it runs one task after another.
    instances.sort(key=lambda ti: str(ti.end_date or "~"))
    ends = [ti.end_date or run.end_date for ti in instances]
    starts = [run.start_date, *ends]
    return [(ti, (end - start).total_seconds()) for ti, start, end in zip(instances, starts, ends, strict=False)]


def show_task_logs() -> None:
    """Show the output of tasks once and unchanged; ``DAG.test`` of older versions shows it twice, or hides it."""
    if TYPE_CHECKING or AIRFLOW >= (3, 2):
        return
    if AIRFLOW >= (3, 1):
        for package in ("airflow._shared", "airflow.sdk._shared"):
            module = importlib.import_module(f"{package}.logging.structlog")
            module.PER_LOGGER_LEVELS["airflow.task.operators"] = logging.INFO
        return
    if AIRFLOW_3:
        _log_as_text()
    from airflow.utils.log.logging_mixin import RedirectStdHandler

    tasks = logging.getLogger("airflow.task")
    if not any(isinstance(handler, logging.StreamHandler) for handler in tasks.handlers):
        handler = RedirectStdHandler("sys.stdout")
        handler.filters = list(tasks.filters)  # which mask secrets
        tasks.addHandler(handler)
    tasks.propagate = False
    logging.getLogger("airflow.task.operators").setLevel(logging.INFO)
    logging.getLogger("airflow.models.dag").setLevel(logging.CRITICAL)  # it repeats the failures of tasks


def _log_as_text() -> None:
    """Let Airflow 3.0 write messages and tracebacks as text; else it shows local variables, without masking."""
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
    """Return the text to log for an exception instead of its traceback; nothing if the traceback is to be shown.

    Args:
        error: the exception; one that was raised in an environment brings its own traceback.
    """
    if isinstance(error.__cause__, RemoteTraceback):
        text = error.__cause__.text.rstrip()
        return "\n".join(["", text, *(note for note in getattr(error, "__notes__", ()) if note not in text)])
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return str(error) if isinstance(error, K8sVenvError) else ""


def _sentence(error: BaseException | str) -> str:
    """Return an exception's type, text and notes, or the text alone if k8s-venv raised it."""
    if isinstance(error, str | K8sVenvError):
        return str(error)
    return readable("".join(traceback.format_exception_only(error)).rstrip())


def shorten_tracebacks() -> None:
    """Let Airflow log what ``shortened`` returns: the calls inside Airflow do not help the task's author."""
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


def report_failures(failed: Callable[[str, int, str], None]) -> None:
    """Report each failure of a task from now on.

    Args:
        failed: is called with the task's id, its map index, and a sentence about its exception.
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
                raise error  # Airflow would run the next task
            if error is not None:
                failed(task_instance.task_id, task_instance.map_index, redact(_sentence(error)))

    listeners: Any = get_listener_manager()
    listeners.add_listener(Listener())
