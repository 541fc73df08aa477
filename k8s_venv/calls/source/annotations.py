"""Which annotations count: those that making a class looks at, as dataclasses and pydantic do."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_MARKS = ("ClassVar", "InitVar", "KW_ONLY", "Final")
_MARKS_FROM = {"typing", "dataclasses", "typing_extensions"}
_PLAIN_METACLASSES = {"builtins", "abc", "enum", "typing"}


def evaluated_names(fields: Iterable[tuple[str, frozenset[str]]], names: Mapping[str, Any]) -> set[str]:
    """Return the names in the annotations of fields that making their classes looks at.

    Args:
        fields: each field's class, by its name, and the names in the field's annotation.
        names: what the module's names stand for.
    """
    found: set[str] = set()
    for kind, used in fields:
        reads_all = _reads_annotations(names.get(kind))
        found |= {name for name in used if reads_all or _is_mark(name, names.get(name))}
    return found & names.keys()


def _is_mark(name: str, value: Any) -> bool:
    """Tell whether a name says how a field is meant, such as ``ClassVar``, or is a module that says so."""
    if isinstance(value, ModuleType):
        return value.__name__ in _MARKS_FROM
    return name in _MARKS and getattr(value, "__module__", "") in _MARKS_FROM


def _reads_annotations(kind: Any) -> bool:
    """Tell whether making a class evaluates its annotations, as pydantic's do."""
    if not isinstance(kind, type):
        return False
    made_by = {type(base).__module__.partition(".")[0] for base in kind.__mro__}
    own = (hasattr(kind, mark) for mark in ("__pydantic_fields__", "__attrs_attrs__"))
    return bool(made_by - _PLAIN_METACLASSES) or any(own)
