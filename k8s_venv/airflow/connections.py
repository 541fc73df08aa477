"""Resolve the connections that a task names, on the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from k8s_venv.airflow.compat import AirflowNotFoundException, BaseHook
from k8s_venv.errors import K8sVenvError

if TYPE_CHECKING:
    from collections.abc import Collection

_FIELDS = ("conn_type", "host", "login", "password", "schema", "port", "extra")


def resolve_connections(required: Collection[str], optional: Collection[str], task: str) -> dict[str, dict[str, Any]]:
    """Return each connection's fields by its id; Airflow masks their secrets in logs from then on.

    Args:
        required: the ids that must be defined.
        optional: the ids that are delivered where they are defined.
        task: the task's id, for messages.

    Raises:
        K8sVenvError: a required one is not defined.
    """
    found = {}
    for conn_id in dict.fromkeys((*required, *optional)):
        try:
            connection = BaseHook.get_connection(conn_id)
        except AirflowNotFoundException:
            if conn_id in required:
                raise K8sVenvError(
                    f"Task {task!r} asks for the connection {conn_id!r}, which is not defined in Airflow. Define it, "
                    f"or name it in optional_connections=[…]."
                ) from None
            continue
        fields = {field: getattr(connection, field, None) for field in _FIELDS}
        found[conn_id] = {field: value for field, value in fields.items() if value is not None}
    return found
