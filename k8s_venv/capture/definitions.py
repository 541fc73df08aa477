"""Where the functions, lambdas and classes of a file are defined."""

from __future__ import annotations

import ast
import inspect
from types import CodeType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
Function = ast.FunctionDef | ast.AsyncFunctionDef
BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


class Definitions:
    """The definitions in a file, those inside functions and classes included.

    Args:
        tree: the file's syntax tree.
    """

    def __init__(self, tree: ast.Module) -> None:
        self._functions: dict[tuple[int, str], Function] = {}
        self._classes: dict[str, list[ast.ClassDef]] = {}
        for qualname, node in _definitions(tree, ""):
            if isinstance(node, ast.ClassDef):
                self._classes.setdefault(qualname, []).append(node)
            else:
                self._functions[first_line(node), node.name] = node
        self._tree = tree
        self._lambdas: list[ast.Lambda] | None = None

    def function(self, code: CodeType) -> Function | ast.Lambda | None:
        """Return where a function is defined, by its line and name, or None where it is not."""
        if code.co_name == "<lambda>":
            return self._lambda(code)
        return self._functions.get((code.co_firstlineno, code.co_name))

    def class_(self, kind: type) -> ast.ClassDef | None:
        """Return where a class is defined, or None where it is not."""
        candidates = self._classes.get(kind.__qualname__, [])
        if len(candidates) > 1:
            candidates = [node for node in candidates if _fits(node, kind)]
        return next(reversed(candidates), None)

    def _lambda(self, code: CodeType) -> ast.Lambda | None:
        """Return the lambda whose body holds all of a code object's positions (PEP 657)."""
        if self._lambdas is None:
            self._lambdas = [node for node in ast.walk(self._tree) if isinstance(node, ast.Lambda)]
        places = [(p[0], p[2]) for p in code.co_positions() if p[0] and p[2] is not None and p[1] and p[3]]
        places = [place for place in places if place != (code.co_firstlineno, 0)]
        if not places:  # its body is a constant, which has no position
            return next((node for node in self._lambdas if _is_constant_lambda(node, code)), None)
        found = [node for node in self._lambdas if _holds(node.body, min(places), max(places))]
        # Of nested ones the innermost is meant; of several on one line, the one that starts there.
        return max(found, key=lambda node: (node.lineno, node.col_offset), default=None)


def first_line(node: ast.stmt | ast.expr) -> int:
    """Return the line on which a statement starts, decorators included."""
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _holds(body: ast.expr, first: tuple[int, int], last: tuple[int, int]) -> bool:
    start, end = (body.lineno, body.col_offset), (body.end_lineno or 0, body.end_col_offset or 0)
    # Parentheses around the body belong to no node.
    return start <= first and last <= end


def _is_constant_lambda(node: ast.Lambda, code: CodeType) -> bool:
    """Return whether a lambda on the line of a code object compiles to the same: then either will do."""
    if node.lineno != code.co_firstlineno:
        return False
    arguments = ast.arguments(**{**dict(ast.iter_fields(node.args)), "defaults": [], "kw_defaults": []})
    arguments.kw_defaults = [None] * len(node.args.kwonlyargs)
    alone = ast.Expression(ast.copy_location(ast.Lambda(arguments, node.body), node))
    compiled = compile(ast.fix_missing_locations(alone), code.co_filename, "eval", dont_inherit=True)
    found = next(item for item in compiled.co_consts if isinstance(item, CodeType))
    return _signature(found) == _signature(code)


def _signature(code: CodeType) -> tuple[Any, ...]:
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & inspect.CO_VARARGS)
    constants = [(type(constant), repr(constant)) for constant in code.co_consts]
    return *counts, code.co_flags & inspect.CO_VARKEYWORDS, code.co_varnames, code.co_code, constants


def _fits(node: ast.ClassDef, kind: type) -> bool:
    """Return whether a class can have been made by a definition, by its methods' lines and its constants."""
    members = vars(kind)
    if members.get("__firstlineno__", first_line(node)) != first_line(node):  # Python 3.13 has it
        return False
    for member in members.values():
        code = getattr(getattr(member, "__func__", member), "__code__", None)
        if code is None or not code.co_qualname.startswith(f"{kind.__qualname__}."):
            continue  # not one of its own methods
        if not node.lineno <= code.co_firstlineno <= (node.end_lineno or 0):
            return False
    written = {
        target.id: statement.value.value
        for statement in node.body
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    return all(members.get(name) == value for name, value in written.items())


def _definitions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Definition]]:
    """Yield each function and class with its qualified name (PEP 3155)."""
    for block in BLOCKS:
        for child in getattr(node, block, ()):
            if isinstance(child, ast.ClassDef):
                yield prefix + child.name, child
                yield from _definitions(child, f"{prefix}{child.name}.")
            elif isinstance(child, Function):
                yield prefix + child.name, child
                yield from _definitions(child, f"{prefix}{child.name}.<locals>.")
            else:
                yield from _definitions(child, prefix)
