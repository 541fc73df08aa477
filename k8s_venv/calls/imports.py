"""What pieces of source import, and whether they can do without it."""

from __future__ import annotations

import ast
import dataclasses
from typing import TYPE_CHECKING

from k8s_venv.calls.source.facts import import_by_text
from k8s_venv.runner.restoring import parse_slice

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_MISSING = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}


@dataclasses.dataclass(frozen=True)
class Import:
    """An import of a module.

    Args:
        module: the module's full name.
        file: where the import stands.
        line: its line, counted from 1.
        optional: whether what stands around it expects that the module may be missing.
        names: what it takes from the module, with ``from … import``.
    """

    module: str
    file: str
    line: int
    optional: bool
    names: tuple[str, ...] = ()


def imports_of(slices: Iterable[tuple[str, int, str]]) -> list[Import]:
    """Return the absolute imports in pieces of source, those inside functions included.

    Args:
        slices: each piece's file, first line and text; indentation may be kept.
    """
    found = []
    for file, line, text in slices:
        for node in parse_slice({"file": file, "line": line, "text": text}):
            found += [
                Import(name, file, at, optional, names) for name, at, optional, names in _imports(node, optional=False)
            ]
    return list(dict.fromkeys(found))


def _imports(node: ast.AST, *, optional: bool) -> Iterator[tuple[str, int, bool, tuple[str, ...]]]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.name, node.lineno, optional, ()
    elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module and node.module != "__future__":
        yield node.module, node.lineno, optional, tuple(alias.name for alias in node.names)
    elif name := import_by_text(node):
        yield name, node.lineno, optional, ()  # type: ignore[attr-defined]
    elif isinstance(node, ast.Try):
        guarded = optional or any(_expects_missing(handler) for handler in node.handlers)
        for child in ast.iter_child_nodes(node):
            yield from _imports(child, optional=guarded)
    elif isinstance(node, ast.If) and _is_type_checking(node.test):
        for statement in node.orelse:
            yield from _imports(statement, optional=optional)
    else:
        for child in ast.iter_child_nodes(node):
            yield from _imports(child, optional=optional)


def _expects_missing(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    names = {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)}
    return bool(names & _MISSING)


def _is_type_checking(test: ast.expr) -> bool:
    return getattr(test, "id", getattr(test, "attr", "")) == "TYPE_CHECKING"
