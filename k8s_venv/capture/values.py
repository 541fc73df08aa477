"""Values of a module, and functions made at run time, in a form that any Python from 3.8 on can build again.

Pickle protocol 4 (PEP 3154) is the frame: it keeps shared and circular references. It does not carry everything:

* types of the standard library only where their pickled form is the same in all versions (``_STABLE_MODULES``);
* dates, paths, arrays and tables through the codecs of ``wire.values``, which no library version changes;
* functions and classes of the sliced modules by their name there, or, where they have none (closures, lambdas), as
  their source with the values of their free variables;
* nothing of other installed packages but what can be imported by name.

The environment trusts its sender; the sender never reads any of this.
"""

from __future__ import annotations

import ast
import asyncio
import copyreg
import dataclasses
import functools
import inspect
import io
import pickle
import socket
import subprocess
import threading
from types import (
    AsyncGeneratorType,
    BuiltinFunctionType,
    CellType,
    CoroutineType,
    FunctionType,
    GeneratorType,
    MethodType,
    ModuleType,
)
from typing import TYPE_CHECKING, Any

from k8s_venv.capture.functions import is_empty
from k8s_venv.capture.module_source import module_file
from k8s_venv.capture.names import is_builtin, names_in, uses
from k8s_venv.capture.origins import is_importable, sent_name
from k8s_venv.errors import SourceError
from k8s_venv.wire.encoder import Encoder
from k8s_venv.wire.errors import NoCodecError

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping

    from k8s_venv.capture.imports import Import
    from k8s_venv.capture.module_source import Slice
    from k8s_venv.capture.origins import Origins

_ATTRIBUTES = ("__defaults__", "__kwdefaults__", "__qualname__", "__name__", "__doc__")
PROTOCOL = 4  # the newest that Python 3.8 shares with all later ones by default (PEP 3154)
_CODED_MODULES = {"datetime", "numpy", "pandas", "pathlib", "polars", "pyarrow", "uuid", "zoneinfo"}
_STABLE_MODULES = {
    "abc", "array", "builtins", "collections", "contextlib", "dataclasses", "decimal", "enum", "fractions",
    "functools", "ipaddress", "numbers", "operator", "random", "_random", "re", "string", "types", "typing",
}  # fmt: skip
_PLACEHOLDERS = {"typing", "abc", "contextlib"}  # bases without state; their own objects are made by statements
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...), type(NotImplemented))
_SINGLETON_TYPES = (type(None), type(...), type(NotImplemented))
_TIED_TO_PROCESS = (
    io.IOBase, socket.socket, subprocess.Popen, type(threading.Lock()), type(threading.RLock()), threading.Thread,
    threading.Condition, threading.Event, threading.Semaphore, asyncio.AbstractEventLoop, GeneratorType, CoroutineType,
    AsyncGeneratorType,
)  # fmt: skip


class StateError(Exception):
    """A value cannot travel.

    Args:
        problem: the reason, to be put after "it".
    """

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


@dataclasses.dataclass
class Parts:
    """A pickled value, with the parts that it needs besides its bytes.

    Args:
        data: the pickle.
        coded: the values that it refers to by number and that codecs carry.
        sources: the functions and classes without a name in their module, as slices.
        defined_in: the modules of these functions and classes.
        imports: the imports in them.
        globals: the names of sliced modules that it refers to, each with its module.
        modules: the other modules that it imports from.
        calls_own: restoring it calls functions of sliced modules (``__reduce__``), which must be there by then.
    """

    data: bytes = b""
    coded: list[Any] = dataclasses.field(default_factory=list)
    sources: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    defined_in: set[str] = dataclasses.field(default_factory=set)
    imports: list[Import] = dataclasses.field(default_factory=list)
    globals: set[tuple[str, str]] = dataclasses.field(default_factory=set)
    modules: set[str] = dataclasses.field(default_factory=set)
    calls_own: bool = False


@dataclasses.dataclass(frozen=True)
class Build:
    """Stands for a method of the runner's half, ``wire.restoring.Builder``."""

    name: str

    def __call__(self) -> None:
        """Be callable, as pickle wants it."""


_CACHED = Build("cached")
_FUNCTION, _SET_FUNCTION = Build("function"), Build("set_function")
_CLASS, _SET_CLASS = Build("class_"), Build("set_class")


@dataclasses.dataclass(frozen=True)
class Attribute:
    """Stands for an attribute of a class that is set again in the environment."""

    kind: type
    name: str
    value: Any


def portable(
    value: Any,
    origins: Origins,
    rebuilt: Container[int] = (),
    made: Mapping[int, tuple[str, str]] | None = None,
) -> Parts:
    """Pickle a value so that any Python can build it.

    Args:
        value: the value.
        origins: how modules travel.
        rebuilt: ids of functions that are built from their parts, although their module has a name for them.
        made: ids of objects that statements make in the environment, each with its module and name: they are referred
            to, never copied.

    Raises:
        StateError: it cannot travel.
    """
    stream = io.BytesIO()
    pickler = _Pickler(stream, origins, rebuilt, made or {})
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


def place_of_global(
    value: Any, origins: Origins, rebuilt: Container[int], made: Mapping[int, tuple[str, str]]
) -> tuple[str, str] | None:
    """Return the module and name under which a value is found after its module's statements have run, or None.

    The arguments are those of ``portable``.
    """
    found = _Pickler(io.BytesIO(), origins, rebuilt, made).persistent_id(value)
    return found[1:] if found is not None and found[0] == "global" else None


class _Pickler(pickle.Pickler):
    def __init__(
        self, stream: io.BytesIO, origins: Origins, rebuilt: Container[int], made: Mapping[int, tuple[str, str]]
    ) -> None:
        super().__init__(stream, PROTOCOL)
        self.parts = Parts()
        self._origins = origins
        self._rebuilt = rebuilt
        self._made = made
        self._build = _Closures(self.parts, origins)

    def persistent_id(self, value: Any) -> Any:
        """Return the reference that stands for an object which is not pickled itself, or None."""
        kind = type(value)
        if kind in _PLAIN:
            return None
        if kind is Build:
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
        if not is_importable(module):
            raise StateError(f"holds the module {module.__name__}, which no import finds by that name")
        self.parts.modules.add(module.__name__)
        return ("module", module.__name__)

    def _global(self, value: Any) -> Any:
        """Return the reference to an object that a definition of a sliced module made, or None."""
        module, qualname = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
        qualname = qualname or getattr(value, "__name__", None)
        if not isinstance(module, str) or not isinstance(qualname, str) or id(value) in self._rebuilt:
            return None
        if not self._origins.is_sliced(module):
            return None
        if self._origins.resolve(module, qualname) is value:
            self.parts.globals.add((module, qualname.partition(".")[0]))
            return ("global", sent_name(module), qualname)
        return None

    def reducer_override(self, value: Any) -> Any:
        """Reduce objects that plain pickle would refer to by a name which exists only here."""
        if isinstance(value, functools._lru_cache_wrapper):
            parameters = value.cache_parameters()
            return _CACHED, (value.__wrapped__, parameters["maxsize"], parameters["typed"])
        if isinstance(value, Attribute):
            return setattr, (value.kind, value.name, value.value)
        if isinstance(value, FunctionType | type):
            return self._definition(value)
        if isinstance(value, MethodType) and getattr(value.__self__, value.__func__.__name__, None) != value:
            raise StateError(f"holds the method {value.__func__.__qualname__} of an object that has no such method")
        if not isinstance(value, BuiltinFunctionType):
            self._check_instance(value)
        return _without_new(value)

    def _definition(self, value: FunctionType | type) -> Any:
        module = self._origins.importable(value)
        if module is not None:
            self.parts.modules.add(module)
        if module is not None or value in _SINGLETON_TYPES:
            return NotImplemented
        return self._build.class_(value) if isinstance(value, type) else self._build.function(value)

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


def _without_new(value: Any) -> Any:
    """Reduce an object without its class's own ``__new__``, whose arguments are no longer known."""
    makers = [vars(kind)["__new__"] for kind in type(value).__mro__[:-1] if "__new__" in vars(kind)]
    if not makers or not all(isinstance(maker, staticmethod) for maker in makers):  # none, or a builtin type's
        return NotImplemented
    reduced = value.__reduce_ex__(PROTOCOL)
    is_default = isinstance(reduced, tuple) and reduced[:2] == (copyreg.__newobj__, (type(value),))  # type: ignore[attr-defined]
    return (object.__new__, *reduced[1:]) if is_default else NotImplemented


class _Closures:
    """Reduce functions and classes without a name in their module to calls of ``wire.restoring.Builder``.

    Args:
        parts: receives their sources, and the names that they use.
        origins: how modules travel.
    """

    def __init__(self, parts: Parts, origins: Origins) -> None:
        self._parts = parts
        self._origins = origins
        self._keys: dict[tuple[str, int, int], int] = {}
        self._cells: dict[int, tuple[int, CellType]] = {}

    def function(self, function: FunctionType) -> Any:
        """Return how pickle reduces a function."""
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
            "attributes": {name: getattr(function, name) for name in _ATTRIBUTES},
            "dict": dict(function.__dict__),
        }
        return _FUNCTION, (key, numbers), state, None, None, _SET_FUNCTION

    def _decorated(self, function: FunctionType, module: str) -> Any:
        """Reduce a function made by an installed decorator alone, such as ``contextmanager``, to a call of that."""
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
        """Return how pickle reduces a class."""
        filename = self._origins.namespace(kind.__module__).get("__file__")
        filename = filename or next((each.__code__.co_filename for each in _methods(kind)), None)  # a notebook's cell
        file = module_file(filename) if filename and self._origins.is_sliced(kind.__module__) else None
        node = file.class_definition(kind) if file else None
        if file is None or node is None:
            raise StateError(f"holds the class {kind.__qualname__}, which has no definition that could be sent")
        bases = {base.__name__: base for base in kind.__bases__ if "<locals>" in base.__qualname__}
        free = _free_of_methods(kind)
        module = self._origins.namespace(kind.__module__)
        used = uses(node, file.filename)
        # `@singleton` replaced the class by a function; the class is the one without the decorator.
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


def is_plain(value: Any) -> bool:
    """Return whether nothing can change a value: numbers, text, and tuples of them."""
    if type(value) in (tuple, frozenset):
        return all(is_plain(item) for item in value)
    return type(value) in _PLAIN


def bound_to_process(value: Any) -> str | None:
    """Return why a value belongs to this process and never travels, or None."""
    if isinstance(value, _TIED_TO_PROCESS) and not isinstance(value, io.StringIO | io.BytesIO):
        return f"holds {type_name(value)}, which belongs to this process"
    return None


def of_airflow(value: Any) -> str | None:
    """Return why an object of Airflow's never travels, or None."""
    kinds = {kind.__name__ for kind in type(value).__mro__ if kind.__module__.partition(".")[0] == "airflow"}
    if "XComArg" in kinds:
        return "is another task's value, which is known only when it has run and travels as an argument alone"
    if kinds & {"DAG", "DAGNode", "_TaskDecorator"}:
        return f"is an Airflow {type(value).__name__}, which means nothing inside an environment"
    return None


def type_name(value: Any) -> str:
    """Return a value's type as messages name it."""
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
