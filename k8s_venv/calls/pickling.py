"""Cloudpickle transport: a function as bytecode, for the same minor version.

Cloudpickle takes by reference what it finds by name in a module. The function's own module cannot be imported in the
environment, so it is pickled by value; what cloudpickle still refers to by name is reduced here, or refused.
"""

from __future__ import annotations

import contextlib
import functools
import io
import pickle
import pickletools
import sys
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import cloudpickle

from k8s_venv.capture.functions import function_name, home_of, outer_values, place_of, written_function
from k8s_venv.capture.imports import imports_of_code
from k8s_venv.capture.origins import Origins, is_importable, is_installed, is_installed_file, sent_name
from k8s_venv.capture.values import of_airflow
from k8s_venv.errors import CallError
from k8s_venv.wire.restoring import Builder, named
from k8s_venv.wire.shipped_types import is_reloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

_STANDARD = (sys.stdin, sys.stdout, sys.stderr, sys.__stdin__, sys.__stdout__, sys.__stderr__)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Take by value what cloudpickle takes by a name which cannot be imported there."""

    def __init__(self, origins: Origins) -> None:
        self._stream = io.BytesIO()
        super().__init__(self._stream)
        self._origins = origins
        self.modules: set[str] = set()
        self.imported: set[str] = set()

    def dumped(self, value: Any) -> bytes:
        """Return a value, pickled."""
        self.dump(value)
        return self._stream.getvalue()

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, FunctionType) and not is_installed_file(value.__code__.co_filename):
            self.imported.update(imports_of_code(value.__code__))
        if isinstance(value, ModuleType) and is_importable(value):
            self.modules.add(value.__name__)
        if isinstance(value, functools._lru_cache_wrapper) and self._origins.is_sliced(value.__module__):
            parameters = value.cache_parameters()
            return Builder.cached, (value.__wrapped__, parameters["maxsize"], parameters["typed"])
        if isinstance(value, io.IOBase) and value not in _STANDARD and not isinstance(value, io.StringIO | io.BytesIO):
            raise pickle.PicklingError(f"cannot pickle {type(value).__name__!r} object")
        if not isinstance(value, type | FunctionType) and of_airflow(value):
            raise pickle.PicklingError(f"it {of_airflow(value)}")
        return super().reducer_override(value)


class _NamePickler(_Pickler):
    """Take what has a name in a sliced module by this name: the environment builds the module from source."""

    def __init__(self, origins: Origins) -> None:
        super().__init__(origins)
        self.names: set[tuple[str, str]] = set()
        self.met_unnamed = False

    def reducer_override(self, value: Any) -> Any:
        module, qualname = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
        if isinstance(module, str) and isinstance(qualname, str) and self._origins.is_sliced(module):
            found = self._origins.resolve(module, qualname)
            if found is value or (isinstance(value, type) and is_reloaded(value, found)):
                self.names.add((module, qualname.partition(".")[0]))
                return named, (sent_name(module), qualname)
            if isinstance(value, type):
                self.met_unnamed = True
                raise pickle.PicklingError(f"the class {qualname} is local to a function")
        return super().reducer_override(value)


class ArgumentPickler:
    """Pickle arguments of a function, and remember what they refer to.

    Args:
        function: the function.
        root: the project's folder.
        by_name: the function travels as source, so its module's classes and functions are there by their names.
    """

    def __init__(self, function: Callable[..., Any], root: Path, *, by_name: bool) -> None:
        self._function = function
        self._root = root
        self._by_name = by_name
        self.used = False
        self.names: set[tuple[str, str]] = set()
        self.modules: set[str] = set()
        self.met_unnamed = False

    def __call__(self, value: Any) -> bytes:
        """Return a value, pickled.

        Raises:
            Exception: it cannot be pickled; ``met_unnamed`` is true if it could beside a pickled function.
        """
        self.used = True
        with _own_module(self._function, self._root, by_value=not self._by_name) as origins:
            pickler = (_NamePickler if self._by_name else _Pickler)(origins)
            try:
                data = pickler.dumped(value)
            finally:
                if isinstance(pickler, _NamePickler):
                    self.names |= pickler.names
                    self.met_unnamed |= pickler.met_unnamed
            references = set(_references(data))
            self.modules |= set(filter(origins.is_beside, {*pickler.modules, *(module for module, _ in references)}))
            for module, name in references:
                if not origins.is_sliced(module):
                    continue
                if not self._by_name or sent_name(module) != module:
                    raise pickle.PicklingError(f"it pickles itself as {name!r} of a module that has no file there")
                self.names.add((module, name.partition(".")[0]))
            return data


def pickle_function(
    function: Callable[..., Any], root: Path, types: Collection[type] = ()
) -> tuple[bytes, frozenset[str], frozenset[str]]:
    """Pickle a function with what it uses of its own module.

    Args:
        function: the function.
        root: the project's folder.
        types: those of its arguments' types that travel, whether the function names them or not.

    Returns:
        The pickle, the modules that loading it imports, and the dotted names that its functions import when called.

    Raises:
        CallError: it uses something that cannot be pickled.
    """
    with _own_module(function, root) as origins:
        pickler = _Pickler(origins)
        try:
            data = pickler.dumped((function, list(types)))
        except Exception as error:
            raise _refusal(function, error, origins) from error
        references = list(_references(data))
        for module, name in references:
            if origins.is_sliced(module):
                raise CallError(
                    f"{function_name(function)}() uses {name!r}, which pickles itself as a name of its own module, and "
                    "that cannot be imported there. Make it inside the function, or leave transport='cloudpickle' out.",
                    *place_of(function),
                )
        modules = {*pickler.modules, *(module for module, _ in references)}
        return data, frozenset(modules), frozenset(pickler.imported)


@contextlib.contextmanager
def _own_module(function: Callable[..., Any], root: Path, *, by_value: bool = True) -> Iterator[Origins]:
    """Yield the origins of modules as a function sees them, while cloudpickle takes by value what has no file there.

    That is the function's own module, and modules that were made at run time.
    """
    origins = Origins(root)
    inner, home = written_function(function), home_of(function)
    if inner is not None and home is not None and not is_installed(home[0]):
        origins.slice(inner)  # also where it could be imported by its name: its file does not travel
    by_its_value = _made_at_run_time()
    if by_value and home is not None and home[0] in sys.modules and origins.is_sliced(home[0]):
        by_its_value[home[0]] = sys.modules[home[0]]
    for name in {"__main__", *cloudpickle.list_registry_pickle_by_value()} & by_its_value.keys():
        del by_its_value[name]  # it takes these so by itself
    try:
        for module in by_its_value.values():
            cloudpickle.register_pickle_by_value(module)
        yield origins
    finally:
        for module in by_its_value.values():
            cloudpickle.unregister_pickle_by_value(module)


def _made_at_run_time() -> dict[str, ModuleType]:
    """Return the modules that are registered though no import would find them elsewhere."""
    known = {name: module for name, module in sys.modules.items() if isinstance(module, ModuleType)}
    return {name: module for name, module in known.items() if module.__name__ == name and not is_importable(module)}


def _references(data: bytes) -> Iterator[tuple[str, str]]:
    """Yield the module and name of each object that a pickle imports."""
    memo: list[Any] = []
    strings: list[Any] = []
    last: Any = None
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name == "MEMOIZE":
            memo.append(last)
        if opcode.name in ("MEMOIZE", "FRAME"):
            continue
        if opcode.name == "STACK_GLOBAL":
            yield strings[-2], strings[-1]
        is_memoized = opcode.name in ("BINGET", "LONG_BINGET")
        last = memo[int(argument or 0)] if is_memoized else argument
        if isinstance(last, str):
            strings.append(last)


def _refusal(function: Any, error: Exception, origins: Origins) -> CallError:
    """Return the error that names what cannot be pickled."""
    inner = written_function(function)
    if inner is None:
        return CallError(f"{function_name(function)}() cannot be pickled: {error}.")
    names = inner.__globals__
    used = {name: names[name] for name in inner.__code__.co_names if name in names}
    problem = f"cannot be pickled: {error}"
    for name, value in {**outer_values(inner), **used}.items():
        try:
            _Pickler(origins).dump(value)
        except Exception as own:  # noqa: BLE001 -- a value's own methods may raise anything
            problem = f"uses {name!r}, which cannot be pickled: {own}"
            break
    return CallError(
        f"{function_name(function)}() {problem}. Make it inside the function, or pass plain data as an argument.",
        *place_of(function),
    )
