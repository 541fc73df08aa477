"""What travels of Airflow: its context as plain values, and the connections and variables that a task names."""

from __future__ import annotations

import dataclasses
import datetime
import inspect
import json
from typing import TYPE_CHECKING, Any, TypeVar

from k8s_venv import runtime
from k8s_venv.airflow.compat import (
    KNOWN_CONTEXT_KEYS,
    OLD_CONTEXT_KEYS,
    AirflowNotFoundException,
    BaseHook,
    Context,
    find_variable,
    is_sensitive,
    mask_secret,
)
from k8s_venv.calls.packing import CONTEXT_ALIASES, CONTEXT_OBJECTS
from k8s_venv.errors import K8sVenvError
from k8s_venv.wire.masking import SHORTEST

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

T = TypeVar("T")

# Sent with each call.
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
# Sent only when the function names them: each is a request to Airflow's API server, or deprecated.
_ON_REQUEST = (
    *OLD_CONTEXT_KEYS,
    "prev_data_interval_end_success",
    "prev_data_interval_start_success",
    "prev_end_date_success",
    "prev_start_date_success",
)
# Sent as lists of objects with their plain attributes.
_LISTS = ("inlets", "outlets")
# Only callbacks get these: a task's function keeps its own defaults for them.
_OF_CALLBACKS = frozenset(("exception", "reason"))
_CONNECTION_FIELDS = ("conn_type", "host", "login", "password", "schema", "port", "extra")
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
        The names; for a function with ``**kwargs`` all names that can travel.

    Raises:
        K8sVenvError: the function asks for a part of the context that cannot travel, or a positional argument is given
            for a parameter that the context fills.
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
    """Refuse positional arguments for parameters that the context fills, as Airflow does when the task runs."""
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
    except ValueError:  # a built-in function without a signature
        return []


def travelling_context(context: Context, asked: Collection[str]) -> dict[str, Any]:
    """Return the context as plain data.

    Args:
        context: Airflow's.
        asked: the names that the function asks for.

    Returns:
        ``values``, ``objects`` and ``lists`` by their names (an item of a list is a pair: whether it is an object, and
        its value or attributes), and ``parameters``, the names to pass to the function.
    """
    source: Mapping[str, Any] = dict(context.items()) if not isinstance(context, dict) else context
    names = [*_VALUES, *(name for name in _ON_REQUEST if name in asked)]
    values = {name: _plain(source[name]) for name in names if name in source}
    objects = {name: _facts(source[name], facts) for name, facts in CONTEXT_OBJECTS.items() if name in source}
    objects.update({alias: objects[name] for alias, name in CONTEXT_ALIASES.items() if name in objects})
    lists = {name: [_item(thing) for thing in source[name] or ()] for name in _LISTS if name in source}
    present = [name for name in asked if name in values or name in objects or name in lists]
    return {"values": values, "objects": objects, "lists": lists, "parameters": present}


def _facts(thing: Any, names: Collection[str]) -> dict[str, Any]:
    return {name: _plain(getattr(thing, name)) for name in names if hasattr(thing, name)}


def _item(thing: Any) -> tuple[bool, Any]:
    """Return an inlet or outlet: a plain value as it is, an asset or any other object as its plain attributes."""
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
    if type(value).__name__ == "Proxy":  # Airflow reads some values only when they are used
        value = value.__wrapped__
    if hasattr(value, "dump") and hasattr(value, "validate"):  # ParamsDict
        return value.dump()
    if isinstance(value, str) and type(value) is not str:  # an enumeration, such as the type of a run
        return str(getattr(value, "value", value))
    if isinstance(value, set | frozenset):
        return sorted(value)
    return value


@dataclasses.dataclass(frozen=True)
class SecretNames:
    """The ids of the connections and the keys of the variables that a task names.

    Args:
        connections: those that must be defined.
        optional_connections: those that are delivered where they are defined.
        variables: those that must be defined.
        optional_variables: those that are delivered where they are defined.
    """

    connections: tuple[str, ...] = ()
    optional_connections: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    optional_variables: tuple[str, ...] = ()

    @classmethod
    def of(cls, task: str, *names: Sequence[str]) -> SecretNames:
        """Return the names that a task's options list.

        Args:
            task: the task, for messages.
            names: the values of the four options, in their order.

        Raises:
            K8sVenvError: one is a text, whose letters would be taken for names.
        """
        for field, listed in zip(dataclasses.fields(cls), names, strict=True):
            if isinstance(listed, str):
                raise K8sVenvError(f"{task}: {field.name} is a list: {field.name}=[{listed!r}].")
        return cls(*map(tuple, names))


def resolve_secrets(names: SecretNames, task: str) -> dict[str, Any]:
    """Return the connections and variables that a task names; from then on Airflow masks their secrets in logs.

    Args:
        names: the task's names.
        task: the task's id, for messages.

    Returns:
        ``connections`` and ``variables`` by their ids and keys, and ``masked``, the texts that no log may show;
        nothing for a task that names none.

    Raises:
        K8sVenvError: a required one is not defined.
    """
    connections = _found("connection", names.connections, names.optional_connections, _connection, task)
    variables = _found("variable", names.variables, names.optional_variables, find_variable, task)
    if not connections and not variables:
        return {}
    masked = [fields["password"] for fields in connections.values() if fields.get("password")] + [*variables.values()]
    for text in (*(fields.get("extra", "") for fields in connections.values()), *variables.values()):
        masked += _sensitive_parts(text)
    for text in filter(lambda text: len(text) >= SHORTEST, masked):  # Airflow warns of shorter ones
        mask_secret(text)
    return {"connections": connections, "variables": variables, "masked": masked}


def _found(
    kind: str, required: Sequence[str], optional: Sequence[str], find: Callable[[str], T | None], task: str
) -> dict[str, T]:
    found = {}
    for name in dict.fromkeys((*required, *optional)):
        value = find(name)
        if value is not None:
            found[name] = value
        elif name in required:
            raise K8sVenvError(
                f"Task {task!r} asks for the {kind} {name!r}, which is not defined in Airflow. Define it, or name it "
                f"in optional_{kind}s=[…]."
            )
    return found


def _connection(conn_id: str) -> dict[str, Any] | None:
    try:
        connection = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        return None
    fields = {field: getattr(connection, field, None) for field in _CONNECTION_FIELDS}
    return {field: value for field, value in fields.items() if value is not None}


def _sensitive_parts(text: str) -> list[str]:
    """Return the texts in a JSON document that are under keys with sensitive names, such as ``private_key``."""

    def parts(data: Any, inside: bool) -> Iterator[str]:
        if isinstance(data, dict):
            for key, value in data.items():
                yield from parts(value, inside or is_sensitive(key))
        elif isinstance(data, list):
            for value in data:
                yield from parts(value, inside)
        elif isinstance(data, str) and inside:
            yield data

    try:
        return list(parts(json.loads(text), inside=False))
    except ValueError:  # not JSON
        return []
