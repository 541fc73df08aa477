"""How a run in this process tells that tasks failed: what went wrong, without the calls inside Airflow."""

from __future__ import annotations

import logging
import sys
import traceback
from typing import TYPE_CHECKING, Any

from k8s_venv.airflow.compat import AIRFLOW, AIRFLOW_3, redact
from k8s_venv.calls.exceptions import RemoteTraceback
from k8s_venv.errors import K8sVenvError, readable

if TYPE_CHECKING:
    from collections.abc import Callable


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
