"""Capture what of a function and its arguments travels: for a call, and for looking at it without one.

A rule chooses how a function travels. It is applied when a call is packed, never after something has failed elsewhere.

1. By **source** (``capture``) wherever its text and values say all that it needs, to any Python from 3.8 on.
   Between equal minor versions as well: what is built again by its own statements keeps its identities (sentinels,
   registries, singletons), and depends neither on the order in which a pickle restores it nor on equal versions of
   the packages on both sides.
2. By **cloudpickle** (``pickling``) what source cannot say, between equal minor versions of CPython only: functions
   without source text (typed at the plain prompt, made by ``exec``), and values without a portable form that no
   statement of the module makes, such as a closure's instance of an installed package's class.
3. What belongs to the sender's process (open files, locks, sockets, ``nonlocal`` state, Airflow's own objects), and
   what neither way can carry, is **refused**.

``transport=`` on a task asks for one of the two ways and leaves no other. So does ``transport`` of an environment or of
the project for the tasks that choose none, with one exception: ``cloudpickle`` holds there for calls between equal
minor versions, and the rule for all others.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import json
import platform
import sys
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k8s_venv.calls.arguments import Arguments, encode_arguments
from k8s_venv.calls.packed import Transport, check_transport, same_python
from k8s_venv.capture.functions import (
    function_name,
    place_of,
    refuse_generator,
    refuse_nonlocal,
    written_function,
)
from k8s_venv.capture.imports import Calls, imports_in
from k8s_venv.capture.module_source import module_file
from k8s_venv.capture.names import names_in
from k8s_venv.capture.origins import (
    dotted_name,
    imported_names,
    is_editable,
    is_installed_file,
    line_of_path_change,
    modules_among,
    modules_beside,
    package_of,
    shadowing,
)
from k8s_venv.capture.slicer import Slicer
from k8s_venv.errors import CallError, SourceError
from k8s_venv.wire import protocol
from k8s_venv.wire.restoring import parse_slice
from k8s_venv.wire.values import dumps

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from k8s_venv.capture.imports import Import
    from k8s_venv.config.environment import Environment

# For processes that the function starts: they import its module by name.
MADE_AGAIN = b"from k8s_venv.runner.functions import make\nmake(__name__, __file__)\n"
_IN_EVERY_CALL = {"k8s_venv", "cloudpickle", "__main__"}


@dataclasses.dataclass(frozen=True)
class Captured:
    """What of a function travels.

    Args:
        callable: the function.
        environment: where it will run.
        transport: how it travels.
        why: the reason for this way.
        arguments: its arguments, encoded.
        entries: the archive's other entries for it, by their paths there.
        beside: the files of the project that travel whole, by their paths below the import root.
        slicer: what cut the slices, if the function travels as source.
        value_modules: the modules that its pickle, or the values that travel with its source, import.
    """

    callable: Callable[..., Any]
    environment: Environment
    transport: Transport
    why: str
    arguments: Arguments
    entries: Mapping[str, bytes] = dataclasses.field(repr=False)
    beside: Mapping[str, Path]
    slicer: Slicer | None = dataclasses.field(default=None, repr=False)
    value_modules: frozenset[str] = frozenset()

    @property
    def function(self) -> str:
        """Return the function's name."""
        return function_name(self.callable)

    @functools.cached_property
    def source(self) -> list[tuple[str, int, str]]:
        """Return each piece of source that runs in the environment, as file, first line and text.

        Of a pickled function, those that its text shows: it and the functions and imports that it names.
        """
        slices = self.slicer.slices() if self.slicer else _own_source(self.callable)
        return [*slices, *((str(file), 1, _text_of(file)) for file in self.beside.values())]

    @property
    def broken(self) -> list[tuple[str, SyntaxError]]:
        """Return the files that do not parse here, each with the error."""
        return self._parsed[1]

    @property
    def trees(self) -> list[tuple[str, list[ast.stmt]]]:
        """Return each piece of source that parses here, as file and statements."""
        return self._parsed[0]

    @functools.cached_property
    def _parsed(self) -> tuple[list[tuple[str, list[ast.stmt]]], list[tuple[str, SyntaxError]]]:
        trees, broken = [], []
        for file, line, text in self.source:
            try:
                trees.append((file, parse_slice({"file": file, "line": line, "text": text})))
            except SyntaxError as error:
                broken.append((file, error))
        return trees, broken

    def lacking(self, found: Import) -> list[str]:
        """Return the modules that an import needs and that do not travel."""
        if found.level:
            return []
        files = {dotted_name(entry): path for entry, path in self.beside.items()}
        own = {*files, *(self.slicer.module_names if self.slicer else ())}
        folders = {package for name in own for package in _packages_of(name)} - own
        needed = [] if found.module in folders else [found.module]
        if found.module in folders or found.module in files:
            inside = modules_among(found.names, files.get(found.module))
            needed += [f"{found.module}.{name}" for name in inside]
        return [each for each in needed if each not in own | folders and _top(each) not in _IN_EVERY_CALL]

    def package(self, file: str) -> str:
        """Return the package of a file that travels, which its relative imports start from, or nothing."""
        return self._packages.get(file, _package_of(self.callable))

    @functools.cached_property
    def _packages(self) -> dict[str, str]:
        packages = {str(path): package_of(entry) for entry, path in self.beside.items()}
        return {**packages, **(self.slicer.packages if self.slicer is not None else {})}

    @functools.cached_property
    def imports(self) -> list[tuple[str, Import]]:
        """Return the imports in the source that runs in the environment, each with its file."""
        found: dict[str, list[Import]] = {}
        for file, nodes in self.trees:
            calls = module_file(file).import_calls if nodes else Calls()
            found.setdefault(file, []).extend(each.absolute(self.package(file)) for each in imports_in(nodes, calls))
        named = self._named(found)
        certain = {file: each for file, each in found.items() if file in named}
        return list(dict.fromkeys((file, each) for file, imports in certain.items() for each in imports))

    @property
    def data_reads(self) -> list[tuple[str, Import]]:
        """Return the calls that read a file of a package of the project, each with its file."""
        packages = {name for entry in self.beside for name in _packages_of(dotted_name(entry))}
        packages |= {package_of(entry) for entry in self.beside}
        return [(file, each) for file, each in self.imports if each.data and each.module in packages]

    def _named(self, imports: Mapping[str, list[Import]]) -> set[str]:
        """Return the files that an import names, not only one whose name is computed when it runs."""
        files = {dotted_name(entry): str(path) for entry, path in self.beside.items()}
        if self.slicer is None:
            return {*imports}
        named = {file for file in imports if file not in files.values()}
        pending = self.slicer.imported
        for module in pending:  # it grows
            if module.endswith(".**"):  # what a computed name may be
                continue
            names = [name for name in files if module.endswith(".*") and name.startswith(module[:-1])]
            for name in (*names, *_packages_of(module), module):
                if name in files and files[name] not in named:
                    named.add(files[name])
                    pending += [found for each in imports.get(files[name], ()) for found in each.modules]
        return named

    @functools.cached_property
    def path_changes(self) -> dict[str, int]:
        """Return the lines that add a folder to ``sys.path`` in the environment, by their files."""
        found = {file: line_of_path_change(nodes) for file, nodes in self.trees}
        return {file: line for file, line in found.items() if line}


def capture(
    function: Callable[..., Any],
    environment: Environment,
    transport: Transport | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Captured:
    """Return what of a function and its arguments travels.

    Args:
        function: the function.
        environment: where it will run.
        transport: overrides the rule.
        args: its positional arguments.
        kwargs: its keyword arguments.

    Raises:
        CallError: the function or an argument cannot travel.
    """
    if not callable(function):
        raise CallError(f"{function!r} is not a function, so it cannot be called.")
    refuse_generator(function)

    def attempt(chosen: Transport, why: str) -> Captured:
        arguments = encode_arguments(function, environment, args, kwargs or {}, chosen)
        entries: dict[str, bytes] = {}
        slicer = None
        if chosen == "source":
            slicer = Slicer(function, environment.root, arguments.names, modules=arguments.modules)
            _add_recipe(entries, slicer)
            entries[protocol.SOURCES] = json.dumps(slicer.sources).encode()
            beside, modules = slicer.beside, slicer.value_modules
        else:
            beside, modules = _add_pickle(entries, function, environment, arguments)
        _require(arguments.modules - set(map(dotted_name, beside)), function, environment)
        entries.update({f"{protocol.BESIDE}/{path}": file.read_bytes() for path, file in beside.items()})
        found = Captured(function, environment, chosen, why, arguments, entries, beside, slicer, modules)
        _refuse_shadowing(found)
        return found

    return _by_rule(function, environment, transport, attempt)


def _by_rule(
    function: Callable[..., Any],
    environment: Environment,
    asked: Transport | None,
    attempt: Callable[[Transport, str], Captured],
) -> Captured:
    """Capture a function in the way that the rule chooses; ``attempt`` takes a way and the reason for it."""
    python = environment.python
    try:
        check_transport(asked, environment)
    except CallError as error:
        raise CallError(f"{function_name(function)}(): {error.problem}", *place_of(function)) from None
    if asked is not None:
        return attempt(asked, "the task asks for it")
    if environment.transport == "source" or (environment.transport and same_python(python)):
        return attempt(environment.transport, "the project file asks for it")
    if not same_python(python):
        return attempt("source", f"the environment runs Python {python}, this is {platform.python_version()}")
    try:
        return attempt("source", "its text and values say all that it needs")
    except SourceError as refused:
        return attempt("cloudpickle", f"both sides run Python {python}, and source cannot say it: {refused.problem}")


def _refuse_shadowing(captured: Captured) -> None:
    """Refuse modules of the project whose names mean modules of Python's own in the environment."""
    files = shadowing(captured.beside)
    if not files:
        return
    of_values = map(_top, captured.arguments.modules | captured.value_modules)
    places: dict[str, tuple[str | None, int | None]] = dict.fromkeys(of_values, place_of(captured.callable))
    places.update({_top(each.module): (file, each.line) for file, each in captured.imports if not each.level})
    for name, place in places.items():
        if name in files:
            raise CallError(
                f"{captured.function}() needs the module {name}, which is {files[name]} here and Python's own {name} "
                "in an environment. Give the file another name.",
                *place,
            )


def _require(missing: Collection[str], function: Callable[..., Any], environment: Environment) -> None:
    """Refuse arguments of types whose modules do not travel."""
    for module in sorted(missing):
        file = getattr(sys.modules.get(module), "__file__", None)
        if file and is_editable(Path(file)):
            continue  # it is a requirement of the environment, whose import fails there if it is missing
        raise CallError(
            f"An argument of {function_name(function)}() needs the module {module}, which cannot travel: its file "
            f"{file} is not in a folder of the project {environment.root}. Move it there, install it as a package in "
            "the environment, or pass plain data.",
            *place_of(function),
        )


def _own_source(function: Callable[..., Any]) -> list[tuple[str, int, str]]:
    """Return a function's text, and that of the functions and imports of its file that it names, and so on.

    Each piece is its file, its first line and its text. What was typed at the plain prompt, or made at run time, has
    none.
    """
    pending, pieces = [written_function(function)], set()
    while pending:
        inner = pending.pop()
        if inner is None or is_installed_file(inner.__code__.co_filename):
            continue
        try:
            file = module_file(inner.__code__.co_filename)
            node = file.definition_of(inner.__code__)
        except SourceError:
            continue
        piece = file.slice(node, None if isinstance(node, ast.Lambda) else node.lineno)
        text = f"({piece.text.rstrip()})\n" if isinstance(node, ast.Lambda) else piece.text
        if (file.filename, piece.line, text) in pieces:
            continue
        pieces.add((file.filename, piece.line, text))
        for name in names_in(inner.__code__):
            bindings = file.bindings.get(name, [])
            imports = [b.unit for b in bindings if isinstance(b.statement, ast.Import | ast.ImportFrom)]
            slices = [file.slice(unit) for unit in imports]
            pieces |= {(file.filename, each.line, each.text) for each in slices}
            pending += [] if imports else [written_function(inner.__globals__.get(name))]
    return sorted(pieces)


def _text_of(path: Path) -> str:
    try:
        with tokenize.open(path) as stream:
            return stream.read()
    except (SyntaxError, UnicodeError):
        return path.read_text("utf-8", errors="replace")


def _top(module: str) -> str:
    return module.partition(".")[0]


def _packages_of(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def _package_of(function: Callable[..., Any]) -> str:
    return getattr(written_function(function), "__globals__", {}).get("__package__") or ""


def _add_recipe(entries: dict[str, bytes], slicer: Slicer) -> None:
    recipe = slicer.recipe()
    entries[protocol.SOURCE_FUNCTION] = json.dumps(recipe).encode()
    for name in {str(module["name"]) for module in recipe["modules"]} - sys.stdlib_module_names:
        entries[f"{name.replace('.', '/')}.py"] = MADE_AGAIN
    if slicer.has_values:
        entries[protocol.SOURCE_VALUES] = dumps(slicer.values())


def _add_pickle(
    entries: dict[str, bytes], function: Callable[..., Any], environment: Environment, arguments: Arguments
) -> tuple[dict[str, Path], frozenset[str]]:
    from k8s_venv.calls.pickling import pickle_function  # cloudpickle is not for the parsing of DAG files

    refuse_nonlocal(function)
    pickled, modules, imported = pickle_function(function, environment.root, arguments.types)
    entries[protocol.PICKLED_FUNCTION] = pickled
    needed = [*modules, *imported, *arguments.modules]
    file, _ = place_of(function)
    path = Path(file) if file else None
    if path is None or not path.is_file() or is_installed_file(str(path)):
        entries[protocol.SOURCES] = b"{}"
        return modules_beside(needed, None, environment.root), modules
    beside = modules_beside([*imported_names(path, _package_of(function)), *needed], path, environment.root)
    settings = Slicer(function, environment.root, settings_of={*modules, *map(dotted_name, beside)})
    if settings.has_statements:
        _add_recipe(entries, settings)
    entries[protocol.SOURCES] = json.dumps({file: module_file(str(path)).text}).encode()
    return beside, modules
