"""Checks of a task's value before Airflow stores it, with the place of each problem inside the value.

Airflow stores XComs as JSON with serializers for some types. A warning names the parts that it would alter. A value
that it could not store, or not read again, is refused with a remedy; Airflow's own error has the type's name alone.
"""

from __future__ import annotations

import decimal
import numbers
from typing import TYPE_CHECKING, Any

from k8s_venv.airflow.compat import (
    can_store_fraction,
    can_store_integer,
    can_store_text,
    restore_xcom,
    serialize_xcom,
    stored_key,
)
from k8s_venv.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

_PLAIN = (str, bool, int, float, type(None))
_CONTAINERS = (dict, list, tuple, set, frozenset)
_DEPTH_LIMIT = 60
_NAMED_PARTS = 10  # in a message


def check_storable(value: Any, task: str) -> list[str]:
    """Check a value that is about to be stored as an XCom.

    Args:
        value: the value.
        task: the task's id, for messages.

    Returns:
        A sentence for each part that Airflow will alter; of many, for the first ones.

    Raises:
        CallError: Airflow cannot store the value or a part of it.
    """
    check = _Check()
    altered = list(dict.fromkeys(check.alterations(value, "result", 0)))
    if check.refused:
        raise CallError(
            f"Task {task!r} returned a value that Airflow cannot store: {'; '.join(_first(check.refused))}. Return "
            "plain data (for example `.tolist()` of an array), or hand the value to the next isolated task as it is, "
            'with result="reference".'
        )
    return _first(altered)


class _Check:
    """The check of one value; ``refused`` lists the parts that cannot be stored."""

    def __init__(self) -> None:
        self.refused: list[str] = []
        self._known: dict[Hashable, str | None] = {}

    def alterations(self, value: Any, path: str, depth: int) -> Iterator[str]:
        """Yield a sentence for each part that Airflow will alter."""
        kind = type(value)
        problem = "nested too deeply" if depth > _DEPTH_LIMIT else self._problem(value, kind)
        if problem:
            self.refused.append(f"{path} is {problem}")
        elif isinstance(value, dict):
            yield from self._keys_altered(value, path)
            for key, item in value.items():
                yield from self.alterations(item, f"{path}[{key!r}]", depth + 1)
        elif isinstance(value, list | tuple | set | frozenset):
            if hasattr(value, "_fields"):
                yield f"{path} is a {kind.__name__}: Airflow stores named tuples as plain ones."
            for number, item in enumerate(value):
                yield from self.alterations(item, f"{path}[{number}]", depth + 1)
        elif kind is decimal.Decimal and str(restore_xcom(serialize_xcom(value))) != str(value):
            stored = restore_xcom(serialize_xcom(value))
            yield f"{path} is {value!r}: Airflow stores decimals as floating-point numbers, here {stored}."
        if not problem and kind not in _CONTAINERS and not hasattr(value, "_fields"):
            plain = next((base for base in kind.__mro__ if base in (*_CONTAINERS, str, int)), None)
            if plain and kind not in _PLAIN:
                yield f"{path} is a {kind.__name__}: Airflow stores it as a plain {plain.__name__}."

    def _keys_altered(self, value: dict[Any, Any], path: str) -> Iterator[str]:
        for key in value:
            stored = stored_key(key)
            if stored is None or not can_store_text(stored):
                self.refused.append(f"{path} has the key {key!r}, which is no text that can be stored")
            elif type(key) is not str:
                lost = ", where it takes the place of another key" if stored in value and key != stored else ""
                yield f"{path} has the key {key!r}: Airflow stores dictionary keys as text, here {stored!r}{lost}."

    def _problem(self, value: Any, kind: type) -> str | None:
        """Return why a part itself cannot be stored, apart from the parts inside it."""
        if isinstance(value, str):
            return None if can_store_text(value) else "text with lone surrogates"
        if isinstance(value, int):
            return None if can_store_integer(value) else "an integer of more than 64 bits"
        if isinstance(value, numbers.Real | decimal.Decimal) and not can_store_fraction(value):
            return f"{value}, which JSON cannot say (None or a text can)"
        if isinstance(value, dict):
            return "a dictionary with a key that Airflow keeps for itself" if _is_reserved(value) else None
        if kind in _PLAIN or isinstance(value, list | tuple | set | frozenset):
            return None
        key = (kind, str(getattr(value, "tzinfo", None)))
        if key not in self._known:
            self._known[key] = _problem_of_type(value, kind)
        return self._known[key]


def _problem_of_type(value: Any, kind: type) -> str | None:
    """Return why values of a type, or of a time zone, cannot be stored: Airflow itself tries the first one."""
    name = f"{kind.__module__}.{kind.__qualname__}"
    if kind.__name__ == "DataFrame" and kind.__module__.partition(".")[0] == "pandas":
        value = value.iloc[:0]  # the types decide, not the rows
    try:
        stored = serialize_xcom(value)
    except ImportError as error:
        return f"a {name}, and storing one needs {error.name}, which is not installed beside Airflow"
    except Exception:  # noqa: BLE001 -- serializers raise what they like
        return name
    try:
        restore_xcom(stored)
    except Exception:  # noqa: BLE001 -- deserializers raise what they like
        zone = getattr(value, "tzinfo", None)
        of_zone = f" in the zone {zone}" if zone is not None else ""
        return f"{name}{of_zone}, which Airflow could not read again"
    return None


def _is_reserved(value: dict[Any, Any]) -> bool:
    """Return whether Airflow would take a dictionary for something that it wrote itself, now or in earlier versions."""
    return bool({"__classname__", "__id__"} & value.keys()) or {"__type", "__var"} <= value.keys()


def _first(sentences: list[str]) -> list[str]:
    more = len(sentences) - _NAMED_PARTS
    return [*sentences[:_NAMED_PARTS], f"and {more} more parts"] if more > 0 else sentences
