"""Raise again what a call raised, from what the runner said of it.

Nothing is imported here. An exception's type is only looked up, in modules that are loaded already: built-in ones,
the standard library's, Airflow's, and those that the call itself shipped. Anything else becomes a ``RemoteError``.
"""

from __future__ import annotations

import builtins
import contextlib
import sys
from typing import TYPE_CHECKING, Any

from k8s_venv.calls.source.absent import why_absent
from k8s_venv.errors import BackendError, CallError, RemoteError, readable
from k8s_venv.runner import protocol
from k8s_venv.runner.shipped_types import own_name
from k8s_venv.runtime import FailTask, SkipTask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from k8s_venv.calls.packed import PackedCall

_AIRFLOW_ERRORS = {"AirflowException", "AirflowNotFoundException", "AirflowBadRequest", "AirflowTaskTimeout"}
_RUNNER_ERRORS = "k8s_venv.runner.errors"


class RemoteTraceback(Exception):  # noqa: N818 -- the cause of another exception, shown above it
    """The traceback of the environment's side, as the cause of the exception that is raised here.

    Args:
        text: the traceback as the environment printed it.
    """

    def __init__(self, text: str) -> None:
        self.text = readable(text)
        super().__init__(self.text)

    def __str__(self) -> str:
        return f"\n\n{self.text}"


def rebuild(outcome: str, failure: Mapping[str, Any], call: PackedCall) -> BaseException:
    """Return the exception for a failure.

    Args:
        outcome: the result's outcome.
        failure: what the runner said.
        call: the call that failed.
    """
    try:
        if outcome == protocol.SKIP:
            return SkipTask(str(failure["message"]))
        if failure["module"] == _RUNNER_ERRORS:
            return _our_error(failure, call)
        error = FailTask(str(failure["message"])) if outcome == protocol.FAIL else _exception(failure, call)
        error.__cause__ = RemoteTraceback(str(failure["traceback"]))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as broken:
        return BackendError(call.environment.name, f"the call's failure cannot be read: {broken!r}.")
    return error


def _exception(failure: Mapping[str, Any], call: PackedCall) -> BaseException:
    module, name, message = str(failure["module"]), str(failure["name"]), str(failure["message"])
    args = tuple(failure["args"]) if failure["args"] is not None else None
    if failure["group"] is not None:
        members = [_exception(member, call) for member in failure["group"]]
        error: BaseException = BaseExceptionGroup(message.rpartition(" (")[0], members)
    else:
        error = _as_itself(module, name, message, args, call) or RemoteError(
            name if module == builtins.__name__ else f"{own_name(module)}.{name}", message, args
        )
    for note in failure["notes"]:
        error.add_note(str(note))
    missing = failure["missing"]
    if isinstance(error, ImportError):
        error.name = missing
    if name == "ModuleNotFoundError" and missing:
        error.add_note(_requirement_hint(str(missing), call))
    elif name == "ImportError" and missing:
        environment = call.environment
        error.add_note(f"Environment {environment.name!r} (Python {environment.python}) has a {missing!r} without it.")
    return error


def _as_itself(
    module: str, name: str, message: str, args: tuple[Any, ...] | None, call: PackedCall
) -> BaseException | None:
    """Return the exception as its own type, where that may be raised here and says the same."""
    kind = _known_type(module, name, call)
    if kind is None or args is None:
        return None
    with contextlib.suppress(BaseException):  # a type that is not made from its `args`
        rebuilt = kind(*args)
        if str(rebuilt) == message:
            return rebuilt
    with contextlib.suppress(BaseException):  # one whose constructor takes something else
        rebuilt = kind.__new__(kind, *args)
        rebuilt.args = args
        if str(rebuilt) == message:
            return rebuilt
    return None


def _known_type(module: str, name: str, call: PackedCall) -> type[Exception] | None:
    """Return an exception's type where it may be raised here; none is imported."""
    root = module.partition(".")[0]
    found: Any = call.types(module, name)
    if found is None and (root in sys.stdlib_module_names or (root == "airflow" and name in _AIRFLOW_ERRORS)):
        found = sys.modules.get(module)  # others of Airflow's steer it, which is not an environment's to do
        for part in name.split("."):
            found = getattr(found, part, None)
    return found if isinstance(found, type) and issubclass(found, Exception) else None


def _our_error(failure: Mapping[str, Any], call: PackedCall) -> Exception:
    """Return the error for what the runner itself refused."""
    environment, name, message = call.environment, failure["name"], str(failure["message"])
    args: tuple[Any, ...] = tuple(failure["args"] or ())
    if name == "NoCodecError" and len(args) == 2:
        return CallError(
            f"The result of {call.function}() cannot travel: {args[0]} is {args[1]}. Return plain data, arrays, frames "
            "or dataclasses of the project; say how its type travels with k8s_venv.runtime.register_codec(); or let "
            'this task\'s results be pickled with serializer="cloudpickle", which lets the environment run code here.'
        )
    if name == "MissingLibraryError":
        return CallError(
            f"An argument of {call.function}() cannot be read in environment {environment.name!r}: {message}. Add it "
            f"to {environment.requirements_place} and run `k8s-venv lock {environment.name}`."
        )
    if name in ("UnknownTypeError", "UnknownCodecError", "UnreadableVersionError"):
        return CallError(
            f"An argument of {call.function}() cannot be read in environment {environment.name!r}: {message}."
        )
    if name == "RestoringError":
        return CallError(
            f"What {call.function}() needs cannot be restored in environment {environment.name!r} (Python "
            f"{environment.python}): {message}. Its Python or a package there is another than here: "
            "make it inside the function, or pass plain data."
        )
    return BackendError(environment.name, message)


def _requirement_hint(missing: str, call: PackedCall) -> str:
    environment = call.environment
    why = why_absent(missing, None, environment.root) or (
        f"Add the package that provides it to {environment.requirements_place}, then run `k8s-venv lock "
        f"{environment.name}`."
    )
    return f"Environment {environment.name!r} (Python {environment.python}) has no module {missing!r}. {why}"
