"""The function of a call: unpickled, or built from slices of the DAG file's source.

The slices run between the two sets of values that the sender's ``capture.values`` pickles. Most functions need neither,
and all of them wait for this: what only reads such values stands in ``wire.restoring``.
"""

from __future__ import annotations

import builtins
import os
import sys
from zipimport import zipimporter

from k8s_venv.runner.data_files import placed
from k8s_venv.wire import protocol, quickjson, values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterator, List, Tuple

    Read = Callable[[str], bytes]  # returns an entry of the archive
    Namespaces = Dict[str, Dict[str, Any]]


def load_function(read: Read, header: Dict[str, Any]) -> Tuple[Callable[..., Any], List[type]]:
    """Return the function that an archive carries, and the types that were pickled with it and are in no module here.

    Args:
        read: reads an entry of the archive.
        header: the call's header.
    """
    root = header.get("root", "")
    built: Any = _build(read, root) if header["recipe"] else None  # with cloudpickle, the module's settings alone
    if header["transport"] == protocol.CLOUDPICKLE:
        call, types = unpickle(read(protocol.PICKLED_FUNCTION))
        known = getattr(call, "__globals__", {})
        if "__file__" in known:
            known["__file__"] = placed(known["__file__"], root)
        return call, types
    return built, []


def make(name: str, file: str) -> None:
    """Define a module that travelled as slices again, in a process that the function started.

    What ``multiprocessing`` starts afresh (``spawn``, ``forkserver``), and process pools built on it, import the
    functions that they are given by name. The archive is on their path, and has a module of each such name that calls
    this.

    Args:
        name: the module that is being imported.
        file: where it stands in the archive.
    """
    archive = os.path.normpath(os.path.join(file, *[os.pardir] * len(name.split("."))))
    del sys.modules[name]
    read = zipimporter(archive).get_data
    _build(read, quickjson.loads(read(protocol.HEADER).decode()).get("root", ""))


# --- from source ------------------------------------------------------------------------------------------


def _build(read: Read, root: str) -> Any:
    """Return a function built from source: see ``function.json`` and ``function.bin`` in the format's README."""
    recipe = quickjson.loads(read(protocol.SOURCE_FUNCTION).decode())
    namespaces = {module["name"]: _make_module(module, root) for module in recipe["modules"]}
    sent = values.loads(read(protocol.SOURCE_VALUES)) if recipe["values"] else {}
    if sent.get("early"):
        for name, found in _restored("early", recipe, sent, namespaces).items():
            namespaces[name].update(found)
    for module in recipe["modules"]:
        for filename, text in _pieces(module["statements"]):
            _run(text, filename, namespaces[module["name"]])
    if sent.get("late"):
        return _set_late(_restored("late", recipe, sent, namespaces), namespaces)
    if not recipe["target"]:
        return None
    module, qualname = recipe["target"]
    name, *attributes = qualname.split(".")
    found = namespaces[module][name]
    for attribute in attributes:
        found = getattr(found, attribute)
    return found


def _make_module(recipe: Dict[str, Any], root: str) -> Dict[str, Any]:
    module = type(sys)(recipe["name"])
    module.__file__ = placed(recipe["file"], root)
    module.__package__ = recipe["package"]
    module.__dict__["__builtins__"] = builtins  # before Python 3.10 functions made here would have none
    sys.modules.setdefault(recipe["name"], module)
    return module.__dict__


def _pieces(statements: List[Dict[str, Any]]) -> Iterator[Tuple[str, str]]:
    """Yield slices as few pieces of source, each with its file, in which they stand on the lines they came from."""
    piece: List[str] = []
    file, line = "", 1  # where the piece continues
    for statement in statements:
        indented = statement["text"][:1] in (" ", "\t")
        start = statement["line"] - indented
        if piece and (statement["file"] != file or start < line):
            yield file, "".join(piece)
            piece, line = [], 1
        text = ("if 1:\n" if indented else "") + statement["text"]
        piece += ["\n" * (start - line), text]
        file, line = statement["file"], start + text.count("\n")
    if piece:
        yield file, "".join(piece)


def _run(text: str, filename: str, namespace: Dict[str, Any]) -> None:
    code = compile(text, filename, "exec", flags=annotations.compiler_flag, dont_inherit=True)
    exec(code, namespace)  # noqa: S102 -- the sender's own code


def _set_late(late: Dict[str, Any], namespaces: Namespaces) -> Any:
    for name, found in late["globals"].items():
        namespaces[name].update(found)
    home, name, function = late["home"], late["name"], late["function"]
    if function is None:
        return namespaces[home][name] if name else None
    if name:
        namespaces[home][name] = function
    return function


# --- from pickles: an environment trusts its sender, never the other way round ------------------------------


def _restored(when: str, recipe: Dict[str, Any], sent: Dict[str, Any], namespaces: Namespaces) -> Any:
    from k8s_venv.wire.restoring import Builder

    return _load(Builder(sent[when], sent[f"{when}_coded"], recipe[when], namespaces).load)


def unpickle(data: Any) -> Any:
    """Return what the sender pickled.

    Raises:
        ImportError: a module that it needs is missing here.
        RestoringError: it cannot be restored here.
    """
    return _load(lambda: _cloudpickle().loads(bytes(data)))


def pickled(value: Any) -> bytes:
    """Return a result's part as a pickle, which the sender reads if its task asks for it."""
    return bytes(_cloudpickle().dumps(value))


def _load(load: Callable[[], Any]) -> Any:
    try:
        return load()
    except ImportError:
        raise
    except Exception as error:
        from k8s_venv.wire.errors import RestoringError

        raise RestoringError(f"{type(error).__name__}: {error}") from error


def _cloudpickle() -> Any:
    """Return the sender's cloudpickle, which travels with the calls that need it."""
    import importlib

    return importlib.import_module("cloudpickle")
