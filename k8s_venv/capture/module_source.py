"""A Python file as text and syntax tree: as Airflow loaded it, or read again whenever it has changed."""

from __future__ import annotations

import ast
import dataclasses
import functools
import io
import linecache
import tokenize
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from k8s_venv.capture.functions import Definitions, first_line, written_function
from k8s_venv.capture.imports import Calls, Import, import_calls, imports_in
from k8s_venv.capture.names import (
    Binding,
    Definition,
    Function,
    Uses,
    bindings_of,
    names_in_annotations,
    own_statements,
    quoted,
    uses,
)
from k8s_venv.errors import CallError, SourceError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import CodeType, FunctionType

_CELLS = ("<ipython-input-", "<python-input-")
_as_loaded: dict[str, _Loaded] = {}


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

    def as_sent(self, filename: str) -> dict[str, Any]:
        """Return the slice as the runner parses it."""
        return {"file": filename, "line": self.line, "text": self.text}


@dataclasses.dataclass(frozen=True)
class Facts:
    """The names that a statement uses, and its imports.

    Args:
        uses: the names it looks up.
        imports: the imports anywhere in it.
        fields: the annotated fields of the classes in it: each class's name, and the names in the annotation.
    """

    uses: Uses
    imports: tuple[Import, ...]
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
        """Return the module's own statements, in order."""
        return list(own_statements(self.tree.body, as_main=self._as_main))

    @functools.cached_property
    def active_statements(self) -> list[ast.stmt]:
        """Return the module's own statements that do more than import or define something."""
        plain = ast.Import | ast.ImportFrom | Definition
        return [each for each in self.statements if getattr(each, "decorator_list", ()) or not isinstance(each, plain)]

    def facts(self, node: ast.stmt) -> Facts:
        """Return the facts about a statement that its text alone gives."""
        if id(node) not in self._facts:
            self._facts[id(node)] = facts_of(node, self.filename, self.import_calls)
        return self._facts[id(node)]

    @functools.cached_property
    def imports(self) -> list[Import]:
        """Return the imports anywhere in the file."""
        return list(imports_in([self.tree], self.import_calls))

    def imports_of(self, node: ast.AST, package: str) -> list[Import]:
        """Return the imports anywhere in a piece of the file, which belongs to a package, with full names."""
        return [each.absolute(package) for each in imports_in([node], self.import_calls)]

    @functools.cached_property
    def import_calls(self) -> Calls:
        """Return how the file imports modules by calls."""
        return import_calls(self.tree, self.text)

    @functools.cached_property
    def bindings(self) -> dict[str, list[Binding]]:
        """Return the statements that bind each name of the module, in order."""
        return bindings_of(self.statements)

    @functools.cached_property
    def _definitions(self) -> Definitions:
        return Definitions(self.tree)

    def definition_of(self, code: CodeType) -> Function | ast.Lambda:
        """Return the definition of a function, found by its line and name.

        Raises:
            SourceError: there is no such definition.
        """
        node = self._definitions.function(code)
        if node is None:
            raise SourceError(
                f"The file has changed: the function {code.co_name!r} no longer starts here. Load the DAG again.",
                self.filename,
                code.co_firstlineno,
            )
        return node

    def class_definition(self, kind: type) -> ast.ClassDef | None:
        """Return the definition of a class, or None if it is not in this file."""
        return self._definitions.class_(kind)

    def slice(
        self, node: ast.stmt | ast.expr, from_line: int | None = None, replaced: Mapping[ast.expr, str] | None = None
    ) -> Slice:
        """Return a statement's or expression's source.

        Args:
            node: the statement.
            from_line: leave out the lines before this one, such as decorators.
            replaced: expressions in it, each with the name that takes its place.
        """
        replaced = {**quoted(node), **(replaced or {})}
        start = from_line or self._at_sign(first_line(node), node)
        end = node.end_lineno or start
        # Columns count bytes of UTF-8.
        pieces = [line.encode() for line in self._lines[start - 1 : end]]
        # Another statement or a comment may follow on the last line.
        pieces[-1] = pieces[-1][: node.end_col_offset]
        for expression in sorted(replaced, key=lambda each: (each.lineno, each.col_offset), reverse=True):
            if expression.lineno >= start:
                _replace(pieces, expression, start, replaced[expression])
        if start == node.lineno and pieces[0][: node.col_offset].strip():
            pieces[0] = pieces[0][node.col_offset :]
        return Slice(start, node.col_offset, b"".join(pieces).decode() + "\n")

    def _at_sign(self, line: int, node: ast.AST) -> int:
        """Return the line of a decorator's ``@``, which can stand on a line before the expression."""
        if getattr(node, "decorator_list", None):
            while line > 1 and not self._lines[line - 1].lstrip().startswith("@"):
                line -= 1
        return line


def _replace(pieces: list[bytes], expression: ast.expr, start: int, name: str) -> None:
    """Put a name in an expression's place, on as many lines, in pieces whose first line has the number ``start``."""
    first, last = expression.lineno - start, (expression.end_lineno or expression.lineno) - start
    before, after = pieces[first][: expression.col_offset], pieces[last][expression.end_col_offset :]
    between = [b""] * (last - first)
    pieces[first : last + 1] = [before + b"(" + name.encode() + b"\n" * len(between) + b")" + after, *between]


def facts_of(node: ast.stmt, filename: str, calls: Calls) -> Facts:
    """Return the facts about a statement of a file, which imports modules by certain calls."""
    fields = [
        (kind.name, frozenset(names_in_annotations(field)))
        for kind in ast.walk(node)
        if isinstance(kind, ast.ClassDef)
        for field in kind.body
        if isinstance(field, ast.AnnAssign)
    ]
    return Facts(uses(node, filename), tuple(imports_in([node], calls)), tuple(fields))


def module_file(filename: str, *, as_main: bool = False) -> ModuleFile:
    """Return a file's source, read and parsed once for as long as the file does not change.

    The arguments and errors are those of ``ModuleFile``; a source that cannot be read is a SourceError as well.
    """
    loaded = _as_loaded.get(filename)
    version: Any = loaded.version if loaded else _version(filename)
    if version is None:
        entry = linecache.cache.get(filename)
        version = "".join(entry[2]) if entry is not None and len(entry) == 4 else None
    return _parsed(filename, version, as_main)


def files_of(names: dict[str, Any], filename: str) -> list[ModuleFile]:
    """Return the files of a module that has certain names: one, or in a notebook one for each cell, in order."""
    as_main = names.get("__name__") == "__main__"
    if names.get("__file__") or not (filename.startswith(_CELLS) or "ipykernel_" in filename):
        return [module_file(filename, as_main=as_main)]
    cells = [name for name in linecache.cache if name.startswith(_CELLS) or "ipykernel_" in name]
    found = []
    for name in cells:
        try:
            found.append(module_file(name, as_main=as_main))
        except CallError:  # a cell that never ran
            continue
    return found


def has_text(filename: str) -> bool:
    """Return whether the text of a file, or of a notebook's cell, is known."""
    return bool(_lines(filename))


@functools.lru_cache(maxsize=64)
def _parsed(filename: str, version: Any, as_main: bool) -> ModuleFile:
    lines = _lines(filename)
    if not lines:
        raise SourceError(
            "The source of the function cannot be read, and only source can travel to another version of Python. "
            "Define the function in a file or a notebook.",
            filename,
        )
    return ModuleFile(filename, lines, as_main=as_main)


def _lines(filename: str) -> list[str]:
    if filename not in _as_loaded:
        linecache.checkcache(filename)
        return linecache.getlines(filename)
    data = _as_loaded[filename].data
    encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    text = io.TextIOWrapper(io.BytesIO(data), encoding).read()
    return io.StringIO(text if text.endswith("\n") else f"{text}\n").readlines()


def remember(function: Any) -> None:
    """Keep the text that a task's function was loaded from, since its file may change until the task runs.

    Args:
        function: the function, right after it was loaded. A second call with the same function changes nothing.
    """
    inner = written_function(function)
    filename = inner.__code__.co_filename if inner is not None else ""
    loaded = _as_loaded.get(filename)
    version = _version(filename)
    if inner is None or version is None or (loaded is not None and inner in loaded.functions):
        return
    if loaded is None or loaded.version != version:
        loaded = _as_loaded[filename] = _Loaded(version, Path(filename).read_bytes(), weakref.WeakSet())
    loaded.functions.add(inner)


class _Loaded(NamedTuple):
    """A file as it was when the functions of tasks were loaded from it."""

    version: tuple[int, int]
    data: bytes
    functions: weakref.WeakSet[FunctionType]


def _version(filename: str) -> tuple[int, int] | None:
    try:
        status = Path(filename).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
