"""One sliced module's part of a call: statements that run again, and values that are set before or after them.

The package's docstring has the rules.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import sys
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from k8s_venv.capture.functions import defines, has_its_defaults
from k8s_venv.capture.imports import Calls, RepeatedImport, imports_in, imports_of_name, star_import
from k8s_venv.capture.module_source import ModuleFile, Slice, facts_of
from k8s_venv.capture.names import Definition, Function, evaluated_names, is_builtin, names_in_annotations
from k8s_venv.capture.origins import is_available
from k8s_venv.capture.rerun_rules import (
    Registries,
    Settings,
    asks_python,
    changed_attributes,
    changes,
    chooses_by_python,
    reads_outside,
    values_from_outside,
)
from k8s_venv.capture.values import Attribute, StateError, bound_to_process, is_plain, portable
from k8s_venv.errors import CallError, SourceError
from k8s_venv.wire.restoring import parse_slice

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from k8s_venv.capture.imports import Import
    from k8s_venv.capture.names import Binding
    from k8s_venv.capture.origins import Origins


@dataclasses.dataclass
class ModuleSlice:
    """The part of one module that a call needs.

    Args:
        name: the module's name.
        names: its namespace.
        origins: how other modules travel.
        refuse: makes the error for a name that cannot travel, from its kind, name, problem, file and line.
        files: its files: several in a notebook.
        annotated: as in ``Statements``.
    """

    name: str
    names: dict[str, Any]
    origins: Origins
    refuse: Callable[[type[CallError], str, str, str | None, int | None], CallError]
    files: list[ModuleFile]
    annotated: Collection[str] | None

    def __post_init__(self) -> None:
        self.statements = Statements(self.files, self.names, self.origins, self.annotated)
        self.before_statements: dict[str, Any] = {}  # values that are set before the statements run
        self.after_statements: dict[str, Any] = {}  # values that are set after them
        self.elsewhere: set[tuple[str, str]] = set()  # needed names of other sliced modules
        self._reached: dict[str, bool] = {}  # each name, with whether it is needed early
        self._repeated: set[str] = set()  # names whose statements run again
        self._pending: list[tuple[str, bool]] = []

    def reach(self, names: Iterable[str], *, early: bool = False) -> None:
        """Follow names, and the names that they need in turn.

        Args:
            names: the names.
            early: they are needed while the module's statements run, not only when functions are called.
        """
        self._pending += [(name, early) for name in sorted(names)]
        while self._pending:
            name, needed_early = self._pending.pop()
            before = self._reached.get(name)
            if before is None or (needed_early and not before):
                self._reached[name] = needed_early
                self._decide(name, early=needed_early)

    def made_before(self) -> dict[int, tuple[str, str]]:
        """Return the ids of objects that are there before the last values are set, each with its module and a name."""
        names = (self._repeated | self.before_statements.keys()) & self.names.keys() - self.after_statements.keys()
        return {id(self.names[name]): (self.name, name) for name in sorted(names) if not is_plain(self.names[name])}

    def built(self) -> set[int]:
        """Return the ids of values that are built from their parts, although the module has a name for them."""
        return {id(value) for value in self.after_statements.values() if self._is_built(value)}

    def _is_built(self, value: Any) -> bool:
        return isinstance(value, FunctionType) or (self._is_own(type(value)) and not isinstance(value, type))

    def claim(self, name: str) -> None:
        """Do not follow a name: it is the call's own function."""
        self._reached[name] = True

    def add_own(self, number: int, node: Function, from_line: int) -> None:
        """Add the definition of the call's own function, which stands in the file with a number, from a line on."""
        self.claim(node.name)
        self._add(number, node, early=False, from_line=from_line)
        self.reach(())

    def _decide(self, name: str, *, early: bool) -> None:
        if "." in name:
            self._submodule(name)
            return
        if name.endswith("*"):
            self._pending += [(each, early) for each in sorted(self.names) if each.startswith(name[:-1])]
        bindings = self._bindings(name)
        if name not in self.names and early:  # it was deleted after the statements that need it had run
            bindings = [pair for pair in bindings if not isinstance(pair[1].statement, ast.Delete)]
            self._repeat(name, bindings, whole=True)
        if name == "__doc__":
            self.before_statements[name] = self.names.get(name)
        if name not in self.names or name in ("__name__", "__file__", "__package__", "__doc__", "__builtins__"):
            return  # a builtin, a name that every module has, or a NameError of the function's own
        value = self.names[name]
        if not bindings:
            self._unbound(name, value, early=early)
        elif any(chooses_by_python(b.unit, self.names) for _, b in bindings):
            self._repeat(name, bindings, whole=True)
        elif all(isinstance(b.statement, ast.Import | ast.ImportFrom) for _, b in bindings):
            for found in imports_of_name(name, value, bindings):
                self.statements.add_import(found)
        elif isinstance(value, type) or any(isinstance(b.statement, Definition) for _, b in bindings):
            self._definition(name, value, bindings, early=early)
        else:
            self._state(name, value, bindings, early=early)

    def _submodule(self, dotted: str) -> None:
        """Import a module of the project that is used as an attribute of its package and imported elsewhere."""
        root, _, rest = dotted.partition(".")
        package = self.names.get(root)
        full = f"{package.__name__}.{rest}" if isinstance(package, ModuleType) else ""
        bindings = self._bindings(root)
        if bindings and full in sys.modules and self.origins.is_beside(full):
            number, binding = bindings[-1]
            if isinstance(binding.statement, ast.Import | ast.ImportFrom):
                self.statements.add_import(RepeatedImport(number, binding.statement, f"import {full}\n"))

    def _bindings(self, name: str) -> list[tuple[int, Binding]]:
        return [(number, b) for number, file in enumerate(self.files) for b in file.bindings.get(name, [])]

    def _unbound(self, name: str, value: Any, *, early: bool) -> None:
        """Follow a name that no statement binds: it came by a star import, or was set from outside."""
        if is_builtin(name) and not isinstance(value, ModuleType | FunctionType | type):
            return
        found = star_import(name, value, self.files, self.names)
        if found is not None:
            self.statements.add_import(found)
            return
        self._state(name, value, [], early=early)

    def _definition(self, name: str, value: Any, bindings: list[tuple[int, Binding]], *, early: bool) -> None:
        number, last = bindings[-1]
        if type(value).__module__.partition(".")[0] == "airflow":
            problem = "is an Airflow task or operator, which cannot be called inside an environment"
            raise self.refuse(CallError, name, problem, self.files[number].filename, last.statement.lineno)
        chosen = [(n, binding) for n, binding in bindings if defines(self.files[n], binding.statement, value)]
        all_definitions = all(isinstance(b.statement, Definition) for _, b in bindings)
        if len(chosen) == 1 and all_definitions and not early:
            [(number, binding)] = chosen
            if name not in self.files[number].facts(binding.statement).uses.now:  # it needs no earlier definition
                bindings = chosen
        if not early and self._has_state(value, bindings):
            try:
                self._add_value(name, value, has_statements=not isinstance(value, FunctionType))
            except StateError:
                pass
            else:
                return
        # If there are several definitions, the statements around them choose the one in force.
        self._repeat(name, bindings, whole=all_definitions and len(bindings) > 1)
        if isinstance(value, type):
            self._reach_subclasses(value)
            self._add_class_state(name, value, bindings)

    def _has_state(self, value: Any, bindings: list[tuple[int, Binding]]) -> bool:
        """Return whether an object has state that its definition does not give it when it runs again."""
        if not self._is_built(value):
            return False
        if len(bindings) > 1 or not isinstance(value, FunctionType):
            return True  # a definition that made no function made an instance of its decorator's class
        return not has_its_defaults(value, bindings[0][1].statement, self.names, lambda name: len(self._bindings(name)))

    def _reach_subclasses(self, kind: type) -> None:
        """Follow the subclasses of a class that keeps account of them, or the classes of a metaclass."""
        hook = any("__init_subclass__" in vars(base) for base in kind.__mro__ if self._is_own(base))
        asked = any("__subclasses__" in file.text for file in self.files)
        known: list[type] = []
        if hook or asked or self._is_own(type(kind)):
            known = type.__subclasses__(kind)
        if issubclass(kind, type):
            known += [other for other in self.names.values() if isinstance(other, kind)]
        for other in known:
            if self._is_own(other) and self.names.get(other.__name__) is other:
                self._pending.append((other.__name__, True))

    def _add_class_state(self, name: str, kind: type, bindings: list[tuple[int, Binding]]) -> None:
        """Set the attributes of a class again that were changed since it was made, if they can travel."""
        for number, binding in bindings:
            node = binding.statement
            if isinstance(node, ast.ClassDef) and defines(self.files[number], node, kind):
                for attribute, value in changed_attributes(kind, node):
                    with contextlib.suppress(StateError):
                        self._add_value(f"_{name}_{attribute}", Attribute(kind, attribute, value))

    def _is_own(self, kind: type) -> bool:
        return kind.__module__ == self.name

    def _state(self, name: str, value: Any, bindings: list[tuple[int, Binding]], *, early: bool) -> None:
        if any(asks_python(b.statement, self.names) for _, b in bindings):
            self._repeat(name, bindings, whole=True)
            return
        problem = bound_to_process(value)
        if problem:
            raise self._refusal(CallError, name, problem, bindings)
        if early and not self._fits_early(name, value, bindings):
            self._repeat(name, bindings, whole=True)
            return
        try:
            if early and bindings:
                self._add_early(name, value)
            else:
                self._add_value(name, value, has_statements=bool(bindings))
        except StateError as error:
            if not bindings or any(isinstance(b.statement, ast.With | ast.AsyncWith) for _, b in bindings):
                raise self._refusal(SourceError, name, error.problem, bindings) from None
            self._repeat(name, bindings, whole=True)

    def _refusal(
        self, kind: type[CallError], name: str, problem: str, bindings: list[tuple[int, Binding]]
    ) -> CallError:
        number, line = (bindings[-1][0], bindings[-1][1].statement.lineno) if bindings else (0, None)
        return self.refuse(kind, name, problem, self.files[number].filename if self.files else None, line)

    def _fits_early(self, name: str, value: Any, bindings: list[tuple[int, Binding]]) -> bool:
        """Return whether a value of now may be set before the module's statements run."""
        never_changed = not bindings or (is_plain(value) and len(bindings) == 1)
        return never_changed or any(reads_outside(b.unit, self.names) for _, b in bindings)

    def _add_early(self, name: str, value: Any) -> None:
        if portable(value, self.origins).globals:
            raise StateError("refers to functions or classes of its own module")
        self.after_statements.pop(name, None)
        self.before_statements[name] = value

    def _add_value(self, name: str, value: Any, *, has_statements: bool = False) -> None:
        is_built = self._is_built(value)
        parts = portable(value, self.origins, {id(value)} if is_built else ())
        if (self.name, name) in parts.globals and not is_built:
            raise StateError("refers to itself by its name")  # as a `TypeVar` does
        if parts.calls_own and has_statements:
            raise StateError("restores itself by functions of its own module")
        self.after_statements[name] = value
        self.statements.imports += [each for each in parts.imports if not each.optional]
        for module, used in parts.globals:
            if module == self.name:
                self._pending.append((used, False))
            else:
                self.elsewhere.add((module, used))

    def _repeat(self, name: str, bindings: list[tuple[int, Binding]], *, whole: bool) -> None:
        """Run the statements again that bind a name, and those that change its value."""
        self.after_statements.pop(name, None)
        self._repeated.add(name)
        early = self._reached.get(name, True)
        for number, binding in bindings:
            by_python = chooses_by_python(binding.unit, self.names)
            self._add(number, binding.unit if whole or by_python else binding.statement, early=early)
        for number, statement in self.statements.changing(name):
            if statement not in self.statements:
                self._add(number, statement, early=True)

    def _add(self, number: int, node: ast.stmt, *, early: bool, from_line: int | None = None) -> None:
        self._pending += self.statements.add(number, node, early=early, from_line=from_line)
        self.before_statements.update(self.statements.values)

    def registered(self, beside: Mapping[str, Path]) -> list[str]:
        """Return the names of functions and classes that registered themselves beside, and do not travel yet.

        The modules beside are given with their files.
        """
        modules = {sys.modules[name]: path for name, path in beside.items() if name in sys.modules}
        if not modules:
            return []
        registries = Registries(modules, self.origins.is_beside)
        written = {name: [binding.statement for _, binding in self._bindings(name)] for name in self.names}
        known = [name for name, statements in written.items() if registries.know(self.names[name], statements)]
        return [name for name in known if not any(each in self.statements for each in written[name])]

    def add_settings(self, imported: Iterable[str]) -> None:
        """Repeat the settings of Python and of imported modules: of certain ones, and of those of the slice itself."""
        own = (each.module for each in self.statements.imports)
        reached = frozenset(name.partition(".")[0] for name in (*own, *imported))
        settings = Settings(self.files, self.names, reached)
        for number, file in enumerate(self.files):
            for node in file.active_statements:
                if node not in self.statements and settings.has(node):
                    self._add(number, node, early=True)
        self.reach(())


class Statements:
    """Collect the statements of a module that run again.

    Args:
        files: the module's files.
        names: its namespace.
        origins: how other modules travel.
        annotated: follow the names in annotations that come from these packages, the project or the standard library;
            None: follow none.
    """

    def __init__(
        self,
        files: Sequence[ModuleFile],
        names: Mapping[str, Any],
        origins: Origins,
        annotated: Collection[str] | None = None,
    ) -> None:
        self.imports: list[Import] = []
        self.values: dict[str, Any] = {}  # that definitions read from outside, by the names that replace the reading
        self._package = str(names.get("__package__") or "")
        self._files = files
        self._names = names
        self._origins = origins
        self._annotated = annotated
        self._slices: set[tuple[int, Slice]] = set()
        self._nodes: set[int] = set()
        self._changes: dict[str, list[tuple[int, ast.stmt]]] | None = None

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
            early: the functions that it defines are called while the module's statements run.
            from_line: leave out the lines before this one, such as decorators.

        Returns:
            The names that it uses, each with whether it does so while the module's statements run.
        """
        file = self._files[number]
        kind = type(self._names.get(getattr(node, "name", "")))
        if kind.__module__.partition(".")[0] == "airflow" and not from_line:
            return []  # a task
        self._nodes.add(id(node))
        values = self._from_outside(file, node)
        self.values.update(values.values())
        piece = file.slice(node, from_line, {expression: name for expression, (name, _) in values.items()})
        self._slices.add((number, piece))
        facts = file.facts(node)
        if from_line or values:  # do not follow the parts that are left out or replaced by a value
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
        """Return the statements that change the value of a name, by any of its names, each with its file's number."""
        if self._changes is None:
            self._changes = {}
            for number, file in enumerate(self._files):
                for changed, node in changes(file, self._names):
                    self._changes.setdefault(changed, []).append((number, node))
        value = self._names.get(name)
        same = [] if is_plain(value) else [other for other in self._changes if self._names.get(other) is value]
        return [each for other in dict.fromkeys([name, *same]) for each in self._changes.get(other, [])]

    def _named_in_annotations(self, node: ast.stmt) -> set[str]:
        if self._annotated is None:
            return set()
        names = {name for name in names_in_annotations(node) if name in self._names}
        return {name for name in names if is_available(self._names[name], self._annotated)}

    def _from_outside(self, file: ModuleFile, node: ast.stmt) -> dict[ast.expr, tuple[str, Any]]:
        """Return the values that a definition read from outside, each with the name that replaces the reading."""
        name = getattr(node, "name", "")
        value = self._names.get(name)
        if not isinstance(node, Definition) or not defines(file, node, value) or self.changing(name):
            return {}
        found = values_from_outside(node, value, self._names, self._origins)
        return {each: (f"_{name}_{each.lineno}_{each.col_offset}", value) for each, value in found.items()}
