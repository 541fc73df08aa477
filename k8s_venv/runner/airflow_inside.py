"""Airflow inside an environment: usable without its database, for what was delivered with the call.

Nothing here runs before the environment's code imports Airflow. Some modules of Airflow are then changed as they
are imported, in Airflow 2 and 3 alike: connections and variables are those that the call brought, the context is
the task's, and what needs the database is refused with the reason. An environment whose pod has a database or a
secrets backend keeps Airflow as it is.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import sys
import tempfile

from k8s_venv import runtime
from k8s_venv.wire import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterator, NoReturn

    from k8s_venv.runner.opening import Imports


def prepare(folder: str, imports: Imports) -> Callable[[Any], None]:
    """Prepare the process for Airflow, which is about to be imported.

    Args:
        folder: the call's folder, where Airflow keeps its files if it is writable.
        imports: calls the changes when Airflow's modules are imported.

    Returns:
        What to do when Airflow itself is.
    """
    writable = folder if os.access(folder, os.W_OK) else tempfile.gettempdir()
    os.environ.setdefault("AIRFLOW_HOME", os.path.join(writable, "airflow"))
    os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
    _find_installed()
    if not any(name in os.environ for name in protocol.AIRFLOW_SOURCES):
        for name, change in _CHANGES.items():
            imports.after(name, change)
    return _kept_logging()


def _find_installed() -> None:
    """Let what the archive does not bring of k8s-venv be found where it is installed: Airflow loads its provider."""
    k8s_venv: Any = importlib.import_module("k8s_venv")
    folders = (os.path.join(entry, "k8s_venv") for entry in sys.path)
    k8s_venv.__path__ = [*k8s_venv.__path__, *filter(os.path.isdir, folders)]


def _kept_logging() -> Callable[[Any], None]:
    """Return what restores the runner's logging, which Airflow replaces while it is imported."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.setLevel(logging.WARNING)

    def restore(module: Any) -> None:
        root.handlers[:] = handlers
        root.setLevel(level)

    return restore


def _connections(module: Any) -> None:
    kind = module.Connection
    for name in ("get", "get_connection_from_secrets"):
        original = getattr(kind, name, None)
        if original is not None:
            setattr(kind, name, staticmethod(_known_connection(original)))
    original_async = getattr(kind, "async_get", None)
    if original_async is not None:

        async def async_get(conn_id: str) -> Any:
            _require_connection(conn_id)
            return await original_async(conn_id)

        kind.async_get = staticmethod(async_get)


def _known_connection(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def get(conn_id: str, *args: Any, **kwargs: Any) -> Any:
        _require_connection(conn_id)
        return original(conn_id, *args, **kwargs)

    return get


def _require_connection(conn_id: str) -> None:
    if f"AIRFLOW_CONN_{conn_id.upper()}" not in os.environ:
        exceptions: Any = importlib.import_module("airflow.exceptions")
        raise exceptions.AirflowNotFoundException(runtime.not_delivered("connection", conn_id))


def _variables(module: Any) -> None:
    kind = module.Variable
    original = kind.get
    missing = object()

    def get(key: str, default_var: Any = missing, deserialize_json: bool = False, **kwargs: Any) -> Any:
        default = kwargs.get("default", default_var)  # its name in Airflow 3
        if f"AIRFLOW_VAR_{key.upper()}" in os.environ:
            return original(key, deserialize_json=deserialize_json)
        if default is not missing:
            return default
        raise KeyError(runtime.not_delivered("variable", key))

    kind.get = staticmethod(functools.wraps(original)(get))
    for name in ("set", "update", "delete", "setdefault"):
        if hasattr(kind, name):
            setattr(kind, name, staticmethod(_refusing(f"Variable.{name}()")))


def _refusing(what: str) -> Callable[..., NoReturn]:
    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise runtime.NotAvailableError(
            f"{what} needs Airflow's database, which an isolated environment cannot reach. Return the value, and let "
            "a plain task after this one store it."
        )

    return refuse


def _context(module: Any) -> None:
    module.get_current_context = runtime.get_current_context


def _sessions(module: Any) -> None:
    @contextlib.contextmanager
    def create_session(*args: Any, **kwargs: Any) -> Iterator[Any]:
        raise runtime.NotAvailableError(
            "Airflow's database cannot be reached from an isolated environment. Pass what you need as an argument of "
            "the task, or name connections=[…] and variables=[…]."
        )
        yield

    module.create_session = create_session


_CHANGES: Dict[str, Callable[[Any], None]] = {
    "airflow.models.connection": _connections,
    "airflow.models.variable": _variables,
    "airflow.operators.python": _context,
    "airflow.providers.standard.operators.python": _context,
    "airflow.sdk.definitions.connection": _connections,
    "airflow.sdk.definitions.context": _context,
    "airflow.sdk.definitions.variable": _variables,
    "airflow.utils.session": _sessions,
}
