"""What a callable is: the function written in it, its name and place, what it takes from outside."""

from __future__ import annotations

import dis
import functools
import inspect
import sys
from types import CellType, CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from k8s_venv.errors import CallError
from k8s_venv.wire.shipped_types import is_reloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def written_function(function: Any) -> FunctionType | None:
    """Return the function that someone wrote with ``def`` or ``lambda`` inside a callable, or None."""
    while not isinstance(function, FunctionType) or hasattr(function, "__wrapped__"):
        if isinstance(function, functools.partial):
            function = function.func
        elif isinstance(function, MethodType):
            function = function.__func__
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif not isinstance(function, type) and isinstance(vars(type(function)).get("__call__"), FunctionType):
            function = vars(type(function))["__call__"]
        else:
            return None
    return function


def home_of(function: Any) -> tuple[str, dict[str, Any]] | None:
    """Return the module in which a callable was written, as its name and what its names stand for, or None."""
    inner = written_function(function)
    if inner is not None:
        return str(inner.__globals__.get("__name__") or "__main__"), inner.__globals__
    kind = without_partial(function)
    module = sys.modules.get(kind.__module__) if isinstance(kind, type) else None
    if module is None:
        return None
    # The class of a file that was loaded again since is still the one that is called.
    replaced = "." not in kind.__qualname__ and is_reloaded(kind, vars(module).get(kind.__name__))
    return kind.__module__, {**vars(module), kind.__name__: kind} if replaced else vars(module)


def without_partial(function: Any) -> Any:
    """Return what ``functools.partial`` calls in the end."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def place_of(function: Callable[..., Any]) -> tuple[str | None, int | None]:
    """Return the file and line of a function, or the file of a class."""
    code = getattr(written_function(function), "__code__", None)
    if code:
        return code.co_filename, code.co_firstlineno
    home = home_of(function)
    return (home[1].get("__file__"), None) if home is not None else (None, None)


def function_name(function: Any) -> str:
    """Return a callable's name for messages."""
    inner, function = written_function(function), without_partial(function)
    return str(getattr(function, "__name__", None) or getattr(inner, "__name__", None) or repr(function))


def refuse_nonlocal(function: Any) -> None:
    """Refuse a function that assigns variables of the call that made it: the change would be lost.

    Raises:
        CallError: it does.
    """
    inner = written_function(function)
    shared = _assigned_free_variables(inner.__code__) if inner is not None else []
    if inner is not None and shared:
        raise CallError(
            f"{inner.__name__}() assigns {shared[0]!r}, which is `nonlocal`: the DAG file would not see it. Return the "
            "value instead.",
            inner.__code__.co_filename,
            inner.__code__.co_firstlineno,
        )


def refuse_generator(function: Any) -> None:
    """Refuse a function that yields.

    Raises:
        CallError: it does.
    """
    if not (inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)):
        return
    name, inner = function_name(function), written_function(function)
    if inner is not None and _names_metadata(inner):
        problem = (
            f"{name}() yields Metadata, which needs Airflow itself. Let {name}() return its value only, and let a "
            "plain task after it yield the Metadata, with the asset among that task's outlets."
        )
    else:
        problem = f"{name}() yields, and a generator cannot travel. Let it return a list."
    raise CallError(problem, *place_of(function))


def outer_values(function: FunctionType) -> dict[str, Any]:
    """Return what a function takes from outside by name: defaults and variables of enclosing functions."""
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(function, follow_wrapped=False).parameters.items():
        if parameter.default is not parameter.empty:
            found[name] = parameter.default
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if not is_empty(cell):
            found[name] = cell.cell_contents
    return found


def _names_metadata(function: FunctionType) -> bool:
    """Return whether a function uses Airflow's class for what a task tells of an asset."""
    known = {**function.__globals__, **outer_values(function)}
    for name in _names_in(function.__code__):
        value = known.get(name)
        if value is None and name == "Metadata":  # an attribute of a module, or imported inside
            return True
        if isinstance(value, type) and value.__name__ == "Metadata" and value.__module__.startswith("airflow."):
            return True
    return False


def _names_in(code: CodeType) -> Iterator[str]:
    yield from (*code.co_names, *code.co_freevars)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


def _assigned_free_variables(code: CodeType) -> list[str]:
    assigned = [
        instruction.argval
        for instruction in dis.get_instructions(code)
        if instruction.opname in ("STORE_DEREF", "DELETE_DEREF") and instruction.argval in code.co_freevars
    ]
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            assigned += [name for name in _assigned_free_variables(constant) if name in code.co_freevars]
    return assigned


def is_empty(cell: CellType) -> bool:
    """Return whether a variable of an enclosing function has no value."""
    try:
        cell.cell_contents  # noqa: B018 -- asking is what tells
    except ValueError:
        return True
    return False
