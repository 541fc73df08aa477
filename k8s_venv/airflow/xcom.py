"""What Airflow will store of a task's value: told before it happens, with the place inside the value.

Airflow stores XComs as JSON with serializers for some types. What it would alter is warned of; what it cannot store
is refused with the ways out, instead of failing later with a type's name alone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from k8s_venv.airflow.compat import AIRFLOW_3, can_store_integer, serialize_xcom
from k8s_venv.errors import CallError
from k8s_venv.runner.encoder import is_text

if TYPE_CHECKING:
    from collections.abc import Iterator

_PLAIN = (str, bool, float, type(None))
_DEPTH_LIMIT = 60


def check_storable(value: Any, task: str) -> list[str]:
    """Check a value that is about to be stored as an XCom.

    Args:
        value: the value.
        task: the task's id, for messages.

    Returns:
        A sentence for each part that Airflow will store altered.

    Raises:
        CallError: Airflow cannot store a part of it.
    """
    return list(dict.fromkeys(_alterations(value, "result", task, {}, 0)))


def _alterations(value: Any, path: str, task: str, known: dict[type, bool], depth: int) -> Iterator[str]:
    kind = type(value)
    if kind is str and not is_text(value):
        raise _refusal(path, "text with lone surrogates", task)
    if kind is float and AIRFLOW_3 and not math.isfinite(value):
        raise _refusal(path, f"{value}, which JSON cannot say (None or a text can)", task)
    if kind in _PLAIN:
        return
    if depth > _DEPTH_LIMIT:
        raise _refusal(path, "nested too deeply", task)
    if kind is int:
        if not can_store_integer(value):
            raise _refusal(path, "an integer of more than 64 bits", task)
    elif isinstance(value, dict):
        if "__classname__" in value or "__id__" in value:
            raise _refusal(path, "a dictionary with a key that Airflow keeps for itself", task)
        for key, item in value.items():
            if type(key) is not str:
                yield f"{path} has the key {key!r}: Airflow stores dictionary keys as text, here {str(key)!r}."
            yield from _alterations(item, f"{path}[{key!r}]", task, known, depth + 1)
    elif isinstance(value, list | tuple | set | frozenset):
        if hasattr(value, "_fields"):
            yield f"{path} is a {kind.__name__}: Airflow stores named tuples as plain ones."
        for number, item in enumerate(value):
            yield from _alterations(item, f"{path}[{number}]", task, known, depth + 1)
    elif kind not in known:
        known[kind] = True
        _try(value, path, task)


def _try(value: Any, path: str, task: str) -> None:
    """Ask Airflow itself about the first value of a type."""
    kind = type(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if kind.__name__ == "DataFrame" and kind.__module__.partition(".")[0] == "pandas":
        value = value.iloc[:0]  # the types decide, not the rows
    try:
        serialize_xcom(value)
    except ImportError as error:
        raise CallError(
            f"Task {task!r} returned a value that Airflow cannot store: {path} is a {name}, and storing one needs "
            f"{error.name}. Install it beside Airflow, or return plain data."
        ) from None
    except Exception:  # noqa: BLE001 -- serializers raise what they like
        raise _refusal(path, name, task) from None


def _refusal(path: str, what: str, task: str) -> CallError:
    return CallError(
        f"Task {task!r} returned a value that Airflow cannot store: {path} is {what}. Return plain data (for example "
        '`.tolist()` of an array), or hand the value to the next isolated task as it is, with result="reference".'
    )
