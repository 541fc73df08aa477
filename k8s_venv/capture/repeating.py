"""Which statements of a module may, must or must not run again in the environment.

Everything here is decided from the syntax tree and from what the module's names stand for; nothing is run.
"""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import os
import platform
import sys
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from k8s_venv.capture.definitions import Definition
from k8s_venv.capture.modulefile import module_file
from k8s_venv.capture.names import names_in
from k8s_venv.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from k8s_venv.capture.modulefile import ModuleFile

_ABOUT_PYTHON = {
    "version_info", "version", "hexversion", "platform", "implementation", "maxsize", "byteorder", "flags",
    "float_info", "int_info", "hash_info", "executable", "prefix", "base_prefix", "stdout", "stderr", "stdin",
    "modules", "getrecursionlimit", "getdefaultencoding", "getfilesystemencoding",
}  # fmt: skip
_FALLBACK_ERRORS = {"ImportError", "ModuleNotFoundError", "AttributeError", "NameError"}
_OUTSIDE_MODULES = {
    "airflow", "getpass", "glob", "http", "os", "random", "secrets", "shutil", "socket", "sqlite3", "subprocess",
    "tempfile", "time", "urllib", "uuid",
}  # fmt: skip
_OUTSIDE_METHODS = {"now", "today", "utcnow", "read_text", "read_bytes", "open", "iterdir", "glob", "exists"}
_OUTSIDE_BUILTINS = {"open", "input"}
_CHANGING_BUILTINS = {"setattr", "delattr", "next", "exec"}
_CHANGING_MODULES = {"heapq", "bisect"}


def asks_python(node: ast.AST, names: Mapping[str, Any]) -> bool:
    """Return whether an expression depends on the Python or the packages that it runs on.

    Args:
        node: the expression or statement.
        names: what the module's names stand for.
    """
    return any(_asks(part, names) for part in ast.walk(node))


def _asks(node: ast.AST, names: Mapping[str, Any]) -> bool:
    if isinstance(node, ast.Name):
        value = names.get(node.id)
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
    """Return whether a statement reads files, variables, clocks, chance or other machines.

    Args:
        statement: the statement.
        names: what the module's names stand for.
        seen: functions that are being looked at already.
    """
    for node in ast.walk(statement):
        if isinstance(node, ast.Attribute) and node.attr in _OUTSIDE_METHODS:
            return True
        if isinstance(node, ast.Name) and _is_outside(node.id, names, seen):
            return True
    return False


def _is_outside(name: str, names: Mapping[str, Any], seen: frozenset[str]) -> bool:
    if name not in names:
        return name in _OUTSIDE_BUILTINS
    value = names[name]
    if isinstance(value, ModuleType):
        return value.__name__.partition(".")[0] in _OUTSIDE_MODULES
    if isinstance(value, FunctionType) and value.__globals__ is names and name not in seen:
        inner = seen | {name}
        return any(_is_outside(used, names, inner) for used in names_in(value.__code__))
    return str(getattr(value, "__module__", "")).partition(".")[0] in _OUTSIDE_MODULES


def touching(file: ModuleFile, names: Mapping[str, Any]) -> dict[str, list[ast.stmt]]:
    """Return the statements of a module that change what each name holds, apart from binding it, in order.

    Args:
        file: the module's source.
        names: what the module's names stand for.
    """
    found: dict[str, list[ast.stmt]] = {}
    for statement in file.active_statements:
        for name in set(_changed(statement, names)):
            found.setdefault(name, []).append(statement)
    return found


def _changed(statement: ast.stmt, names: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(statement, Definition):
        for decorator in statement.decorator_list:
            root = next(root_of(decorator), "")
            if isinstance(decorator, ast.Attribute | ast.Call) and not isinstance(names.get(root), ModuleType):
                yield root  # `@function.register`, `@registry.add("name")`
            yield from _changed_by(names.get(root), names, frozenset())
    else:
        yield from _changed_in(statement, names, frozenset(), nested=False)


def _changed_in(code: ast.AST, names: Mapping[str, Any], seen: frozenset[str], *, nested: bool) -> Iterator[str]:
    """Yield the names whose values a piece of code changes, itself or through functions of the module."""
    pending = [code]
    while pending:
        node = pending.pop()
        if not (isinstance(node, ast.Lambda | Definition) and not nested):
            pending += ast.iter_child_nodes(node)
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            yield from root_of(node)
        elif isinstance(node, ast.Global):
            yield from node.names
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield from _changed_by_call(node.value, names, seen)


def _changed_by_call(call: ast.Call, names: Mapping[str, Any], seen: frozenset[str]) -> Iterator[str]:
    root = next(root_of(call.func), "")
    function = names.get(root)
    if isinstance(call.func, ast.Attribute | ast.Subscript) and not isinstance(function, ModuleType):
        yield root
    inner = set(_changed_by(function, names, seen)) if isinstance(call.func, ast.Name) else set()
    yield from inner
    own_parameters = set(function.__code__.co_varnames) if isinstance(function, FunctionType) else set()
    if inner & own_parameters or _changes_arguments(call.func, function, names):
        arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
        yield from (node.id for item in arguments for node in ast.walk(item) if isinstance(node, ast.Name))
    if isinstance(function, FunctionType) and inner:
        parameters = inspect.signature(function, follow_wrapped=False).parameters
        defaults = [parameters[name].default for name in inner & parameters.keys()]
        yield from (name for name, value in names.items() if any(value is default for default in defaults))


def _changed_by(function: Any, names: Mapping[str, Any], seen: frozenset[str]) -> Iterator[str]:
    """Yield what a function of the module changes when it is called: its parameters, and names of the module."""
    if isinstance(function, FunctionType) and function.__globals__ is names and function.__qualname__ not in seen:
        try:
            node = module_file(function.__code__.co_filename).definition_of(function.__code__)
        except CallError:
            return
        yield from _changed_in(node, names, seen | {function.__qualname__}, nested=True)


def _changes_arguments(expression: ast.expr, function: Any, names: Mapping[str, Any]) -> bool:
    """Return whether a function of Python's own changes what it is given."""
    if isinstance(expression, ast.Name):
        known = getattr(function, "__module__", "") in ("heapq", "bisect", "_heapq", "_bisect")
        return known or (expression.id not in names and expression.id in _CHANGING_BUILTINS)
    module = getattr(function, "__name__", "") if isinstance(function, ModuleType) else ""
    return module in _CHANGING_MODULES or (module == "random" and getattr(expression, "attr", "") == "shuffle")


def root_of(node: ast.AST) -> Iterator[str]:
    """Yield the name that a chain of attributes, items and calls begins with, if any."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    if isinstance(node, ast.Name):
        yield node.id
