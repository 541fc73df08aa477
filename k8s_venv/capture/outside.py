"""Parts of a definition that read from outside: they are sent as the values that they had on the sender's side."""

from __future__ import annotations

import ast
import inspect
from types import FunctionType
from typing import TYPE_CHECKING, Any

from k8s_venv.capture.definitions import Function
from k8s_venv.capture.in_force import defaults_of
from k8s_venv.capture.parts import StateError
from k8s_venv.capture.repeating import asks_python, reads_outside
from k8s_venv.capture.state import portable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from k8s_venv.capture.origins import Origins


def values_from_outside(
    statement: ast.stmt, value: Any, names: Mapping[str, Any], origins: Origins
) -> dict[ast.expr, Any]:
    """Return the values of a definition's class attributes and defaults that were read from outside.

    Args:
        statement: the definition.
        value: what it made.
        names: what the module's names stand for.
        origins: tells how modules travel.
    """
    return {
        expression: found
        for expression, found in _evaluated(statement, value)
        if reads_outside(expression, names) and not asks_python(expression, names) and _stands_alone(found, origins)
    }


def _evaluated(statement: ast.stmt, value: Any) -> Iterator[tuple[ast.expr, Any]]:
    """Yield expressions that a definition evaluates, with their values."""
    if isinstance(statement, Function):
        function = inspect.unwrap(getattr(value, "__func__", value)) if callable(value) else value
        if isinstance(function, FunctionType):
            yield from defaults_of(function, statement)
    elif isinstance(statement, ast.ClassDef) and isinstance(value, type):
        for part in statement.body:
            if isinstance(part, Function):
                yield from _evaluated(part, vars(value).get(part.name))
            elif isinstance(part, ast.Assign | ast.AnnAssign) and part.value is not None:
                targets = part.targets if isinstance(part, ast.Assign) else [part.target]
                name = getattr(targets[0], "id", "")
                if name in vars(value):
                    yield part.value, vars(value)[name]


def _stands_alone(value: Any, origins: Origins) -> bool:
    """Return whether a value can travel, and needs nothing of its module."""
    try:
        return not portable(value, origins).globals
    except StateError:
        return False
