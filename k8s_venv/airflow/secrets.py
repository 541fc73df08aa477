"""Resolve the connections and variables that a task names, on the worker."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any, TypeVar

from k8s_venv.airflow.compat import AirflowNotFoundException, BaseHook, find_variable, is_sensitive, mask_secret
from k8s_venv.errors import K8sVenvError
from k8s_venv.wire.masking import SHORTEST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")

_FIELDS = ("conn_type", "host", "login", "password", "schema", "port", "extra")


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
    def of(cls, task: str, **options: Sequence[str]) -> SecretNames:
        """Return the names that a task's options list.

        Args:
            task: the task, for messages.
            options: the names by the options' own.

        Raises:
            K8sVenvError: one is a single text, whose letters would be taken for names.
        """
        for option, names in options.items():
            if isinstance(names, str):
                raise K8sVenvError(f"{task}: {option} is a list: {option}=[{names!r}].")
        return cls(**{option: tuple(names) for option, names in options.items()})


def resolve_secrets(names: SecretNames, task: str) -> dict[str, Any]:
    """Return what the runner reads as ``secrets.json``; Airflow masks it in logs from then on.

    Args:
        names: what the task names.
        task: the task's id, for messages.

    Returns:
        ``connections`` and ``variables`` by their ids and keys, and ``masked``, the texts that no log may show;
        nothing for a task that names none.

    Raises:
        K8sVenvError: a required one is not defined.
    """
    connections = _found("connection", names.connections, names.optional_connections, _connection, task)
    variables = _found("variable", names.variables, names.optional_variables, find_variable, task)
    masked = [
        *(text for fields in connections.values() for text in _connection_secrets(fields)),
        *(text for value in variables.values() for text in _variable_secrets(value)),
    ]
    for text in filter(lambda text: len(text) >= SHORTEST, masked):  # Airflow warns of shorter ones
        mask_secret(text)
    return {"connections": connections, "variables": variables, "masked": masked} if connections or variables else {}


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
    fields = {field: getattr(connection, field, None) for field in _FIELDS}
    return {field: value for field, value in fields.items() if value is not None}


def _connection_secrets(fields: dict[str, Any]) -> Iterator[str]:
    if fields.get("password"):
        yield fields["password"]
    yield from _sensitive_parts(_parsed(fields.get("extra") or "{}"), inside=False)


def _variable_secrets(text: str) -> Iterator[str]:
    yield text
    yield from _sensitive_parts(_parsed(text), inside=False)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {}


def _sensitive_parts(data: Any, *, inside: bool) -> Iterator[str]:
    """Yield the texts under keys with sensitive names, such as ``private_key``."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _sensitive_parts(value, inside=inside or is_sensitive(key))
    elif isinstance(data, list):
        for value in data:
            yield from _sensitive_parts(value, inside=inside)
    elif isinstance(data, str) and inside:
        yield data
