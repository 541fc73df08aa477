"""A Python file read as text and syntax tree: where its functions stand, and what binds its names."""

from __future__ import annotations

import ast
import dataclasses
import linecache
from typing import TYPE_CHECKING, Any

from k8s_venv.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FunctionType

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclasses.dataclass(frozen=True)
class Slice:
    """A piece of a file's source.

    Args:
        line: the line it starts on, counted from 1.
        text: the source as it stands there, indentation included.

    """

    line: int
    text: str


class ModuleFile:
    """A module's source.

    Args:
        filename: its path, or the name under which ``linecache`` knows it.

    Raises:
        CallError: the source cannot be had, or does not parse.

    """

    def __init__(self, filename: str) -> None:
        self.filename = filename
        linecache.checkcache(filename)
        self.lines = linecache.getlines(filename)
        if not self.lines:
            raise CallError(
                "The source of the function cannot be read, and only source can travel to another Python "
                "version. Define the function in a file.",
                filename,
            )
        self.text = "".join(self.lines)
        try:
            self.tree = ast.parse(self.text, filename)
        except SyntaxError as error:
            raise CallError(
                f"The file has changed and no longer parses: {error.msg}.", filename, error.lineno
            ) from None
        self._encoded = [line.encode() for line in self.lines]
        self._definitions = dict(_definitions(self.tree, ""))

    def definition_of(self, function: FunctionType) -> ast.FunctionDef | ast.AsyncFunctionDef:
        """Return where a function is defined, by its line and name.

        Raises:
            CallError: there is no such definition.

        """
        code = function.__code__
        for node in ast.walk(self.tree):
            if (
                isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                and node.name == code.co_name
                and first_line(node) == code.co_firstlineno
            ):
                return node
        if code.co_name == "<lambda>":
            problem = "A lambda cannot travel to another Python version. Define a function with `def`."
        else:
            problem = f"The file has changed: the function {code.co_name!r} no longer starts here. Load the DAG again."
        raise CallError(problem, self.filename, code.co_firstlineno)

    def class_definition(self, kind: type) -> ast.ClassDef | None:
        """Return where a class is defined, or None when that is not in this file."""
        node = self._definitions.get(kind.__qualname__)
        return node if isinstance(node, ast.ClassDef) else None

    def slice(self, node: ast.stmt, from_line: int | None = None) -> Slice:
        """Return a statement's source.

        Args:
            node: the statement.
            from_line: leaves out what stands before this line, such as decorators.

        """
        start = from_line or first_line(node)
        end = node.end_lineno or start
        pieces = self._encoded[start - 1 : end]
        # Columns count bytes of UTF-8. What follows on the last line is another statement, or a comment.
        pieces[-1] = pieces[-1][: node.end_col_offset]
        before = pieces[0][: node.col_offset]
        if before.strip() and start == node.lineno:
            pieces[0] = pieces[0][node.col_offset :]
        return Slice(start, b"".join(pieces).decode() + "\n")

    def bindings(self) -> dict[str, list[ast.stmt]]:
        """Return the statements that bind each name of the module, in order."""
        found: dict[str, list[ast.stmt]] = {}
        for statement in _top_level(self.tree.body):
            for name in _bound_names(statement):
                found.setdefault(name, []).append(statement)
        return found


def first_line(node: ast.stmt) -> int:
    """Return the line on which a statement starts, decorators included."""
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _definitions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Definition]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + child.name, child
            yield from _definitions(child, f"{prefix}{child.name}.<locals>.")
        elif isinstance(child, ast.ClassDef):
            yield prefix + child.name, child
            yield from _definitions(child, f"{prefix}{child.name}.")
        else:
            yield from _definitions(child, prefix)


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield a module's statements; those inside ``with DAG(…):`` count as the module's own."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.With | ast.AsyncWith):
            yield from _top_level(statement.body)


def _bound_names(statement: ast.stmt) -> set[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.With | ast.AsyncWith):
        targets = [item.optional_vars for item in statement.items if item.optional_vars]
        return {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}
    names: set[str] = set()
    pending: list[Any] = [statement]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
            names.add(node.id)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            names.add(node.name)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            continue
        elif isinstance(node, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            continue
        pending.extend(ast.iter_child_nodes(node))
    return names
