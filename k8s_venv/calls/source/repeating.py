"""Which statements of a module may, must or must not run again in the environment.

Everything here is decided from the syntax tree and from what the module's names stand for; nothing is run.
"""

from __future__ import annotations

import ast
import importlib.metadata
import os
import platform
import sys
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from k8s_venv.calls.source.definitions import Definition
from k8s_venv.calls.source.modulefile import module_file
from k8s_venv.calls.source.names import names_in
from k8s_venv.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from k8s_venv.calls.source.modulefile import ModuleFile

_ABOUT_PYTHON = {
    "version_info", "version", "hexversion", "platform", "implementation", "maxsize", "byteorder", "flags",
    "float_info", "int_info", "hash_info", "executable", "prefix", "base_prefix", "stdout", "stderr", "stdin",
    "modules", "getrecursionlimit", "getdefaultencoding", "getfilesystemencoding",
}  # fmt: skip
_FALLBACK_ERRORS = {"ImportError", "ModuleNotFoundError", "AttributeError", "NameError"}
_OUTSIDE_MODULES = {
    "airflow", "getpass", "glob", "http", "os", "random", "secrets", "shutil", "socket", "sqlite3", "subprocess",
    "tempfile", "time", "urllib",
}  # fmt: skip
_OUTSIDE_METHODS = {"now", "today", "utcnow", "read_text", "read_bytes", "open", "iterdir", "glob", "exists"}
_OUTSIDE_BUILTINS = {"open", "input"}
_CHANGING_BUILTINS = {"setattr", "delattr", "next"}
_CHANGING_MODULES = {"heapq", "bisect"}
_SETTERS: tuple[str, ...] = (
    "set",
    "seed",
    "configure",
    "enable",
    "disable",
    "register",
    "use",
    "filterwarnings",
    "simplefilter",
)
_SETTERS += ("basicConfig", "resetwarnings", "add_type")
# Folders and loaded modules exist only where the call comes from.
_NOT_SETTINGS = {"path", "modules", "argv", "meta_path", "path_hooks", "stdout", "stderr", "stdin"}


def asks_python(node: ast.AST, names: Mapping[str, Any]) -> bool:
    """Tell whether an expression depends on the Python or the packages that it runs on.

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
        return (value is os and node.attr == "name") or (isinstance(value, ModuleType) and node.attr == "__version__")
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hasattr" and node.args:
        first = node.args[0]
        return isinstance(first, ast.Name) and isinstance(names.get(first.id, str), ModuleType | type)
    return False


def chooses_by_python(unit: ast.stmt, names: Mapping[str, Any]) -> bool:
    """Tell whether a compound statement chooses by Python's version or by what can be imported."""
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
    """Tell whether a statement reads files, variables, clocks, chance or other machines.

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
            root = next(_root(decorator), "")
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
            yield from _root(node)
        elif isinstance(node, ast.Global):
            yield from node.names
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield from _changed_by_call(node.value, names, seen)


def _changed_by_call(call: ast.Call, names: Mapping[str, Any], seen: frozenset[str]) -> Iterator[str]:
    root = next(_root(call.func), "")
    function = names.get(root)
    if isinstance(call.func, ast.Attribute | ast.Subscript) and not isinstance(function, ModuleType):
        yield root
    inner = set(_changed_by(function, names, seen)) if isinstance(call.func, ast.Name) else set()
    yield from inner
    own_parameters = set(function.__code__.co_varnames) if isinstance(function, FunctionType) else set()
    if inner & own_parameters or _changes_arguments(call.func, function, names):
        arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
        yield from (node.id for item in arguments for node in ast.walk(item) if isinstance(node, ast.Name))


def _changed_by(function: Any, names: Mapping[str, Any], seen: frozenset[str]) -> Iterator[str]:
    """Yield what a function of the module changes when it is called: its parameters, and names of the module."""
    if isinstance(function, FunctionType) and function.__globals__ is names and function.__qualname__ not in seen:
        try:
            node = module_file(function.__code__.co_filename).definition_of(function.__code__)
        except CallError:
            return
        yield from _changed_in(node, names, seen | {function.__qualname__}, nested=True)


def _changes_arguments(expression: ast.expr, function: Any, names: Mapping[str, Any]) -> bool:
    """Tell whether a function of Python's own changes what it is given."""
    if isinstance(expression, ast.Name):
        known = getattr(function, "__module__", "") in ("heapq", "bisect", "_heapq", "_bisect")
        return known or (expression.id not in names and expression.id in _CHANGING_BUILTINS)
    module = getattr(function, "__name__", "") if isinstance(function, ModuleType) else ""
    return module in _CHANGING_MODULES or (module == "random" and getattr(expression, "attr", "") == "shuffle")


def _root(node: ast.AST) -> Iterator[str]:
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    if isinstance(node, ast.Name):
        yield node.id


def is_setting(statement: ast.stmt, names: Mapping[str, Any], reached: frozenset[str]) -> bool:
    """Tell whether a statement configures an imported module, as ``random.seed(1)`` does.

    Args:
        statement: a statement of the module.
        names: what the module's names stand for.
        reached: the installed packages that the slice imports so far.
    """
    if isinstance(statement, ast.If | ast.Try):
        inner = [*statement.body, *statement.orelse, *getattr(statement, "finalbody", ())]
        inner += [part for handler in getattr(statement, "handlers", ()) for part in handler.body]
        parts = [part for part in inner if not isinstance(part, ast.Pass)]
        return bool(parts) and all(is_setting(part, names, reached) for part in parts)
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        target: ast.AST = statement.value.func
        if isinstance(target, ast.Name):  # `from random import seed; seed(1)`
            module = getattr(names.get(target.id), "__module__", None) or _of_bound_method(names.get(target.id))
            return _is_setter(target.id) and _is_configurable(module, reached)
        if not isinstance(target, ast.Attribute) or not _is_setter(target.attr):
            return False
    elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
        if not isinstance(target, ast.Attribute | ast.Subscript):
            return False
    else:
        return False
    if any(isinstance(node, ast.Attribute) and node.attr in _NOT_SETTINGS for node in ast.walk(target)):
        return False
    module = next((_module_name(names.get(root)) for root in _root(target)), None)
    return _is_configurable(module, reached)


def _is_setter(name: str) -> bool:
    return name.startswith(_SETTERS)


def _of_bound_method(value: Any) -> str | None:
    return getattr(type(getattr(value, "__self__", None)), "__module__", None)


def _module_name(value: Any) -> str | None:
    """Return the name of a module, or of the one that a function or class was imported from."""
    if isinstance(value, ModuleType):
        return value.__name__
    if isinstance(value, type) or callable(value):
        return getattr(value, "__module__", None)
    return None


def _is_configurable(module: str | None, reached: frozenset[str]) -> bool:
    root = (module or "").partition(".")[0]
    return root not in ("builtins", "airflow") and (root in sys.stdlib_module_names or root in reached)
