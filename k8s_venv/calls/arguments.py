"""The arguments of a call as bytes, and the types that have to travel with them."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k8s_venv.calls.files import data_files
from k8s_venv.calls.packed import same_python
from k8s_venv.calls.references import with_references
from k8s_venv.capture.functions import function_name, place_of, written_function
from k8s_venv.capture.module_source import module_file
from k8s_venv.capture.origins import Origins, file_of, import_roots
from k8s_venv.errors import CallError, SourceError
from k8s_venv.wire.errors import MalformedError, NoCodecError, Notes
from k8s_venv.wire.shipped_types import own_name, resolver
from k8s_venv.wire.values import dump_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from k8s_venv.calls.packed import Transport
    from k8s_venv.calls.transfer import StoredValue
    from k8s_venv.config.environment import Environment
    from k8s_venv.wire.registry import Piece


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The arguments of a call, encoded.

    Args:
        pieces: the encoded arguments, as ``values.dump_parts`` returned them.
        types: the types of the project's own modules among them, or the classes around these.
        names: the names of the project's own modules that they refer to, each with its module.
        modules: the modules of the project that have to travel with them as whole files.
        pickled: whether any of them is pickled.
        stored: the size and the place of those that are stored at a location, by their digests.
        notes: a sentence for each part that will arrive as something plainer; of many, for the first.
    """

    pieces: list[Piece] = dataclasses.field(repr=False)
    types: set[type]
    names: set[tuple[str, str]]
    modules: set[str]
    pickled: bool
    stored: Mapping[str, tuple[int, StoredValue]]
    notes: list[str]


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
    types, pickle, notes = ProjectTypes(function, environment.root), None, Notes()
    if same_python(environment.python):
        from k8s_venv.calls.pickling import ArgumentPickler  # cloudpickle is not for the parsing of DAG files

        pickle = ArgumentPickler(function, environment.root, by_name=transport == "source")
    stored: dict[str, tuple[int, StoredValue]] = {}
    packed = with_references({"args": list(args), "kwargs": dict(kwargs)}, environment, stored)
    if environment.files:
        packed["files"] = data_files(environment.files, environment.root)
    shown = functools.partial(_argument_path, function, len(args), list(kwargs))
    try:
        pieces = dump_parts(packed, pickle, types.find, notes)
    except MalformedError as error:
        raise CallError(f"A value handed on by reference is damaged: {error}.", *place_of(function)) from None
    except NoCodecError as error:
        kind = SourceError if pickle is not None and pickle.met_unnamed else CallError
        raise kind(
            f"An argument of {function_name(function)}() cannot travel to Python {environment.python}: "
            f"{shown(error.path)} is {error.kind}. Pass plain data, arrays, frames or dataclasses of the project, or "
            "say how its type travels with k8s_venv.runtime.register_codec().",
            *place_of(function),
        ) from None
    names, modules = {(each.__module__, each.__name__) for each in types.found}, types.modules
    if pickle is not None:
        names |= pickle.names
        modules |= pickle.modules
    plainer = [f"Argument {sentence}" for sentence in notes.sentences(shown)]
    return Arguments(pieces, types.found, names, modules, pickle is not None and pickle.used, stored, plainer)


def _argument_path(function: Callable[..., Any], positional: int, keywords: list[str], path: str) -> str:
    """Return the path of a part of the arguments as the function's author knows it."""
    names: list[str] = []
    with contextlib.suppress(TypeError, ValueError):
        names += inspect.signature(function).parameters
    shown = {f"['kwargs'][{name!r}]": name for name in keywords}
    for number in range(positional):
        shown[f"['args'][{number}]"] = names[number] if number < len(names) else f"args[{number}]"
    prefix = next((prefix for prefix in shown if path.startswith(prefix)), None)
    return path if prefix is None else shown[prefix] + path.removeprefix(prefix)


class ProjectTypes:
    """Find the types of the project's own modules that arguments are of, and remember them.

    Args:
        function: what will be called with the arguments.
        root: the project's folder.
    """

    def __init__(self, function: Callable[..., Any], root: Path) -> None:
        self.found: set[type] = set()
        self.modules: set[str] = set()
        self._root = root
        self._origins = Origins(root)
        self._known: dict[tuple[str, str], type | None] = {}
        inner = written_function(function)
        self._file = Path(inner.__code__.co_filename) if inner is not None else None
        self._home = self._origins.slice(inner) if inner is not None else None

    def find(self, module: str, name: str) -> type | None:
        """Return a type by its module and name, where it is one of the project's that is loaded here.

        Args:
            module: the module's name, here or in the environment that wrote a value handed on by reference.
            name: the type's qualified name.
        """
        if (module, name) not in self._known:
            self._known[module, name] = self._look_up(module, name)
        return self._known[module, name]

    def _look_up(self, module: str, name: str) -> type | None:
        for home in self._homes(module):
            beside = self._origins.is_beside(home)
            if not beside and not self._origins.is_sliced(home):
                continue
            kind = resolver({home}, {home: self._origins.namespace(home)})(home, name)
            if kind is not None:
                self.found.add(self._origins.resolve(home, name.partition(".")[0]))
                self.modules |= {home} if beside else set()
                return kind
        if module not in sys.modules and self._defines(module, name.partition(".")[0]):
            self.modules.add(module)  # what another environment wrote; it is read only in the next one
        return None

    def _homes(self, module: str) -> list[str]:
        """Return the modules that a name can mean here: a DAG file or a script has another one in each process."""
        if module in sys.modules or module == self._home:
            return [module]
        loaded = [self._home, *sys.modules] if self._home else list(sys.modules)
        return [each for each in loaded if own_name(each) == own_name(module)]

    def _defines(self, module: str, name: str) -> bool:
        """Return whether a file of the project that is not loaded here defines a class."""
        file = file_of(module, import_roots(self._file, self._root)) if self._file is not None else None
        with contextlib.suppress(CallError, OSError, ValueError):
            statements = module_file(str(file)).tree.body if file is not None else []
            return any(isinstance(node, ast.ClassDef) and node.name == name for node in statements)
        return False
