"""What went wrong in a call, as plain data that the sender can raise again."""

from __future__ import annotations

import traceback

from k8s_venv.runner import protocol
from k8s_venv.runner.values import dumps, loads
from k8s_venv.runtime import FailTask, SkipTask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Dict, List, Optional, Tuple

# Bounds on what a failure may carry, so that it always arrives.
TRACEBACK_LIMIT = 256 * 1024  # characters
SHORT_LIMIT = 1500  # characters of a failure that has to fit into a pod's status
GROUP_LIMIT = 100  # exceptions of a group, and levels of groups in groups

_AIRFLOW_OUTCOMES = {"AirflowSkipException": protocol.SKIP, "AirflowFailException": protocol.FAIL}


def outcome(error: BaseException) -> str:
    """Return the outcome that an exception stands for."""
    if isinstance(error, SkipTask):
        return protocol.SKIP
    if isinstance(error, FailTask):
        return protocol.FAIL
    for kind in type(error).__mro__:
        if str(kind.__module__).partition(".")[0] == "airflow" and kind.__name__ in _AIRFLOW_OUTCOMES:
            return _AIRFLOW_OUTCOMES[kind.__name__]
    return protocol.FAILURE


def describe(error: BaseException) -> Dict[str, Any]:
    """Return an exception as plain data.

    The traceback is text, from the user's own first line on: it names the lines of the DAG file, whose
    source the call brought along.

    Args:
        error: the exception, with its traceback.

    Returns:
        What ``facts`` returns, and the traceback with all causes.
    """
    error.__traceback__ = _without_runner(error.__traceback__)
    try:
        lines = traceback.format_exception(type(error), error, error.__traceback__)
    except BaseException as broken:  # noqa: BLE001 -- an exception whose own methods fail
        name = type(error).__qualname__
        lines = [*traceback.format_tb(error.__traceback__), f"{name}: <{broken!r} while printing it>\n"]
    return {**facts(error, 0), "traceback": _shortened("".join(lines))}


def bare(error: BaseException) -> Dict[str, Any]:
    """Return the least that can be said of an exception whose own methods fail."""
    name = type(error).__qualname__
    lines = traceback.format_tb(_without_runner(error.__traceback__))
    return {
        "module": str(type(error).__module__),
        "name": name,
        "message": "<cannot be read>",
        "args": None,
        "missing": None,
        "notes": [],
        "group": None,
        "traceback": _shortened("".join([*lines, f"{name}: <cannot be read>\n"])),
    }


def short(error: BaseException) -> Dict[str, Any]:
    """Return what of an exception fits into a pod's status: its type, its message's beginning, its last frames."""
    known = bare(error)
    whole = _text(error)
    message = whole if len(whole) <= SHORT_LIMIT // 3 else f"{whole[: SHORT_LIMIT // 3]}[…]"
    trace = known["traceback"].rpartition("\n")[0].rpartition("\n")[0]
    return {
        **known,
        "message": message,
        "args": (message,) if error.args == (whole,) else None,
        "traceback": f"{trace[-SHORT_LIMIT:]}\n{known['name']}: {message}\n",
    }


def facts(error: BaseException, depth: int) -> Dict[str, Any]:
    """Return what an exception is, without its traceback.

    Args:
        error: the exception.
        depth: how many groups it is part of.

    Returns:
        The type's module and name, the message, the arguments where they can travel, the notes, the name that an
        import missed, and the members of a group.
    """
    kind = type(error)
    return {
        "module": str(kind.__module__),
        "name": kind.__qualname__,
        "message": _text(error),
        "args": _arguments(error),
        "missing": str(error.name) if isinstance(error, ImportError) and error.name else None,
        "notes": _notes(error),
        "group": _members(error, depth),
    }


def _members(error: BaseException, depth: int) -> Optional[List[Dict[str, Any]]]:
    """Return the members of an exception group (PEP 654)."""
    members = getattr(error, "exceptions", None)
    if not hasattr(error, "derive") or not isinstance(members, tuple) or depth >= GROUP_LIMIT:
        return None
    return [facts(member, depth + 1) for member in members[:GROUP_LIMIT]]


def _notes(error: BaseException) -> List[str]:
    notes = getattr(error, "__notes__", ())
    return [str(note) for note in notes] if isinstance(notes, (list, tuple)) else []


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as broken:  # noqa: BLE001 -- an exception whose own methods fail
        return f"<{type(broken).__name__} while reading the message>"


def _arguments(error: BaseException) -> Optional[Tuple[Any, ...]]:
    """Return what an exception is made from, where it can travel."""
    try:
        parts: Any = error.__reduce__()
        made_by, arguments = parts[0], parts[1]
    except BaseException:  # noqa: BLE001 -- an exception whose own methods fail
        made_by, arguments = None, ()
    if made_by is not type(error):
        arguments = error.args
    try:
        # Only what the sender can read as well: a failure must never be lost to its own arguments.
        readable: Tuple[Any, ...] = loads(dumps(tuple(arguments)))
    except Exception:  # noqa: BLE001 -- whatever its arguments are made of
        return None
    return readable


def _shortened(text: str) -> str:
    if len(text) <= TRACEBACK_LIMIT:
        return text
    half = TRACEBACK_LIMIT // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters …]\n{text[-half:]}"


def _without_runner(frames: Optional[TracebackType]) -> Optional[TracebackType]:
    """Drop the runner's own frames from the start of a traceback."""
    while frames is not None and str(frames.tb_frame.f_globals.get("__name__")).startswith("k8s_venv.runner"):
        frames = frames.tb_next
    return frames
