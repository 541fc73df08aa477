"""Restore objects from what the sender's ``capture.values`` pickled, and functions from their own piece of source."""

from __future__ import annotations

import ast
import functools
import importlib
import io
import pickle
import sys
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Tuple

    Function = Callable[..., Any]


def named(module: str, qualname: str) -> Any:
    """Return what an argument refers to by its name in a module that was built from source."""
    return functools.reduce(getattr, qualname.split("."), sys.modules[module])


class Builder(pickle.Unpickler):
    """Read state that a sender pickled.

    Args:
        data: the pickle.
        coded: the values that codecs carried.
        sources: the functions and classes that have no name in their module.
        namespaces: the names of each sliced module.
    """

    def __init__(
        self, data: Any, coded: List[Any], sources: List[Dict[str, Any]], namespaces: Dict[str, Dict[str, Any]]
    ) -> None:
        super().__init__(io.BytesIO(bytes(data)))
        self._coded = coded
        self._sources = sources
        self._namespaces = namespaces
        self._cells: Dict[int, types.CellType] = {}
        self._codes: Dict[int, types.CodeType] = {}
        self._setters: Dict[int, Callable[..., None]] = {}

    def persistent_load(self, pid: Tuple[Any, ...]) -> Any:
        """Return what the sender referred to."""
        kind, name = pid[0], pid[1]
        if kind == "builder":
            return getattr(self, name)
        if kind == "coded":
            return self._coded[name]
        if kind == "module":
            return importlib.import_module(name)
        return functools.reduce(getattr, pid[2].split(".")[1:], self._namespaces[name][pid[2].split(".")[0]])

    def function(self, key: int, cells: Dict[str, int]) -> types.FunctionType:
        """Make a function from its source; its variables are set later, since they can refer to it."""
        source = self._sources[key]
        if key not in self._codes:
            self._codes[key] = _code_of(source)
        code = self._codes[key]
        found = tuple(self._cell(cells[name]) for name in code.co_freevars)
        return types.FunctionType(code, self._names(source["module"]), source["name"], None, found)

    def set_function(self, function: types.FunctionType, state: Dict[str, Any]) -> None:
        """Give a function its variables and attributes."""
        for number, value in state["contents"].items():
            self._cell(number).cell_contents = value
        for name, value in state["attributes"].items():
            setattr(function, name, value)
        function.__dict__.update(state["dict"])
        function.__module__ = self._names(function.__globals__["__name__"])["__name__"]

    def class_(self, key: int, known: Dict[str, Any]) -> Any:
        """Define a class again that was defined inside a function."""
        source = self._sources[key]
        shell = ast.parse(_CLASS_SHELL.format(free="".join(f"{name}=None, " for name in source["free"])))
        maker: Any = shell.body[0]
        setter = maker.body[0]
        setter.body = ast.parse("".join(f"{n} = values.get({n!r}, {n})\n" for n in source["free"]) or "pass").body
        if source["free"]:
            setter.body.insert(0, ast.Nonlocal(names=list(source["free"])))
        maker.body[1:1] = parse_slice(source)
        maker.body[-1] = ast.parse(f"def _():\n return {source['name']}, _set").body[0].body[0]  # type: ignore[attr-defined]
        namespace = self._names(source["module"])
        _define(ast.fix_missing_locations(maker), source["file"], namespace)
        made, setter = namespace.pop(maker.name)(**known)
        self._setters[id(made)] = setter
        return made

    def set_class(self, made: type, state: Dict[str, Any]) -> None:
        """Give the methods of a class their variables."""
        self._setters[id(made)](state)

    @staticmethod
    def cached(function: Function, maxsize: Any, typed: bool) -> Function:
        """Give a function a cache of its own again."""
        return functools.lru_cache(maxsize, typed)(function)  # type: ignore[no-any-return,unused-ignore]

    def _cell(self, number: int) -> types.CellType:
        if number not in self._cells:
            self._cells[number] = types.CellType()
        return self._cells[number]

    def _names(self, module: str) -> Dict[str, Any]:
        if module in self._namespaces:
            return self._namespaces[module]
        return importlib.import_module(module).__dict__


_CLASS_SHELL = "def _k8s_venv_scope({free}):\n def _set(values): pass\n return None"


def _code_of(source: Dict[str, Any]) -> types.CodeType:
    """Compile a function by itself, inside a scope that has the variables it takes from outside."""
    arguments = ", ".join(source["free"])
    if source["name"] == "<lambda>":
        shell = ast.parse(f"def scope({arguments}):\n return (\n{source['text']})", source["file"])
        returned: Any = shell.body[0].body[0]  # type: ignore[attr-defined]
        given = returned.value.args  # its defaults travel as values; a lambda among them would be met first
        given.defaults = [ast.Constant(None) for _ in given.defaults]
        given.kw_defaults = [default and ast.Constant(None) for default in given.kw_defaults]
        ast.fix_missing_locations(shell)
        ast.increment_lineno(returned.value, source["line"] - 3)  # it stands on line 3 of the shell
    else:
        shell = ast.parse(f"def scope({arguments}): pass")
        scope: Any = shell.body[0]
        scope.body = parse_slice(source)
        if source["name"] not in source["free"]:
            scope.body.insert(0, ast.Global([source["name"]]))  # a function that calls itself by its module's name
            ast.fix_missing_locations(shell)
    future = ast.parse("from __future__ import annotations")
    future.body.extend(shell.body)
    pending = [compile(future, source["file"], "exec", dont_inherit=True)]
    for code in pending:  # it grows
        inner = [item for item in code.co_consts if isinstance(item, types.CodeType)]
        found = [item for item in inner if item.co_name == source["name"]]
        if found and code.co_name == "scope":
            return found[0]
        pending.extend(inner)
    raise LookupError(source["name"])


def parse_slice(statement: Dict[str, Any]) -> List[ast.stmt]:
    """Parse one slice of a file.

    Args:
        statement: its ``text``, which keeps its indentation, its ``file`` and the ``line`` it came from.

    Returns:
        The statements, on the lines they came from.
    """
    text, line, filename = statement["text"], statement["line"], statement["file"]
    if text[:1] in (" ", "\t"):
        shell: Any = ast.parse("if 1:\n" + text, filename).body[0]
        body: List[ast.stmt] = shell.body
        line -= 1
    else:
        body = ast.parse(text, filename).body
    for node in body:
        ast.increment_lineno(node, line - 1)
    return body


def _define(node: ast.stmt, filename: str, namespace: Dict[str, Any]) -> None:
    tree = ast.parse("from __future__ import annotations")
    tree.body.append(node)
    exec(compile(tree, filename, "exec", dont_inherit=True), namespace)  # noqa: S102 -- the sender's own code
