"""The function of a call: unpickled, or built from slices of the DAG file's source."""

from __future__ import annotations

import ast
import importlib
import json
import linecache
import sys
import types
from typing import TYPE_CHECKING, Any, Callable, Dict, List

from k8s_venv.runner import protocol, values

if TYPE_CHECKING:
    from zipfile import ZipFile

Function = Callable[..., Any]


def load(archive: ZipFile, header: Dict[str, Any]) -> Function:
    """Return the function that an archive carries.

    Args:
        archive: the call's archive.
        header: its header.

    """
    _remember_sources(json.loads(archive.read(protocol.SOURCES)))
    if header["transport"] == protocol.CLOUDPICKLE:
        return unpickle(archive.read(protocol.PICKLED_FUNCTION))  # type: ignore[no-any-return]
    recipe = json.loads(archive.read(protocol.SOURCE_FUNCTION))
    sent = values.loads(archive.read(protocol.SOURCE_VALUES))
    return build(recipe, sent)


def unpickle(data: Any) -> Any:
    """Return what the sender pickled: an environment trusts its sender, never the other way round."""
    return importlib.import_module("cloudpickle").loads(bytes(data))


def _remember_sources(sources: Dict[str, str]) -> None:
    """Let tracebacks show the lines of files that exist only where the call came from."""
    for filename, text in sources.items():
        linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)


def build(recipe: Dict[str, Any], sent: Dict[str, Any]) -> Function:
    """Build a function from source.

    Args:
        recipe: ``module`` and ``file`` name the DAG file; ``statements`` are its slices, in order; ``locals``
            are the slices of functions and classes that were nested in others; ``name`` is the function's.
        sent: ``globals`` and ``closure``, the values that travel as values, by their names.

    """
    module = types.ModuleType(recipe["module"])
    module.__file__ = recipe["file"]
    module.__package__ = recipe["package"]
    sys.modules.setdefault(recipe["module"], module)
    namespace = module.__dict__
    namespace.update(sent["globals"])
    for statement in recipe["statements"]:
        _execute(parse_slice(statement, recipe["file"]), recipe["file"], namespace)
    if not recipe["locals"]:
        return namespace[recipe["name"]]  # type: ignore[no-any-return]
    return _build_nested(recipe, sent["closure"], namespace)


def _build_nested(recipe: Dict[str, Any], closure: Dict[str, Any], namespace: Dict[str, Any]) -> Function:
    """Define nested functions inside a function again, so that their free variables stay theirs."""
    maker = "_k8s_venv_enclosing_scope"
    shell = ast.parse(f"def {maker}({', '.join(sorted(closure))}):\n    return {recipe['name']}")
    definition: Any = shell.body[0]
    nested: List[ast.stmt] = []
    for statement in recipe["locals"]:
        nested.extend(parse_slice(statement, recipe["file"]))
    definition.body[:0] = nested
    _execute(shell.body, recipe["file"], namespace)
    make = namespace.pop(maker)
    return make(**closure)  # type: ignore[no-any-return]


def parse_slice(statement: Dict[str, Any], filename: str) -> List[ast.stmt]:
    """Parse one slice of a file.

    Args:
        statement: its ``text``, which keeps its indentation, and the ``line`` it came from.
        filename: the file it came from.

    Returns:
        The statements, on the lines they came from.

    """
    text, line = statement["text"], statement["line"]
    if text[:1] in (" ", "\t"):
        body: List[ast.stmt] = ast.parse("if 1:\n" + text, filename).body[0].body
        line -= 1
    else:
        body = ast.parse(text, filename).body
    for node in body:
        ast.increment_lineno(node, line - 1)
    return body


def _execute(body: List[ast.stmt], filename: str, namespace: Dict[str, Any]) -> None:
    tree = ast.parse("from __future__ import annotations")
    tree.body.extend(body)
    exec(compile(tree, filename, "exec", dont_inherit=True), namespace)  # noqa: S102 -- the sender's own code
