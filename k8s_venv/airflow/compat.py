"""The differences between the supported versions of Airflow, 2.10, 2.11 and 3.0 to 3.3, that concern tasks.

Those that concern only commands, which load DAG files and run them, are in ``inprocess``. Types are those of the newest
version; the branches for older ones are not type-checked.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import airflow

from k8s_venv.errors import K8sVenvError
from k8s_venv.wire.encoder import is_text

AIRFLOW = tuple(int(part) for part in airflow.__version__.split(".")[:2])
AIRFLOW_3 = AIRFLOW >= (3,)
if AIRFLOW < (2, 10):
    raise K8sVenvError(f"k8s-venv needs Airflow 2.10 or newer; this is {airflow.__version__}.")

if TYPE_CHECKING or AIRFLOW_3:
    from airflow.sdk import BaseOperator
    from airflow.sdk.bases.decorator import DecoratedOperator, TaskDecorator, task_decorator_factory
    from airflow.sdk.definitions.context import Context

    OLD_CONTEXT_KEYS: tuple[str, ...] = ()
    XCOM_BACKEND = "airflow.sdk.execution_time.xcom.BaseXCom"
else:
    from airflow.decorators.base import DecoratedOperator, TaskDecorator, task_decorator_factory
    from airflow.models.baseoperator import BaseOperator
    from airflow.utils.context import Context

    # Plain values of the context that Airflow 3 removed.
    OLD_CONTEXT_KEYS = (
        *("execution_date", "next_execution_date", "prev_execution_date", "prev_execution_date_success"),
        *("next_ds", "next_ds_nodash", "prev_ds", "prev_ds_nodash"),
        *("tomorrow_ds", "tomorrow_ds_nodash", "yesterday_ds", "yesterday_ds_nodash"),
    )
    XCOM_BACKEND = "airflow.models.xcom.BaseXCom"

if TYPE_CHECKING or AIRFLOW >= (3, 2):
    from airflow.sdk.bases.branch import BranchMixIn
    from airflow.sdk.bases.skipmixin import SkipMixin
    from airflow.sdk.configuration import conf
    from airflow.sdk.exceptions import (
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSkipException,
        AirflowTaskTimeout,
        TaskDeferred,
    )
else:
    from airflow.configuration import conf
    from airflow.exceptions import (
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSkipException,
        AirflowTaskTimeout,
        TaskDeferred,
    )

    if AIRFLOW_3:
        from airflow.providers.standard.operators.branch import BranchMixIn
        from airflow.providers.standard.utils.skipmixin import SkipMixin
    else:
        from airflow.models.skipmixin import SkipMixin
        from airflow.operators.branch import BranchMixIn

if TYPE_CHECKING or AIRFLOW >= (3, 1):
    from airflow.sdk import BaseHook
    from airflow.sdk.definitions.context import KNOWN_CONTEXT_KEYS
else:
    from airflow.hooks.base import BaseHook
    from airflow.utils.context import KNOWN_CONTEXT_KEYS

# Imported here for other modules; what follows is defined here.
__all__ = [
    "KNOWN_CONTEXT_KEYS",
    "AirflowFailException",
    "AirflowNotFoundException",
    "AirflowSkipException",
    "AirflowTaskTimeout",
    "BaseHook",
    "BaseOperator",
    "BranchMixIn",
    "Context",
    "DecoratedOperator",
    "SkipMixin",
    "TaskDecorator",
    "TaskDeferred",
    "conf",
    "task_decorator_factory",
]


def deployment() -> str:
    """Return this Airflow's address, which distinguishes its tasks from another Airflow's in the same namespace."""
    if AIRFLOW_3:
        address = conf.get("core", "execution_api_server_url", fallback=None)
        return str(address or conf.get("api", "base_url", fallback=""))
    return str(conf.get("webserver", "base_url", fallback=""))


def can_store_integer(value: int) -> bool:
    """Return whether an XCom may hold an integer.

    Airflow 3 sends values from the task's process to its API as MessagePack, whose integers end at 64 bits; Airflow 2
    writes them into its database as JSON.
    """
    return not AIRFLOW_3 or -(2**63) <= value < 2**64


def can_store_text(text: str) -> bool:
    """Return whether an XCom may hold a text: Airflow 3 sends it as UTF-8, Airflow 2 escapes lone surrogates."""
    return not AIRFLOW_3 or is_text(text)


def can_store_fraction(value: Any) -> bool:
    """Return whether an XCom may hold a real number or a decimal: Airflow 3's API takes JSON without ``NaN``."""
    return not AIRFLOW_3 or math.isfinite(value)


def stored_key(key: Any) -> str | None:
    """Return the text as which a dictionary's key is stored, or None if it cannot be stored.

    Airflow 3 uses ``str``, Airflow 2 uses ``json``, which takes plain keys only.
    """
    if AIRFLOW_3:
        return str(key)
    try:
        return str(next(iter(json.loads(json.dumps({key: None})))))
    except TypeError:
        return None


def skip_tasks(operator: SkipMixin, context: Context, tasks: list[Any]) -> None:
    """Skip tasks that come after a running one.

    Args:
        operator: the operator of the running task.
        context: its context.
        tasks: the tasks to skip.
    """
    if TYPE_CHECKING or AIRFLOW_3:
        operator.skip(ti=context["ti"], tasks=tasks)
    elif tasks:
        run = context["dag_run"]
        operator.skip(run, run.execution_date, tasks, map_index=context["ti"].map_index)


def find_variable(key: str) -> str | None:
    """Return an Airflow variable's text, or None if it is not defined."""
    if TYPE_CHECKING or AIRFLOW_3:
        from airflow.sdk import Variable

        found = Variable.get(key, default=None)
    else:
        from airflow.models.variable import Variable

        found = Variable.get(key, default_var=None)
    return None if found is None else str(found)


async def task_state(ti: Any) -> str | None:
    """Return the state of a task that waits in the triggerer, or None if it has no state, as after it was cleared.

    Args:
        ti: the trigger's task instance.
    """
    from asgiref.sync import sync_to_async

    if TYPE_CHECKING or AIRFLOW_3:
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

        states = await sync_to_async(RuntimeTaskInstance.get_task_states)(
            dag_id=ti.dag_id, task_ids=[ti.task_id], run_ids=[ti.run_id], map_index=ti.map_index
        )
        return next(iter(states.get(ti.run_id, {}).values()), None)  # its key differs where the task is mapped
    return await sync_to_async(ti.current_state)()


def stats() -> Any:
    """Return Airflow's sender of metrics, with ``incr`` and ``timing``; it is configured in a task's process."""
    if TYPE_CHECKING or AIRFLOW >= (3, 2):
        from airflow.sdk.observability.stats import Stats
    else:
        from airflow.stats import Stats

    return Stats


def mask_secret(text: str) -> None:
    """Let Airflow hide a text in logs and rendered templates from now on."""
    if TYPE_CHECKING or AIRFLOW >= (3, 1):
        from airflow.sdk.log import mask_secret
    else:
        mask_secret = _masker().mask_secret

    mask_secret(text)


def redact(text: str) -> str:
    """Return a text without the secrets that Airflow masks in this process."""
    return str(_masker().redact(text))


def is_sensitive(name: str) -> bool:
    """Return whether a name is one of a secret, by Airflow's list and ``[core] sensitive_var_conn_names``."""
    return bool(_masker().should_hide_value_for_key(name))


def _masker() -> Any:
    if TYPE_CHECKING or AIRFLOW >= (3, 1):
        from airflow.sdk._shared import secrets_masker
    elif AIRFLOW_3:
        from airflow.sdk.execution_time import secrets_masker
    else:
        from airflow.utils.log import secrets_masker

    return secrets_masker


def serialize_xcom(value: Any) -> Any:
    """Return a value as Airflow stores it, or raise Airflow's exception if it cannot."""
    if TYPE_CHECKING or AIRFLOW >= (3, 2):
        from airflow.sdk.serde import serialize
    else:
        from airflow.serialization.serde import serialize

    return serialize(value)


def restore_xcom(stored: Any) -> Any:
    """Return a stored value as Airflow restores it, or raise Airflow's exception if it cannot."""
    if TYPE_CHECKING or AIRFLOW >= (3, 2):
        from airflow.sdk.serde import deserialize
    else:
        from airflow.serialization.serde import deserialize

    return deserialize(stored)
