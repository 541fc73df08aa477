"""Source transport: the slice of a module that one function needs.

The rules, for each name that the function uses:

* an import is repeated;
* a function or class of the module is sent as its source, and what it uses is followed in turn;
* anything else is sent as its value at the time of the call, when a codec can carry it: so state that several
  statements build arrives as it is, and no statement of the module runs again without need;
* else the one statement that binds it runs again in the environment (a logger, a compiled pattern, …);
* else the call is refused, with the name and its line.

Annotations are never followed: the runner compiles with the ``annotations`` future.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import dis
import inspect
import io
import socket
import threading
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from k8s_venv.calls.modulefile import ModuleFile, Slice, first_line
from k8s_venv.errors import CallError
from k8s_venv.runner.errors import NoCodecError
from k8s_venv.runner.function import parse_slice
from k8s_venv.runner.values import Encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

# Set on what ``@task.isolated(…)`` evaluates to, so that it is known by the object and not by its spelling.
DECORATOR_MARK = "_k8s_venv_decorator"

_USES = {"LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"}
_TIED_TO_PROCESS = (
    io.IOBase,
    socket.socket,
    type(threading.Lock()),
    type(threading.RLock()),
    threading.Thread,
)
_MODULE_NAMES = {
    "__name__",
    "__file__",
    "__package__",
    "__doc__",
    "__builtins__",
    "__annotations__",
    "__spec__",
}


class Slicer:
    """Collect what one function needs of its module.

    Args:
        function: the function, as the decorator received it.

    Raises:
        CallError: something that the function uses cannot travel.

    """

    def __init__(self, function: Callable[..., Any]) -> None:
        inner = inspect.unwrap(function)
        if not isinstance(inner, FunctionType):
            raise CallError(
                f"{function!r} is not a function written with `def`, which is all that can travel to another "
                "Python version so far. Wrap it in one."
            )
        self._module = ModuleFile(inner.__code__.co_filename)
        self._globals = inner.__globals__
        self._bindings = self._module.bindings()
        self._seen: set[str] = set()
        self._statements: dict[tuple[int, str], Slice] = {}
        self._locals: dict[tuple[int, str], Slice] = {}
        self._sent_globals: dict[str, Any] = {}
        self._closure: dict[str, Any] = {}
        self._nested = "<locals>" in inner.__qualname__
        self._name = inner.__code__.co_name
        self._module_name = inner.__module__
        self._follow_target(inner)

    @property
    def source(self) -> str:
        """Return the whole text of the module, for tracebacks."""
        return self._module.text

    @property
    def filename(self) -> str:
        """Return the module's file name."""
        return self._module.filename

    def recipe(self) -> dict[str, Any]:
        """Return what the runner needs to build the function, as JSON."""
        package = self._globals.get("__package__") or ""
        return {
            # The runner is its process's `__main__`.
            "module": "__k8s_venv_main__" if self._module_name == "__main__" else self._module_name,
            "package": package,
            "file": self._module.filename,
            "name": self._name,
            "statements": [{"line": s.line, "text": s.text} for _, s in sorted(self._statements.items())],
            "locals": [{"line": s.line, "text": s.text} for _, s in sorted(self._locals.items())],
        }

    def values(self) -> dict[str, dict[str, Any]]:
        """Return the globals and closure variables that travel as values, by their names."""
        return {"globals": self._sent_globals, "closure": self._closure}

    # --- following names ----------------------------------------------------------------------------------

    def _follow_target(self, function: FunctionType) -> None:
        node = self._module.definition_of(function)
        shared = _assigned_free_variables(function.__code__)
        if shared:
            raise self._refusal(shared[0], "is assigned as `nonlocal`, and the DAG file cannot see that", node.lineno)
        start = self._after_our_decorator(node, _free_variables(function))
        if not self._nested:
            self._seen.add(node.name)
        self._add(self._module.slice(node, start), _free_variables(function), nested=self._nested)

    def _after_our_decorator(self, node: ast.FunctionDef | ast.AsyncFunctionDef, free: Mapping[str, Any]) -> int:
        """Return the line on which the function starts below our own decorator and those above it."""
        kept = node.decorator_list
        for number, decorator in enumerate(node.decorator_list):
            if self._is_ours(decorator, free):
                kept = node.decorator_list[number + 1 :]
        return min([node.lineno, *(decorator.lineno for decorator in kept)])

    def _is_ours(self, decorator: ast.expr, free: Mapping[str, Any]) -> bool:
        expression = decorator.func if isinstance(decorator, ast.Call) else decorator
        names: list[str] = []
        while isinstance(expression, ast.Attribute):
            names.insert(0, expression.attr)
            expression = expression.value
        if not isinstance(expression, ast.Name):
            return False
        scope = {**self._globals, **free}
        if expression.id not in scope:
            # A local of the enclosing function that the task itself does not use: only its spelling is left.
            return names[-1:] == ["isolated"]
        found = scope[expression.id]
        for name in names:
            found = getattr(found, name, None)
        return bool(getattr(found, DECORATOR_MARK, False))

    def _add(self, piece: Slice, free: Mapping[str, Any], *, nested: bool) -> None:
        (self._locals if nested else self._statements)[(piece.line, piece.text)] = piece
        for name in _names_used(piece, self._module.filename):
            if name in free:
                self._follow_free(name, free[name], piece.line)
            else:
                self._follow_global(name)

    def _follow_free(self, name: str, value: Any, line: int) -> None:
        """Follow a variable of an enclosing function."""
        if name in self._closure:
            if self._closure[name] is not value:
                raise self._refusal(name, "has different values in nested functions", line)
            return
        if isinstance(value, ModuleType):
            self._locals[(0, name)] = Slice(line, f"import {value.__name__} as {name}\n")
        elif isinstance(value, FunctionType) and self._is_local(value, name):
            node = self._module.definition_of(value)
            self._add_once(self._module.slice(node), _free_variables(value))
        elif isinstance(value, type) and self._module.class_definition(value) and value.__name__ == name:
            definition = self._module.class_definition(value)
            assert definition is not None  # noqa: S101 -- checked on the line above
            self._add_once(self._module.slice(definition), _class_free_variables(value))
        elif _has_codec(value):
            self._closure[name] = value
        else:
            raise self._refusal(name, f"holds {_type_name(value)}, which cannot travel", line)

    def _is_local(self, function: FunctionType, name: str) -> bool:
        same_file = function.__code__.co_filename == self._module.filename
        return same_file and function.__code__.co_name == name and "<locals>" in function.__qualname__

    def _add_once(self, piece: Slice, free: Mapping[str, Any]) -> None:
        if (piece.line, piece.text) not in self._locals:
            self._add(piece, free, nested=True)

    def _follow_global(self, name: str) -> None:
        """Follow a name of the module."""
        if name in self._seen or name in _MODULE_NAMES:
            return
        self._seen.add(name)
        if name not in self._globals:
            return  # a builtin, or a NameError that is the function's own
        value, bindings = self._globals[name], self._bindings.get(name, [])
        imports = [node for node in bindings if isinstance(node, ast.Import | ast.ImportFrom)]
        definitions = [
            node for node in bindings if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        ]
        if imports:
            for node in imports:
                self._add_import(node, name)
        elif definitions:
            self._add_definition(name, value, definitions[-1])
        elif isinstance(value, _TIED_TO_PROCESS):
            line = bindings[-1].lineno if bindings else None
            raise self._refusal(name, f"holds {_type_name(value)}, which belongs to this process", line)
        elif not isinstance(value, ModuleType | type | FunctionType) and _has_codec(value):
            self._sent_globals[name] = value
        else:
            self._add_binding(name, value, bindings)

    def _add_import(self, node: ast.Import | ast.ImportFrom, name: str) -> None:
        """Repeat an import of one name; the other names of its line may not exist in the environment."""
        for alias in node.names:
            if (alias.asname or alias.name.partition(".")[0]) != name:
                continue
            what = f"{alias.name} as {alias.asname}" if alias.asname else alias.name
            text = f"import {what}\n"
            if isinstance(node, ast.ImportFrom):
                text = f"from {'.' * node.level}{node.module or ''} {text}"
            self._statements[(node.lineno, text)] = Slice(node.lineno, text)

    def _add_definition(self, name: str, value: Any, node: ast.stmt) -> None:
        if type(value).__module__.partition(".")[0] == "airflow":
            raise self._refusal(
                name,
                "is an Airflow task or operator, which cannot be called inside an environment",
                node.lineno,
            )
        self._add(self._module.slice(node), {}, nested=False)

    def _add_binding(self, name: str, value: Any, bindings: list[ast.stmt]) -> None:
        """Run the statement again that makes a value without a codec."""
        if not bindings:
            stars = [node for node in self._module.tree.body if _is_star_import(node)]
            if not stars:
                raise self._refusal(name, f"holds {_type_name(value)}, which cannot travel", None)
            for node in stars:
                self._add(self._module.slice(node), {}, nested=False)
        elif len(bindings) > 1:
            lines = ", ".join(str(node.lineno) for node in bindings)
            problem = f"holds {_type_name(value)}, which cannot travel, and several statements build it ({lines})"
            raise self._refusal(name, problem, bindings[-1].lineno)
        elif isinstance(bindings[0], ast.With | ast.AsyncWith | ast.For | ast.While):
            problem = f"holds {_type_name(value)}, which cannot travel"
            raise self._refusal(name, problem, bindings[0].lineno)
        else:
            self._add(self._module.slice(bindings[0], first_line(bindings[0])), {}, nested=False)

    def _refusal(self, name: str, problem: str, line: int | None) -> CallError:
        return CallError(
            f"{self._name}() uses {name!r}, which cannot be sent to another Python version: it {problem}. Make it "
            "inside the function, or pass plain data as an argument.",
            self._module.filename,
            line,
        )


def _is_star_import(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.names[0].name == "*"


def _names_used(piece: Slice, filename: str) -> list[str]:
    """Return the names that a piece of source looks up outside itself, as Python's own compiler sees them."""
    body = parse_slice({"line": piece.line, "text": piece.text}, filename)
    tree = ast.Module(body=body, type_ignores=[])
    flags = __future__.annotations.compiler_flag
    code = compile(tree, filename, "exec", flags=flags, dont_inherit=True)
    return list(dict.fromkeys(_names_in(code)))


def _names_in(code: CodeType) -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname in _USES and isinstance(instruction.argval, str):
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


def _free_variables(function: FunctionType) -> dict[str, Any]:
    """Return a function's variables of enclosing functions that have a value, other than itself."""
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
        if not (callable(value) and inspect.unwrap(value) is function):
            found[name] = value
    return found


def _assigned_free_variables(code: CodeType) -> list[str]:
    """Return the variables of enclosing functions that a function, or one nested in it, assigns."""
    assigned = [
        instruction.argval
        for instruction in dis.get_instructions(code)
        if instruction.opname in ("STORE_DEREF", "DELETE_DEREF") and instruction.argval in code.co_freevars
    ]
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            assigned += [name for name in _assigned_free_variables(constant) if name in code.co_freevars]
    return assigned


def _class_free_variables(kind: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for member in vars(kind).values():
        if isinstance(member, FunctionType):
            found.update(_free_variables(member))
    found.pop("__class__", None)
    found.pop(kind.__name__, None)
    return found


def _has_codec(value: Any) -> bool:
    try:
        Encoder().node(value)
    except NoCodecError:
        return False
    return True


def _type_name(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == builtins.__name__ else f"{kind.__module__}.{kind.__qualname__}"
