"""Capture what of a function and its arguments travels: for a call, and for looking at it without one."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k8s_venv.calls.arguments import Arguments, encode_arguments
from k8s_venv.calls.beside import dotted_name, imported_names, modules_beside
from k8s_venv.calls.modulefile import module_file
from k8s_venv.calls.origins import is_installed_file
from k8s_venv.calls.slicing import Slicer, function_name, place_of, refuse_nonlocal, written_function
from k8s_venv.calls.transport import Transport, by_rule
from k8s_venv.errors import CallError
from k8s_venv.runner import protocol
from k8s_venv.runner.values import dumps

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from k8s_venv.environment import Environment


@dataclasses.dataclass(frozen=True)
class Captured:
    """What of a function travels.

    Args:
        callable: the function.
        function: its name.
        environment: where it will run.
        transport: how it travels.
        why: why in this way.
        arguments: its arguments, encoded.
        entries: what it adds to the archive besides, by its path there.
        beside: the files of the project that travel whole, by their paths below the import root.
        slicer: what cut the slices, where the function travels as source.
    """

    callable: Callable[..., Any]
    function: str
    environment: Environment
    transport: Transport
    why: str
    arguments: Arguments
    entries: Mapping[str, bytes] = dataclasses.field(repr=False)
    beside: Mapping[str, Path]
    slicer: Slicer | None = dataclasses.field(default=None, repr=False)

    @property
    def beside_modules(self) -> list[str]:
        """Return the names of the modules that travel as whole files."""
        return [dotted_name(path) for path in self.beside]

    @functools.cached_property
    def source(self) -> list[tuple[str, int, str]]:
        """Return each piece of source that runs in the environment, as file, first line and text."""
        try:
            slices = (self.slicer or Slicer(self.callable, self.environment.root)).slices()
        except CallError:
            if self.transport == "source":
                raise
            slices = []  # what travels as bytecode may have no source that can be sliced
        return [*slices, *((str(file), 1, file.read_text("utf-8")) for file in self.beside.values())]


def capture(
    function: Callable[..., Any],
    environment: Environment,
    transport: Transport | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Captured:
    """Return what of a function and its arguments travels.

    Args:
        function: the function.
        environment: where it will run.
        transport: overrides the rule, which stands in ``transport``.
        args: its positional arguments.
        kwargs: its keyword arguments.

    Raises:
        CallError: the function or an argument cannot travel.
    """

    def attempt(chosen: Transport, why: str) -> Captured:
        arguments = encode_arguments(function, environment, args, kwargs or {}, chosen)
        entries: dict[str, bytes] = {}
        slicer = None
        if chosen == "source":
            slicer = Slicer(function, environment.root, arguments.names)
            beside = _add_source(entries, slicer)
        else:
            beside = _add_pickle(entries, function, environment, arguments.types)
        entries.update({f"{protocol.BESIDE}/{path}": file.read_bytes() for path, file in beside.items()})
        return Captured(function, function_name(function), environment, chosen, why, arguments, entries, beside, slicer)

    return by_rule(function, environment, transport, attempt)


def _add_source(entries: dict[str, bytes], slicer: Slicer) -> dict[str, Path]:
    _add_recipe(entries, slicer)
    entries[protocol.SOURCES] = json.dumps(slicer.sources).encode()
    return slicer.beside


def _add_recipe(entries: dict[str, bytes], slicer: Slicer) -> None:
    entries[protocol.SOURCE_FUNCTION] = json.dumps(slicer.recipe()).encode()
    entries[protocol.SOURCE_VALUES] = dumps(slicer.values())


def _add_pickle(
    entries: dict[str, bytes], function: Callable[..., Any], environment: Environment, types: Collection[type]
) -> dict[str, Path]:
    from k8s_venv.calls.pickling import pickle_function  # cloudpickle is not for the parsing of DAG files

    refuse_nonlocal(function)
    entries[protocol.PICKLED_FUNCTION] = pickle_function(function, environment.root, types)
    file, _ = place_of(function)
    path = Path(file) if file else None
    if path is None or not path.is_file() or is_installed_file(str(path)):
        entries[protocol.SOURCES] = b"{}"
        return {}
    settings = Slicer(function, environment.root, settings_only=True)
    if settings.has_statements:
        _add_recipe(entries, settings)
    entries[protocol.SOURCES] = json.dumps({file: module_file(str(path)).text}).encode()
    package = getattr(written_function(function), "__globals__", {}).get("__package__") or ""
    return modules_beside(imported_names(path, package), path, environment.root)
