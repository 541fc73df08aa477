"""What of the source that travels a call can reach: modules travel whole, though it may use one function of them."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINITIONS = (*_FUNCTIONS, ast.ClassDef)


def reached(slices: Iterable[ast.stmt], modules: Iterable[list[ast.stmt]]) -> set[ast.AST]:
    """Return the functions and classes that may run, of slices and of whole modules.

    Names decide: a function runs if something that runs names it, as a name or as an attribute. Nested functions are
    part of the one around them.

    Args:
        slices: the statements that were cut out for the call, which all run.
        modules: the statements of each module that travels whole.
    """
    names: set[str] = set()
    waiting: list[Definition] = []
    found: set[ast.AST] = set()
    for statement in slices:
        _enter(statement, names, waiting, found)
    for module in modules:
        for statement in module:
            if isinstance(statement, _DEFINITIONS):
                waiting.append(statement)
            else:
                _enter(statement, names, waiting, found)
    while ready := [each for each in waiting if each.name in names or _is_special(each.name)]:
        for each in ready:
            waiting.remove(each)
            _enter(each, names, waiting, found)
    return found


def _enter(statement: ast.stmt, names: set[str], waiting: list[Definition], found: set[ast.AST]) -> None:
    """Note what a statement that runs names; the methods of a class wait until they are named."""
    found.add(statement)
    if isinstance(statement, ast.ClassDef):
        for each in (*statement.decorator_list, *statement.bases, *statement.keywords):
            names.update(_names(each))
        for inner in statement.body:
            if isinstance(inner, _FUNCTIONS):
                waiting.append(inner)
            else:
                _enter(inner, names, waiting, found)
    else:
        names.update(_names(statement))


def _names(node: ast.AST) -> Iterator[str]:
    for each in ast.walk(node):
        if isinstance(each, ast.Name):
            yield each.id
        elif isinstance(each, ast.Attribute):
            yield each.attr
        elif isinstance(each, ast.alias):
            yield each.name.rpartition(".")[2]


def _is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")
