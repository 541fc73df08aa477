"""One function -> the slices of its modules, the values that go with them, and the files beside it."""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

from k8s_venv.capture.functions import (
    function_name,
    home_of,
    is_ours,
    outer_values,
    place_of,
    refuse_nonlocal,
    written_function,
)
from k8s_venv.capture.module_slice import ModuleSlice
from k8s_venv.capture.module_source import files_of, has_text, module_file
from k8s_venv.capture.names import are_read
from k8s_venv.capture.origins import Origins, dotted_name, is_installed, is_installed_file, modules_beside, sent_name
from k8s_venv.capture.values import (
    Parts,
    StateError,
    bound_to_process,
    of_airflow,
    place_of_global,
    portable,
    type_name,
)
from k8s_venv.errors import CallError, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping


class Slicer:
    """Collect what one function needs.

    Args:
        function: the function, as the decorator received it.
        root: the project's folder; code below it travels.
        needed: names that its arguments refer to, each with its module.
        modules: the modules of the project that its arguments need as whole files.
        settings_of: the modules that the function imports, if it travels as a pickle: then only the settings of its
            module are collected.

    Raises:
        SourceError: a value that the function uses cannot travel as source.
        CallError: it cannot travel at all.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        root: Path,
        needed: Collection[tuple[str, str]] = (),
        *,
        modules: Collection[str] = (),
        settings_of: Collection[str] | None = None,
    ) -> None:
        self._function = function
        self._needed = needed
        self._needed_modules = modules
        self._settings_of = settings_of
        self._origins = Origins(root)
        self._root = root
        self._annotated: set[str] | None = None
        self._takes_registered = True
        self._has_registered = False
        inner, home = written_function(function), home_of(function)
        # The environment imports a function of an installed package by its name.
        self.inner = inner if inner is not None and not is_installed_file(inner.__code__.co_filename) else None
        refuse_nonlocal(function)
        if self.inner is not None:
            self._require_text()
            self._home = self._origins.slice(self.inner)
        elif home is not None and not is_installed(home[0]) and not self._origins.is_beside(home[0]):
            self._origins.slice_module(*home)
        self._collect_all()

    def _collect_all(self) -> None:
        """Collect what travels; do so again if that shows that modules or annotations travel in another way."""
        try:
            self._collect()
        except CallError:
            if not self._has_registered:
                raise
            self._takes_registered = False  # one of them cannot travel, and the function may not need it
            self._collect()
        if self._is_circular():
            self._origins.keep_whole(self._home)
            self._collect()
        packages = {name.partition(".")[0] for name in self.imported}
        if are_read(self._texts(), packages):
            self._annotated = packages
            self._collect()

    def _require_text(self) -> None:
        if not has_text(self.filename):
            raise SourceError(
                f"{function_name(self._function)}() has no source text, like code typed at the plain prompt or made "
                "by exec(), and only source can travel to another version of Python. Define it in a file or a "
                "notebook.",
                *place_of(self._function),
            )

    @property
    def filename(self) -> str:
        """Return the file of the function, or nothing if it belongs to an installed package."""
        return self.inner.__code__.co_filename if self.inner is not None else ""

    @functools.cached_property
    def sources(self) -> dict[str, str]:
        """Return the whole text of each sliced file, for tracebacks."""
        return {file.filename: file.text for module in self._modules.values() for file in module.files}

    @functools.cached_property
    def beside(self) -> dict[str, Path]:
        """Return the files of the project that the slices import, by their paths below the import root."""
        return self._beside(self._early, self._late)

    def _beside(self, *values: Parts) -> dict[str, Path]:
        file = Path(self.filename) if self.filename else None
        return modules_beside(self._imports(*values), file, self._root)

    def recipe(self) -> dict[str, Any]:
        """Return the recipe from which the runner builds the function, as JSON."""
        return {
            "modules": [self._module_recipe(module) for module in self._modules.values()],
            "target": self._place,
            "values": self.has_values,
            "early": self._early.sources,
            "late": self._late.sources,
        }

    @property
    def has_values(self) -> bool:
        """Return whether any state travels with the slices."""
        return self._has_early or self._has_late

    def values(self) -> dict[str, Any]:
        """Return the state that travels with the slices."""
        return {
            "early": self._early.data if self._has_early else None,
            "early_coded": self._early.coded,
            "late": self._late.data if self._has_late else None,
            "late_coded": self._late.coded,
        }

    def sent_state(self) -> dict[str, Any]:
        """Return the values that travel, by the names under which the function uses them."""
        found = dict(outer_values(self.inner)) if self.inner is not None else {}
        for module in self._modules.values():
            values = {**module.before_statements, **module.after_statements}
            found.update({name: value for name, value in values.items() if name in module.names})
        return {name: value for name, value in found.items() if not isinstance(value, FunctionType | type)}

    @property
    def has_statements(self) -> bool:
        """Return whether any statement of a module runs again."""
        return any(module.statements for module in self._modules.values())

    def slices(self) -> list[tuple[str, int, str]]:
        """Return each piece of source that travels, as file, line and text."""
        found = [
            (file.filename, piece.line, piece.text)
            for module in self._modules.values()
            for file, piece in module.statements
        ]
        for source in self._late.sources:
            is_lambda = source["name"] == "<lambda>"
            text = f"({source['text'].rstrip()})\n" if is_lambda else source["text"]
            found.append((source["file"], source["line"], text))
        return found

    @property
    def module_names(self) -> list[str]:
        """Return the names of the modules of which slices travel."""
        return list(self._modules)

    @property
    def imported(self) -> list[str]:
        """Return the dotted names that are imported: modules, or names in modules."""
        return self._imports(self._early, self._late)

    @property
    def value_modules(self) -> frozenset[str]:
        """Return the modules that the travelling values import."""
        return frozenset(self._early.modules | self._late.modules)

    @property
    def packages(self) -> dict[str, str]:
        """Return the package of each sliced file, where relative imports start."""
        return {
            file.filename: str(module.names.get("__package__") or "")
            for module in self._modules.values()
            for file in module.files
        }

    def _module_recipe(self, module: ModuleSlice) -> dict[str, Any]:
        return {
            "name": sent_name(module.name),
            "package": module.names.get("__package__") or "",
            "file": module.names.get("__file__") or module.files[0].filename,
            "statements": [piece.as_sent(file.filename) for file, piece in module.statements],
        }

    def _collect(self) -> None:
        self._modules: dict[str, ModuleSlice] = {}
        self._rebuilt: set[int] = set()
        self._own_name: str | None = None
        self.__dict__.pop("beside", None)  # from the collection before
        self._target: Any = self._function
        if self.inner is not None and self._origins.is_sliced(self._home):
            self._module(self._home, self.inner.__code__.co_filename)
            if self._settings_of is None:
                self._find_target(self.inner)
        if self._settings_of is not None:
            self._target = None
        try:
            target = portable(self._target, self._origins, self._rebuilt)
            self._follow(target.globals | {each for each in self._needed if self._origins.is_sliced(each[0])})
        except StateError as error:
            raise self._blame(error) from None
        beside = {dotted_name(entry): path for entry, path in self._beside(target).items()}
        imported = {*(self._settings_of or ()), *(each.module for each in target.imports if not each.optional)}
        for module in self._modules.values():
            if self._takes_registered and (names := module.registered(beside)):
                self._has_registered = True
                module.reach(names, early=True)
            module.add_settings(imported)
        self._follow(set())
        self._collect_state()

    def _collect_state(self) -> None:
        """Collect the values that are set before the slices run, and those that are set after."""
        early = {m.name: m.before_statements for m in self._modules.values()}
        late = {m.name: m.after_statements for m in self._modules.values()}
        for module in self._modules.values():
            self._rebuilt |= module.built()
        home = sent_name(self._home) if self._own_name else None
        state = {"globals": _renamed(late), "function": self._target, "home": home, "name": self._own_name}
        try:
            self._early = portable(_renamed(early), self._origins)
            made = {key: place for module in self._modules.values() for key, place in module.made_before().items()}
            self._late = portable(state, self._origins, self._rebuilt, made)
            self._place = self._place_of_target(home, made)
        except StateError as error:
            raise self._blame(error) from None
        self._has_early = any(early.values())
        self._has_late = any(late.values()) or (self._place is None and self._target is not None)
        for name in sorted(self._early.defined_in | self._late.defined_in):
            if self._origins.is_sliced(name):
                self._module(name)

    def _place_of_target(self, home: str | None, made: Mapping[int, tuple[str, str]]) -> tuple[str, str] | None:
        """Return the module and name under which the function is found after the statements have run, or None."""
        if self._target is None:
            return (home, self._own_name) if home and self._own_name else None
        if self._own_name is not None:
            return None
        return place_of_global(self._target, self._origins, self._rebuilt, made)

    def _module(self, name: str, filename: str | None = None) -> ModuleSlice:
        if name not in self._modules:
            names = self._origins.namespace(name)
            files = files_of(names, filename or names.get("__file__") or "")
            self._modules[name] = ModuleSlice(name, names, self._origins, self._refusal, files, self._annotated)
        return self._modules[name]

    def _follow(self, names: set[tuple[str, str]]) -> None:
        pending, seen = set(names), set()
        while pending:
            seen |= pending
            for module, name in sorted(pending):
                self._module(module).reach([name])
            found = set().union(*(module.elsewhere for module in self._modules.values()))
            pending = found - seen

    def _find_target(self, inner: FunctionType) -> None:
        """Decide which object is called, and which name it has where it runs."""
        names, qualname = self._origins.namespace(self._home), inner.__qualname__
        if "." in qualname or inner.__name__ == "<lambda>" or names.get(inner.__name__) is self._function:
            return
        if self._function is inner:
            self._rebuilt.add(id(inner))
            if type(names.get(inner.__name__)).__module__.partition(".")[0] == "airflow":
                # The name stands for the task; the function may call itself by it.
                self._modules[self._home].claim(inner.__name__)
                self._own_name = inner.__name__
            return
        node = module_file(inner.__code__.co_filename).definition_of(inner.__code__)
        ours = [number for number, item in enumerate(getattr(node, "decorator_list", ())) if is_ours(item, names)]
        if not ours or isinstance(node, ast.Lambda):
            return
        # The decorators below ours decorate the function there as well.
        start = min([node.lineno, *(item.lineno for item in node.decorator_list[ours[-1] + 1 :])])
        module = self._modules[self._home]
        number = next(n for n, file in enumerate(module.files) if file.filename == inner.__code__.co_filename)
        module.add_own(number, node, start)
        self._target, self._own_name = None, inner.__name__

    def _imports(self, *values: Parts) -> list[str]:
        found = [*self._needed_modules, *(self._settings_of or ())]
        for module in self._modules.values():
            found += [name for each in module.statements.imports for name in each.modules]
        for parts in values:
            found += [name for each in parts.imports for name in each.modules]
            found += [source["module"] for source in parts.sources if not self._origins.is_sliced(source["module"])]
            found += parts.modules
        return found

    def _is_circular(self) -> bool:
        """Return whether a file beside the function's module imports that module."""
        return self.inner is not None and self._home in {dotted_name(entry) for entry in self.beside}

    def _texts(self) -> Iterator[str]:
        yield from (text for _, _, text in self.slices())
        yield from (path.read_text("utf-8", errors="replace") for path in self.beside.values())

    def _refusal(self, kind: type[CallError], name: str, problem: str, file: str | None, line: int | None) -> CallError:
        own_file, own_line = place_of(self._function)
        return kind(
            f"{function_name(self._function)}() uses {name!r}, which cannot travel: it {problem}. Make it inside the "
            "function, or pass plain data as an argument.",
            *((file, line) if file and line else (own_file, own_line)),
        )

    def _blame(self, error: StateError) -> CallError:
        """Return the error that names the variable of the function that cannot travel."""
        line = None
        if self.inner is not None:
            line = self.inner.__code__.co_firstlineno
            for name, value in outer_values(self.inner).items():
                try:
                    portable(value, self._origins, self._rebuilt)
                except StateError as own:
                    final = bound_to_process(value) or of_airflow(value)
                    if final:
                        return self._refusal(CallError, name, final, None, line)
                    held = "is a class that" if isinstance(value, type) else f"holds {type_name(value)}, which"
                    problem = own.problem if own.problem.startswith("holds") else f"{held} {own}"
                    return self._refusal(SourceError, name, problem, None, line)
        return SourceError(
            f"{function_name(self._function)}() cannot travel as source: it {error.problem}. Define a function with "
            "`def` that makes the object itself.",
            self.filename or None,
            line,
        )


def _renamed(values: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {sent_name(module): names for module, names in values.items() if names}
