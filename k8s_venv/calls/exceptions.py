"""Raise again what a call raised, from the runner's description.

Nothing is imported here. An exception's type is only looked up, in modules that are loaded already: built-in ones,
the standard library's, Airflow's, and those that the call itself shipped. Any other becomes a ``RemoteError``.
"""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import sys
from typing import TYPE_CHECKING, Any

from k8s_venv.capture.origins import why_absent
from k8s_venv.errors import BackendError, CallError, RemoteError, readable, visible
from k8s_venv.runtime import FailTask, SkipTask
from k8s_venv.wire import protocol
from k8s_venv.wire.masking import masked_data
from k8s_venv.wire.shipped_types import attribute_setter, make_exception, own_name, why_unsafe
from k8s_venv.wire.values import loads

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from k8s_venv.calls.packed import SentCall

_AIRFLOW_ERRORS = {"AirflowException", "AirflowNotFoundException", "AirflowBadRequest", "AirflowTaskTimeout"}
_LONGEST_NAME = 200  # characters of a module's name
# The second name stands in results that an earlier version of the runner wrote.
_RUNNER_ERRORS = ("k8s_venv.wire.errors", "k8s_venv.runner.errors")


class RemoteTraceback(Exception):  # noqa: N818 -- the cause of another exception, shown above it
    """The traceback of the environment's side, as the cause of the exception that is raised here.

    Args:
        text: the traceback as the environment printed it.
    """

    def __init__(self, text: str) -> None:
        self.text = visible(readable(text))
        super().__init__(self.text)

    def __str__(self) -> str:
        return f"\n\n{self.text}"


def rebuild(outcome: str, failure: Mapping[str, Any], call: SentCall) -> BaseException:
    """Return the exception for a failure.

    Args:
        outcome: the result's outcome.
        failure: the runner's description.
        call: the call that failed.
    """
    try:
        if outcome == protocol.SKIP:
            return SkipTask(visible(str(failure["message"])))
        if failure["module"] in _RUNNER_ERRORS:
            return _our_error(failure, call)
        error = FailTask(visible(str(failure["message"]))) if outcome == protocol.FAIL else _exception(failure, call)
        trace = RemoteTraceback(str(failure["traceback"]))
        # The traceback shows what the exception followed. Code finds it here as well, but it is shown only once.
        trace.__context__, trace.__suppress_context__ = error.__cause__ or error.__context__, True
        error.__cause__ = trace
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as broken:
        return BackendError(call.environment.name, f"the call's failure cannot be read: {broken!r}.")
    return error


def _exception(failure: Mapping[str, Any], call: SentCall) -> BaseException:
    """Return an exception, without its traceback, with what it held and what it followed."""
    name, held = str(failure["name"]), _held(failure, call)
    error = _as_itself(failure, held, call) if failure["group"] is None else _group(failure, held, call)
    if error is None:
        module, arguments = str(failure["module"]), held.args if held.whole is not None else None
        full_name = name if module == builtins.__name__ else f"{own_name(module)}.{name}"
        error = RemoteError(full_name, str(failure["message"]), arguments, held.attributes)
    missing = failure["missing"]
    if isinstance(error, ImportError):
        error.name = missing
    for note in (*_items(failure, "notes"), *_items(failure, "plainer")):
        error.add_note(visible(str(note)))
    if name == "ModuleNotFoundError" and missing:
        error.add_note(_requirement_hint(str(missing), call))
    elif name == "ImportError" and missing:
        environment = call.environment
        error.add_note(f"Environment {environment.name!r} (Python {environment.python}) has a {missing!r} without it.")
    if held.left_out:
        left_out = visible(", ".join(held.left_out))
        error.add_note(f"Left out of this exception, since it cannot travel: {left_out}.")
    if failure.get("previous") is not None:
        previous = _exception(failure["previous"], call)
        if failure.get("explicit"):
            error.__cause__ = previous
        error.__context__ = previous
    return error


def _items(failure: Mapping[str, Any], name: str) -> Sequence[Any]:
    """Return a list of the description; anything else that a pod may put there, such as a range, may have no end."""
    found = failure.get(name)
    if found is not None and type(found) not in (list, tuple):
        raise TypeError(f"its {name!r} is not a list")
    return found or ()


class _LeftOut(str):
    """The text of an argument that could not travel, which looks as that did."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


@dataclasses.dataclass
class _Held:
    """What an exception held.

    Args:
        args: its arguments, with the text of each one that could not travel.
        whole: the same, with None for each one that could not travel; None if nothing is known of them.
        attributes: its attributes by their names.
        left_out: those of them that could not travel, for people.
    """

    args: tuple[Any, ...]
    whole: tuple[Any, ...] | None
    attributes: dict[str, Any]
    left_out: list[str]


def _held(failure: Mapping[str, Any], call: SentCall) -> _Held:
    """Return what an exception held, as far as it can be read here."""
    left_out = [f"{name} ({kind})" for name, kind in _items(failure, "left_out")]
    given = tuple(_items(failure, "args"))
    if failure["args"] is not None or "encoded_args" not in failure:
        found = _Held(given, given if failure["args"] is not None else None, {}, left_out)
    else:
        shown, whole = [], []
        for number, part in enumerate(_items(failure, "encoded_args")):
            value, problem = (None, None) if isinstance(part, str) else _read(part, call)
            left_out += [f"args[{number}] ({problem})"] if problem else []
            shown.append(_LeftOut(part) if isinstance(part, str) else _LeftOut(f"<{problem}>") if problem else value)
            whole.append(value)
        found = _Held(tuple(shown), tuple(whole), {}, left_out)
    for name, part in _items(failure, "attributes"):
        value, problem = _read(part, call)
        if problem:
            left_out.append(f"{name} ({problem})")
        else:
            found.attributes[str(name)] = value
    return found


def _read(part: Any, call: SentCall) -> tuple[Any, str | None]:
    """Return a part of an exception, and why it cannot be read here, if so."""
    if not isinstance(part, bytes):
        return _exception(part, call), None
    try:
        return loads(part, types=call.types), None
    except Exception as error:  # noqa: BLE001 -- a failure is never lost to one of its parts
        return None, readable(str(error))


def _group(failure: Mapping[str, Any], held: _Held, call: SentCall) -> BaseException:
    members = [_exception(member, call) for member in _items(failure, "group")]
    module, name = str(failure["module"]), str(failure["name"])
    message = visible(str(held.args[0]) if held.args else str(failure["message"]).rpartition(" (")[0])
    kind: Any = _known_type(module, name, call)
    with contextlib.suppress(Exception):  # a type of the user's own with a constructor of its own
        if kind is not None and issubclass(kind, BaseExceptionGroup):
            return _restored(kind(message, members), held)
    error = BaseExceptionGroup(message, members)
    if module != builtins.__name__:
        error.add_note(visible(f"It was a {readable(own_name(module))}.{name}."))
    return error


def _as_itself(failure: Mapping[str, Any], held: _Held, call: SentCall) -> BaseException | None:
    """Return the exception as its own type, if that may be raised here and has the same text.

    In its arguments, text that would hide or imitate other text in a log is escaped.
    """
    kind: Any = _known_type(str(failure["module"]), str(failure["name"]), call)
    shown = visible(failure["message"])
    if shown != failure["message"]:
        held = _Held(*masked_data((held.args, held.whole, held.attributes, held.left_out), visible))
    whole = held.whole
    if kind is None or whole is None or why_unsafe(kind, whole):
        return None
    absent = {str(name): None for name, _ in _items(failure, "left_out")}
    whole_held = dataclasses.replace(held, attributes={**absent, **held.attributes})
    makers: tuple[Callable[[], BaseException], ...] = (
        lambda: _restored(kind(*whole), held),
        lambda: _restored(make_exception(kind, held.args), held),
        # One that does without its constructor only if all its attributes are there.
        lambda: _restored(make_exception(kind, held.args), whole_held),
    )
    for maker in makers:
        with contextlib.suppress(BaseException):  # a type that is made in another way
            rebuilt = maker()
            if str(rebuilt) == shown and not why_unsafe(kind, rebuilt.args, rebuilt):
                return rebuilt
    return _with_another_text(kind, held, shown) if held.left_out or failure.get("plainer") else None


def _with_another_text(kind: type[BaseException], held: _Held, shown: str) -> BaseException | None:
    """Return an exception whose parts, and with them its text, differ here."""
    with contextlib.suppress(BaseException):
        rebuilt = _restored(make_exception(kind, held.args), held)
        str(rebuilt)  # one that cannot be shown cannot be raised
        rebuilt.add_note(f"Its text was: {shown}")
        return rebuilt
    return None


def _restored(error: BaseException, held: _Held) -> BaseException:
    """Give an exception its attributes back, by no code of its own."""
    for name, value in held.attributes.items():
        give = None if name.startswith("args[") else attribute_setter(type(error), name)
        if give is not None:
            with contextlib.suppress(AttributeError, TypeError, ValueError):
                give(error, value)
    getattr(error, "__notes__", None)  # one whose `__getattr__` fails without its constructor cannot be raised
    return error


def _known_type(module: str, name: str, call: SentCall) -> type[Exception] | None:
    """Return an exception's type if it may be raised here; nothing is imported."""
    root = module.partition(".")[0]
    found: Any = call.types(module, name)
    if found is None and (root in sys.stdlib_module_names or (root == "airflow" and name in _AIRFLOW_ERRORS)):
        found = sys.modules.get(module)  # others of Airflow's steer it, which is not an environment's to do
        for part in name.split("."):
            # Attributes that are computed may import something.
            found = getattr(found, part, None) if root == "airflow" else vars(found).get(part) if found else None
            found = found if isinstance(found, type) else None
    return found if isinstance(found, type) and issubclass(found, Exception) else None


def _our_error(failure: Mapping[str, Any], call: SentCall) -> Exception:
    """Return the error for a refusal of the runner itself."""
    environment, name, message = call.environment, failure["name"], str(failure["message"])
    args: tuple[Any, ...] = tuple(_items(failure, "args"))
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


def _requirement_hint(missing: str, call: SentCall) -> str:
    environment = call.environment
    # Any other text could be the path of a file.
    is_name = len(missing) < _LONGEST_NAME and all(part.isidentifier() for part in missing.split("."))
    why = (why_absent(missing, None, environment.root) if is_name else "") or (
        f"Add the package that provides it to {environment.requirements_place}, then run `k8s-venv lock "
        f"{environment.name}`."
    )
    return f"Environment {environment.name!r} (Python {environment.python}) has no module {missing!r}. {why}"
