"""Which statements of a module run again in the environment, and which give way to a value.

The syntax tree and the module's namespace, which is ``names`` in all functions here, decide; nothing is run.
"""

from __future__ import annotations

import ast
import enum
import functools
import importlib.metadata
import importlib.util
import inspect
import os
import platform
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from k8s_venv.capture.functions import defaults_of
from k8s_venv.capture.module_source import module_file
from k8s_venv.capture.names import Definition, Function, names_in
from k8s_venv.capture.values import StateError, portable
from k8s_venv.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from k8s_venv.capture.module_source import ModuleFile
    from k8s_venv.capture.origins import Origins

_ABOUT_PYTHON = {
    "version_info", "version", "hexversion", "platform", "implementation", "executable", "prefix", "stdout", "stderr",
    "modules",
}  # fmt: skip
_FALLBACK_ERRORS = {"ImportError", "ModuleNotFoundError", "AttributeError", "NameError"}
_OUTSIDE_MODULES = {
    "airflow", "getpass", "glob", "os", "random", "secrets", "socket", "subprocess", "tempfile", "time", "urllib",
    "uuid",
}  # fmt: skip
_OUTSIDE_METHODS = {"now", "today", "utcnow", "read_text", "read_bytes", "open", "iterdir", "glob", "exists"}
_CHANGING_BUILTINS = {"setattr", "next", "exec"}
_SETTERS = (
    "add_type", "basicConfig", "configure", "disable", "enable", "filterwarnings", "register", "seed", "set",
    "simplefilter", "use",
)  # fmt: skip
_CHANGING_METHODS = {"add", "append", "clear", "extend", "insert", "pop", "remove", "update"}
# Folders, loaded modules and streams of the process that makes the call.
_NOT_SETTINGS = {"path", "modules", "argv", "stdout", "stderr"}
_KINDS: tuple[type, ...] = (list, dict, set, Counter, OrderedDict, defaultdict, deque)
_NAMES = {kind.__name__ for kind in _KINDS}


def asks_python(node: ast.AST, names: Mapping[str, Any]) -> bool:
    """Return whether an expression or statement depends on the Python or the packages that it runs with."""
    return any(_asks(part, names) for part in ast.walk(node))


def _asks(node: ast.AST, names: Mapping[str, Any]) -> bool:
    if isinstance(node, ast.Name):
        value = names.get(node.id)
        if isinstance(value, FunctionType):  # `from importlib.metadata import version`
            value = sys.modules.get(value.__module__)
        about_python = (sys.version_info, platform, importlib.metadata)
        return node.id == "TYPE_CHECKING" or any(value is item for item in about_python)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        value = names.get(node.value.id)
        if value is sys:
            return node.attr in _ABOUT_PYTHON
        of_module = isinstance(value, ModuleType) and node.attr in ("__version__", "TYPE_CHECKING")
        return of_module or (value is os and node.attr == "name")
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hasattr" and node.args:
        first = node.args[0]
        return isinstance(first, ast.Name) and isinstance(names.get(first.id, str), ModuleType | type)
    return False


def chooses_by_python(unit: ast.stmt, names: Mapping[str, Any]) -> bool:
    """Return whether a compound statement chooses by Python's version or by what can be imported."""
    if isinstance(unit, ast.If):
        parts = [unit.test, *(inner.test for inner in unit.orelse if isinstance(inner, ast.If))]
        return any(asks_python(part, names) for part in parts)
    if isinstance(unit, ast.Try | ast.TryStar):
        caught = {node.id for handler in unit.handlers if handler.type for node in ast.walk(handler.type)
                  if isinstance(node, ast.Name)}  # fmt: skip
        imports = any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(unit))
        return imports or bool(caught & _FALLBACK_ERRORS)
    return False


def reads_outside(statement: ast.AST, names: Mapping[str, Any], seen: frozenset[str] = frozenset()) -> bool:
    """Return whether a statement reads files, environment variables, clocks, random numbers or other machines."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Attribute) and node.attr in _OUTSIDE_METHODS:
            return True
        if isinstance(node, ast.Name) and _is_outside(node.id, names, seen):
            return True
    return False


def _is_outside(name: str, names: Mapping[str, Any], seen: frozenset[str]) -> bool:
    if name not in names:
        return name == "open"
    value = names[name]
    if isinstance(value, ModuleType):
        return value.__name__.partition(".")[0] in _OUTSIDE_MODULES
    if isinstance(value, FunctionType) and value.__globals__ is names and name not in seen:
        inner = seen | {name}
        return any(_is_outside(used, names, inner) for used in names_in(value.__code__))
    return str(getattr(value, "__module__", "")).partition(".")[0] in _OUTSIDE_MODULES


def values_from_outside(
    statement: ast.stmt, value: Any, names: Mapping[str, Any], origins: Origins
) -> dict[ast.expr, Any]:
    """Return the class attributes and defaults that a definition read from outside, each with its value.

    The definition is given as a statement, and as the function or class that it made.
    """
    return {
        expression: found
        for expression, found in _evaluated(statement, value)
        if reads_outside(expression, names) and not asks_python(expression, names) and _stands_alone(found, origins)
    }


def _evaluated(statement: ast.stmt, value: Any) -> Iterator[tuple[ast.expr, Any]]:
    """Yield expressions that a definition evaluates, with their values."""
    if isinstance(statement, Function):
        function = inspect.unwrap(getattr(value, "__func__", value)) if callable(value) else value
        if isinstance(function, FunctionType):
            yield from defaults_of(function, statement)
    elif isinstance(statement, ast.ClassDef) and isinstance(value, type):
        for part in statement.body:
            if isinstance(part, Function):
                yield from _evaluated(part, vars(value).get(part.name))
            elif isinstance(part, ast.Assign | ast.AnnAssign) and part.value is not None:
                targets = part.targets if isinstance(part, ast.Assign) else [part.target]
                name = getattr(targets[0], "id", "")
                if name in vars(value):
                    yield part.value, vars(value)[name]


def _stands_alone(value: Any, origins: Origins) -> bool:
    """Return whether a value can travel without anything of its module."""
    try:
        return not portable(value, origins).globals
    except StateError:
        return False


def changes(file: ModuleFile, names: Mapping[str, Any]) -> Iterator[tuple[str, ast.stmt]]:
    """Yield each name whose value a statement of a file changes without binding it, with the statement, in order."""
    for statement in file.active_statements:
        yield from ((name, statement) for name in set(_changed(statement, names)))


def _changed(statement: ast.stmt, names: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(statement, Definition):
        for decorator in statement.decorator_list:
            root = root_of(decorator)
            if isinstance(decorator, ast.Attribute | ast.Call) and not isinstance(names.get(root), ModuleType):
                yield root  # `@function.register`, `@registry.add("name")`
            yield from _changed_by(names.get(root), names, frozenset())
    else:
        yield from _changed_in(statement, names, frozenset(), nested=False)


def _changed_in(code: ast.AST, names: Mapping[str, Any], seen: frozenset[str], *, nested: bool) -> Iterator[str]:
    """Yield the names whose values a piece of code changes, itself or by calls of the module's functions."""
    for node in _changing_nodes(code, nested):
        if isinstance(node, ast.Global):
            yield from node.names
        elif isinstance(node, ast.Call):
            yield from _changed_by_call(node, names, seen)
        else:
            yield root_of(node)


@functools.lru_cache(maxsize=8192)  # statements of files that are kept; a loop asks again and again
def _changing_nodes(code: ast.AST, nested: bool) -> tuple[ast.AST, ...]:
    """Return the nodes of a piece of code that may change values: targets, ``global``, calls whose value is dropped."""
    pending, found = [code], list[ast.AST]()
    while pending:
        node = pending.pop()
        if not (isinstance(node, ast.Lambda | Definition) and not nested):
            pending += ast.iter_child_nodes(node)
        is_target = isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del)
        if is_target or isinstance(node, ast.Global):
            found.append(node)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            found.append(node.value)
    return tuple(found)


def _changed_by_call(call: ast.Call, names: Mapping[str, Any], seen: frozenset[str]) -> Iterator[str]:
    root = root_of(call.func)
    function = names.get(root)
    if isinstance(call.func, ast.Attribute | ast.Subscript) and not isinstance(function, ModuleType):
        yield root
    inner = set(_changed_by(function, names, seen)) if isinstance(call.func, ast.Name) else set()
    yield from inner
    own_parameters = set(function.__code__.co_varnames) if isinstance(function, FunctionType) else set()
    if inner & own_parameters or (root not in names and root in _CHANGING_BUILTINS):
        arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
        yield from (node.id for item in arguments for node in ast.walk(item) if isinstance(node, ast.Name))
    if isinstance(function, FunctionType) and inner:
        parameters = inspect.signature(function, follow_wrapped=False).parameters
        defaults = [parameters[name].default for name in inner & parameters.keys()]
        yield from (name for name, value in names.items() if any(value is default for default in defaults))


def _changed_by(function: Any, names: Mapping[str, Any], seen: frozenset[str]) -> Iterator[str]:
    """Yield the names that a function of the module changes when it is called: its parameters, and the module's."""
    if isinstance(function, FunctionType) and function.__globals__ is names and function.__qualname__ not in seen:
        try:
            node = module_file(function.__code__.co_filename).definition_of(function.__code__)
        except CallError:
            return
        yield from _changed_in(node, names, seen | {function.__qualname__}, nested=True)


def root_of(node: ast.AST) -> str:
    """Return the name that a chain of attributes, items and calls begins with, or nothing."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


class Settings:
    """The statements of a module that configure what it imports, as ``random.seed(1)`` does.

    Args:
        files: the module's files.
        names: the module's namespace.
        reached: the packages and modules of the project that the slice imports so far, by their first names.
    """

    def __init__(self, files: Iterable[ModuleFile], names: Mapping[str, Any], reached: frozenset[str]) -> None:
        self._names = names
        self._reached = reached
        package = names.get("__package__") or ""
        self._imported_from = {
            alias.asname or alias.name: importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            for file in files
            for node in file.statements
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
            if alias.name not in _NOT_SETTINGS
        }

    def has(self, statement: ast.stmt) -> bool:
        """Return whether a statement is such a setting."""
        if isinstance(statement, ast.If | ast.Try):
            inner = [*statement.body, *statement.orelse, *getattr(statement, "finalbody", ())]
            inner += [part for handler in getattr(statement, "handlers", ()) for part in handler.body]
            parts = [part for part in inner if not isinstance(part, ast.Pass)]
            return bool(parts) and all(self.has(part) for part in parts)
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            return self._configures(statement.value)
        if isinstance(statement, ast.Assign | ast.Delete) and len(statement.targets) == 1:
            return self._changes(statement.targets[0])
        return isinstance(statement, ast.AugAssign) and self._changes(statement.target)

    def _configures(self, call: ast.Call) -> bool:
        called = call.func
        if isinstance(called, ast.Name):  # `from random import seed; seed(1)`
            function = self._names.get(called.id)
            module = getattr(function, "__module__", None) or type(getattr(function, "__self__", None)).__module__
            return called.id.startswith(_SETTERS) and self._is_configurable(module)
        if not isinstance(called, ast.Attribute):
            return False
        if called.attr.startswith(_SETTERS):
            return self._changes(called)
        of_module = isinstance(self._names.get(getattr(called.value, "id", "")), ModuleType | type)
        if called.attr not in _CHANGING_METHODS or of_module or not self._changes(called):
            return False
        arguments = (*call.args, *(keyword.value for keyword in call.keywords))
        return not any(reads_outside(each, self._names) for each in arguments)

    def _changes(self, target: ast.expr) -> bool:
        if not isinstance(target, ast.Attribute | ast.Subscript):
            return False
        if any(isinstance(node, ast.Attribute) and node.attr in _NOT_SETTINGS for node in ast.walk(target)):
            return False
        return self._is_configurable(self._module_of(root_of(target)))

    def _module_of(self, name: str) -> str | None:
        """Return the module that a name stands for, or from which it was imported."""
        value = self._names.get(name)
        if isinstance(value, ModuleType):
            return value.__name__
        return self._imported_from.get(name) or (getattr(value, "__module__", None) if callable(value) else None)

    def _is_configurable(self, module: str | None) -> bool:
        root = (module or "").partition(".")[0]
        return root not in ("builtins", "airflow") and (root in sys.stdlib_module_names or root in self._reached)


def changed_attributes(kind: type, definition: ast.ClassDef) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of a class that are no longer as its body made them: registries, counters, single instances.

    A change can be seen only of constants and of containers.
    """
    if isinstance(kind, enum.EnumMeta):
        return
    for part in definition.body:
        if not isinstance(part, ast.Assign | ast.AnnAssign) or part.value is None:
            continue
        for target in part.targets if isinstance(part, ast.Assign) else [part.target]:
            name = _mangled(getattr(target, "id", "__"), kind)
            if not name.startswith("__") and name in vars(kind) and _has_changed(part.value, vars(kind)[name]):
                yield name, vars(kind)[name]


def _mangled(name: str, kind: type) -> str:
    is_private = name.startswith("__") and not name.endswith("__")
    return f"_{kind.__name__.lstrip('_')}{name}" if is_private else name


def _has_changed(written: ast.expr, value: Any) -> bool:
    if isinstance(written, ast.Constant):
        if written.value is None:
            return value is not None
        return type(value) is type(written.value) and value != written.value
    if type(value) not in _KINDS:
        return False
    if isinstance(written, ast.Call):  # `dict()`, `defaultdict(list)`
        called = getattr(written.func, "attr", getattr(written.func, "id", ""))
        return bool(value) and called in _NAMES and (not written.args or called == "defaultdict")
    try:
        return bool(value != ast.literal_eval(written))
    except ValueError:
        return False


class Registries:
    """The functions and classes that registered themselves in modules beside the DAG file.

    Args:
        modules: the modules, each with its file.
        is_beside: returns whether a module, given by its name, travels as a whole file.
    """

    def __init__(self, modules: Mapping[ModuleType, Path], is_beside: Callable[[str], bool]) -> None:
        self._held: set[int] = set()
        self._modules: set[str] = set()  # that define the functions and classes that are held
        self._asking: set[str] = set()  # modules that ask their classes for all subclasses
        for module, path in modules.items():
            held = list(_held_by(module))
            self._held.update(map(id, held))
            self._modules.update(filter(is_beside, {str(each.__module__) for each in held} - {module.__name__}))
            if "__subclasses__" in path.read_text("utf-8", errors="replace"):
                self._asking.add(module.__name__)

    def know(self, value: Any, statements: Sequence[ast.stmt]) -> bool:
        """Return whether the modules know the value of a name that certain statements bind.

        They hold it, ask for it as a subclass, or hold something that an imported module defines.
        """
        if any(isinstance(statement, Definition) for statement in statements):
            return self._know(value)
        imported = any(isinstance(statement, ast.Import | ast.ImportFrom) for statement in statements)
        return imported and self._know_module(value)

    def _know(self, value: Any) -> bool:
        if isinstance(value, type) and any(base.__module__ in self._asking for base in value.__mro__[1:]):
            return True
        written = inspect.unwrap(value) if callable(value) else value
        return not self._held.isdisjoint({id(value), id(written)})

    def _know_module(self, value: Any) -> bool:
        name = value.__name__ if isinstance(value, ModuleType) else str(getattr(value, "__module__", ""))
        return any(each == name or each.startswith(f"{name}.") for each in self._modules)


def _held_by(module: ModuleType) -> Iterator[FunctionType | type]:
    """Yield the functions and classes that a module's variables, classes and objects hold."""
    pending: list[Any] = [vars(module)]
    seen: set[int] = set()
    while pending:
        value = pending.pop()
        kind = type(value)  # `isinstance` can raise an error for a proxy
        if id(value) in seen or issubclass(kind, ModuleType):
            continue
        seen.add(id(value))
        is_definition = issubclass(kind, FunctionType | type)
        if is_definition:
            yield value
        if issubclass(kind, dict):
            pending += [*dict.keys(value), *dict.values(value)]
        elif issubclass(kind, list | tuple | set | frozenset):
            pending += value
        elif module.__name__ == (value if is_definition else kind).__module__:
            pending += getattr(value, "__dict__", {}).values()
