"""Pack one function with its arguments and context as one archive that Python can run."""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import inspect
import io
import json
import pickletools
import platform
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from k8s_venv._version import __version__
from k8s_venv.calls.beside import modules_beside
from k8s_venv.calls.slicing import Slicer
from k8s_venv.errors import CallError
from k8s_venv.runner import protocol
from k8s_venv.runner.errors import NoCodecError
from k8s_venv.runner.values import dumps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import ModuleType

    from k8s_venv.environment import Environment

Transport = Literal["cloudpickle", "source"]

_MAIN = "import sys\nfrom k8s_venv.runner.main import main\nsys.exit(main(sys.argv[0]))\n"
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
    chosen = transport or choose_transport(environment.python)
    if chosen == "cloudpickle" and not _same_python(environment.python):
        here = platform.python_version()
        raise CallError(
            f"{_name(function)}() asks for transport='cloudpickle', but environment {environment.name!r} runs Python "
            f"{environment.python} and this is {here}: pickled functions only travel between equal minor versions. "
            "Leave `transport` out."
        )
    entries = dict(_runner_files())
    if chosen == "source":
        file, package = _add_source(entries, function)
    else:
        file, package = _add_pickle(entries, function)
    beside = modules_beside(file, package, environment.root) if file else {}
    entries.update({f"{protocol.BESIDE}/{path}": text.encode() for path, text in beside.items()})
    pickle = _pickle if _same_python(environment.python) else None
    entries[protocol.ARGUMENTS] = _encode_arguments(function, args, kwargs, environment, pickle)
    entries[protocol.CONTEXT] = _encode_context(function, context)
    if pickle:
        entries.update(_cloudpickle_files())
    entries[protocol.HEADER] = json.dumps(_header(function, environment, chosen, discard_value)).encode()
    modules = {str(getattr(function, "__module__", "")), *(_dotted(path) for path in beside)}
    return PackedCall(environment, _name(function), frozenset(modules), chosen, _zip(entries), dict(connections or {}))


def choose_transport(python: str) -> Transport:
    """Return how a function travels to a Python version: never by bytecode of another one.

    Args:
        python: the environment's minor version.

    """
    return "cloudpickle" if _same_python(python) else "source"


def _same_python(python: str) -> bool:
    here = "{}.{}".format(*sys.version_info)
    return python == here and platform.python_implementation() == "CPython"


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__name__", repr(function)))


def _dotted(path: str) -> str:
    return path.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".")


def _header(
    function: Callable[..., Any], environment: Environment, transport: Transport, discard_value: bool
) -> dict[str, Any]:
    return {
        "protocol": protocol.PROTOCOL,
        "sender": {"python": platform.python_version(), "k8s-venv": __version__},
        "environment": environment.name,
        "python": environment.python,
        "transport": transport,
        "function": _name(function),
        "discard_value": discard_value,
    }


def _add_source(entries: dict[str, bytes], function: Callable[..., Any]) -> tuple[str, str]:
    slicer = Slicer(function)
    recipe = slicer.recipe()
    entries[protocol.SOURCE_FUNCTION] = json.dumps(recipe).encode()
    entries[protocol.SOURCE_VALUES] = dumps(slicer.values())
    entries[protocol.SOURCES] = json.dumps({slicer.filename: slicer.source}).encode()
    return slicer.filename, recipe["package"]


def _add_pickle(entries: dict[str, bytes], function: Callable[..., Any]) -> tuple[str, str]:
    import cloudpickle

    module = _own_module(function)
    try:
        if module is not None:
            cloudpickle.register_pickle_by_value(module)
        data: bytes = cloudpickle.dumps(function)
    except Exception as error:
        raise CallError(
            f"{_name(function)}() cannot be pickled: {error}. A global or a default value that it uses cannot travel; "
            "make it inside the function, or pass plain data as an argument.",
            *_place(function),
        ) from error
    finally:
        if module is not None:
            cloudpickle.unregister_pickle_by_value(module)
    if module is not None and module.__name__ in _strings_in(data):
        _refuse_references(function, module, data)
    entries[protocol.PICKLED_FUNCTION] = data
    file, _ = _place(function)
    sources = {file: Path(file).read_text("utf-8")} if file and Path(file).is_file() else {}
    entries[protocol.SOURCES] = json.dumps(sources).encode()
    package = getattr(inspect.unwrap(function), "__globals__", {}).get("__package__") or ""
    return file or "", package


def _refuse_references(function: Callable[..., Any], module: ModuleType, data: bytes) -> None:
    """Refuse a pickle that would import the DAG file by a name that exists only here."""
    previous: list[str] = []
    for opcode, argument, _ in pickletools.genops(data):
        if isinstance(argument, str):
            previous.append(argument)
        elif opcode.name == "STACK_GLOBAL" and previous[-2:-1] == [module.__name__]:
            raise CallError(
                f"{_name(function)}() uses {previous[-1]!r}, which is pickled by reference to the DAG file "
                "(functools.lru_cache does that). Use transport='source' for this task.",
                *_place(function),
            )


def _strings_in(data: bytes) -> set[str]:
    return {argument for _, argument, _ in pickletools.genops(data) if isinstance(argument, str)}


def _own_module(function: Callable[..., Any]) -> ModuleType | None:
    """Return the module of a function when the environment cannot import it: the DAG file itself."""
    module = sys.modules.get(getattr(function, "__module__", "") or "")
    if module is None or module.__name__ == "__main__":
        return None  # cloudpickle takes these by value on its own
    return module if not _is_installed(module) else None


def _is_installed(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    return file is None or "site-packages" in Path(file).parts or "dist-packages" in Path(file).parts


def _place(function: Callable[..., Any]) -> tuple[str | None, int | None]:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return (code.co_filename, code.co_firstlineno) if code else (None, None)


def _pickle(value: Any) -> bytes:
    import cloudpickle

    data: bytes = cloudpickle.dumps(value)
    return data


def _encode_arguments(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    environment: Environment,
    pickle: Callable[[Any], bytes] | None,
) -> bytes:
    names = list(_parameter_names(function))
    try:
        return dumps({"args": list(args), "kwargs": dict(kwargs)}, pickle)
    except NoCodecError as error:
        path = error.path
        for number in range(len(args)):
            if path.startswith(f"['args'][{number}]"):
                name = names[number] if number < len(names) else f"args[{number}]"
                path = name + path.removeprefix(f"['args'][{number}]")
        for name in kwargs:
            if path.startswith(f"['kwargs'][{name!r}]"):
                path = name + path.removeprefix(f"['kwargs'][{name!r}]")
        raise CallError(
            f"An argument of {_name(function)}() cannot travel to Python {environment.python}: {path} is {error.kind}. "
            "Pass plain data, numpy arrays or pandas frames.",
            *_place(function),
        ) from None


def _encode_context(function: Callable[..., Any], context: Mapping[str, Any] | None) -> bytes:
    try:
        return dumps(context)
    except NoCodecError as error:
        raise CallError(
            f"Airflow's context for {_name(function)}() cannot travel: {error.path} is {error.kind}.",
            *_place(function),
        ) from None


def _parameter_names(function: Callable[..., Any]) -> Iterator[str]:
    try:
        yield from inspect.signature(function).parameters
    except (TypeError, ValueError):
        return


@functools.cache
def _runner_files() -> tuple[tuple[str, bytes], ...]:
    package = importlib.resources.files("k8s_venv")
    runner = [(f"runner/{file.name}", file) for file in package.joinpath("runner").iterdir()]
    sources = [("runtime.py", package.joinpath("runtime.py")), *runner]
    files = [(f"k8s_venv/{name}", file.read_bytes()) for name, file in sources if name.endswith(".py")]
    return ("__main__.py", _MAIN.encode()), ("k8s_venv/__init__.py", b""), *sorted(files)


@functools.cache
def _cloudpickle_files() -> tuple[tuple[str, bytes], ...]:
    package = importlib.resources.files("cloudpickle")
    files = [file for file in package.iterdir() if file.name.endswith(".py")]
    return tuple(sorted((f"{protocol.VENDOR}/cloudpickle/{file.name}", file.read_bytes()) for file in files))


def _zip(entries: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    folders = {str(parent) for name in entries for parent in Path(name).parents if str(parent) != "."}
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        # Importing a package without __init__.py from an archive needs its folder's own entry.
        for folder in sorted(folders):
            archive.writestr(zipfile.ZipInfo(f"{folder}/", _EPOCH), b"")
        for name, data in sorted(entries.items()):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return stream.getvalue()
