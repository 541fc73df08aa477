"""The statements of one module that run again in the environment, and what they use."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from k8s_venv.capture import repeating
from k8s_venv.capture.annotations import evaluated_names, names_in_annotations
from k8s_venv.capture.definitions import Definition
from k8s_venv.capture.facts import facts_of
from k8s_venv.capture.imports import Calls, imports_in
from k8s_venv.capture.in_force import defines
from k8s_venv.capture.modulefile import ModuleFile, Slice
from k8s_venv.capture.origins import is_available
from k8s_venv.capture.outside import values_from_outside
from k8s_venv.capture.settings import Settings
from k8s_venv.capture.state import is_plain
from k8s_venv.wire.restoring import parse_slice

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from k8s_venv.capture.imports import Import
    from k8s_venv.capture.origins import Origins
    from k8s_venv.capture.repeated_imports import RepeatedImport


class Statements:
    """Collect the statements of a module that run again.

    Args:
        files: the module's files.
        names: what its names stand for.
        origins: tells how other modules travel.
        annotated: the packages whose names in annotations are followed, and those of the project and Python's own;
            or None: no name in an annotation is.
    """

    def __init__(
        self,
        files: Sequence[ModuleFile],
        names: Mapping[str, Any],
        origins: Origins,
        annotated: Collection[str] | None = None,
    ) -> None:
        self.imports: list[Import] = []  # all those in them
        self._package = str(names.get("__package__") or "")
        self.values: dict[str, Any] = {}  # what definitions read from outside, by the names that stand for it there
        self._files = files
        self._names = names
        self._origins = origins
        self._annotated = annotated
        self._slices: set[tuple[int, Slice]] = set()
        self._nodes: set[int] = set()
        self._touching: dict[str, list[tuple[int, ast.stmt]]] | None = None

    def __iter__(self) -> Iterator[tuple[ModuleFile, Slice]]:
        """Return the statements in the order in which they run, each with its file."""
        return iter([(self._files[number], piece) for number, piece in sorted(self._slices)])

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._slices)

    def __contains__(self, node: ast.stmt) -> bool:
        """Return whether a statement runs again."""
        return id(node) in self._nodes

    def add(self, number: int, node: ast.stmt, *, early: bool, from_line: int | None = None) -> list[tuple[str, bool]]:
        """Add a statement.

        Args:
            number: its file's.
            node: the statement.
            early: what it defines is called while the module's statements run.
            from_line: leaves out what stands before this line, such as decorators.

        Returns:
            The names that it uses, each with whether it does so while the module's statements run.
        """
        file = self._files[number]
        kind = type(self._names.get(getattr(node, "name", "")))
        if kind.__module__.partition(".")[0] == "airflow" and not from_line:
            return []  # a task; it only seems to change what its decorator stands on
        self._nodes.add(id(node))
        values = self._from_outside(file, node)
        self.values.update(values.values())
        piece = file.slice(node, from_line, {expression: name for expression, (name, _) in values.items()})
        self._slices.add((number, piece))
        facts = file.facts(node)
        if from_line or values:  # what is left out, or replaced by a value, is not followed
            facts = facts_of(parse_slice(piece.as_sent(file.filename))[0], file.filename, file.import_calls)
        self.imports += [each.absolute(self._package) for each in facts.imports]
        now = facts.uses.now | evaluated_names(facts.fields, self._names) | self._named_in_annotations(node)
        later = facts.uses.later | facts.uses.attributes
        return [*((name, True) for name in sorted(now)), *((name, early) for name in sorted(later))]

    def add_import(self, found: RepeatedImport) -> None:
        """Add an import of one name."""
        self._slices.add((found.file, Slice(found.statement.lineno, found.statement.col_offset, found.text)))
        self.imports += [each.absolute(self._package) for each in imports_in([ast.parse(found.text)], Calls())]

    def changing(self, name: str) -> list[tuple[int, ast.stmt]]:
        """Return the statements that change what a name holds, by any of its names, each with its file's number."""
        if self._touching is None:
            self._touching = {}
            for number, file in enumerate(self._files):
                for changed, statements in repeating.touching(file, self._names).items():
                    self._touching.setdefault(changed, []).extend((number, node) for node in statements)
        value = self._names.get(name)
        same = [] if is_plain(value) else [other for other in self._touching if self._names.get(other) is value]
        return [each for other in dict.fromkeys([name, *same]) for each in self._touching.get(other, [])]

    def settings(self, imported: Iterable[str]) -> Iterator[tuple[int, ast.stmt]]:
        """Yield the statements that configure Python, or what is imported, each with its file's number.

        Args:
            imported: the modules that are imported, besides those that the statements import.
        """
        own = [each.module for each in self.imports]
        packages = frozenset(name.partition(".")[0] for name in (*own, *imported))
        settings = Settings(self._files, self._names, packages)
        for number, file in enumerate(self._files):
            yield from ((number, node) for node in file.active_statements if node not in self and settings.has(node))

    def _named_in_annotations(self, node: ast.stmt) -> set[str]:
        packages = self._annotated
        if packages is None:
            return set()
        names = {name for name in names_in_annotations(node) if name in self._names}
        return {name for name in names if is_available(self._names[name], packages)}

    def _from_outside(self, file: ModuleFile, node: ast.stmt) -> dict[ast.expr, tuple[str, Any]]:
        """Return what a definition read from outside: the values, each with the name that it gets there."""
        name = getattr(node, "name", "")
        value = self._names.get(name)
        if not isinstance(node, Definition) or not defines(file, node, value) or self.changing(name):
            return {}
        found = values_from_outside(node, value, self._names, self._origins)
        return {each: (f"_{name}_{each.lineno}_{each.col_offset}", value) for each, value in found.items()}
