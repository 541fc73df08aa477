"""Pack one function with its arguments and context as one archive that Python can run."""

from __future__ import annotations

import dataclasses
import functools
import importlib.machinery
import importlib.resources
import importlib.util
import io
import json
import marshal
import platform
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k8s_venv._version import __version__
from k8s_venv.calls.arguments import encode_arguments
from k8s_venv.calls.beside import dotted_name, imported_names, modules_beside
from k8s_venv.calls.modulefile import module_file
from k8s_venv.calls.origins import is_installed_file
from k8s_venv.calls.slicing import Slicer, function_name, place_of, refuse_nonlocal, written_function
from k8s_venv.calls.state import sent_name
from k8s_venv.calls.syntax import check_syntax
from k8s_venv.calls.transport import choose_transport, same_python
from k8s_venv.errors import CallError
from k8s_venv.runner import protocol
from k8s_venv.runner.errors import NoCodecError
from k8s_venv.runner.values import dumps

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from k8s_venv.calls.transport import Transport
    from k8s_venv.environment import Environment

_MAIN = "import sys\nfrom k8s_venv.runner.main import main\nsys.exit(main(sys.argv[0], sys.argv[1:]))\n"
# The modules that most calls run, so that their bytecode is worth its size.
_OFTEN_RUN = {
    *("building", "cloudpickle", "decoder", "encoder", "errors", "function", "main"),
    *("protocol", "registry", "report", "runtime", "values"),
}
_UNCHECKED_HASH = 0b01  # the flags of a pyc file
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest time a zip can hold; the same call gives the same bytes


@dataclasses.dataclass(frozen=True)
class PackedCall:
    """A call that is ready to run.

    Args:
        environment: where it runs.
        function: the function's name, for messages.
        modules: the names of the modules that the call itself shipped, whose exceptions may be raised here.
        transport: how the function travels.
        archive: the zip archive, to be run as ``python call.pyz``.
        connections: the connections' fields by their ids; they are secret and never part of the archive.
    """

    environment: Environment
    function: str
    modules: frozenset[str]
    transport: Transport
    archive: bytes = dataclasses.field(repr=False)
    connections: Mapping[str, Mapping[str, Any]] = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Captured:
    """What of a function travels.

    Args:
        callable: the function.
        function: its name.
        environment: where it will run.
        transport: how it travels.
        why: why in this way.
        entries: what it adds to the archive, by its path there.
        beside: the files of the project that travel whole, by their paths below the import root.
        slicer: what cut the slices, where the function travels as source.
    """

    callable: Callable[..., Any]
    function: str
    environment: Environment
    transport: Transport
    why: str
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


def pack(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    environment: Environment,
    transport: Transport | None = None,
    context: Mapping[str, Any] | None = None,
    connections: Mapping[str, Mapping[str, Any]] | None = None,
    discard_value: bool = False,
) -> PackedCall:
    """Pack a call.

    Args:
        function: what to call.
        args: its positional arguments.
        kwargs: its keyword arguments.
        environment: where it will run.
        transport: overrides the rule: cloudpickle between equal minor versions, else source.
        context: Airflow's context, as ``values``, ``objects`` and ``parameters``, or None outside Airflow.
        connections: the connections to deliver, each one's fields by its id.
        discard_value: tells the runner to report success without the value.

    Raises:
        CallError: the function or an argument cannot travel.
    """
    arguments, types = encode_arguments(function, environment, args, kwargs)
    captured = capture(function, environment, transport, types)
    if captured.transport == "source" and not same_python(environment.python):
        check_syntax(captured.source, environment.python)
    entries = dict(captured.entries)
    own = {str(getattr(function, "__module__", "")), *(kind.__module__ for kind in types)}
    modules = frozenset({*own, *captured.beside_modules})
    entries[protocol.ARGUMENTS] = arguments
    entries[protocol.CONTEXT] = _encode_context(function, context)
    entries[protocol.HEADER] = json.dumps(_header(captured, modules, discard_value)).encode()
    archive = _zip(entries, _runner_archive(same_minor=same_python(environment.python)))
    return PackedCall(environment, captured.function, modules, captured.transport, archive, dict(connections or {}))


def capture(
    function: Callable[..., Any],
    environment: Environment,
    transport: Transport | None = None,
    types: Collection[type] = (),
) -> Captured:
    """Return what of a function travels, before there are arguments: for a call, and for looking at it.

    Args:
        function: the function.
        environment: where it will run.
        transport: overrides the rule.
        types: those of its arguments' types that travel, whether the function names them or not.

    Raises:
        CallError: the function cannot travel.
    """
    chosen, why = choose_transport(environment.python)
    name = function_name(function)
    if transport == "cloudpickle" != chosen:
        raise CallError(
            f"{name}() asks for transport='cloudpickle', but environment {environment.name!r} runs Python "
            f"{environment.python} and this is {platform.python_version()}: pickled functions only travel between "
            "equal minor versions. Leave `transport` out.",
            *place_of(function),
        )
    if transport is not None:
        chosen, why = transport, "the task asks for it"
    entries: dict[str, bytes] = {}
    slicer = Slicer(function, environment.root, types) if chosen == "source" else None
    beside = _add_source(entries, slicer) if slicer else _add_pickle(entries, function, environment, types)
    entries.update({f"{protocol.BESIDE}/{path}": file.read_bytes() for path, file in beside.items()})
    return Captured(function, name, environment, chosen, why, entries, beside, slicer)


def _header(captured: Captured, modules: frozenset[str], discard_value: bool) -> dict[str, Any]:
    return {
        "protocol": protocol.PROTOCOL,
        "sender": {"python": platform.python_version(), "k8s-venv": __version__},
        "environment": captured.environment.name,
        "python": captured.environment.python,
        "transport": captured.transport,
        "recipe": protocol.SOURCE_FUNCTION in captured.entries,
        "function": captured.function,
        "modules": sorted(sent_name(name) for name in modules),
        "discard_value": discard_value,
    }


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


def _encode_context(function: Callable[..., Any], context: Mapping[str, Any] | None) -> bytes:
    try:
        return dumps(context)
    except NoCodecError as error:
        raise CallError(
            f"Airflow's context for {function_name(function)}() cannot travel: {error.path} is {error.kind}.",
            *place_of(function),
        ) from None


@functools.cache
def _runner_archive(*, same_minor: bool) -> bytes:
    """Return an archive with what every call carries, made once.

    Args:
        same_minor: whether the environment can read this Python's pickles and bytecode.
    """
    package = importlib.resources.files("k8s_venv")
    runner = [(f"k8s_venv/runner/{file.name}", file) for file in package.joinpath("runner").iterdir()]
    files = [("k8s_venv/runtime.py", package.joinpath("runtime.py")), *runner]
    if same_minor:
        vendored = importlib.resources.files("cloudpickle").iterdir()
        files += [(f"{protocol.VENDOR}/cloudpickle/{file.name}", file) for file in vendored]
    entries = {name: file.read_bytes() for name, file in files if name.endswith(".py")}
    if same_minor:
        often = [(name, file) for name, file in files if Path(name).stem in _OFTEN_RUN]
        entries.update({f"{name}c": _bytecode(str(file), entries[name]) for name, file in often})
    entries.update({"__main__.py": _MAIN.encode(), "k8s_venv/__init__.py": b""})
    return _zip(entries, b"")


def _bytecode(path: str, source: bytes) -> bytes:
    """Return a module's bytecode, as a file that Python trusts without looking at the source (PEP 552).

    An environment whose Python has another magic number after all takes the source, which travels as well.
    """
    code = importlib.machinery.SourceFileLoader(Path(path).stem, path).get_code(Path(path).stem)
    head = importlib.util.MAGIC_NUMBER + _UNCHECKED_HASH.to_bytes(4, "little") + importlib.util.source_hash(source)
    return head + marshal.dumps(code)


def _zip(entries: Mapping[str, bytes], archive: bytes) -> bytes:
    """Return an archive with further entries."""
    stream = io.BytesIO(archive)
    folders = {str(parent) for name in entries for parent in Path(name).parents if str(parent) != "."}
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED) as target:
        # Importing a package without __init__.py from an archive needs its folder's own entry.
        for folder in sorted(folders):
            target.writestr(zipfile.ZipInfo(f"{folder}/", _EPOCH), b"")
        for name, data in sorted(entries.items()):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(info, data)
    return stream.getvalue()
