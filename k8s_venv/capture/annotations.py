"""Which annotations count: those that making a class looks at, as pydantic does, and all where something reads them."""

from __future__ import annotations

import ast
import typing
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

_TARGETS = ast.arg | ast.AnnAssign | ast.FunctionDef | ast.AsyncFunctionDef
_MARKS = ("ClassVar", "InitVar", "KW_ONLY", "Final")
_MARKS_FROM = {"typing", "dataclasses", "typing_extensions"}
_READING = ("get_type_hints", "__annotations__", ".annotation")
_READING_PACKAGES = {
    "attrs", "beartype", "cattrs", "dacite", "marshmallow_dataclass", "mashumaro", "msgspec", "pydantic", "typeguard",
}  # fmt: skip
_PLAIN_METACLASSES = {"builtins", "abc", "enum", "typing"}


def evaluated_names(fields: Iterable[tuple[str, frozenset[str]]], names: Mapping[str, Any]) -> set[str]:
    """Return the names in the annotations of fields that making their classes looks at.

    Args:
        fields: each field's class, by its name, and the names in the field's annotation.
        names: what the module's names stand for.
    """
    found: set[str] = set()
    for kind, used in fields:
        reads_all = _reads_annotations(names.get(kind))
        found |= {name for name in used if reads_all or _is_mark(name, names.get(name))}
    return found & names.keys()


def are_read(texts: Iterable[str], packages: Collection[str]) -> bool:
    """Return whether code reads the annotations of functions and classes that it is given.

    Args:
        texts: the pieces of the code.
        packages: the installed packages that it imports.
    """
    return not _READING_PACKAGES.isdisjoint(packages) or any(word in text for text in texts for word in _READING)


def names_in_annotations(node: ast.AST) -> Iterator[str]:
    """Yield the names in the annotations of a piece of source, also in quoted ones."""
    for part in ast.walk(node):
        if isinstance(part, _TARGETS):
            pending = list(ast.walk(_annotation(part) or ast.Pass()))
            for inner in pending:  # it grows
                if isinstance(inner, ast.Name):
                    yield inner.id
                elif isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                    pending += ast.walk(_parsed(inner.value) or ast.Pass())


def _is_mark(name: str, value: Any) -> bool:
    """Return whether a name says how a field is meant, such as ``ClassVar``, or is a module that says so."""
    if isinstance(value, ModuleType):
        return value.__name__ in _MARKS_FROM
    return name in _MARKS and getattr(value, "__module__", "") in _MARKS_FROM


def _reads_annotations(kind: Any) -> bool:
    """Return whether making a class evaluates its annotations, as pydantic's do."""
    if not isinstance(kind, type):
        return False
    made_by = {type(base).__module__.partition(".")[0] for base in kind.__mro__}
    own = (hasattr(kind, mark) for mark in ("__pydantic_fields__", "__attrs_attrs__"))
    return bool(made_by - _PLAIN_METACLASSES) or any(own)


def quoted(node: ast.AST) -> dict[ast.expr, str]:
    """Return what stands in quotes in the annotations of a piece of source, with its text.

    With PEP 563 it would be a text in a text, which ``typing.get_type_hints`` reads only from Python 3.9 on.
    """
    given = [_annotation(part) for part in ast.walk(node) if isinstance(part, _TARGETS)]
    return {found: text for each in given if each for found, text in _quoted_in(each)}


def _quoted_in(node: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str) and node.value.isprintable() and _parsed(node.value):
            yield node, node.value
    elif isinstance(node, ast.Subscript) and _means_types(node.value):
        yield from _quoted_in(node.slice)
    elif isinstance(node, ast.Tuple | ast.List | ast.BinOp):
        for child in ast.iter_child_nodes(node):
            yield from _quoted_in(child)


def _means_types(generic: ast.expr) -> bool:
    """Return whether texts between the brackets of a generic type mean types, as they do not for ``Literal``."""
    name = getattr(generic, "attr", getattr(generic, "id", ""))
    return name not in ("Annotated", "Literal") and (name in typing.__all__ or name in ("dict", "list", "set", "tuple"))


def _annotation(node: _TARGETS) -> ast.expr | None:
    return node.returns if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else node.annotation


def _parsed(text: str) -> ast.Expression | None:
    try:
        return ast.parse(text, mode="eval")
    except SyntaxError:
        return None
