"""The arguments of a call as bytes, and the types that have to travel with them."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from k8s_venv.calls.origins import Origins
from k8s_venv.calls.references import with_references
from k8s_venv.calls.slicing import function_name, place_of, written_function
from k8s_venv.calls.transport import same_python
from k8s_venv.errors import CallError
from k8s_venv.runner.errors import MalformedError, NoCodecError
from k8s_venv.runner.shipped_types import resolver
from k8s_venv.runner.values import dumps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from k8s_venv.environment import Environment


def encode_arguments(
    function: Callable[..., Any], environment: Environment, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[bytes, set[type]]:
    """Encode the arguments of a call.

    Args:
        function: what will be called.
        environment: where.
        args: its positional arguments.
        kwargs: its keyword arguments.

    Returns:
        The encoded arguments, and the types among them that the project's own modules define.

    Raises:
        CallError: an argument cannot travel.
    """
    pickle = None
    if same_python(environment.python):
        from k8s_venv.calls.pickling import argument_pickler  # cloudpickle is not for the parsing of DAG files

        pickle = argument_pickler(function, environment.root)
    found: set[type] = set()
    packed = with_references({"args": list(args), "kwargs": dict(kwargs)})
    try:
        return dumps(packed, pickle, _project_types(function, environment, found)), found
    except MalformedError as error:
        raise CallError(f"A value handed on by reference is damaged: {error}.", *place_of(function)) from None
    except NoCodecError as error:
        path = _argument_path(error.path, list(_parameter_names(function)), len(args), list(kwargs))
        raise CallError(
            f"An argument of {function_name(function)}() cannot travel to Python {environment.python}: {path} is "
            f"{error.kind}. Pass plain data, numpy arrays or pandas frames.",
            *place_of(function),
        ) from None


def _project_types(
    function: Callable[..., Any], environment: Environment, found: set[type]
) -> Callable[[str, str], type | None]:
    """Return what finds the types of the project's own modules, and remembers them."""
    origins = Origins(environment.root)
    inner = written_function(function)
    if inner is not None:
        origins.slice(inner)

    def find(module: str, name: str) -> type | None:
        if not (origins.is_sliced(module) or origins.is_beside(module)):
            return None
        kind = resolver({module})(module, name)
        if kind is not None:
            found.add(kind)
        return kind

    return find


def _argument_path(path: str, names: list[str], positional: int, keywords: list[str]) -> str:
    """Return the path of a part of the arguments as the function's author knows it."""
    for number in range(positional):
        prefix = f"['args'][{number}]"
        if path.startswith(prefix):
            return (names[number] if number < len(names) else f"args[{number}]") + path.removeprefix(prefix)
    for name in keywords:
        prefix = f"['kwargs'][{name!r}]"
        if path.startswith(prefix):
            return name + path.removeprefix(prefix)
    return path


def _parameter_names(function: Callable[..., Any]) -> Iterator[str]:
    try:
        yield from inspect.signature(function).parameters
    except (TypeError, ValueError):
        return
