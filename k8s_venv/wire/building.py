"""Build a function from slices of the DAG file's source.

The statements run between the two sets of values that the sender's ``capture.state`` pickles. Most functions need
neither, and all of them wait for this: what only reads pickles stands in ``restoring``.
"""

from __future__ import annotations

import builtins
import sys

from k8s_venv.wire.pickling import restored

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterator, List, Tuple


def build(recipe: Dict[str, Any], read_values: Callable[[], Dict[str, Any]]) -> Any:
    """Build a function from source.

    Args:
        recipe: ``modules`` are the sliced modules, each with its statements in order; ``target`` is the function's
            module and name, where the statements define it; ``values`` says whether there are any; ``early`` and
            ``late`` are the sources that the pickles of the same name refer to.
        read_values: returns the pickled values that stand before the statements run (``early``) and those set
            afterwards with the function itself (``late``), each with the values that codecs carried
            (``early_coded``, ``late_coded``).
    """
    namespaces = {module["name"]: _make_module(module) for module in recipe["modules"]}
    sent = read_values() if recipe["values"] else {}
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
    module, name = recipe["target"]
    return _attribute(namespaces[module], name)


def named(module: str, qualname: str) -> Any:
    """Return what an argument refers to by its name in a module that was built here."""
    return _attribute(vars(sys.modules[module]), qualname)


def _set_late(late: Dict[str, Any], namespaces: Dict[str, Dict[str, Any]]) -> Any:
    for name, found in late["globals"].items():
        namespaces[name].update(found)
    home, name, function = late["home"], late["name"], late["function"]
    if function is None:
        return namespaces[home][name] if name else None
    if name:
        namespaces[home][name] = function
    return function


def _attribute(namespace: Dict[str, Any], qualname: str) -> Any:
    name, *attributes = qualname.split(".")
    found = namespace[name]
    for attribute in attributes:
        found = getattr(found, attribute)
    return found


def _make_module(recipe: Dict[str, Any]) -> Dict[str, Any]:
    module = type(sys)(recipe["name"])
    module.__file__ = recipe["file"]
    module.__package__ = recipe["package"]
    module.__dict__["__builtins__"] = builtins  # before Python 3.10 functions made here would have none
    sys.modules.setdefault(recipe["name"], module)
    return module.__dict__


def _restored(
    when: str, recipe: Dict[str, Any], sent: Dict[str, Any], namespaces: Dict[str, Dict[str, Any]]
) -> Dict[str, Any]:
    from k8s_venv.wire.restoring import Builder

    found: Dict[str, Any] = restored(Builder(sent[when], sent[f"{when}_coded"], recipe[when], namespaces).load)
    return found


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
