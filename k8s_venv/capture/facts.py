"""What is known about a statement from its text alone."""

from __future__ import annotations

import ast
import dataclasses
from typing import TYPE_CHECKING

from k8s_venv.capture.annotations import names_in_annotations
from k8s_venv.capture.imports import Import, imports_in
from k8s_venv.capture.names import Uses, uses

if TYPE_CHECKING:
    from k8s_venv.capture.imports import Calls


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a statement uses and imports.

    Args:
        uses: the names it looks up.
        imports: the imports anywhere in it.
        fields: the annotated fields of the classes in it: each class's name, and the names in the annotation.
    """

    uses: Uses
    imports: tuple[Import, ...]
    fields: tuple[tuple[str, frozenset[str]], ...]


def facts_of(node: ast.stmt, filename: str, calls: Calls) -> Facts:
    """Return the facts about a statement.

    Args:
        node: the statement.
        filename: its file.
        calls: how the file imports by a text.
    """
    fields = [
        (kind.name, frozenset(names_in_annotations(field)))
        for kind in ast.walk(node)
        if isinstance(kind, ast.ClassDef)
        for field in kind.body
        if isinstance(field, ast.AnnAssign)
    ]
    return Facts(uses(node, filename), tuple(imports_in([node], calls)), tuple(fields))
