"""A Python file read as text and syntax tree: where its functions stand, and which statements bind its names."""

from __future__ import annotations

import ast
import dataclasses
import functools
import linecache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k8s_venv.calls.names import Uses, uses
from k8s_venv.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
Function = ast.FunctionDef | ast.AsyncFunctionDef
_MAIN_TESTS = ("__name__ == '__main__'", "'__main__' == __name__")
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclasses.dataclass(frozen=True, order=True)
class Slice:
    """A piece of a file's source.

    Args:
        line: the line it starts on, counted from 1.
        column: where it stood on that line, in bytes of UTF-8; it orders the statements of one line.
        text: the source as it stands there, indentation included.
    """

    line: int
    column: int
    text: str


@dataclasses.dataclass(frozen=True)
class Binding:
    """A statement that binds a name of the module.

    Args:
        statement: the innermost statement that does it.
        unit: the outermost compound statement around it (``if``, ``try``, ``for``, …), or the statement itself.
    """

    statement: ast.stmt
    unit: ast.stmt


@dataclasses.dataclass(frozen=True)
class Facts:
    """What can be said of a statement from its text alone.

    Args:
        uses: the names it looks up.
        imports: the imports anywhere in it.
        fields: the annotated fields of the classes in it: each class's name, and the names in the annotation.
    """

    uses: Uses
    imports: tuple[ast.Import | ast.ImportFrom, ...]
    fields: tuple[tuple[str, frozenset[str]], ...]


class ModuleFile:
    """A module's source; ``module_file`` keeps one for each file.

    Args:
        filename: its path, or the name under which ``linecache`` knows it.
        lines: its text.
        as_main: it ran as the process's ``__main__``.

    Raises:
        SourceError: the source does not parse.
    """

    def __init__(self, filename: str, lines: list[str], *, as_main: bool) -> None:
        self.filename = filename
        self.text = "".join(lines)
        self._lines = lines
        self._as_main = as_main
        self._facts: dict[int, Facts] = {}
        try:
            self.tree = ast.parse(self.text, filename)
        except SyntaxError as error:
            raise SourceError(
                f"The file has changed and no longer parses: {error.msg}.", filename, error.lineno
            ) from None

    @functools.cached_property
    def statements(self) -> list[ast.stmt]:
        """Return the module's own statements, in order.

        What ``with DAG(…):`` holds counts as the module's own, and what ``if __name__ == "__main__":`` does where
        it ran.
        """
        return list(_top_level(self.tree.body, as_main=self._as_main))

    @functools.cached_property
    def active_statements(self) -> list[ast.stmt]:
        """Return the module's own statements that do more than import or define something."""
        return [node for node in self.statements if not _only_defines(node)]

    def facts(self, node: ast.stmt) -> Facts:
        """Return what can be said of a statement whatever the module's names stand for."""
        if id(node) not in self._facts:
            self._facts[id(node)] = facts_of(node, self.filename)
        return self._facts[id(node)]

    @functools.cached_property
    def bindings(self) -> dict[str, list[Binding]]:
        """Return what binds each name of the module, in order."""
        found: dict[str, list[Binding]] = {}
        for unit in self.statements:
            for statement in [unit] if isinstance(unit, ast.With | ast.AsyncWith) else _innermost(unit):
                for name in _bound_names(statement):
                    found.setdefault(name, []).append(Binding(statement, unit))
        return found

    @functools.cached_property
    def _definitions(self) -> dict[tuple[int, str], Function]:
        return {(first_line(node), node.name): node for _, node in self._all if isinstance(node, Function)}

    @functools.cached_property
    def _lambdas(self) -> list[ast.Lambda]:
        return [node for node in ast.walk(self.tree) if isinstance(node, ast.Lambda)]

    @functools.cached_property
    def _classes(self) -> dict[str, list[ast.ClassDef]]:
        found: dict[str, list[ast.ClassDef]] = {}
        for qualname, node in self._all:
            if isinstance(node, ast.ClassDef):
                found.setdefault(qualname, []).append(node)
        return found

    @functools.cached_property
    def _all(self) -> list[tuple[str, Definition]]:
        return list(_definitions(self.tree, ""))

    def definition_of(self, code: CodeType) -> Function | ast.Lambda:
        """Return where a function is defined, by its line and name.

        Raises:
            SourceError: there is no such definition.
        """
        line = code.co_firstlineno
        if code.co_name == "<lambda>":
            node = self._lambda(code)
            if node is not None:
                return node
        elif (line, code.co_name) in self._definitions:
            return self._definitions[line, code.co_name]
        raise SourceError(
            f"The file has changed: the function {code.co_name!r} no longer starts here. Load the DAG again.",
            self.filename,
            line,
        )

    def _lambda(self, code: CodeType) -> ast.Lambda | None:
        """Return the lambda whose body holds all of a code object's positions (PEP 657)."""
        places = [(p[0], p[2]) for p in code.co_positions() if p[0] and p[2] is not None and p[1] and p[3]]
        places = [place for place in places if place != (code.co_firstlineno, 0)]
        found = [node for node in self._lambdas if places and _holds(node.body, min(places), max(places))]
        # Of nested ones the innermost is meant; of several on one line, the one that starts there.
        return max(found, key=lambda node: (node.lineno, node.col_offset), default=None)

    def class_definition(self, kind: type) -> ast.ClassDef | None:
        """Return where a class is defined, or None when that is not in this file."""
        candidates = self._classes.get(kind.__qualname__, [])
        line = vars(kind).get("__firstlineno__")  # Python 3.13 has it
        exact = [node for node in candidates if first_line(node) == line]
        return next(reversed(exact or candidates), None)

    def slice(self, node: ast.stmt | ast.expr, from_line: int | None = None) -> Slice:
        """Return a statement's or expression's source.

        Args:
            node: the statement.
            from_line: leaves out what stands before this line, such as decorators.
        """
        start = from_line or self._at_sign(first_line(node), node)
        end = node.end_lineno or start
        # Columns count bytes of UTF-8.
        pieces = [line.encode() for line in self._lines[start - 1 : end]]
        # What follows on the last line is another statement, or a comment.
        pieces[-1] = pieces[-1][: node.end_col_offset]
        if start == node.lineno and pieces[0][: node.col_offset].strip():
            pieces[0] = pieces[0][node.col_offset :]
        return Slice(start, node.col_offset, b"".join(pieces).decode() + "\n")

    def _at_sign(self, line: int, node: ast.AST) -> int:
        """Return the line of a decorator's ``@``, which can stand before its expression's."""
        if getattr(node, "decorator_list", None):
            while line > 1 and not self._lines[line - 1].lstrip().startswith("@"):
                line -= 1
        return line


def module_file(filename: str, *, as_main: bool = False) -> ModuleFile:
    """Return a file's source, read and parsed once for as long as the file does not change.

    Args:
        filename: its path, or the name under which ``linecache`` knows it.
        as_main: it ran as the process's ``__main__``.

    Raises:
        SourceError: the source cannot be had, or does not parse.
    """
    try:
        status = Path(filename).stat()
        version: Any = (status.st_mtime_ns, status.st_size)
    except OSError:
        entry = linecache.cache.get(filename)
        version = "".join(entry[2]) if entry is not None and len(entry) == 4 else None
    return _parsed(filename, version, as_main)


@functools.lru_cache(maxsize=64)
def _parsed(filename: str, version: Any, as_main: bool) -> ModuleFile:
    linecache.checkcache(filename)
    lines = linecache.getlines(filename)
    if not lines:
        raise SourceError(
            "The source of the function cannot be read, and nothing else can travel to another version of Python. "
            "Define the function in a file or a notebook.",
            filename,
        )
    return ModuleFile(filename, lines, as_main=as_main)


def facts_of(node: ast.stmt, filename: str) -> Facts:
    """Return the facts about a statement.

    Args:
        node: the statement.
        filename: its file.
    """
    parts = list(ast.walk(node))
    fields = [
        (kind.name, frozenset(part.id for part in ast.walk(field.annotation) if isinstance(part, ast.Name)))
        for kind in parts
        if isinstance(kind, ast.ClassDef)
        for field in kind.body
        if isinstance(field, ast.AnnAssign)
    ]
    imports = tuple(part for part in parts if isinstance(part, ast.Import | ast.ImportFrom))
    return Facts(uses(node, filename), imports, tuple(fields))


def _only_defines(node: ast.stmt) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom) or (isinstance(node, Definition) and not node.decorator_list)


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
    for block in _BLOCKS:
        for child in getattr(node, block, ()):
            if isinstance(child, ast.ClassDef):
                yield prefix + child.name, child
                yield from _definitions(child, f"{prefix}{child.name}.")
            elif isinstance(child, Function):
                yield prefix + child.name, child
                yield from _definitions(child, f"{prefix}{child.name}.<locals>.")
            else:
                yield from _definitions(child, prefix)


def _is_main_block(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and ast.unparse(statement.test) in _MAIN_TESTS


def _top_level(body: list[ast.stmt], *, as_main: bool) -> Iterator[ast.stmt]:
    for statement in body:
        if _is_main_block(statement):
            if as_main:
                yield from _top_level(statement.body, as_main=True)  # type: ignore[attr-defined]
            continue
        yield statement
        if isinstance(statement, ast.With | ast.AsyncWith):
            yield from _top_level(statement.body, as_main=as_main)


def _innermost(statement: ast.AST) -> Iterator[ast.stmt]:
    """Yield a statement and, where it is a compound one of the module's own scope, those inside it."""
    if isinstance(statement, ast.stmt):
        yield statement
    if not isinstance(statement, Definition):
        for block in _BLOCKS:
            for inner in getattr(statement, block, ()):
                yield from _innermost(inner)


def _bound_names(statement: ast.stmt) -> set[str]:
    """Return the names that a statement binds itself, apart from the statements inside it."""
    if isinstance(statement, Definition):
        return {statement.name}
    names: set[str] = set()
    inside = {id(item) for block in _BLOCKS for item in getattr(statement, block, ())}
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
