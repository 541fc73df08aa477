"""What can be said of a statement from its text alone."""

from __future__ import annotations

import ast
import dataclasses

from k8s_venv.calls.source.names import Uses, uses


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a statement uses and imports.

    Args:
        uses: the names it looks up.
        imports: the imports anywhere in it.
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
        (kind.name, frozenset(part.id for part in ast.walk(field.annotation) if isinstance(part, ast.Name)))
        for kind in parts
        if isinstance(kind, ast.ClassDef)
        for field in kind.body
        if isinstance(field, ast.AnnAssign)
    ]
    imports = tuple(part for part in parts if isinstance(part, ast.Import | ast.ImportFrom))
    return Facts(uses(node, filename), imports, tuple(fields))
