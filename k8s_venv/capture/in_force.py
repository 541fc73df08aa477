"""Of several definitions of a name, the one in force; and whether running it gives what the name stands for."""

from __future__ import annotations

import ast
import inspect
from typing import TYPE_CHECKING, Any

from k8s_venv.capture.definitions import Function, first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import FunctionType

    from k8s_venv.capture.modulefile import ModuleFile


def defines(file: ModuleFile, statement: ast.stmt, value: Any) -> bool:
    """Return whether a statement is the definition of a function or class.

    Args:
        file: the statement's file.
        statement: the statement.
        value: the function or class, decorated or not.
    """
    if isinstance(statement, ast.ClassDef):
        return isinstance(value, type) and file.class_definition(value) is statement
    code = getattr(inspect.unwrap(value) if callable(value) else value, "__code__", None)
    return code is not None and (code.co_filename, code.co_firstlineno, code.co_name) == (
        file.filename,
        first_line(statement),
        getattr(statement, "name", None),
    )


def has_its_defaults(
    function: FunctionType, statement: ast.stmt, names: Mapping[str, Any], times_bound: Callable[[str], int]
) -> bool:
    """Return whether running its definition gives a function the defaults that it has.

    Args:
        function: the function.
        statement: its definition.
        names: what the module's names stand for.
        times_bound: tells how many statements of the module bind a name.
    """
    if not isinstance(statement, Function):
        return False
    if statement.decorator_list:
        return True
    for expression, value in defaults_of(function, statement):
        if isinstance(expression, ast.Name) and expression.id in names:
            if names[expression.id] is not value:
                return False
        elif any(times_bound(node.id) > 1 for node in ast.walk(expression) if isinstance(node, ast.Name)):
            return False
    return True


def defaults_of(function: FunctionType, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[ast.expr, Any]]:
    """Yield each default of a function as it is written and as it is."""
    yield from zip(node.args.defaults, function.__defaults__ or (), strict=False)
    keyword = function.__kwdefaults__ or {}
    for arg, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        if default is not None:
            yield default, keyword.get(arg.arg)
