"""Our own decorators, known by the object that they are and not by their spelling."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# Set on what ``@task.isolated(…)`` evaluates to.
DECORATOR_MARK = "_k8s_venv_decorator"


def is_ours(decorator: ast.expr, names: Mapping[str, Any]) -> bool:
    """Return whether a decorator is one of ours.

    Args:
        decorator: the expression after the ``@``.
        names: what the module's names stand for.
    """
    expression = decorator.func if isinstance(decorator, ast.Call) else decorator
    path: list[str] = []
    while isinstance(expression, ast.Attribute):
        path.insert(0, expression.attr)
        expression = expression.value
    found = names.get(getattr(expression, "id", ""))
    for name in path:
        found = getattr(found, name, None)
    return bool(getattr(found, DECORATOR_MARK, False))
