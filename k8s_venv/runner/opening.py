"""Open a call's archive: make what it brings available, and return its function and arguments.

What only some functions import is prepared when they import it, so that no other call waits for it.
"""

from __future__ import annotations

import os
import sys
from zipimport import zipimporter

from k8s_venv.runner import data_files, streams
from k8s_venv.runner.functions import load_function, pickled, unpickle
from k8s_venv.wire import protocol, quickjson, values
from k8s_venv.wire.decoder import ReferenceReader, UserError
from k8s_venv.wire.errors import Notes, WrongPythonError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any, Callable, Dict, List, Optional, Tuple

    from k8s_venv.runner.report import Reporter
    from k8s_venv.wire.registry import Buffer, Types

    After = Callable[[ModuleType], None]

_RUNTIME = "k8s_venv.runtime"


def open_call(
    path: str, reporter: Reporter, secrets: Dict[str, Any]
) -> Tuple[Callable[..., Any], List[Any], Dict[str, Any], bool]:
    """Return a call's function and its arguments, by position and by name, and whether its value is not wanted.

    Args:
        path: the archive.
        reporter: where the result goes; it learns which types and secrets this call has.
        secrets: connections, variables and the texts that no log may show; empty if the call has none.
    """
    folder = os.path.dirname(path)
    read = zipimporter(path).get_data
    header = quickjson.loads(read(protocol.HEADER).decode())
    os.environ[data_files.FOLDER] = os.path.join(reporter.folder, "files")
    _check_python(header)
    sys.path.insert(1, os.path.join(path, protocol.VENDOR))
    sys.path.append(os.path.join(path, protocol.BESIDE))  # last, as Airflow's own DAG folder
    imports = Imports()
    sys.meta_path.insert(0, imports)
    if secrets:
        _install_secrets(secrets, reporter, imports)
    _prepare_libraries(imports, folder, read(protocol.SOURCES), header.get("root", ""))
    from_context = _install_context(read(protocol.CONTEXT), header["context"], imports)
    call, pickled_types = load_function(read, header)
    reporter.types = _shipped_types(header, call, pickled_types)
    reporter.pickle = pickled if header["serializer"] else None
    packed = _arguments(read, header, folder, reporter)
    return call, packed["args"], {**from_context, **packed["kwargs"]}, header["discard_value"]


def _arguments(read: Callable[[str], bytes], header: Dict[str, Any], folder: str, reporter: Reporter) -> Dict[str, Any]:
    """Return the arguments, with the values of other tasks to which they refer."""
    delivery = reporter.delivery
    known = delivery.get("references", {})

    def fetched(entry: Dict[str, Any], what: str) -> Buffer:
        from k8s_venv.runner.transfer import fetch

        return fetch(folder, entry, reporter.folder, what)

    references = ReferenceReader(
        lambda digest: fetched(known[digest], "a value handed on by reference") if digest in known else None,
        unpickle if header["serializer"] else None,
    )
    data = fetched(delivery["arguments"], "its arguments") if "arguments" in delivery else read(protocol.ARGUMENTS)
    notes = Notes()
    packed: Dict[str, Any] = values.loads(data, unpickle, reporter.types, notes, references)
    if "files" in packed:
        data_files.write(packed["files"])
    # As a function with `*args` and `**kwargs` knows them.
    for sentence in notes.sentences(
        lambda path: path.replace("['args']", "args", 1).replace("['kwargs']", "kwargs", 1)
    ):
        streams.say("WARNING", sentence)
    return packed


def beside(path: str, name: str) -> Dict[str, Any]:
    """Return the JSON object in a file beside the archive, or an empty one if there is no such file."""
    file = os.path.join(os.path.dirname(path), name)
    if not os.path.exists(file):
        return {}
    with open(file, encoding="utf-8") as stream:
        return dict(quickjson.loads(stream.read()))


def _prepare_libraries(imports: Imports, folder: str, sources: bytes, root: str) -> None:
    """Prepare for what the function may import: the sources for tracebacks, the marks of records, Airflow."""

    def remember_sources(linecache: Any) -> None:
        from io import StringIO

        for filename, text in quickjson.loads(sources.decode()).items():
            # Only these are Python's line ends; str.splitlines knows more, such as form feeds.
            lines = StringIO(text).readlines()
            for name in (filename, data_files.placed(filename, root)):  # a class's source is sought by `__file__`
                linecache.cache[name] = (len(text), None, lines, name)

    def prepare_airflow() -> Any:
        from k8s_venv.runner.airflow_inside import prepare

        return prepare(folder, imports)

    imports.after("linecache", remember_sources)
    stdout = sys.stdout
    imports.after("logging", lambda logging: streams.show_records(logging, stdout))
    imports.before("airflow", prepare_airflow)


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
    """Import a module that travelled with the call because a value needs its type; it may be missing."""
    import importlib

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
        raise WrongPythonError(
            f"it is declared with Python {header['python']}, but its `python` is {sys.version.split()[0]} "
            f"({sys.executable}). Use an image whose `python` has the declared version."
        )


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


class Imports:
    """Calls functions, once each, before or after certain modules are imported: a finder on ``sys.meta_path``."""

    def __init__(self) -> None:
        self._before: Dict[str, Callable[[], Optional[After]]] = {}
        self._after: Dict[str, List[After]] = {}

    def before(self, name: str, prepare: Callable[[], Optional[After]]) -> None:
        """Call a function before a module is imported; it may return what to call with the module afterwards."""
        self._before[name] = prepare

    def after(self, name: str, change: After) -> None:
        """Call a function with a module when that is imported, or now if it is already."""
        if name in sys.modules:
            change(sys.modules[name])
        else:
            self._after.setdefault(name, []).append(change)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return the spec that others find for a module, if anything waits for that."""
        change = self._before.pop(name, lambda: None)()
        if change is not None:
            self.after(name, change)
        if name not in self._after:
            return None
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, found), None)
        if spec is not None and spec.loader is not None:
            loader: Any = _NotifyingLoader(spec.loader, self._notify)
            spec.loader = loader
        return spec

    def _notify(self, module: ModuleType) -> None:
        for change in self._after.pop(module.__name__, ()):  # of a second spec nothing is left
            change(module)


class _NotifyingLoader:
    """Stands in for a module's loader, until the module is loaded."""

    def __init__(self, loader: Any, notify: After) -> None:
        self._loader = loader
        self._notify = notify

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._notify(module)
