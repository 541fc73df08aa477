"""Where the functions, lambdas and classes of a file are defined."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType

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
        line = vars(kind).get("__firstlineno__")  # Python 3.13 has it
        exact = [node for node in candidates if first_line(node) == line]
        return next(reversed(exact or candidates), None)

    def _lambda(self, code: CodeType) -> ast.Lambda | None:
        """Return the lambda whose body holds all of a code object's positions (PEP 657)."""
        if self._lambdas is None:
            self._lambdas = [node for node in ast.walk(self._tree) if isinstance(node, ast.Lambda)]
        places = [(p[0], p[2]) for p in code.co_positions() if p[0] and p[2] is not None and p[1] and p[3]]
        places = [place for place in places if place != (code.co_firstlineno, 0)]
        found = [node for node in self._lambdas if places and _holds(node.body, min(places), max(places))]
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
