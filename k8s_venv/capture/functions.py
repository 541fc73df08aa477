"""Callables: the function that somebody wrote for one, and the definition of a function or class in its file."""

from __future__ import annotations

import ast
import dis
import functools
import inspect
import sys
from types import CellType, CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from k8s_venv.capture.names import BLOCKS, Definition, Function
from k8s_venv.errors import CallError
from k8s_venv.wire.shipped_types import is_reloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from k8s_venv.capture.module_source import ModuleFile

# Set on what ``@task.isolated(…)`` evaluates to.
DECORATOR_MARK = "_k8s_venv_decorator"


def written_function(function: Any) -> FunctionType | None:
    """Return the function that someone wrote with ``def`` or ``lambda`` inside a callable, or None."""
    while not isinstance(function, FunctionType) or hasattr(function, "__wrapped__"):
        if isinstance(function, functools.partial):
            function = function.func
        elif isinstance(function, MethodType):
            function = function.__func__
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif not isinstance(function, type) and isinstance(vars(type(function)).get("__call__"), FunctionType):
            function = vars(type(function))["__call__"]
        else:
            return None
    return function


def home_of(function: Any) -> tuple[str, dict[str, Any]] | None:
    """Return the module in which a callable was written, as its name and its namespace, or None."""
    inner = written_function(function)
    if inner is not None:
        return str(inner.__globals__.get("__name__") or "__main__"), inner.__globals__
    kind = without_partial(function)
    module = sys.modules.get(kind.__module__) if isinstance(kind, type) else None
    if module is None:
        return None
    # A file may have been loaded again since: the class of before is still the one that is called.
    replaced = "." not in kind.__qualname__ and is_reloaded(kind, vars(module).get(kind.__name__))
    return kind.__module__, {**vars(module), kind.__name__: kind} if replaced else vars(module)


def without_partial(function: Any) -> Any:
    """Return the callable inside any number of ``functools.partial``."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def function_name(function: Any) -> str:
    """Return a callable's name for messages."""
    inner, function = written_function(function), without_partial(function)
    return str(getattr(function, "__name__", None) or getattr(inner, "__name__", None) or repr(function))


def place_of(function: Callable[..., Any]) -> tuple[str | None, int | None]:
    """Return the file and line of a function, or the file of a class."""
    code = getattr(written_function(function), "__code__", None)
    if code:
        return code.co_filename, code.co_firstlineno
    home = home_of(function)
    return (home[1].get("__file__"), None) if home is not None else (None, None)


def refuse_nonlocal(function: Any) -> None:
    """Raise a CallError for a function that assigns variables of an enclosing function: the change would be lost."""
    inner = written_function(function)
    shared = _assigned_free_variables(inner.__code__) if inner is not None else []
    if inner is not None and shared:
        raise CallError(
            f"{inner.__name__}() assigns {shared[0]!r}, which is `nonlocal`: the DAG file would not see it. Return the "
            "value instead.",
            inner.__code__.co_filename,
            inner.__code__.co_firstlineno,
        )


def _assigned_free_variables(code: CodeType) -> list[str]:
    assigned = [
        instruction.argval
        for instruction in dis.get_instructions(code)
        if instruction.opname in ("STORE_DEREF", "DELETE_DEREF") and instruction.argval in code.co_freevars
    ]
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            assigned += [name for name in _assigned_free_variables(constant) if name in code.co_freevars]
    return assigned


def refuse_generator(function: Any) -> None:
    """Raise a CallError for a function that yields."""
    if not (inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)):
        return
    name, inner = function_name(function), written_function(function)
    if inner is not None and _names_metadata(inner):
        problem = (
            f"{name}() yields Metadata, which needs Airflow itself. Let {name}() return its value only, and let a "
            "plain task after it yield the Metadata, with the asset among that task's outlets."
        )
    else:
        problem = f"{name}() yields, and a generator cannot travel. Let it return a list."
    raise CallError(problem, *place_of(function))


def _names_metadata(function: FunctionType) -> bool:
    """Return whether a function uses Airflow's class for the metadata of an asset's event."""
    known = {**function.__globals__, **outer_values(function)}
    for name in _names_in(function.__code__):
        value = known.get(name)
        if value is None and name == "Metadata":  # an attribute of a module, or imported inside
            return True
        if isinstance(value, type) and value.__name__ == "Metadata" and value.__module__.startswith("airflow."):
            return True
    return False


def _names_in(code: CodeType) -> Iterator[str]:
    yield from (*code.co_names, *code.co_freevars)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


def outer_values(function: FunctionType) -> dict[str, Any]:
    """Return the defaults of a function, and the variables of enclosing functions that it uses, by their names."""
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(function, follow_wrapped=False).parameters.items():
        if parameter.default is not parameter.empty:
            found[name] = parameter.default
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if not is_empty(cell):
            found[name] = cell.cell_contents
    return found


def is_empty(cell: CellType) -> bool:
    """Return whether a variable of an enclosing function has no value."""
    try:
        cell.cell_contents  # noqa: B018 -- the only way to find out
    except ValueError:
        return True
    return False


def is_ours(decorator: ast.expr, names: Mapping[str, Any]) -> bool:
    """Return whether the expression after an ``@`` is one of our decorators in a module's namespace."""
    root, *path = ast.unparse(decorator.func if isinstance(decorator, ast.Call) else decorator).split(".")
    found = names.get(root)
    for name in path:
        found = getattr(found, name, None)
    return bool(getattr(found, DECORATOR_MARK, False))


class Definitions:
    """The definitions in a file, those inside functions and classes included.

    Args:
        tree: the file's syntax tree.
    """

    def __init__(self, tree: ast.Module) -> None:
        self._functions: dict[tuple[int, str], Function] = {}
        self._classes: dict[str, list[ast.ClassDef]] = {}
        for qualname, node in _definitions(tree, ""):
            if isinstance(node, ast.ClassDef):
                self._classes.setdefault(qualname, []).append(node)
            else:
                self._functions[first_line(node), node.name] = node
        self._tree = tree
        self._lambdas: list[ast.Lambda] | None = None

    def function(self, code: CodeType) -> Function | ast.Lambda | None:
        """Return the definition of a function, found by its line and name, or None."""
        if code.co_name == "<lambda>":
            return self._lambda(code)
        return self._functions.get((code.co_firstlineno, code.co_name))

    def class_(self, kind: type) -> ast.ClassDef | None:
        """Return the definition of a class, the last of several that fit, or None."""
        candidates = self._classes.get(kind.__qualname__, [])
        if len(candidates) > 1:
            candidates = [node for node in candidates if _fits(node, kind)]
        return next(reversed(candidates), None)

    def _lambda(self, code: CodeType) -> ast.Lambda | None:
        """Return the lambda whose body holds all of a code object's positions (PEP 657)."""
        if self._lambdas is None:
            self._lambdas = [node for node in ast.walk(self._tree) if isinstance(node, ast.Lambda)]
        places = [(p[0], p[2]) for p in code.co_positions() if p[0] and p[2] is not None and p[1] and p[3]]
        places = [place for place in places if place != (code.co_firstlineno, 0)]
        if not places:  # its body is a constant, which has no position
            return next((node for node in self._lambdas if _is_constant_lambda(node, code)), None)
        found = [node for node in self._lambdas if _holds(node.body, min(places), max(places))]
        return max(found, key=lambda node: (node.lineno, node.col_offset), default=None)  # the innermost


def _definitions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Definition]]:
    """Yield each function and class with its qualified name (PEP 3155)."""
    for block in BLOCKS:
        for child in getattr(node, block, ()):
            if isinstance(child, ast.ClassDef):
                yield prefix + child.name, child
                yield from _definitions(child, f"{prefix}{child.name}.")
            elif isinstance(child, Function):
                yield prefix + child.name, child
                yield from _definitions(child, f"{prefix}{child.name}.<locals>.")
            else:
                yield from _definitions(child, prefix)


def first_line(node: ast.stmt | ast.expr) -> int:
    """Return the line on which a statement starts, decorators included."""
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _fits(node: ast.ClassDef, kind: type) -> bool:
    """Return whether a definition can have made a class, judged by its methods' lines and its constants."""
    members = vars(kind)
    if members.get("__firstlineno__", first_line(node)) != first_line(node):  # Python 3.13 has it
        return False
    for member in members.values():
        code = getattr(getattr(member, "__func__", member), "__code__", None)
        if code is None or not code.co_qualname.startswith(f"{kind.__qualname__}."):
            continue  # not one of its own methods
        if not node.lineno <= code.co_firstlineno <= (node.end_lineno or 0):
            return False
    written = {
        target.id: statement.value.value
        for statement in node.body
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    return all(members.get(name) == value for name, value in written.items())


def _holds(body: ast.expr, first: tuple[int, int], last: tuple[int, int]) -> bool:
    start, end = (body.lineno, body.col_offset), (body.end_lineno or 0, body.end_col_offset or 0)
    # Parentheses around the body belong to no node.
    return start <= first and last <= end


def _is_constant_lambda(node: ast.Lambda, code: CodeType) -> bool:
    """Return whether a lambda stands on the line of a code object and compiles to the same."""
    if node.lineno != code.co_firstlineno:
        return False
    arguments = ast.arguments(**{**dict(ast.iter_fields(node.args)), "defaults": [], "kw_defaults": []})
    arguments.kw_defaults = [None] * len(node.args.kwonlyargs)
    alone = ast.Expression(ast.copy_location(ast.Lambda(arguments, node.body), node))
    compiled = compile(ast.fix_missing_locations(alone), code.co_filename, "eval", dont_inherit=True)
    found = next(item for item in compiled.co_consts if isinstance(item, CodeType))
    return _signature(found) == _signature(code)


def _signature(code: CodeType) -> tuple[Any, ...]:
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & inspect.CO_VARARGS)
    constants = [(type(constant), repr(constant)) for constant in code.co_consts]
    return *counts, code.co_flags & inspect.CO_VARKEYWORDS, code.co_varnames, code.co_code, constants


def defines(file: ModuleFile, statement: ast.stmt, value: Any) -> bool:
    """Return whether a statement of a file is the definition of a function or class, decorated or not."""
    if isinstance(statement, ast.ClassDef):
        return isinstance(value, type) and file.class_definition(value) is statement
    code = getattr(inspect.unwrap(value) if callable(value) else value, "__code__", None)
    return code is not None and (code.co_filename, code.co_firstlineno, code.co_name) == (
        file.filename,
        first_line(statement),
        getattr(statement, "name", None),
    )


def has_its_defaults(
    function: FunctionType, statement: ast.stmt, names: Mapping[str, Any], times_bound: Callable[[str], int]
) -> bool:
    """Return whether a function gets the defaults that it has when its definition runs again.

    Args:
        function: the function.
        statement: its definition.
        names: the module's namespace.
        times_bound: returns how many statements of the module bind a name.
    """
    if not isinstance(statement, Function):
        return False
    if statement.decorator_list:
        return True
    for expression, value in defaults_of(function, statement):
        if isinstance(expression, ast.Name) and expression.id in names:
            if names[expression.id] is not value:
                return False
        elif any(times_bound(node.id) > 1 for node in ast.walk(expression) if isinstance(node, ast.Name)):
            return False
    return True


def defaults_of(function: FunctionType, node: Function) -> Iterator[tuple[ast.expr, Any]]:
    """Yield each default of a function as an expression and as a value."""
    yield from zip(node.args.defaults, function.__defaults__ or (), strict=False)
    keyword = function.__kwdefaults__ or {}
    for arg, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        if default is not None:
            yield default, keyword.get(arg.arg)
