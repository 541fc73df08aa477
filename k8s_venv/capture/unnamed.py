"""Functions and classes without a name in their module: their source, with the values of their variables."""

from __future__ import annotations

import ast
import inspect
from types import CellType, FunctionType
from typing import TYPE_CHECKING, Any

from k8s_venv.capture.functions import is_empty
from k8s_venv.capture.modulefile import module_file
from k8s_venv.capture.names import is_builtin, names_in, uses
from k8s_venv.capture.origins import sent_name
from k8s_venv.capture.parts import Build, Parts, StateError
from k8s_venv.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k8s_venv.capture.modulefile import Slice
    from k8s_venv.capture.origins import Origins

_FUNCTION, _SET_FUNCTION = Build("function"), Build("set_function")
_CLASS, _SET_CLASS = Build("class_"), Build("set_class")


class Unnamed:
    """Reduce such functions and classes to calls of the runner's half, ``wire.restoring.Builder``.

    Args:
        parts: receives their sources, and the names that they use.
        origins: tells how modules travel.
    """

    def __init__(self, parts: Parts, origins: Origins) -> None:
        self._parts = parts
        self._origins = origins
        self._keys: dict[tuple[str, int, int], int] = {}
        self._cells: dict[int, tuple[int, CellType]] = {}

    def function(self, function: FunctionType) -> Any:
        """Return how pickle shall reduce a function."""
        code = function.__code__
        module = str(function.__globals__.get("__name__"))
        if not (self._origins.is_sliced(module) or self._origins.is_beside(module)):
            return self._decorated(function, module)
        try:
            file = module_file(code.co_filename)
            node = file.definition_of(code)
        except SourceError as error:
            raise StateError(f"holds the function {function.__qualname__}. {error.problem.rstrip('.')}") from None
        piece = file.slice(node, None if isinstance(node, ast.Lambda) else node.lineno)
        free = code.co_freevars
        key = self._source(module, code.co_filename, piece, code.co_name, list(free))
        self._parts.imports += file.imports_of(node, self._package(module))
        if self._origins.is_sliced(module):
            self._parts.globals |= {(module, name) for name in names_in(code)}
        cells = tuple(zip(free, function.__closure__ or (), strict=True))
        numbers = {name: self._cell(cell) for name, cell in cells}
        contents = {numbers[name]: cell.cell_contents for name, cell in cells if not is_empty(cell)}
        state = {
            "contents": contents,
            "attributes": {
                "__defaults__": function.__defaults__,
                "__kwdefaults__": function.__kwdefaults__,
                "__qualname__": function.__qualname__,
                "__name__": function.__name__,
                "__doc__": function.__doc__,
            },
            "dict": dict(function.__dict__),
        }
        return _FUNCTION, (key, numbers), state, None, None, _SET_FUNCTION

    def _decorated(self, function: FunctionType, module: str) -> Any:
        """Reduce what an installed decorator made of a function alone, such as a context manager, to doing so again."""
        decorator = self._origins.resolve(module, function.__code__.co_qualname.partition(".")[0])
        contents = [cell.cell_contents for cell in function.__closure__ or () if not is_empty(cell)]
        wrapped = getattr(function, "__wrapped__", None)
        if wrapped is None or len(contents) != 1 or contents[0] is not wrapped or not callable(decorator):
            raise StateError(f"holds the function {function.__qualname__}, made at run time by {module}")
        return decorator, (wrapped,)

    def _cell(self, cell: CellType) -> int:
        number, _ = self._cells.setdefault(id(cell), (len(self._cells), cell))
        return number

    def class_(self, kind: type) -> Any:
        """Return how pickle shall reduce a class."""
        filename = self._origins.namespace(kind.__module__).get("__file__") or _file_of_methods(kind)
        file = module_file(filename) if filename and self._origins.is_sliced(kind.__module__) else None
        node = file.class_definition(kind) if file else None
        if file is None or node is None:
            raise StateError(f"holds the class {kind.__qualname__}, which has no definition that could be sent")
        bases = {base.__name__: base for base in kind.__bases__ if "<locals>" in base.__qualname__}
        free = _free_of_methods(kind)
        module = self._origins.namespace(kind.__module__)
        used = uses(node, file.filename)
        # What `@singleton` makes a function of is the class without it.
        is_replaced = not isinstance(self._origins.resolve(kind.__module__, kind.__qualname__), type | None)
        if is_replaced and (len(node.decorator_list) > 1 or kind.__name__ in used.later):
            raise StateError(f"holds the class {kind.__qualname__}, of which a decorator made something else")
        local = {name for name in used.now if name not in module and name not in bases and not is_builtin(name)}
        if local - free.keys():
            raise StateError(f"uses {min(local - free.keys())!r}, a local variable of a call that is over")
        names = sorted({*bases, *free})
        piece = file.slice(node, node.lineno if is_replaced else None)
        key = self._source(kind.__module__, file.filename, piece, kind.__name__, names)
        self._parts.imports += file.imports_of(node, self._package(kind.__module__))
        looked_up = used.now | used.later | used.attributes
        self._parts.globals |= {(kind.__module__, name) for name in looked_up if name not in names}
        now = {**bases, **{name: free[name] for name in local}}
        return _CLASS, (key, now), free, None, None, _SET_CLASS

    def _package(self, module: str) -> str:
        return str(self._origins.namespace(module).get("__package__") or "")

    def _source(self, module: str, filename: str, piece: Slice, name: str, free: list[str]) -> int:
        self._parts.defined_in.add(module)
        place = (filename, piece.line, piece.column)
        if place not in self._keys:
            self._keys[place] = len(self._parts.sources)
            source = {"module": sent_name(module), "file": filename, "line": piece.line, "text": piece.text}
            self._parts.sources.append({**source, "name": name, "free": free})
        return self._keys[place]


def _free_of_methods(kind: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for function in _methods(kind):
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            if not is_empty(cell) and cell.cell_contents is not kind:
                found[name] = cell.cell_contents
    found.pop("__class__", None)
    return found


def _methods(kind: type) -> Iterator[FunctionType]:
    for member in vars(kind).values():
        plain: list[Any] = [member.fget, member.fset, member.fdel] if isinstance(member, property) else [member]
        for item in plain:
            function = inspect.unwrap(getattr(item, "__func__", item))
            if isinstance(function, FunctionType):
                yield function


def _file_of_methods(kind: type) -> str | None:
    return next((function.__code__.co_filename for function in _methods(kind)), None)
