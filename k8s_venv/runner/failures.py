"""What went wrong in a call, as plain data that the sender can raise again."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any, Dict, Optional, Tuple

from k8s_venv.runner import protocol
from k8s_venv.runner.errors import MissingLibraryError, NoCodecError
from k8s_venv.runner.values import dumps, loads
from k8s_venv.runtime import FailTask, SkipTask

if TYPE_CHECKING:
    from types import TracebackType

_AIRFLOW_OUTCOMES = {"AirflowSkipException": protocol.SKIP, "AirflowFailException": protocol.FAIL}


def outcome(error: BaseException) -> str:
    """Return the outcome that an exception stands for."""
    if isinstance(error, SkipTask):
        return protocol.SKIP
    if isinstance(error, FailTask):
        return protocol.FAIL
    for kind in type(error).__mro__:
        if kind.__module__.partition(".")[0] == "airflow" and kind.__name__ in _AIRFLOW_OUTCOMES:
            return _AIRFLOW_OUTCOMES[kind.__name__]
    return protocol.FAILURE


def describe(error: BaseException) -> Dict[str, Any]:
    """Return an exception as plain data.

    The traceback is text, from the user's own first line on: it names the lines of the DAG file, whose
    source the call brought along.

    Args:
        error: the exception, with its traceback.

    Returns:
        The type's module and name, the message, the arguments where they can travel, and the traceback.

    """
    kind = type(error)
    error.__traceback__ = _without_runner(error.__traceback__)
    try:
        lines = traceback.format_exception(kind, error, error.__traceback__)
    except Exception as broken:  # noqa: BLE001 -- an exception whose own methods fail
        lines = [
            *traceback.format_tb(error.__traceback__),
            f"{kind.__qualname__}: <{broken!r} while printing it>\n",
        ]
    return {
        "module": kind.__module__,
        "name": kind.__qualname__,
        "bases": [f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__[1:-1]],
        "message": _text(error),
        "args": _arguments(error),
        "missing": getattr(error, "name", None) if isinstance(error, ImportError) else None,
        "traceback": "".join(lines),
        "notes": [str(note) for note in getattr(error, "__notes__", ())],
    }


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001 -- an exception whose own methods fail
        return f"<{type(broken).__name__} while reading the message>"


def _arguments(error: BaseException) -> Optional[Tuple[Any, ...]]:
    try:
        # Only what the sender can read as well: a failure must never be lost to its own arguments.
        arguments: Tuple[Any, ...] = loads(dumps(tuple(error.args)))
    except (NoCodecError, MissingLibraryError, ValueError):
        return None
    return arguments


def _without_runner(frames: Optional[TracebackType]) -> Optional[TracebackType]:
    """Drop the runner's own frames from the start of a traceback."""
    while frames is not None and _is_runner(frames):
        frames = frames.tb_next
    return frames


def _is_runner(frame: TracebackType) -> bool:
    names = frame.tb_frame.f_globals
    if str(names.get("__name__")).startswith("k8s_venv.runner"):
        return True
    return str(names.get("__file__")).endswith(f"{protocol.ARCHIVE}/__main__.py")
