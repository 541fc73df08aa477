"""Statements that leave something in imported modules: settings of Python, of packages, of the project's own code."""

from __future__ import annotations

import ast
import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from k8s_venv.capture.repeating import reads_outside, root_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from k8s_venv.capture.modulefile import ModuleFile

_SETTERS = (
    "add_type", "basicConfig", "configure", "disable", "enable", "filterwarnings", "register", "resetwarnings", "seed",
    "set", "simplefilter", "use",
)  # fmt: skip
_CHANGING_METHODS = {
    "add", "append", "clear", "discard", "extend", "insert", "pop", "popitem", "remove", "setdefault", "update",
}  # fmt: skip
# Folders and loaded modules exist only where the call comes from.
_NOT_SETTINGS = {"path", "modules", "argv", "meta_path", "path_hooks", "stdout", "stderr", "stdin"}


class Settings:
    """The statements of a module that configure what it imports, as ``random.seed(1)`` does.

    Args:
        files: the module's files.
        names: what the module's names stand for.
        reached: the installed packages and the modules of the project that the slice imports so far.
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
        """Return whether a statement is one."""
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
            module = getattr(function, "__module__", None) or _of_bound_method(function)
            return called.id.startswith(_SETTERS) and self._is_configurable(module)
        if not isinstance(called, ast.Attribute):
            return False
        if called.attr.startswith(_SETTERS):
            return self._changes(called)
        of_module = isinstance(self._names.get(getattr(called.value, "id", "")), ModuleType | type)
        changes = called.attr in _CHANGING_METHODS and not of_module and self._changes(called)
        return changes and not reads_outside(call, self._names)

    def _changes(self, target: ast.expr) -> bool:
        if not isinstance(target, ast.Attribute | ast.Subscript):
            return False
        if any(isinstance(node, ast.Attribute) and node.attr in _NOT_SETTINGS for node in ast.walk(target)):
            return False
        return self._is_configurable(next((self._module_of(root) for root in root_of(target)), None))

    def _module_of(self, name: str) -> str | None:
        """Return the name of a module, or of the one that something was imported from."""
        value = self._names.get(name)
        if isinstance(value, ModuleType):
            return value.__name__
        return self._imported_from.get(name) or (getattr(value, "__module__", None) if callable(value) else None)

    def _is_configurable(self, module: str | None) -> bool:
        root = (module or "").partition(".")[0]
        return root not in ("builtins", "airflow") and (root in sys.stdlib_module_names or root in self._reached)


def _of_bound_method(value: Any) -> str | None:
    return getattr(type(getattr(value, "__self__", None)), "__module__", None)
