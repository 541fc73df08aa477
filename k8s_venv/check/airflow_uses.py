"""The uses of Airflow in source that travels: connections, variables, and what needs Airflow itself."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
import types
from typing import TYPE_CHECKING, Any, Literal

from k8s_venv import runtime
from k8s_venv.calls.packing import CONTEXT_ALIASES, CONTEXT_OBJECTS
from k8s_venv.capture.functions import written_function

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from k8s_venv.calls.capturing import Captured

    Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    Scope = Mapping[str, Any]

Kind = Literal["connection", "variable", "refused"]

_CONNECTION_ID = re.compile(r"(?:\w+_)?conn_id")
_STORING = ("set", "update", "delete", "setdefault")
# Hooks whose first argument is not the connection's id.
_OTHER_FIRST = {"GlueJobHook", "PagerdutyHook", "SparkSubmitHook", "SubprocessHook", "TableauHook"}
_SECOND = {"HttpAsyncHook", "HttpHook"}
_EXPECTED = {"AirflowNotFoundException", "AirflowException", "KeyError", "LookupError", "Exception", "BaseException"}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINITIONS = (*_FUNCTIONS, ast.ClassDef)


@dataclasses.dataclass(frozen=True, order=True)
class Use:
    """A use of Airflow in source.

    Args:
        file: the source's file.
        line: its line, counted from 1.
        kind: a connection or a variable, which a task can name; or a use that needs Airflow itself.
        name: the connection's id, the variable's key, or the use, such as ``ti.xcom_pull()``.
        optional: whether the source handles that it is not defined.
        instead: what to write instead of a use that needs Airflow itself.
        by_airflow: whether it calls Airflow's own API, which an environment may have in full.
    """

    file: str
    line: int
    kind: Kind
    name: str
    optional: bool = False
    instead: str = ""
    by_airflow: bool = True


@dataclasses.dataclass(frozen=True)
class _Named:
    """A name of a module, or of something in one, such as ``airflow.models.Variable``."""

    path: str
    live: Any = None


@dataclasses.dataclass(frozen=True)
class _Object:
    """An object of Airflow's context, or, without a name, the context."""

    name: str = ""


def uses_of_airflow(captured: Captured, given: Collection[str] = ()) -> list[Use]:
    """Return the uses of Airflow in the source that travels, where a call can reach them.

    Args:
        captured: the captured function.
        given: the names of the function's keyword arguments, which do not come from Airflow's context.
    """
    whole = {str(file) for file in captured.beside.values()}
    alive = _Reached()
    for file, body in captured.trees:
        alive.add(body, runs=file not in whole)
    alive.follow_names()
    own = written_function(captured.callable)
    found: set[Use] = set()
    for file, body in captured.trees:
        reader = _Reader(file, alive.found, own, given)
        scope = {**_locals(ast.Module(body, []), reader.resolve, {}), **_module_scope(file, own)}
        for statement in body:
            reader.read(statement, scope)
        found.update(reader.found)
    return sorted(found)


class _Reached:
    """The functions and classes that a call may run: modules travel whole, though it may use one function of them.

    Names decide: a function runs if something that runs names it, as a name or as an attribute. Nested functions are
    part of the one around them.
    """

    def __init__(self) -> None:
        self.found: set[ast.AST] = set()
        self._names: set[str] = set()
        self._waiting: list[Definition] = []

    def add(self, body: list[ast.stmt], *, runs: bool) -> None:
        """Add statements; definitions of a module that travels whole wait until they are named.

        Args:
            body: the statements.
            runs: whether all of them run, since they were cut out for the call.
        """
        for statement in body:
            if isinstance(statement, _DEFINITIONS) and not runs:
                self._waiting.append(statement)
            else:
                self._enter(statement)

    def follow_names(self) -> None:
        """Find the definitions that are named, and those that these name."""
        while ready := [each for each in self._waiting if each.name in self._names or _is_special(each.name)]:
            for each in ready:
                self._waiting.remove(each)
                self._enter(each)

    def _enter(self, statement: ast.stmt) -> None:
        self.found.add(statement)
        if not isinstance(statement, ast.ClassDef):
            self._add_names(statement)
            return
        for each in (*statement.decorator_list, *statement.bases, *statement.keywords):
            self._add_names(each)
        for inner in statement.body:
            if isinstance(inner, _FUNCTIONS):
                self._waiting.append(inner)
            else:
                self._enter(inner)

    def _add_names(self, node: ast.AST) -> None:
        for each in ast.walk(node):
            if isinstance(each, ast.Name):
                self._names.add(each.id)
            elif isinstance(each, ast.Attribute):
                self._names.add(each.attr)
            elif isinstance(each, ast.alias):
                self._names.add(each.name.rpartition(".")[2])


def _is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _module_scope(file: str, own: types.FunctionType | None) -> dict[str, Any]:
    """Return the meanings of a file's names, as it was loaded."""
    known: dict[str, Any] = {}
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", {})  # not its attributes, which some modules make on request
        if names.get("__file__") == file:
            known.update(names)
    if own is not None and own.__code__.co_filename == file:
        known.update(own.__globals__)
        known.update(inspect.getclosurevars(own).nonlocals)
    return {name: value for name, each in known.items() if (value := _meaning(each)) is not None}


def _meaning(value: Any) -> Any:
    if type(value) is str:
        return value
    if isinstance(value, types.ModuleType):
        return _Named(value.__name__, value)
    if isinstance(value, type | types.FunctionType | types.MethodType):
        return _Named(f"{value.__module__}.{value.__qualname__}", value)
    return None


class _Reader:
    """Reads the statements of one file that travel."""

    def __init__(self, file: str, alive: set[ast.AST], own: types.FunctionType | None, given: Collection[str]) -> None:
        self.file = file
        self.found: list[Use] = []
        self._alive = alive
        self._code = own.__code__ if own else None
        self._given = given
        self._depth = 0  # of nested functions

    def read(self, node: ast.AST, scope: Scope, guarded: bool = False) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            self._definition(node, scope, guarded)
            return
        if isinstance(node, ast.Lambda):
            scope = {**scope, **dict.fromkeys(_parameters(node))}
        if isinstance(node, ast.If) and _never(node.test):
            self._all(node.orelse, scope, guarded)
            return
        if isinstance(node, ast.Try):
            self._all(node.body, scope, guarded or any(map(_expects_nothing, node.handlers)))
            self._all([*node.handlers, *node.orelse, *node.finalbody], scope, guarded)
            return
        if isinstance(node, ast.Call):
            self._call(node, scope, guarded)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            self._attribute(node, scope)
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            self._subscript(node, scope)
        self._all(ast.iter_child_nodes(node), scope, guarded)

    def _all(self, nodes: Any, scope: Scope, guarded: bool) -> None:
        for node in nodes:
            self.read(node, scope, guarded)

    def _definition(self, node: Any, scope: Scope, guarded: bool) -> None:
        if not self._depth and node not in self._alive:
            return
        if isinstance(node, ast.ClassDef):
            self._all(node.body, scope, guarded)
            return
        self._depth += 1
        self._all(node.body, {**scope, **self._parameters(node), **_locals(node, self.resolve, scope)}, guarded)
        self._depth -= 1

    def _parameters(self, node: Any) -> dict[str, Any]:
        """Return the meanings of a function's parameters: Airflow's context fills some of the task's function."""
        known: dict[str, Any] = dict.fromkeys(_parameters(node))
        if self._code and self._code.co_name == node.name and _is_of(node, self._code):
            for name in known.keys() - set(self._given):
                if CONTEXT_ALIASES.get(name, name) in CONTEXT_OBJECTS:
                    known[name] = _Object(name)
            if node.args.kwarg is not None:
                known[node.args.kwarg.arg] = _Object()
        return known

    def resolve(self, node: ast.AST, scope: Scope) -> Any:
        """Return the meaning of an expression, if its text shows it, else None."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
        if isinstance(node, ast.Name):
            return scope.get(node.id)
        if isinstance(node, ast.Attribute):
            base = self.resolve(node.value, scope)
            if isinstance(base, _Named):
                live = getattr(base.live, "__dict__", {}).get(node.attr)
                owner = base.live if isinstance(base.live, type) else None
                return _meaning(live) or _Named(f"{base.path}.{node.attr}", owner)
            return None
        if isinstance(node, ast.Subscript) and self.resolve(node.value, scope) == _Object():
            key = self.resolve(node.slice, scope)
            return _Object(key) if isinstance(key, str) and CONTEXT_ALIASES.get(key, key) in CONTEXT_OBJECTS else None
        if isinstance(node, ast.Call):
            function = self.resolve(node.func, scope)
            if isinstance(function, _Named) and function.path.endswith(".get_current_context"):
                return _Object()
            if isinstance(node.func, ast.Attribute) and node.func.attr == "get" and node.args:
                return self.resolve(ast.Subscript(node.func.value, node.args[0], ast.Load()), scope)
        return None

    def _call(self, node: ast.Call, scope: Scope, guarded: bool) -> None:
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("xcom_pull", "xcom_push"):
            used = f"{ast.unparse(node.func.value)}.{node.func.attr}()"
            if not used.startswith(("self.xcom", "cls.xcom")):
                self._refuse(node, used, _xcom(node, self._code.co_name if self._code else "this_task"))
            return
        function = self.resolve(node.func, scope)
        if not isinstance(function, _Named):
            return
        module, _, name = function.path.rpartition(".")
        if function.path in ("k8s_venv.runtime.get_variable", "k8s_venv.runtime.get_connection"):
            kind: Kind = "variable" if name == "get_variable" else "connection"
            self._ask(kind, node, self._argument(node, scope, "key", "conn_id"), guarded or _default(node), False)
        elif not (module.startswith("airflow.") or _is_hook(function.live)):
            return
        elif module.endswith(".Variable") and name == "get":
            self._ask("variable", node, self._argument(node, scope, "key"), guarded or _default(node))
        elif module.endswith(".Variable") and name in _STORING:
            self._refuse(node, f"Variable.{name}()", "Return the value, and let a plain task after this one store it.")
        elif name in ("get_connection", "get_connection_from_secrets") or function.path.endswith(".Connection.get"):
            self._ask("connection", node, self._argument(node, scope, "conn_id"), guarded)
        elif name[:1].isupper():
            self._ask("connection", node, self._connection_of(node, scope, name, function.live), guarded)

    def _connection_of(self, node: ast.Call, scope: Scope, name: str, live: Any) -> Any:
        """Return the id of the connection that a hook or an operator is given."""
        for keyword in node.keywords:
            if keyword.arg and _CONNECTION_ID.fullmatch(keyword.arg):
                return self.resolve(keyword.value, scope)
        if not name.endswith("Hook") or name in _OTHER_FIRST or not node.args:
            return None
        position = 1 if name in _SECOND else _position(live)
        return self.resolve(node.args[position], scope) if position < len(node.args) else None

    def _argument(self, node: ast.Call, scope: Scope, *names: str) -> Any:
        """Return the meaning of a call's first argument, which may be given by one of these names."""
        if node.args:
            return self.resolve(node.args[0], scope)
        return next((self.resolve(each.value, scope) for each in node.keywords if each.arg in names), None)

    def _attribute(self, node: ast.Attribute, scope: Scope) -> None:
        base = self.resolve(node.value, scope)
        if not isinstance(base, _Object) or not base.name or node.attr in ("xcom_pull", "xcom_push"):
            return
        known = CONTEXT_OBJECTS[CONTEXT_ALIASES.get(base.name, base.name)]
        if node.attr not in known and not node.attr.startswith("__"):
            instead = runtime.INSTEAD.get(node.attr, "Pass what you need as an argument of the task.")
            self._refuse(node, f"{base.name}.{node.attr}", f"{instead} {base.name} has {', '.join(known)}.")

    def _subscript(self, node: ast.Subscript, scope: Scope) -> None:
        key, refused = self.resolve(node.slice, scope), runtime.INSTEAD.keys() - set(self._given)
        if self.resolve(node.value, scope) == _Object() and isinstance(key, str) and key in refused:
            self._refuse(node, f"{key!r} of Airflow's context", runtime.INSTEAD[key])

    def _ask(self, kind: Kind, node: ast.Call, name: Any, optional: bool, by_airflow: bool = True) -> None:
        if isinstance(name, str) and name and "{{" not in name:
            self.found.append(Use(self.file, node.lineno, kind, name, optional, by_airflow=by_airflow))

    def _refuse(self, node: ast.expr, what: str, instead: str) -> None:
        self.found.append(Use(self.file, node.lineno, "refused", what, instead=instead))


def _is_of(node: Any, code: types.CodeType) -> bool:
    """Return whether a function's text and code are the same; bodies decide, since the text has no decorators."""
    lines = {line for _, _, line in code.co_lines()}
    return any(statement.lineno in lines for statement in node.body)


def _never(test: ast.expr) -> bool:
    """Return whether a condition is false in an environment."""
    if isinstance(test, ast.Constant):
        return not test.value
    name = getattr(test, "id", getattr(test, "attr", ""))
    return name == "TYPE_CHECKING" or (isinstance(test, ast.Compare) and ast.unparse(test.left) == "__name__")


def _locals(node: Any, resolve: Callable[[ast.AST, Scope], Any], scope: Scope) -> dict[str, Any]:
    """Return the meanings of a function's own names: imports, and names that it sets once to a known meaning."""
    known: dict[str, Any] = {}
    for each in _own_nodes(node):
        if isinstance(each, ast.Import):
            for alias in each.names:
                path = alias.name if alias.asname else alias.name.partition(".")[0]
                known[alias.asname or path] = _Named(path)
        elif isinstance(each, ast.ImportFrom) and each.module and not each.level:
            for alias in each.names:
                known[alias.asname or alias.name] = _Named(f"{each.module}.{alias.name}")
    stored: dict[str, list[ast.AST | None]] = {}
    for each in _own_nodes(node):
        if isinstance(each, ast.Assign) and len(each.targets) == 1 and isinstance(each.targets[0], ast.Name):
            stored.setdefault(each.targets[0].id, []).append(each.value)
        elif isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
            stored.setdefault(each.id, [])
    for name, values in stored.items():
        known[name] = resolve(values[0], {**scope, **known}) if len(values) == 1 and values[0] else None
    return known


def _own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a function, without those of functions in it."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, (*_FUNCTIONS, ast.Lambda)):
            yield from _own_nodes(child)


def _parameters(node: Any) -> list[str]:
    arguments = node.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return [each.arg for each in named if each is not None]


def _expects_nothing(handler: ast.ExceptHandler) -> bool:
    """Return whether a handler catches that a connection or variable is not defined."""
    if handler.type is None:
        return True
    names = {getattr(node, "id", getattr(node, "attr", "")) for node in ast.walk(handler.type)}
    return bool(names & _EXPECTED)


def _default(node: ast.Call) -> bool:
    return len(node.args) > 1 or any(each.arg in ("default", "default_var") for each in node.keywords)


def _is_hook(live: Any) -> bool:
    """Return whether a class, or that of a method, is a hook of Airflow's."""
    kind = live if isinstance(live, type) else getattr(live, "__self__", None)
    if not isinstance(kind, type):
        return False
    return any(each.__name__ == "BaseHook" and each.__module__.startswith("airflow.") for each in kind.__mro__)


def _position(live: Any) -> int:
    """Return the position of the connection's id among a hook's arguments; the first if its signature is unknown."""
    if not isinstance(live, type):
        return 0
    try:
        names = list(inspect.signature(live).parameters.values())
    except (TypeError, ValueError):
        return 0
    for number, parameter in enumerate(names):
        if parameter.kind is parameter.VAR_POSITIONAL or _CONNECTION_ID.fullmatch(parameter.name):
            return number
    return len(names)


# Arguments of `xcom_pull` that ask for values of other DAGs or runs.
_OF_OTHER_RUNS = {"dag_id", "run_id", "include_prior_dates"}


def _xcom(node: ast.Call, task: str) -> str:
    """Return what to write instead of pulling or pushing an XCom, with the names of the tasks if they are known."""
    assert isinstance(node.func, ast.Attribute)  # noqa: S101 -- its caller checked
    if {each.arg for each in node.keywords} & _OF_OTHER_RUNS:
        return "Let a plain task before this one pull it, and pass what that task returns as an argument."
    instead = runtime.INSTEAD[node.func.attr]
    if task.isidentifier():
        instead = instead.replace("this_task", task)
    given = [*node.args[:1], *(each.value for each in node.keywords if each.arg == "task_ids")]
    if len(given) == 1 and isinstance(given[0], ast.Constant) and str(given[0].value).isidentifier():
        instead = instead.replace("other_task", str(given[0].value))
    return instead
