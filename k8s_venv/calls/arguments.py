"""The arguments of a call as bytes, and the types that have to travel with them."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Any

from k8s_venv.calls.references import with_references
from k8s_venv.calls.source.functions import function_name, place_of, written_function
from k8s_venv.calls.source.origins import Origins
from k8s_venv.calls.transport import same_python
from k8s_venv.errors import CallError, SourceError
from k8s_venv.runner.errors import MalformedError, NoCodecError
from k8s_venv.runner.shipped_types import resolver
from k8s_venv.runner.values import dump_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from k8s_venv.calls.locations import Kept
    from k8s_venv.calls.pickling import ArgumentPickler
    from k8s_venv.calls.transport import Transport
    from k8s_venv.environment import Environment
    from k8s_venv.runner.registry import Piece


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The arguments of a call, encoded.

    Args:
        pieces: the encoded arguments, as ``values.dump_parts`` returned them.
        types: the types of the project's own modules among them.
        names: the names of the project's own modules that they refer to, each with its module.
        pickled: whether any of them is pickled.
        kept: the size and the place of those that are kept somewhere, by their digests.
    """

    pieces: list[Piece] = dataclasses.field(repr=False)
    types: set[type]
    names: set[tuple[str, str]]
    pickled: bool
    kept: Mapping[str, tuple[int, Kept]]


def encode_arguments(
    function: Callable[..., Any],
    environment: Environment,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    transport: Transport,
) -> Arguments:
    """Encode the arguments of a call.

    Args:
        function: what will be called.
        environment: where.
        args: its positional arguments.
        kwargs: its keyword arguments.
        transport: how the function itself travels: as source, its classes and functions have their names there.

    Raises:
        SourceError: an argument cannot travel beside a function that travels as source.
        CallError: an argument cannot travel.
    """
    types: set[type] = set()
    pickle = _pickler(function, environment, transport)
    kept: dict[str, tuple[int, Kept]] = {}
    packed = with_references({"args": list(args), "kwargs": dict(kwargs)}, environment, kept)
    try:
        pieces = dump_parts(packed, pickle, _project_types(function, environment, types))
    except MalformedError as error:
        raise CallError(f"A value handed on by reference is damaged: {error}.", *place_of(function)) from None
    except NoCodecError as error:
        path = _argument_path(error.path, list(_parameter_names(function)), len(args), list(kwargs))
        kind = SourceError if pickle is not None and pickle.met_unnamed else CallError
        raise kind(
            f"An argument of {function_name(function)}() cannot travel to Python {environment.python}: {path} is "
            f"{error.kind}. Pass plain data, arrays, frames or dataclasses of the project, or say how its type travels "
            "with k8s_venv.runtime.register_codec().",
            *place_of(function),
        ) from None
    names = {(each.__module__, each.__qualname__.partition(".")[0]) for each in types}
    if pickle is not None:
        names |= pickle.names
    return Arguments(pieces, types, names, pickle is not None and pickle.used, kept)


def _pickler(function: Callable[..., Any], environment: Environment, transport: Transport) -> ArgumentPickler | None:
    """Return what pickles the arguments that no codec carries, where the environment can read that."""
    if not same_python(environment.python):
        return None
    from k8s_venv.calls.pickling import ArgumentPickler  # cloudpickle is not for the parsing of DAG files

    return ArgumentPickler(function, environment.root, by_name=transport == "source")


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
