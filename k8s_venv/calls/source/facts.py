"""What can be said of a statement from its text alone."""

from __future__ import annotations

import ast
import dataclasses

from k8s_venv.calls.source.annotations import names_in_annotations
from k8s_venv.calls.source.names import Uses, uses


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a statement uses and imports.

    Args:
        uses: the names it looks up.
        imports: the imports anywhere in it, those by a constant text included.
        fields: the annotated fields of the classes in it: each class's name, and the names in the annotation.
    """

    uses: Uses
    imports: tuple[ast.Import | ast.ImportFrom, ...]
    fields: tuple[tuple[str, frozenset[str]], ...]


def facts_of(node: ast.stmt, filename: str) -> Facts:
    """Return the facts about a statement.

    Args:
        node: the statement.
        filename: its file.
    """
    parts = list(ast.walk(node))
    fields = [
        (kind.name, frozenset(names_in_annotations(field)))
        for kind in parts
        if isinstance(kind, ast.ClassDef)
        for field in kind.body
        if isinstance(field, ast.AnnAssign)
    ]
    imports = [part for part in parts if isinstance(part, ast.Import | ast.ImportFrom)]
    imports += [ast.Import([ast.alias(name)]) for part in parts if (name := import_by_text(part))]
    return Facts(uses(node, filename), tuple(imports), tuple(fields))


def import_by_text(node: ast.AST) -> str | None:
    """Return the module that ``importlib.import_module("…")`` imports, or None for anything else."""
    if not isinstance(node, ast.Call) or len(node.args) != 1 or not isinstance(node.args[0], ast.Constant):
        return None
    name = node.args[0].value
    if not isinstance(name, str) or name.startswith("."):
        return None
    called = getattr(node.func, "attr", getattr(node.func, "id", ""))
    return name if called in ("import_module", "__import__") else None
