"""What went wrong in a call, as plain data that the sender can raise again."""

from __future__ import annotations

import traceback

from k8s_venv.runner.exception_parts import EXCEPTIONS_LIMIT, LEVELS_LIMIT, Parts, is_group
from k8s_venv.runtime import FailTask, SkipTask
from k8s_venv.wire import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Callable, Dict, List, Optional

    from k8s_venv.wire.registry import Types

# Bounds on what a failure may carry, so that it always arrives.
TRACEBACK_LIMIT = 256 * 1024  # characters
SHORT_LIMIT = 1500  # characters of a failure that has to fit into a pod's status

_OWN = ("k8s_venv.runner", "k8s_venv.wire")
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


def describe(
    error: BaseException, types: Optional[Types] = None, mask: Optional[Callable[[str], str]] = None
) -> Dict[str, Any]:
    """Return an exception as plain data.

    The traceback is text, from the user's own first line on: it names the lines of the DAG file, whose
    source the call brought along.

    Args:
        error: the exception, with its traceback.
        types: finds the types that travelled with the call.
        mask: hides secrets in what the exception holds; the texts are still to be masked.

    Returns:
        What ``_facts`` returns, and the traceback with all causes.
    """
    error.__traceback__ = _without_runner(error.__traceback__)
    try:
        lines = traceback.format_exception(type(error), error, error.__traceback__)
    except BaseException as broken:  # noqa: BLE001 -- an exception whose own methods fail
        name = type(error).__qualname__
        lines = [*traceback.format_tb(error.__traceback__), f"{name}: <{broken!r} while printing it>\n"]
    parts = Parts(types, mask, lambda held, depth: _facts(held, parts, depth))
    return {**_facts(error, parts, 0), "traceback": _shortened("".join(lines))}


def bare(error: BaseException) -> Dict[str, Any]:
    """Return the least that is known about an exception whose own methods fail."""
    name, message = type(error).__qualname__, _text(error)
    return {
        "module": str(type(error).__module__),
        "name": name,
        "message": message,
        "args": None,
        "missing": None,
        "notes": [],
        "group": None,
        "traceback": _shortened(f"{_frames(error)}{name}: {message}\n"),
    }


def short(error: BaseException) -> Dict[str, Any]:
    """Return what of an exception fits into a pod's status: its type, its message's beginning, its last frames."""
    known = bare(error)
    whole = known["message"]
    message = whole if len(whole) <= SHORT_LIMIT // 3 else f"{whole[: SHORT_LIMIT // 3]}[…]"
    holds = bool(getattr(error, "__dict__", None)) or error.__cause__ or error.__context__ or error.args != (whole,)
    return {
        **known,
        "message": message,
        "args": (message,) if error.args == (whole,) else None,
        "notes": ["What it holds beside its message did not fit into the pod's status."] if holds else [],
        "traceback": f"{_frames(error)[-SHORT_LIMIT:]}{known['name']}: {message}\n",
    }


def _facts(error: BaseException, parts: Parts, depth: int) -> Dict[str, Any]:
    """Return what an exception is, without its traceback.

    Args:
        error: the exception.
        parts: encodes what it holds.
        depth: how many exceptions hold it.

    Returns:
        The type's module and name, the message, the notes, the name that an import missed, the members of a group,
        and what ``parts`` returns.
    """
    kind = type(error)
    held = parts.of(error, depth)
    return {
        "module": str(kind.__module__),
        "name": kind.__qualname__,
        "message": _text(error),
        "missing": str(error.name) if isinstance(error, ImportError) and error.name else None,
        "notes": _notes(error),
        "group": _members(error, parts, depth),
        **held,
    }


def _members(error: BaseException, parts: Parts, depth: int) -> Optional[List[Dict[str, Any]]]:
    """Return the members of an exception group (PEP 654)."""
    if not is_group(error) or depth >= LEVELS_LIMIT:
        return None
    members: Any = error.exceptions  # type: ignore[attr-defined]
    return [_facts(member, parts, depth + 1) for member in members[:EXCEPTIONS_LIMIT]]


def _notes(error: BaseException) -> List[str]:
    notes = vars(error).get("__notes__", ())
    found = [str(note) for note in notes] if isinstance(notes, (list, tuple)) else []
    members: Any = error.exceptions if is_group(error) else ()  # type: ignore[attr-defined]
    if len(members) > EXCEPTIONS_LIMIT:
        found.append(f"{len(members) - EXCEPTIONS_LIMIT} more exceptions of this group stand in the traceback alone.")
    return found


def _text(error: BaseException) -> str:
    """Return an exception's text as a plain str; where its own method fails, what Python's shows of its arguments."""
    try:
        return str.__str__(str(error))
    except BaseException as broken:  # noqa: BLE001 -- an exception whose own methods fail
        failed = f"<{type(broken).__name__} while reading the message>"
    try:
        return f"{failed} {BaseException.__str__(error)}".rstrip()
    except BaseException:  # noqa: BLE001 -- and so do those of its arguments
        return failed


def _frames(error: BaseException) -> str:
    return "".join(traceback.format_tb(_without_runner(error.__traceback__)))


def _shortened(text: str) -> str:
    if len(text) <= TRACEBACK_LIMIT:
        return text
    half = TRACEBACK_LIMIT // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters …]\n{text[-half:]}"


def _without_runner(frames: Optional[TracebackType]) -> Optional[TracebackType]:
    """Drop the runner's own frames from the start of a traceback."""
    while frames is not None and str(frames.tb_frame.f_globals.get("__name__")).startswith(_OWN):
        frames = frames.tb_next
    return frames
