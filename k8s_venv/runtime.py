"""What a task may use inside its environment: connections, context, skip and fail.

This module needs nothing but the standard library, on Python 3.8 or newer, and travels with every call, so
``from k8s_venv import runtime`` works in an environment that has neither k8s-venv nor Airflow installed.
"""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` and `json` take longer to import than Python to start
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Mapping, NoReturn, Optional, Tuple

    _Dict = Dict[str, Any]
else:
    _Dict = dict


class SkipTask(Exception):  # noqa: N818 -- it signals an intention, not an error
    """Marks the task as skipped, as Airflow's ``AirflowSkipException`` does."""


class FailTask(Exception):  # noqa: N818
    """Fails the task without further retries, as Airflow's ``AirflowFailException`` does."""


class Connection:
    """A connection that the task named in ``connections=[…]``, with the fields of Airflow's own."""

    def __init__(
        self,
        conn_id: str,
        conn_type: str,
        host: Optional[str] = None,
        login: Optional[str] = None,
        password: Optional[str] = None,
        schema: Optional[str] = None,
        port: Optional[int] = None,
        extra: Optional[str] = None,
    ) -> None:
        self.conn_id = conn_id
        self.conn_type = conn_type
        self.host = host
        self.login = login
        self.password = password
        self.schema = schema
        self.port = port
        self.extra = extra

    @property
    def extra_dejson(self) -> Dict[str, Any]:
        """Return the extra field as a dictionary."""
        import json

        return dict(json.loads(self.extra)) if self.extra else {}

    def get_uri(self) -> str:
        """Return the connection as a URI, in the form that Airflow uses."""
        from urllib.parse import quote, urlencode

        def escaped(text: Optional[str]) -> str:
            return quote(text or "", safe="")

        login = escaped(self.login) + (f":{escaped(self.password)}" if self.password else "")
        port = f":{self.port}" if self.port else ""
        address = (f"{login}@" if login else "") + escaped(self.host) + port
        query = "?" + urlencode({"__extra__": self.extra}) if self.extra else ""
        return f"{self.conn_type.replace('_', '-')}://{address}/{escaped(self.schema)}{query}"

    def __repr__(self) -> str:
        return f"<Connection {self.conn_id} ({self.conn_type})>"  # never the password


class NotAvailableError(RuntimeError):
    """Something of Airflow that cannot be used inside an isolated environment."""


class ContextObject:
    """The plain facts about an object of Airflow's context, such as ``ti`` or ``dag_run``.

    Args:
        name: the object's key in the context.
        facts: its attributes.
    """

    def __init__(self, name: str, facts: Mapping[str, Any]) -> None:
        self._name = name
        self.__dict__.update(facts)

    def __getattr__(self, attribute: str) -> NoReturn:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        known = ", ".join(sorted(key for key in self.__dict__ if not key.startswith("_")))
        instead = INSTEAD.get(attribute, "Pass what you need as an argument of the task.")
        raise AttributeError(
            f"{self._name}.{attribute} is not available inside an isolated environment, which has no access "
            f"to Airflow. {instead} Available: {known}."
        )

    def __repr__(self) -> str:
        facts = {key: value for key, value in self.__dict__.items() if not key.startswith("_")}
        return f"<{self._name} {facts}>"


registered_types: Dict[type, Tuple[str, Callable[[Any], Any]]] = {}
registered_names: Dict[str, Callable[[Any], Any]] = {}


def register_codec(kind: type, name: str, encode: Callable[[Any], Any], decode: Callable[[Any], Any]) -> None:
    """Let values of a type of one's own travel, as arguments and as results.

    Call it in a module that both sides import, such as one beside the DAG file.

    Args:
        kind: the type; its subclasses need codecs of their own.
        name: the codec's name on the wire, the same on both sides. A later registration replaces an earlier one.
        encode: returns plain data, or anything else that can travel, for an instance.
        decode: returns the instance for what ``encode`` returned.
    """
    for other, (used, _) in list(registered_types.items()):
        if used == name:
            del registered_types[other]
    registered_types[kind] = name, encode
    registered_names[name] = decode


class Context(_Dict):
    """Airflow's context of a task, as far as it can travel."""

    def __missing__(self, key: str) -> NoReturn:
        instead = INSTEAD.get(key, "Pass what you need of it as an argument of the task.")
        raise KeyError(
            f"{key!r} of Airflow's context is not available inside an isolated environment. {instead} "
            f"Available: {', '.join(sorted(self))}."
        )


# What to do instead of what needs Airflow: keys of its context, and attributes of the context's objects.
INSTEAD = {
    "asset_state_store": "Let a plain task beside this one use it.",
    "conf": "Pass the setting as an argument of the task.",
    "conn": 'Name the connection in connections=["…"] and call runtime.get_connection("…").',
    "get_template_context": "Use runtime.get_current_context().",
    "inlet_events": "Let a plain task before this one read them and return what you need.",
    "macros": 'Write it as a template of an argument, such as "{{ macros.ds_add(ds, 1) }}".',
    "outlet_events": "Let a plain task after this one write them.",
    "task_state_store": "Let a plain task beside this one use it.",
    "triggering_asset_events": "Let a plain task before this one read them and return what you need.",
    "triggering_dataset_events": "Let a plain task before this one read them and return what you need.",
    "var": 'Name the variable in variables=["…"] and call runtime.get_variable("…").',
    "xcom_pull": "Pass the other task's output as an argument: this_task(other_task()).",
    "xcom_push": "Return the value; with multiple_outputs=True each key of a dictionary becomes an XCom.",
}
_MISSING: Any = object()
_connections: Dict[str, Connection] = {}
_variables: Dict[str, str] = {}
_context: Optional[Context] = None


def get_connection(conn_id: str) -> Connection:
    """Return a connection that the task asked for.

    Args:
        conn_id: its id, one of those in the task's ``connections=[…]``.

    Raises:
        LookupError: the task did not ask for this connection.
    """
    if conn_id in _connections:
        return _connections[conn_id]
    raise LookupError(not_delivered("connection", conn_id))


def get_variable(key: str, default: Any = _MISSING, *, deserialize_json: bool = False) -> Any:
    """Return an Airflow variable that the task asked for.

    Args:
        key: its key, one of those in the task's ``variables=[…]``.
        default: is returned for a variable that was not delivered.
        deserialize_json: whether to read the variable's text as JSON.

    Returns:
        The variable's text, or its value as JSON.

    Raises:
        LookupError: the task did not ask for this variable, and there is no default.
    """
    if key in _variables:
        if not deserialize_json:
            return _variables[key]
        import json

        return json.loads(_variables[key])
    if default is not _MISSING:
        return default
    raise LookupError(not_delivered("variable", key))


def not_delivered(kind: str, name: str) -> str:
    """Return the sentence for a connection or variable that was not delivered.

    Args:
        kind: ``connection`` or ``variable``.
        name: its id or key.
    """
    delivered = ", ".join(sorted(_connections if kind == "connection" else _variables)) or "none"
    return (
        f"The {kind} {name!r} was not named by this task: add {kind}s=[{name!r}] to it. "
        f"{kind.capitalize()}s that were: {delivered}."
    )


def get_current_context() -> Context:
    """Return Airflow's context of this task, as far as it can travel.

    Raises:
        RuntimeError: the call was not made by an Airflow task.
    """
    if _context is None:
        raise RuntimeError("There is no Airflow context: this call was not made by an Airflow task.")
    return Context(_context)


def skip(reason: str = "") -> NoReturn:
    """Mark the task as skipped.

    Args:
        reason: is written to the task's log.
    """
    raise SkipTask(reason)


def fail(reason: str = "") -> NoReturn:
    """Fail the task without further retries.

    Args:
        reason: is written to the task's log.
    """
    raise FailTask(reason)


def install(connections: Mapping[str, Mapping[str, Any]], variables: Mapping[str, str]) -> None:
    """Make connections and variables available; the runner calls this before the task's function.

    Args:
        connections: each connection's fields by its id.
        variables: each variable's text by its key.
    """
    _connections.clear()
    _connections.update({key: Connection(conn_id=key, **fields) for key, fields in connections.items()})
    _variables.clear()
    _variables.update(variables)


def install_context(context: Mapping[str, Any]) -> None:
    """Make Airflow's context available; the runner calls this before the task's function.

    Args:
        context: its values by their names.
    """
    global _context
    _context = Context(context)
