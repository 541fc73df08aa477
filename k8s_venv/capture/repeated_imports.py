"""Imports, repeated one name at a time: the other names of their lines may not exist in the environment."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from k8s_venv.capture.bindings import Binding
    from k8s_venv.capture.modulefile import ModuleFile


@dataclasses.dataclass(frozen=True)
class RepeatedImport:
    """An import of one name.

    Args:
        file: the number of its file among the module's.
        statement: the statement that it is a part of.
        text: what is repeated.
    """

    file: int
    statement: ast.Import | ast.ImportFrom
    text: str


def imports_of_name(name: str, value: Any, bindings: list[tuple[int, Binding]]) -> Iterator[RepeatedImport]:
    """Yield the imports that give a name its value.

    Args:
        name: the name.
        value: what it stands for.
        bindings: the import statements that bind it, each with the number of its file.
    """
    for number, binding in bindings:
        node = binding.statement
        assert isinstance(node, ast.Import | ast.ImportFrom)  # noqa: S101 -- the caller looked
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            continue
        for alias in node.names:
            if (alias.asname or alias.name.partition(".")[0]) == name and _is_import_of(alias, node, value):
                what = f"{alias.name} as {alias.asname}" if alias.asname else alias.name
                yield RepeatedImport(number, node, f"{_from(node)}import {what}\n")


def star_import(name: str, value: Any, files: Sequence[ModuleFile], names: Mapping[str, Any]) -> RepeatedImport | None:
    """Return the import of a name that a star import brought, or None.

    Args:
        name: the name.
        value: what it stands for.
        files: the module's files.
        names: what the module's names stand for.
    """
    for number, file in enumerate(files):
        for node in file.statements:
            if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
                module = "." * node.level + (node.module or "")
                full = importlib.util.resolve_name(module, names.get("__package__") or "")
                if getattr(sys.modules.get(full), name, files) is value:
                    return RepeatedImport(number, node, f"{_from(node)}import {name}\n")
    return None


def _from(node: ast.Import | ast.ImportFrom) -> str:
    return f"from {'.' * node.level}{node.module or ''} " if isinstance(node, ast.ImportFrom) else ""


def _is_import_of(alias: ast.alias, node: ast.stmt, value: Any) -> bool:
    """Return whether an import can have given a name its value, when several compete."""
    if isinstance(node, ast.Import) and alias.asname and isinstance(value, ModuleType):
        loaded = sys.modules.get(alias.name)
        return loaded is None or loaded is value or value.__name__ == alias.name
    return True
