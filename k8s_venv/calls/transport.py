"""How a function travels: a rule, applied when a call is packed, never after something has failed elsewhere.

1. By **source** (``capture``) wherever its text and values say all that it needs, to any Python from 3.8 on.
   Between equal minor versions as well: what is built again by its own statements keeps its identities (sentinels,
   registries, singletons), and depends neither on the order in which a pickle restores it nor on equal versions of
   the packages on both sides.
2. By **cloudpickle** (``pickling``) what source cannot say, between equal minor versions of CPython only: functions
   without source text (typed at the plain prompt, made by ``exec``), and values without a portable form that no
   statement of the module makes, such as a closure's instance of an installed package's class.
3. What belongs to the sender's process (open files, locks, sockets, ``nonlocal`` state, Airflow's own objects), and
   what neither way can carry, is **refused**.

``transport=`` on a task asks for one of the two ways and leaves no other. So does ``transport`` of an environment or of
the project for the tasks that say nothing, but for this: ``cloudpickle`` holds there for calls between equal minor
versions, and the rule for all others.
"""

from __future__ import annotations

import platform
import sys
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from k8s_venv.capture.functions import function_name, place_of
from k8s_venv.errors import CallError, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from k8s_venv.config.environment import Environment

Transport = Literal["cloudpickle", "source"]
Serializer = Literal["cloudpickle"]
T = TypeVar("T")


def by_rule(
    function: Callable[..., Any],
    environment: Environment,
    asked: Transport | None,
    attempt: Callable[[Transport, str], T],
) -> T:
    """Capture a function in the way that the rule chooses.

    Args:
        function: the function.
        environment: where it will run.
        asked: the way that the task asks for, if any.
        attempt: captures it in one way; it is told which, and why in this one.

    Returns:
        What ``attempt`` returned.

    Raises:
        SourceError: the function cannot travel as source, and to this version in no other way.
        CallError: it cannot travel.
    """
    python = environment.python
    try:
        check_transport(asked, environment)
    except CallError as error:
        raise CallError(f"{function_name(function)}(): {error.problem}", *place_of(function)) from None
    if asked is not None:
        return attempt(asked, "the task asks for it")
    if environment.transport == "source" or (environment.transport and same_python(python)):
        return attempt(environment.transport, "the project file asks for it")
    if not same_python(python):
        return attempt("source", f"the environment runs Python {python}, this is {platform.python_version()}")
    try:
        return attempt("source", "its text and values say all that it needs")
    except SourceError as refused:
        return attempt("cloudpickle", f"both sides run Python {python}, and source cannot say it: {refused.problem}")


def check_transport(transport: str | None, environment: Environment) -> None:
    """Refuse a transport that a task asks for and that cannot be used.

    Args:
        transport: the task's option.
        environment: where it will run.

    Raises:
        CallError: there is no such transport, or the versions of Python differ.
    """
    if transport not in (None, "source", "cloudpickle"):
        raise CallError(f'transport is "source" or "cloudpickle", or left out, not {transport!r}.')
    if transport == "cloudpickle":
        _require_same_python(environment, "transport", "Leave it out, and functions travel as source.")


def check_serializer(serializer: str | None, environment: Environment) -> None:
    """Refuse to have results pickled where this side could not read them.

    Args:
        serializer: the task's option.
        environment: where it will run.

    Raises:
        CallError: there is no such serializer, or the versions of Python differ.
    """
    if serializer not in (None, "cloudpickle"):
        raise CallError(f'serializer is "cloudpickle" or left out, not {serializer!r}.')
    if serializer:
        _require_same_python(environment, "serializer", "Leave it out and return plain data.")


def _require_same_python(environment: Environment, option: str, instead: str) -> None:
    if not same_python(environment.python):
        raise CallError(
            f'{option}="cloudpickle" needs equal minor versions of Python: environment {environment.name!r} runs '
            f"{environment.python}, this is {platform.python_version()}. {instead}"
        )


def same_python(python: str) -> bool:
    """Return whether an environment's bytecode and pickles are those of this process.

    Args:
        python: the environment's minor version.
    """
    here = "{}.{}".format(*sys.version_info)
    return python == here and platform.python_implementation() == "CPython"
