"""A module's own statements, and which of them bind its names."""

from __future__ import annotations

import ast
import dataclasses
from typing import TYPE_CHECKING

from k8s_venv.capture.definitions import BLOCKS, Definition

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAIN_TESTS = ("__name__ == '__main__'", "'__main__' == __name__")
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclasses.dataclass(frozen=True)
class Binding:
    """A statement that binds a name of the module.

    Args:
        statement: the innermost statement that does it.
        unit: the outermost compound statement around it (``if``, ``try``, ``for``, …), or the statement itself.
    """

    statement: ast.stmt
    unit: ast.stmt


def own_statements(body: list[ast.stmt], *, as_main: bool) -> Iterator[ast.stmt]:
    """Yield a module's own statements, in order.

    What ``with DAG(…):`` holds counts as the module's own, and what ``if __name__ == "__main__":`` does where it ran.

    Args:
        body: the module's body.
        as_main: it ran as the process's ``__main__``.
    """
    for statement in body:
        if _is_main_block(statement):
            if as_main:
                yield from own_statements(statement.body, as_main=True)  # type: ignore[attr-defined]
            continue
        yield statement
        if isinstance(statement, ast.With | ast.AsyncWith):
            yield from own_statements(statement.body, as_main=as_main)


def _is_main_block(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and ast.unparse(statement.test) in MAIN_TESTS


def bindings_of(statements: Iterable[ast.stmt]) -> dict[str, list[Binding]]:
    """Return what binds each name of a module, in order.

    Args:
        statements: the module's own.
    """
    found: dict[str, list[Binding]] = {}
    for unit in statements:
        for statement in [unit] if isinstance(unit, ast.With | ast.AsyncWith) else _innermost(unit):
            for name in _bound_names(statement):
                found.setdefault(name, []).append(Binding(statement, unit))
    return found


def _innermost(statement: ast.AST) -> Iterator[ast.stmt]:
    """Yield a statement and, where it is a compound one of the module's own scope, those inside it."""
    if isinstance(statement, ast.stmt):
        yield statement
    if not isinstance(statement, Definition):
        for block in BLOCKS:
            for inner in getattr(statement, block, ()):
                yield from _innermost(inner)


def _bound_names(statement: ast.stmt) -> set[str]:
    """Return the names that a statement binds itself, apart from the statements inside it."""
    if isinstance(statement, Definition):
        return {statement.name}
    names: set[str] = set()
    inside = {id(item) for block in BLOCKS for item in getattr(statement, block, ())}
    pending: list[tuple[ast.AST, bool]] = [(statement, False)]
    while pending:
        node, in_comprehension = pending.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del) and not in_comprehension:
            names.add(node.id)
        elif isinstance(node, ast.NamedExpr) and in_comprehension:
            names.add(node.target.id)
        elif isinstance(node, ast.Lambda):
            continue
        within = in_comprehension or isinstance(node, _COMPREHENSIONS)
        pending += [(child, within) for child in ast.iter_child_nodes(node) if id(child) not in inside]
    return names


def only_defines(node: ast.stmt) -> bool:
    """Return whether a statement does no more than import or define something."""
    return isinstance(node, ast.Import | ast.ImportFrom) or (isinstance(node, Definition) and not node.decorator_list)
