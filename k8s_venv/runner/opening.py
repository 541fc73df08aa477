"""Open a call's archive: what it brings is made available, and its function and arguments are made."""

from __future__ import annotations

import os
import sys
from zipimport import zipimporter

from k8s_venv.runner import streams
from k8s_venv.runner.importing import Imports
from k8s_venv.wire import pickling, protocol, quickjson, values
from k8s_venv.wire.notes import Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Tuple

    from k8s_venv.runner.report import Reporter
    from k8s_venv.wire.registry import Buffer, Types


_RUNTIME = "k8s_venv.runtime"


def open_call(
    path: str, reporter: Reporter, *, attached: bool
) -> Tuple[Callable[..., Any], List[Any], Dict[str, Any], bool]:
    """Return a call's function and its arguments, by position and by name, and whether its value is not wanted.

    Args:
        path: the archive.
        reporter: where the result goes; it learns what this call's result is made of.
        attached: whether the sender holds standard input and sends the secrets there.
    """
    folder = os.path.dirname(path)
    secrets = _receive() if attached else beside(path, protocol.SECRETS)
    read = zipimporter(path).get_data
    header = quickjson.loads(read(protocol.HEADER).decode())
    _check_python(header)
    sys.path.insert(1, os.path.join(path, protocol.VENDOR))
    sys.path.append(os.path.join(path, protocol.BESIDE))  # last, as Airflow's own DAG folder
    imports = Imports()
    sys.meta_path.insert(0, imports)
    if secrets:
        _install_secrets(secrets, reporter, imports)
    _prepare_libraries(imports, folder, read(protocol.SOURCES))
    from_context = _install_context(read(protocol.CONTEXT), header["context"], imports)
    call, pickled_types = load_function(read, header)
    reporter.types = _shipped_types(header, call, pickled_types)
    if header["serializer"] or "references" in reporter.delivery:
        from k8s_venv.wire import references

        references.delivered = (reporter.delivery.get("references", {}), folder, reporter.folder)
    if header["serializer"]:
        reporter.pickle = pickling.pickled
        references.unpickle = pickling.unpickle
    arguments = _arguments(folder, reporter) if "arguments" in reporter.delivery else read(protocol.ARGUMENTS)
    notes = Notes()
    packed = values.loads(arguments, pickling.unpickle, reporter.types, notes)
    for sentence in notes.sentences(_argument):
        streams.say("WARNING", sentence)
    return call, packed["args"], {**from_context, **packed["kwargs"]}, header["discard_value"]


def _argument(path: str) -> str:
    """Return the path of a part of the arguments as a function with ``*args`` and ``**kwargs`` knows it."""
    return path.replace("['args']", "args", 1).replace("['kwargs']", "kwargs", 1)


def beside(path: str, name: str) -> Dict[str, Any]:
    """Return what a file beside the archive says; nothing where there is none.

    Args:
        path: the archive.
        name: the file.
    """
    file = os.path.join(os.path.dirname(path), name)
    if not os.path.exists(file):
        return {}
    with open(file, encoding="utf-8") as stream:
        return dict(quickjson.loads(stream.read()))


def _prepare_libraries(imports: Imports, folder: str, sources: bytes) -> None:
    """Prepare for what the function may import: the sources for tracebacks, the marks of records, Airflow."""

    def remember_sources(linecache: Any) -> None:
        from io import StringIO

        for filename, text in quickjson.loads(sources.decode()).items():
            # Only these are Python's line ends; str.splitlines knows more, such as form feeds.
            linecache.cache[filename] = (len(text), None, StringIO(text).readlines(), filename)

    def show_records(logging: Any, stream: Any = sys.stdout) -> None:
        from k8s_venv.runner.records import show

        show(stream)

    def prepare_airflow() -> Any:
        from k8s_venv.runner.airflow_inside import prepare

        return prepare(folder, imports)

    imports.after("linecache", remember_sources)
    imports.after("logging", show_records)
    imports.before("airflow", prepare_airflow)


def load_function(read: Callable[[str], bytes], header: Dict[str, Any]) -> Tuple[Callable[..., Any], List[type]]:
    """Return the function that an archive carries, unpickled or built from slices of its source.

    Args:
        read: reads an entry of the archive.
        header: the call's header.

    Returns:
        The function, and the types that were pickled with it and belong to no module here.
    """
    built: Any = None
    if header["recipe"]:  # with cloudpickle it holds the module's settings alone
        from k8s_venv.wire.building import build

        recipe = quickjson.loads(read(protocol.SOURCE_FUNCTION).decode())
        built = build(recipe, lambda: values.loads(read(protocol.SOURCE_VALUES)))
    if header["transport"] == protocol.CLOUDPICKLE:
        return pickling.unpickle(read(protocol.PICKLED_FUNCTION))  # type: ignore[no-any-return]
    return built, []


def _arguments(folder: str, reporter: Reporter) -> Buffer:
    from k8s_venv.wire.delivery import fetch

    return fetch(folder, reporter.delivery["arguments"], reporter.folder, "its arguments")


def _shipped_types(header: Dict[str, Any], call: Any, pickled: List[type]) -> Types:
    """Return what finds the types that travelled with the call; what is pickled has no module to look them up in."""
    found: Dict[str, Dict[str, Any]] = {}
    resolve: List[Types] = []

    def find(module: str, name: str) -> Optional[type]:
        if not resolve:
            from k8s_venv.wire.shipped_types import resolver

            resolve.append(resolver(header["modules"], found, _import_shipped))
        return resolve[0](module, name)

    if header["transport"] == protocol.CLOUDPICKLE:
        while hasattr(call, "__func__") or (hasattr(call, "func") and not hasattr(call, "__globals__")):
            call = getattr(call, "__func__", None) or call.func  # of a method or `functools.partial`
        if hasattr(call, "__globals__") and call.__module__:
            found[call.__module__] = dict(call.__globals__)
        pickled = [*pickled, call] if isinstance(call, type) else pickled
    for kind in pickled:
        if getattr(sys.modules.get(kind.__module__), kind.__name__, None) is not kind:
            found.setdefault(kind.__module__, {})[kind.__name__] = kind
    return find


def _import_shipped(module: str) -> None:
    """Import a module that travelled with the call, and of which only a value's type is needed so far.

    Raises:
        UserError: it cannot be imported.
    """
    import importlib

    from k8s_venv.wire.decoder import UserError

    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise UserError(error) from error
    except Exception as error:
        raise UserError(error) from error


def _check_python(header: Dict[str, Any]) -> None:
    found = "{}.{}".format(*sys.version_info)
    if found != header["python"]:
        from k8s_venv.wire.errors import WrongPythonError

        raise WrongPythonError(
            f"it is declared with Python {header['python']}, but its `python` is {sys.version.split()[0]} "
            f"({sys.executable}). Use an image whose `python` has the declared version."
        )


def _receive() -> Dict[str, Any]:
    from k8s_venv.runner import lifeline

    return lifeline.receive()


def _install_secrets(secrets: Dict[str, Any], reporter: Reporter, imports: Imports) -> None:
    """Make connections and variables available, and keep them out of logs and reports."""
    from k8s_venv.wire.masking import masker

    reporter.mask = masker(secrets["masked"])
    streams.hide(reporter.mask)
    for conn_id, fields in secrets["connections"].items():
        os.environ["AIRFLOW_CONN_" + conn_id.upper()] = quickjson.dumps(fields)
    for key, text in secrets["variables"].items():
        os.environ["AIRFLOW_VAR_" + key.upper()] = text
    imports.after(_RUNTIME, lambda runtime: runtime.install(secrets["connections"], secrets["variables"]))


def _install_context(data: bytes, parameters: Optional[List[str]], imports: Imports) -> Dict[str, Any]:
    """Make Airflow's context available, once it is asked for; return the arguments that it gives."""
    if parameters is None:
        return {}

    def install(runtime: Any) -> None:
        packed = values.loads(data)
        objects = {name: runtime.ContextObject(name, facts) for name, facts in packed["objects"].items()}
        lists = {
            name: [
                runtime.ContextObject(f"{name}[{number}]", each) if is_object else each
                for number, (is_object, each) in enumerate(items)
            ]
            for name, items in packed.get("lists", {}).items()
        }
        runtime.install_context({**packed["values"], **objects, **lists})

    imports.after(_RUNTIME, install)
    if not parameters:
        return {}
    from k8s_venv import runtime

    known = runtime.get_current_context()
    return {name: known[name] for name in parameters}
