"""What one sliced module contributes to a call; the rules stand in ``slicing``."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import sys
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from k8s_venv.calls.source import repeating
from k8s_venv.calls.source.annotations import evaluated_names
from k8s_venv.calls.source.class_state import changed_attributes
from k8s_venv.calls.source.definitions import Definition
from k8s_venv.calls.source.facts import facts_of
from k8s_venv.calls.source.in_force import defines, has_its_defaults
from k8s_venv.calls.source.modulefile import ModuleFile, Slice
from k8s_venv.calls.source.names import is_builtin
from k8s_venv.calls.source.outside import values_from_outside
from k8s_venv.calls.source.parts import Attribute, StateError
from k8s_venv.calls.source.registered import Registries
from k8s_venv.calls.source.repeated_imports import RepeatedImport, imports_of_name, star_import
from k8s_venv.calls.source.sender_only import bound_to_process
from k8s_venv.calls.source.settings import Settings
from k8s_venv.calls.source.state import is_plain, portable
from k8s_venv.errors import CallError, SourceError
from k8s_venv.runner.restoring import parse_slice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from k8s_venv.calls.source.bindings import Binding
    from k8s_venv.calls.source.origins import Origins


@dataclasses.dataclass
class ModuleSlice:
    """What a call needs of one module.

    Args:
        name: the module's name.
        names: what its names stand for.
        origins: tells how other modules travel.
        refuse: makes the error for a name that cannot travel, from its kind, name, problem, file and line.
    """

    name: str
    names: dict[str, Any]
    origins: Origins
    refuse: Callable[[type[CallError], str, str, str | None, int | None], CallError]
    files: list[ModuleFile]

    def __post_init__(self) -> None:
        self.statements: dict[tuple[int, Slice], ast.stmt | None] = {}
        self.early: dict[str, Any] = {}  # values that stand before the statements run
        self.late: dict[str, Any] = {}  # values that are set after them
        self.elsewhere: set[tuple[str, str]] = set()  # names of other sliced modules
        self.imports: list[ast.Import | ast.ImportFrom] = []
        self._reached: dict[str, bool] = {}
        self._repeated: set[str] = set()
        self._added: set[int] = set()
        self._touching: dict[str, list[tuple[int, ast.stmt]]] | None = None
        self._pending: list[tuple[str, bool]] = []

    # --- names ---------------------------------------------------------------------------------------------

    def reach(self, names: Iterable[str], *, early: bool = False) -> None:
        """Collect what names need, and what that needs in turn.

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
        """Return what stands there before the late values are set: ids of objects, with the module and a name."""
        names = (self._repeated | self.early.keys()) & self.names.keys() - self.late.keys()
        return {id(self.names[name]): (self.name, name) for name in sorted(names) if not is_plain(self.names[name])}

    def built(self) -> set[int]:
        """Return the ids of the late values that are built from their parts, though the module has a name for them."""
        return {id(value) for value in self.late.values() if self._is_built(value)}

    def _is_built(self, value: Any) -> bool:
        return isinstance(value, FunctionType) or (self._is_own(type(value)) and not isinstance(value, type))

    def claim(self, name: str) -> None:
        """Keep a name from being followed: it is the call's own function."""
        self._reached[name] = True

    def _decide(self, name: str, *, early: bool) -> None:
        if name.endswith("*"):
            self._pending += [(each, early) for each in sorted(self.names) if each.startswith(name[:-1])]
        bindings = self._bindings(name)
        if name not in self.names and early:  # it was deleted once the statements that need it had run
            bindings = [pair for pair in bindings if not isinstance(pair[1].statement, ast.Delete)]
            self._repeat(name, bindings, whole=True)
        if name == "__doc__":
            self.early[name] = self.names.get(name)
        if name not in self.names or name in ("__name__", "__file__", "__package__", "__doc__", "__builtins__"):
            return  # a builtin, what every module has, or a NameError that is the function's own
        value = self.names[name]
        if not bindings:
            self._unbound(name, value, early=early)
        elif any(repeating.chooses_by_python(b.unit, self.names) for _, b in bindings):
            self._repeat(name, bindings, whole=True)
        elif all(isinstance(b.statement, ast.Import | ast.ImportFrom) for _, b in bindings):
            for found in imports_of_name(name, value, bindings):
                self._add_import(found)
        elif isinstance(value, type) or any(isinstance(b.statement, Definition) for _, b in bindings):
            self._definition(name, value, bindings, early=early)
        else:
            self._state(name, value, bindings, early=early)

    def _bindings(self, name: str) -> list[tuple[int, Binding]]:
        return [(number, b) for number, file in enumerate(self.files) for b in file.bindings.get(name, [])]

    def _unbound(self, name: str, value: Any, *, early: bool) -> None:
        """Follow a name that no statement binds: one of a star import, or set from outside."""
        if is_builtin(name) and not isinstance(value, ModuleType | FunctionType | type):
            return
        found = star_import(name, value, self.files, self.names)
        if found is not None:
            self._add_import(found)
            return
        self._state(name, value, [], early=early)

    # --- functions and classes -----------------------------------------------------------------------------

    def _definition(self, name: str, value: Any, bindings: list[tuple[int, Binding]], *, early: bool) -> None:
        number, last = bindings[-1]
        if type(value).__module__.partition(".")[0] == "airflow":
            problem = "is an Airflow task or operator, which cannot be called inside an environment"
            raise self.refuse(CallError, name, problem, self.files[number].filename, last.statement.lineno)
        chosen = [(n, binding) for n, binding in bindings if defines(self.files[n], binding.statement, value)]
        all_definitions = all(isinstance(b.statement, Definition) for _, b in bindings)
        if len(chosen) == 1 and all_definitions and not self._needs_earlier(name, chosen[0], early=early):
            bindings = chosen
        if not early and self._has_state(value, bindings):
            try:
                self._add_value(name, value, has_statements=not isinstance(value, FunctionType))
            except StateError:
                pass
            else:
                return
        # Which of several definitions is in force was then decided by the statements around them.
        self._repeat(name, bindings, whole=all_definitions and len(bindings) > 1)
        if isinstance(value, type):
            self._reach_subclasses(value)
            self._add_class_state(name, value, bindings)

    def _needs_earlier(self, name: str, chosen: tuple[int, Binding], *, early: bool) -> bool:
        """Tell whether a definition, or a statement before it, uses an earlier definition of the same name."""
        number, binding = chosen
        return early or name in self.files[number].facts(binding.statement).uses.now

    def _has_state(self, value: Any, bindings: list[tuple[int, Binding]]) -> bool:
        """Tell whether what a definition made is more than running it again gives."""
        # What is no function is an instance of the decorator's class.
        return self._is_built(value) and not (isinstance(value, FunctionType) and self._is_as_defined(value, bindings))

    def _is_as_defined(self, function: FunctionType, bindings: list[tuple[int, Binding]]) -> bool:
        """Tell whether running its definition gives a function the defaults that it has."""
        statements = [binding.statement for _, binding in bindings]
        return len(statements) == 1 and has_its_defaults(
            function, statements[0], self.names, lambda name: len(self._bindings(name))
        )

    def _reach_subclasses(self, kind: type) -> None:
        """Bring the classes that a class knows of, which register themselves with it, or with their metaclass."""
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
        """Set again what of a class was changed since it was made, as far as it can travel."""
        for number, binding in bindings:
            node = binding.statement
            if isinstance(node, ast.ClassDef) and defines(self.files[number], node, kind):
                for attribute, value in changed_attributes(kind, node):
                    with contextlib.suppress(StateError):
                        self._add_value(f"_{name}_{attribute}", Attribute(kind, attribute, value))

    def _is_own(self, kind: type) -> bool:
        return kind.__module__ == self.name

    # --- state ---------------------------------------------------------------------------------------------

    def _state(self, name: str, value: Any, bindings: list[tuple[int, Binding]], *, early: bool) -> None:
        if any(repeating.asks_python(b.statement, self.names) for _, b in bindings):
            self._repeat(name, bindings, whole=True)
            return
        self._refuse_tied(name, value, bindings)
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

    def _refuse_tied(self, name: str, value: Any, bindings: list[tuple[int, Binding]]) -> None:
        problem = bound_to_process(value)
        if problem:
            raise self._refusal(CallError, name, problem, bindings)

    def _refusal(
        self, kind: type[CallError], name: str, problem: str, bindings: list[tuple[int, Binding]]
    ) -> CallError:
        number, line = (bindings[-1][0], bindings[-1][1].statement.lineno) if bindings else (0, None)
        return self.refuse(kind, name, problem, self.files[number].filename if self.files else None, line)

    def _fits_early(self, name: str, value: Any, bindings: list[tuple[int, Binding]]) -> bool:
        """Tell whether the value of now may stand where the module's statements run."""
        if not bindings:
            return True
        if is_plain(value) and len(bindings) == 1:
            return True
        return any(repeating.reads_outside(b.unit, self.names) for _, b in bindings)

    def _add_early(self, name: str, value: Any) -> None:
        if portable(value, self.origins).globals:
            raise StateError("refers to functions or classes of its own module")
        self.late.pop(name, None)
        self.early[name] = value

    def _add_value(self, name: str, value: Any, *, has_statements: bool = False) -> None:
        is_built = self._is_built(value)
        parts = portable(value, self.origins, {id(value)} if is_built else ())
        if (self.name, name) in parts.globals and not is_built:
            raise StateError("refers to itself by its name")  # as a `TypeVar` does
        if parts.calls_own and has_statements:
            raise StateError("restores itself by functions of its own module")
        self.late[name] = value
        for module, used in parts.globals:
            if module == self.name:
                self._pending.append((used, False))
            else:
                self.elsewhere.add((module, used))

    # --- statements ----------------------------------------------------------------------------------------

    def _repeat(self, name: str, bindings: list[tuple[int, Binding]], *, whole: bool) -> None:
        """Run the statements again that bind a name and those that change what it holds."""
        self.late.pop(name, None)
        self._repeated.add(name)
        early = self._reached.get(name, True)
        for number, binding in bindings:
            by_python = repeating.chooses_by_python(binding.unit, self.names)
            self.add(number, binding.unit if whole or by_python else binding.statement, early=early)
        for number, statement in self._changes(name):
            if id(statement) not in self._added:
                self.add(number, statement, early=True)

    def _changes(self, name: str) -> list[tuple[int, ast.stmt]]:
        if self._touching is None:
            self._touching = {}
            for number, file in enumerate(self.files):
                for changed, statements in repeating.touching(file, self.names).items():
                    self._touching.setdefault(changed, []).extend((number, node) for node in statements)
        value = self.names.get(name)
        same = [] if is_plain(value) else [other for other in self._touching if self.names.get(other) is value]
        return [each for other in dict.fromkeys([name, *same]) for each in self._touching.get(other, [])]

    def add(self, number: int, node: ast.stmt, *, early: bool, from_line: int | None = None) -> None:
        """Add a statement and follow the names it uses.

        Args:
            number: its file's.
            node: the statement.
            early: what it defines is called while the module's statements run.
            from_line: leaves out what stands before this line, such as decorators.
        """
        file = self.files[number]
        if type(self.names.get(getattr(node, "name", ""))).__module__.partition(".")[0] == "airflow" and not from_line:
            return  # a task; it only seems to change what its decorator stands on
        self._added.add(id(node))
        values = self._from_outside(file, node)
        self.early.update(dict(values.values()))
        piece = file.slice(node, from_line, {expression: name for expression, (name, _) in values.items()})
        self.statements[number, piece] = node
        facts = file.facts(node)
        if from_line or values:  # what is left out, or replaced by a value, is not followed
            facts = facts_of(parse_slice(piece.as_sent(file.filename))[0], file.filename)
        self._pending += [(name, True) for name in sorted(facts.uses.now)]
        self._pending += [(name, early) for name in sorted(facts.uses.later)]
        self._pending += [(name, True) for name in sorted(evaluated_names(facts.fields, self.names))]
        self.imports += facts.imports

    def _from_outside(self, file: ModuleFile, node: ast.stmt) -> dict[ast.expr, tuple[str, Any]]:
        """Return what a definition read from outside: the values, each with the name that it gets there."""
        name = getattr(node, "name", "")
        value = self.names.get(name)
        if not isinstance(node, Definition) or not defines(file, node, value) or self._changes(name):
            return {}
        found = values_from_outside(node, value, self.names, self.origins)
        return {each: (f"_{name}_{each.lineno}_{each.col_offset}", value) for each, value in found.items()}

    def _add_import(self, found: RepeatedImport) -> None:
        piece = Slice(found.statement.lineno, found.statement.col_offset, found.text)
        self.statements[found.file, piece] = None
        statement = ast.parse(found.text).body[0]
        assert isinstance(statement, ast.Import | ast.ImportFrom)  # noqa: S101 -- it is written so
        self.imports.append(statement)

    def add_registered(self, beside: Iterable[str]) -> None:
        """Repeat the definitions and imports of what registered itself in modules beside this one.

        Args:
            beside: the names of those that travel.
        """
        modules = [sys.modules[name] for name in beside if name in sys.modules]
        if modules:
            registries = Registries(modules, self.origins.is_beside)
            self.reach([name for name in self.names if self._is_registered(name, registries)], early=True)

    def _is_registered(self, name: str, registries: Registries) -> bool:
        statements = [binding.statement for _, binding in self._bindings(name)]
        if any(id(statement) in self._added for statement in statements):
            return False
        if any(isinstance(statement, Definition) for statement in statements):
            return registries.know(self.names[name])
        imported = any(isinstance(statement, ast.Import | ast.ImportFrom) for statement in statements)
        return imported and registries.know_module(self.names[name])

    def add_settings(self, imported: Iterable[str]) -> None:
        """Repeat the statements that configure Python, or what is imported.

        Args:
            imported: the modules that are imported, besides those that the slice imports itself.
        """
        own = [item.module or "" if isinstance(item, ast.ImportFrom) else item.names[0].name for item in self.imports]
        packages = frozenset(name.partition(".")[0] for name in (*own, *imported))
        settings = Settings(self.files, self.names, packages)
        for number, file in enumerate(self.files):
            for node in file.active_statements:
                if id(node) not in self._added and settings.has(node):
                    self.add(number, node, early=True)
        self.reach(())
