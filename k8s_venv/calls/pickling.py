"""Cloudpickle transport: a function as bytecode, for the same minor version.

Cloudpickle takes by reference what it finds by name in a module. The function's own module cannot be imported in the
environment, so it is pickled by value; what cloudpickle still refers to by name is reduced here, or refused.
"""

from __future__ import annotations

import functools
import io
import pickle
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle

from k8s_venv.calls.origins import Origins, is_installed
from k8s_venv.calls.slicing import function_name, outer_values, written_function
from k8s_venv.errors import CallError
from k8s_venv.runner.function import Builder

if TYPE_CHECKING:
    from collections.abc import Callable

_STANDARD = (sys.stdin, sys.stdout, sys.stderr, sys.__stdin__, sys.__stdout__, sys.__stderr__)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Take by value what is wrapped by ``functools.lru_cache`` in modules that cannot be imported there."""

    def __init__(self, stream: io.BytesIO, origins: Origins) -> None:
        super().__init__(stream)
        self._origins = origins

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, functools._lru_cache_wrapper) and self._origins.is_sliced(value.__module__):
            parameters = value.cache_parameters()  # type: ignore[attr-defined]
            return Builder.cached, (value.__wrapped__, parameters["maxsize"], parameters["typed"])
        if isinstance(value, io.IOBase) and value not in _STANDARD and not isinstance(value, io.StringIO | io.BytesIO):
            raise pickle.PicklingError(f"cannot pickle {type(value).__name__!r} object")
        return super().reducer_override(value)


def pickle_function(function: Callable[..., Any], root: Path) -> bytes:
    """Pickle a function with what it uses of its own module.

    Args:
        function: the function.
        root: the project's folder.

    Raises:
        CallError: it uses something that cannot be pickled.

    """
    origins = Origins(root)
    inner = written_function(function)
    if inner is not None and not is_installed(inner.__module__):
        origins.slice(inner)  # also where it could be imported by its name: its file does not travel
    home = sys.modules.get(str(getattr(inner or function, "__module__", "")))
    by_value = home is not None and home.__name__ != "__main__" and origins.is_sliced(home.__name__)
    try:
        if by_value:
            cloudpickle.register_pickle_by_value(home)
        return _dumps(function, origins)
    except Exception as error:
        raise _refusal(function, error, origins) from error
    finally:
        if by_value:
            cloudpickle.unregister_pickle_by_value(home)


def _dumps(value: Any, origins: Origins) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream, origins).dump(value)
    return stream.getvalue()


def _refusal(function: Any, error: Exception, origins: Origins) -> CallError:
    """Return the error that names what cannot be pickled."""
    inner = written_function(function)
    if inner is None:
        return CallError(f"{function_name(function)}() cannot be pickled: {error}.")
    names = inner.__globals__
    used = {name: names[name] for name in inner.__code__.co_names if name in names}
    for name, value in {**outer_values(inner), **used}.items():
        try:
            _dumps(value, origins)
        except Exception as own:  # noqa: BLE001 -- whatever a value's own methods raise
            problem = f"uses {name!r}, which cannot be pickled: {own}"
            break
    else:
        problem = f"cannot be pickled: {error}"
    code = inner.__code__
    return CallError(
        f"{function_name(function)}() {problem}. Make it inside the function, or pass plain data as an argument.",
        code.co_filename,
        code.co_firstlineno,
    )
