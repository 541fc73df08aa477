"""What registered itself in modules beside a DAG file: these hold its functions and classes, or ask for subclasses."""

from __future__ import annotations

import ast
import inspect
from collections import deque
from types import FunctionType, ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from k8s_venv.capture.definitions import Definition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path


class Registries:
    """What modules know about functions and classes that are defined elsewhere.

    Args:
        modules: the modules, each with its file.
        is_beside: tells of a module's name whether it is one of the project's that travel whole.
    """

    def __init__(self, modules: Mapping[ModuleType, Path], is_beside: Callable[[str], bool]) -> None:
        self._held: set[int] = set()
        self._modules: set[str] = set()  # where what they hold was defined
        self._asking: set[str] = set()  # those that ask their classes for all subclasses
        for module, path in modules.items():
            held = list(_held_by(module))
            self._held.update(map(id, held))
            self._modules.update(filter(is_beside, {str(each.__module__) for each in held} - {module.__name__}))
            if "__subclasses__" in path.read_text("utf-8", errors="replace"):
                self._asking.add(module.__name__)

    def know(self, value: Any, statements: Sequence[ast.stmt]) -> bool:
        """Return whether they hold a function or class, or what an imported module made them hold, or ask for it.

        Args:
            value: what a name stands for.
            statements: those that bind the name.
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
        kind = type(value)  # a proxy may answer `isinstance` by an error
        if id(value) in seen or issubclass(kind, ModuleType):
            continue
        seen.add(id(value))
        is_definition = issubclass(kind, FunctionType | type)
        if is_definition:
            yield value
        if issubclass(kind, dict):
            pending += [*dict.keys(value), *dict.values(value)]
        elif issubclass(kind, list | tuple | set | frozenset | deque):
            pending += value
        elif kind is SimpleNamespace or module.__name__ == (value if is_definition else kind).__module__:
            pending += getattr(value, "__dict__", {}).values()
