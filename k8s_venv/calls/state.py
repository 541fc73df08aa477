"""Values of a module, and functions made at run time, in a form that any Python from 3.8 on can build again.

Pickle protocol 4 (PEP 3154) is the frame: it keeps shared and circular references. It does not carry everything:

* types of the standard library only where their pickled form is the same in all versions (``_STABLE_MODULES``);
* dates, paths, arrays and tables through the codecs of ``runner.values``, which no library version changes;
* functions and classes of the sliced modules by their name there, or, where they have none (closures, lambdas), as
  their source with the values of their free variables;
* nothing of other installed packages but what can be imported by name.

The environment trusts its sender; nothing here is ever read by the sender.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import io
import pickle
from types import BuiltinFunctionType, CellType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from k8s_venv.calls.modulefile import module_file
from k8s_venv.calls.names import names_in, uses
from k8s_venv.runner.encoder import Encoder
from k8s_venv.runner.errors import NoCodecError

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping

    from k8s_venv.calls.modulefile import Slice
    from k8s_venv.calls.origins import Origins

PROTOCOL = 4  # the newest that Python 3.8 shares with all later ones by default (PEP 3154)

_CODED_MODULES = {"datetime", "numpy", "pandas", "pathlib", "polars", "pyarrow", "uuid", "zoneinfo"}
_STABLE_MODULES = {
    "abc", "array", "builtins", "collections", "contextlib", "dataclasses", "decimal", "enum", "fractions",
    "functools", "ipaddress", "numbers", "operator", "random", "_random", "re", "string", "types", "typing",
}  # fmt: skip
_PLACEHOLDERS = {"typing", "abc", "contextlib"}  # bases without state; their own objects are made by statements
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...), type(NotImplemented))
_SINGLETON_TYPES = (type(None), type(...), type(NotImplemented))


@dataclasses.dataclass(frozen=True)
class _Builder:
    """Stands for a method of the runner's half, ``runner.building.Builder``."""

    name: str

    def __call__(self) -> None:
        """Be callable, as pickle wants it."""


_FUNCTION, _SET_FUNCTION = _Builder("function"), _Builder("set_function")
_CLASS, _SET_CLASS = _Builder("class_"), _Builder("set_class")
_CACHED = _Builder("cached")


class StateError(Exception):
    """A value that cannot travel as one.

    Args:
        problem: what is in the way, to be put after "it".
    """

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


@dataclasses.dataclass
class Parts:
    """What a pickled value needs besides its bytes.

    Args:
        data: the pickle.
        coded: the values that it refers to by number and that codecs carry.
        sources: the functions and classes without a name in their module, as slices.
        globals: the names of sliced modules that it refers to, with their modules.
        modules: the other modules that it imports from.
        calls_own: restoring it calls functions of sliced modules (``__reduce__``), which need their names by then.
    """

    data: bytes = b""
    coded: list[Any] = dataclasses.field(default_factory=list)
    sources: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    globals: set[tuple[str, str]] = dataclasses.field(default_factory=set)
    modules: set[str] = dataclasses.field(default_factory=set)
    calls_own: bool = False


def portable(
    value: Any,
    origins: Origins,
    unnamed: Container[int] = (),
    made: Mapping[int, tuple[str, str]] | None = None,
) -> Parts:
    """Pickle a value so that any Python can build it.

    Args:
        value: the value.
        origins: tells how modules travel.
        unnamed: ids of functions that are built from their parts, though their module has a name for them.
        made: ids of what statements make there, each with its module and name: it is referred to, never copied.

    Raises:
        StateError: it cannot travel.
    """
    stream = io.BytesIO()
    pickler = _Pickler(stream, origins, unnamed, made or {})
    try:
        pickler.dump(value)
    except StateError:
        raise
    except RecursionError:
        raise StateError("is nested too deeply") from None
    except Exception as error:
        raise StateError(f"cannot be pickled ({error})") from error
    pickler.parts.data = stream.getvalue()
    return pickler.parts


class _Pickler(pickle.Pickler):
    def __init__(
        self, stream: io.BytesIO, origins: Origins, unnamed: Container[int], made: Mapping[int, tuple[str, str]]
    ) -> None:
        super().__init__(stream, PROTOCOL)
        self.parts = Parts()
        self._origins = origins
        self._unnamed = unnamed
        self._made = made
        self._keys: dict[tuple[str, int, int], int] = {}
        self._cells: dict[int, tuple[int, CellType]] = {}

    def persistent_id(self, value: Any) -> Any:
        """Return what stands for an object that is not pickled by its own means."""
        kind = type(value)
        if kind in _PLAIN:
            return None
        if kind is _Builder:
            return ("builder", value.name)
        if id(value) in self._made:
            module, name = self._made[id(value)]
            return ("global", sent_name(module), name)
        if isinstance(value, ModuleType):
            return self._module(value)
        named = self._global(value)
        if named is not None or isinstance(value, type | FunctionType):
            return named
        if kind.__module__.partition(".")[0] in _CODED_MODULES:
            try:
                Encoder().node(value)
            except NoCodecError as error:
                raise StateError(f"holds {error.kind}, which has no codec") from None
            self.parts.coded.append(value)
            return ("coded", len(self.parts.coded) - 1)
        return None

    def _module(self, module: ModuleType) -> tuple[str, str]:
        if self._origins.is_sliced(module.__name__):
            raise StateError(f"holds the module {module.__name__} itself")
        self.parts.modules.add(module.__name__)
        return ("module", module.__name__)

    def _global(self, value: Any) -> Any:
        """Return what stands for an object that a definition of a sliced module made, whatever its type."""
        module, qualname = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
        qualname = qualname or getattr(value, "__name__", None)
        if not isinstance(module, str) or not isinstance(qualname, str) or id(value) in self._unnamed:
            return None
        if not self._origins.is_sliced(module):
            return None
        if resolve(self._origins.namespace(module), qualname) is value:
            self.parts.globals.add((module, qualname.partition(".")[0]))
            return ("global", sent_name(module), qualname)
        return None

    def reducer_override(self, value: Any) -> Any:
        """Reduce what plain pickle would refer to by a name that exists only here."""
        if isinstance(value, functools._lru_cache_wrapper):
            parameters = value.cache_parameters()
            return _CACHED, (value.__wrapped__, parameters["maxsize"], parameters["typed"])
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, type):
            return self._class(value)
        if not isinstance(value, BuiltinFunctionType):
            self._check_instance(value)
        return NotImplemented

    def _check_instance(self, value: Any) -> None:
        for kind in type(value).__mro__:
            module = kind.__module__
            known = (
                module.partition(".")[0] in _STABLE_MODULES
                or self._origins.is_sliced(module)
                or self._origins.is_beside(module)
            )
            if not known or (module in _PLACEHOLDERS and kind is type(value)):
                raise StateError(f"holds {type_name(value)}, which cannot travel as a value")
            if self._origins.is_sliced(module) and vars(kind).keys() & {"__reduce__", "__reduce_ex__"}:
                self.parts.calls_own = True

    def _is_project(self, module: str) -> bool:
        return self._origins.is_sliced(module) or self._origins.is_beside(module)

    def _importable(self, value: Any) -> bool:
        module = getattr(value, "__module__", None)
        if not module or self._origins.is_sliced(module):
            return False
        if resolve(self._origins.namespace(module), value.__qualname__) is not value:
            return False
        self.parts.modules.add(module)
        return True

    # --- functions and classes without a name in their module ---------------------------------------------

    def _function(self, function: FunctionType) -> Any:
        if self._importable(function):
            return NotImplemented
        code = function.__code__
        module = str(function.__globals__.get("__name__"))
        if not self._is_project(module):
            return self._decorated(function, module)
        file = module_file(code.co_filename)
        node = file.definition_of(code)
        piece = file.slice(node, None if isinstance(node, ast.Lambda) else node.lineno)
        free = code.co_freevars
        key = self._source(module, code.co_filename, piece, code.co_name, list(free))
        if self._origins.is_sliced(module):
            self.parts.globals |= {(module, name) for name in names_in(code)}
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
        decorator = resolve(self._origins.namespace(module), function.__code__.co_qualname.partition(".")[0])
        contents = [cell.cell_contents for cell in function.__closure__ or () if not is_empty(cell)]
        wrapped = getattr(function, "__wrapped__", None)
        if wrapped is None or len(contents) != 1 or contents[0] is not wrapped or not callable(decorator):
            raise StateError(f"holds the function {function.__qualname__}, made at run time by {module}")
        return decorator, (wrapped,)

    def _cell(self, cell: CellType) -> int:
        number, _ = self._cells.setdefault(id(cell), (len(self._cells), cell))
        return number

    def _class(self, kind: type) -> Any:
        if kind in _SINGLETON_TYPES or self._importable(kind):
            return NotImplemented
        filename = self._origins.namespace(kind.__module__).get("__file__") or _file_of_methods(kind)
        file = module_file(filename) if filename and self._origins.is_sliced(kind.__module__) else None
        node = file.class_definition(kind) if file else None
        if file is None or node is None:
            raise StateError(f"holds the class {kind.__qualname__}, which has no definition that could be sent")
        bases = {base.__name__: base for base in kind.__bases__ if "<locals>" in base.__qualname__}
        free = _free_of_methods(kind)
        module = self._origins.namespace(kind.__module__)
        used = uses(node, file.filename)
        local = {name for name in used.now if name not in module and name not in bases and not is_builtin(name)}
        if local - free.keys():
            raise StateError(f"uses {min(local - free.keys())!r}, a local variable of a call that is over")
        names = sorted({*bases, *free})
        key = self._source(kind.__module__, file.filename, file.slice(node), kind.__name__, names)
        self.parts.globals |= {(kind.__module__, name) for name in used.now | used.later if name not in names}
        now = {**bases, **{name: free[name] for name in local}}
        return _CLASS, (key, now), free, None, None, _SET_CLASS

    def _source(self, module: str, filename: str, piece: Slice, name: str, free: list[str]) -> int:
        place = (filename, piece.line, piece.column)
        if place not in self._keys:
            self._keys[place] = len(self.parts.sources)
            source = {"module": sent_name(module), "file": filename, "line": piece.line, "text": piece.text}
            self.parts.sources.append({**source, "name": name, "free": free})
        return self._keys[place]


def resolve(names: Mapping[str, Any], qualname: str) -> Any:
    """Return the object that a qualified name stands for among a module's names, or None."""
    first, *parts = qualname.split(".")
    found = names.get(first)
    for part in parts:
        found = getattr(found, part, None)
    return found


def sent_name(module: str) -> str:
    """Return a module's name in the environment, where the runner is the process's ``__main__``."""
    return "__k8s_venv_main__" if module == "__main__" else module


def is_plain(value: Any) -> bool:
    """Tell whether nothing can change a value: numbers, text, and tuples of them."""
    if type(value) in (tuple, frozenset):
        return all(is_plain(item) for item in value)
    return type(value) in _PLAIN


def is_builtin(name: str) -> bool:
    """Tell whether a name is one of Python's own, or one that every module has."""
    return name in _BUILTINS


def is_empty(cell: CellType) -> bool:
    """Tell whether a variable of an enclosing function has no value."""
    try:
        cell.cell_contents  # noqa: B018 -- asking is what tells
    except ValueError:
        return True
    return False


def type_name(value: Any) -> str:
    """Return a value's type as messages name it."""
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


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


_BUILTINS = frozenset(dir(__builtins__) if isinstance(__builtins__, ModuleType) else __builtins__) | {
    "__name__", "__file__", "__package__", "__doc__", "__builtins__", "__annotations__", "__spec__", "__loader__",
    "__module__", "__qualname__", "__dict__", "__path__", "__cached__", "__debug__", "__firstlineno__",
    "__static_attributes__", "__classdict__", "__conditional_annotations__",
}  # fmt: skip
