"""What source that travels asks of Airflow: connections, variables, and what needs Airflow itself."""

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
from k8s_venv.check.reached import reached

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from k8s_venv.calls.capturing import Captured

    Scope = Mapping[str, Any]

Kind = Literal["connection", "variable", "refused"]

_CONNECTION_ID = re.compile(r"(?:\w+_)?conn_id")
_STORING = ("set", "update", "delete", "setdefault")
# Hooks whose first argument is something else.
_OTHER_FIRST = {"GlueJobHook", "PagerdutyHook", "SparkSubmitHook", "SubprocessHook", "TableauHook"}
_SECOND = {"HttpAsyncHook", "HttpHook"}
_EXPECTED = {"AirflowNotFoundException", "AirflowException", "KeyError", "LookupError", "Exception", "BaseException"}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


@dataclasses.dataclass(frozen=True, order=True)
class Use:
    """Something of Airflow that source asks for.

    Args:
        file: where.
        line: its line, counted from 1.
        kind: a connection or a variable, which a task names; or what needs Airflow itself.
        name: the connection's id, the variable's key, or what is asked for, such as ``ti.xcom_pull()``.
        optional: whether the source can do without it.
        instead: what to do, of what needs Airflow itself.
        by_airflow: whether Airflow's own API is asked, which an environment may have in full.
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
    """Return what the source that travels asks of Airflow, where a call can reach it.

    Args:
        captured: what travels.
        given: the names of the function's keyword arguments, which do not come from Airflow's context.
    """
    whole = {str(file) for file in captured.beside.values()}
    slices = [statement for file, body in captured.trees if file not in whole for statement in body]
    alive = reached(slices, [body for file, body in captured.trees if file in whole])
    own = written_function(captured.callable)
    found: set[Use] = set()
    for file, body in captured.trees:
        reader = _Reader(file, alive, own, given)
        scope = {**_locals(ast.Module(body, []), reader.resolve, {}), **_module_scope(file, own)}
        for statement in body:
            reader.read(statement, scope)
        found.update(reader.found)
    return sorted(found)


def _module_scope(file: str, own: types.FunctionType | None) -> dict[str, Any]:
    """Return what a file's names mean, as it was loaded."""
    known: dict[str, Any] = {}
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", {})  # some make what they are asked for, such as a file
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
    """Reads one piece of a file."""

    def __init__(self, file: str, alive: set[ast.AST], own: types.FunctionType | None, given: Collection[str]) -> None:
        self.file = file
        self.found: list[Use] = []
        self._alive = alive
        self._code = own.__code__ if own else None
        self._given = given
        self._depth = 0  # of functions around the one that is read

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
        """Return what a function's parameters mean: of the task's function, Airflow's context fills some."""
        known: dict[str, Any] = dict.fromkeys(_parameters(node))
        if self._code and self._code.co_name == node.name and _is_of(node, self._code):
            for name in known.keys() - set(self._given):
                if CONTEXT_ALIASES.get(name, name) in CONTEXT_OBJECTS:
                    known[name] = _Object(name)
            if node.args.kwarg is not None:
                known[node.args.kwarg.arg] = _Object()
        return known

    def resolve(self, node: ast.AST, scope: Scope) -> Any:
        """Return what an expression means, as far as it can be told from its text."""
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
            if not (isinstance(node.func.value, ast.Name) and node.func.value.id in ("self", "cls")):
                self._refuse(
                    node,
                    f"{ast.unparse(node.func.value)}.{node.func.attr}()",
                    _xcom(node, self._code.co_name if self._code else "this_task"),
                )
            return
        function = self.resolve(node.func, scope)
        if not isinstance(function, _Named):
            return
        module, _, name = function.path.rpartition(".")
        if function.path in ("k8s_venv.runtime.get_variable", "k8s_venv.runtime.get_connection"):
            kind: Kind = "variable" if name == "get_variable" else "connection"
            self._ask(kind, node, self._argument(node, scope, 0, "key", "conn_id"), guarded or _default(node), False)
        elif not (module.startswith("airflow.") or _is_hook(function.live)):
            return
        elif module.endswith(".Variable") and name == "get":
            self._ask("variable", node, self._argument(node, scope, 0, "key"), guarded or _default(node))
        elif module.endswith(".Variable") and name in _STORING:
            self._refuse(node, f"Variable.{name}()", "Return the value, and let a plain task after this one store it.")
        elif name in ("get_connection", "get_connection_from_secrets") or function.path.endswith(".Connection.get"):
            self._ask("connection", node, self._argument(node, scope, 0, "conn_id"), guarded)
        elif name[:1].isupper():
            self._ask("connection", node, self._connection_of(node, scope, name, function.live), guarded)

    def _connection_of(self, node: ast.Call, scope: Scope, name: str, live: Any) -> Any:
        """Return the id of the connection that a hook (or an operator) is made with."""
        for keyword in node.keywords:
            if keyword.arg and _CONNECTION_ID.fullmatch(keyword.arg):
                return self.resolve(keyword.value, scope)
        if not name.endswith("Hook") or name in _OTHER_FIRST or not node.args:
            return None
        position = 1 if name in _SECOND else _position(live)
        return self.resolve(node.args[position], scope) if position < len(node.args) else None

    def _argument(self, node: ast.Call, scope: Scope, position: int, *names: str) -> Any:
        if len(node.args) > position:
            return self.resolve(node.args[position], scope)
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
        key = self.resolve(node.slice, scope)
        if self.resolve(node.value, scope) == _Object() and isinstance(key, str) and key in _refused_keys(self._given):
            self._refuse(node, f"{key!r} of Airflow's context", runtime.INSTEAD[key])

    def _ask(self, kind: Kind, node: ast.Call, name: Any, optional: bool, by_airflow: bool = True) -> None:
        if isinstance(name, str) and name and "{{" not in name:
            self.found.append(Use(self.file, node.lineno, kind, name, optional, by_airflow=by_airflow))

    def _refuse(self, node: ast.expr, what: str, instead: str) -> None:
        self.found.append(Use(self.file, node.lineno, "refused", what, instead=instead))


def _is_of(node: Any, code: types.CodeType) -> bool:
    """Return whether a function's text is that of its code: decorators are cut off the text, so bodies decide."""
    lines = {line for _, _, line in code.co_lines()}
    return any(statement.lineno in lines for statement in node.body)


def _never(test: ast.expr) -> bool:
    """Return whether a condition is false in an environment."""
    if isinstance(test, ast.Constant):
        return not test.value
    name = getattr(test, "id", getattr(test, "attr", ""))
    return name == "TYPE_CHECKING" or (isinstance(test, ast.Compare) and ast.unparse(test.left) == "__name__")


def _refused_keys(given: Collection[str]) -> set[str]:
    return runtime.INSTEAD.keys() - set(given)


def _locals(node: Any, resolve: Callable[[ast.AST, Scope], Any], scope: Scope) -> dict[str, Any]:
    """Return what a function's own names mean: those it imports, and those it sets once to what is known."""
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
    """Yield the nodes of a function, but those of functions in it."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, _FUNCTIONS):
            yield from _own_nodes(child)


def _parameters(node: Any) -> list[str]:
    arguments = node.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return [each.arg for each in named if each is not None]


def _expects_nothing(handler: ast.ExceptHandler) -> bool:
    """Return whether a handler catches that a connection or variable is not there."""
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
    """Return which positional argument of a hook is its connection's id, which is the first where that is not known."""
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


# Arguments of `xcom_pull` with which the value is one of another DAG, or of another run.
_OF_OTHER_RUNS = {"dag_id", "run_id", "include_prior_dates"}


def _xcom(node: ast.Call, task: str) -> str:
    """Return what to do instead of pulling or pushing an XCom, with the names of the tasks where they are known."""
    assert isinstance(node.func, ast.Attribute)  # noqa: S101 -- asked before
    if {each.arg for each in node.keywords} & _OF_OTHER_RUNS:
        return "Let a plain task before this one pull it, and pass what that task returns as an argument."
    instead = runtime.INSTEAD[node.func.attr]
    if task.isidentifier():
        instead = instead.replace("this_task", task)
    given = [*node.args[:1], *(each.value for each in node.keywords if each.arg == "task_ids")]
    if len(given) == 1 and isinstance(given[0], ast.Constant) and str(given[0].value).isidentifier():
        instead = instead.replace("other_task", str(given[0].value))
    return instead
