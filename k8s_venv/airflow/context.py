"""What of Airflow's context travels to an environment, as plain values."""

from __future__ import annotations

import datetime
import inspect
from typing import TYPE_CHECKING, Any

from k8s_venv import runtime
from k8s_venv.airflow.compat import KNOWN_CONTEXT_KEYS, OLD_CONTEXT_KEYS, Context
from k8s_venv.calls.context_objects import CONTEXT_ALIASES, CONTEXT_OBJECTS
from k8s_venv.errors import K8sVenvError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

# Sent with every call.
_VALUES = (
    "data_interval_end",
    "data_interval_start",
    "ds",
    "ds_nodash",
    "expanded_ti_count",
    "logical_date",
    "map_index_template",
    "params",
    "partition_date",
    "partition_key",
    "run_id",
    "task_instance_key_str",
    "task_reschedule_count",
    "templates_dict",
    "test_mode",
    "try_number",
    "ts",
    "ts_nodash",
    "ts_nodash_with_tz",
)
# Each is a request to Airflow's API server, or out of use, so it is sent only when the function names it.
_ON_REQUEST = (
    *OLD_CONTEXT_KEYS,
    "prev_data_interval_end_success",
    "prev_data_interval_start_success",
    "prev_end_date_success",
    "prev_start_date_success",
)
# Sent as lists of such objects, with the plain attributes that each one has.
_LISTS = ("inlets", "outlets")
# Only callbacks get these; a task's function keeps its own default for them.
_OF_CALLBACKS = frozenset(("exception", "reason"))
_PLAIN_TYPES = (str, int, float, datetime.date, datetime.timedelta, type(None))

AVAILABLE = frozenset((*_VALUES, *_ON_REQUEST, *CONTEXT_OBJECTS, *_LISTS, *CONTEXT_ALIASES))


def context_parameters(
    function: Callable[..., Any], op_args: Collection[Any], op_kwargs: Mapping[str, Any]
) -> tuple[str, ...]:
    """Return the names of a function's parameters that Airflow's context fills.

    Args:
        function: the task's function.
        op_args: its positional arguments.
        op_kwargs: its keyword arguments, which win over the context.

    Returns:
        The names; for a function with ``**kwargs`` all that can travel.

    Raises:
        K8sVenvError: the function asks for a part of the context that cannot travel, or a positional argument goes to
            a parameter that the context fills.
    """
    parameters = _parameters(function)
    _check_positional(function, parameters[: len(op_args)])
    given = {parameter.name for parameter in parameters[: len(op_args)]} | set(op_kwargs)
    with_default = {p.name for p in parameters if p.default is not inspect.Parameter.empty}
    asked = {p.name for p in parameters if p.name in KNOWN_CONTEXT_KEYS} - given - (_OF_CALLBACKS & with_default)
    for name in sorted(asked - AVAILABLE):
        raise K8sVenvError(
            f"{_named(function)} asks for {name!r} of Airflow's context, {_refusal(name)} What can travel: "
            f"{', '.join(sorted(AVAILABLE & KNOWN_CONTEXT_KEYS))}."
        )
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        asked |= set(AVAILABLE) - set(_ON_REQUEST) - given
    return tuple(sorted(asked))


def _check_positional(function: Callable[..., Any], filled: list[inspect.Parameter]) -> None:
    """Refuse positional arguments for what the context fills, as Airflow does when the task runs."""
    elsewhere = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    for parameter in filled:
        if parameter.name in KNOWN_CONTEXT_KEYS - _OF_CALLBACKS and parameter.kind not in elsewhere:
            raise K8sVenvError(
                f"{_named(function)} gets a positional argument for its parameter {parameter.name!r}, a name that "
                "Airflow reserves for its context. Rename the parameter, or leave the argument out: Airflow fills it."
            )


def _named(function: Callable[..., Any]) -> str:
    """Return a function's place and name, for messages."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    place = f"{code.co_filename}:{code.co_firstlineno}: " if code else ""
    return f"{place}{getattr(function, '__name__', repr(function))}()"


def _refusal(name: str) -> str:
    if name in _OF_CALLBACKS:
        return f"which only callbacks get. Give the parameter a default: {name}=None."
    instead = runtime.INSTEAD.get(name, "Pass what you need of it as an argument.")
    return f"which needs Airflow itself and cannot travel. {instead}"


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except ValueError:  # a built-in function that does not say
        return []


def travelling_context(context: Context, asked: Collection[str]) -> dict[str, Any]:
    """Return the context as plain data.

    Args:
        context: Airflow's.
        asked: the names that the function asks for.

    Returns:
        ``values``, ``objects`` and ``lists`` (of pairs: whether it is an object, and its value or attributes), by their
        names, and ``parameters``, the names to pass to the function.
    """
    source: Mapping[str, Any] = dict(context.items()) if not isinstance(context, dict) else context
    names = [*_VALUES, *(name for name in _ON_REQUEST if name in asked)]
    values = {name: _plain(source[name]) for name in names if name in source}
    objects = {name: dict(_facts(source[name], facts)) for name, facts in CONTEXT_OBJECTS.items() if name in source}
    objects.update({alias: objects[name] for alias, name in CONTEXT_ALIASES.items() if name in objects})
    lists = {name: [_item(thing) for thing in source[name] or ()] for name in _LISTS if name in source}
    present = [name for name in asked if name in values or name in objects or name in lists]
    return {"values": values, "objects": objects, "lists": lists, "parameters": present}


def _facts(thing: Any, names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for name in names:
        if hasattr(thing, name):
            yield name, _plain(getattr(thing, name))


def _item(thing: Any) -> tuple[bool, Any]:
    """Return an inlet or outlet: a plain value as it is, an asset (or anything else) as its plain attributes."""
    if _is_plain(thing):
        return False, _plain(thing)
    declared = [field.name for field in getattr(type(thing), "__attrs_attrs__", ())]
    names = [name for name in (*declared, *getattr(thing, "__dict__", ())) if not name.startswith("_")]
    facts = {name: getattr(thing, name) for name in names if hasattr(thing, name)}
    return True, {name: _plain(value) for name, value in facts.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(isinstance(key, str) and _is_plain(each) for key, each in value.items())
    return isinstance(value, _PLAIN_TYPES)


def _plain(value: Any) -> Any:
    if type(value).__name__ == "Proxy":  # Airflow asks for some only when they are used
        value = value.__wrapped__
    if hasattr(value, "dump") and hasattr(value, "validate"):  # ParamsDict
        return value.dump()
    if isinstance(value, str) and type(value) is not str:  # an enumeration, such as the type of a run
        return str(getattr(value, "value", value))
    if isinstance(value, set | frozenset):
        return sorted(value)
    return value
