"""Imports anywhere in a piece of source: by a statement, or by a call such as ``import_module("jobs.load")``."""

from __future__ import annotations

import ast
import dataclasses
import dis
import importlib.util
import sys
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any

from k8s_venv.capture.names import BLOCKS, is_main_test

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from k8s_venv.capture.module_source import ModuleFile
    from k8s_venv.capture.names import Binding

_MISSING = {"ImportError", "ModuleNotFoundError", "Exception"}
_CALLS = {"import_module", "__import__", "run_module"}  # they import a module by its name
_LOOKUPS = {"find_spec", "import_string", "resolve_name"}  # they look for it, and import it if it is there
_DATA = {"files", "get_data", "open_binary", "open_text", "read_binary", "read_text"}  # they read a package's files
_FIRST = ("name", "mod_name", "anchor", "package")  # the names of their parameter for the module's name
_DATA_MODULES = ("resources", "pkgutil")
_OWN_PACKAGE = {"__package__", "__name__"}  # as the second argument of `import_module`
_ABOUT_PYTHON = {"version_info", "platform", "find_spec"}


@dataclasses.dataclass(frozen=True)
class Import:
    """An import of a module.

    Args:
        module: the module's name, as it is written.
        names: the names after ``from … import``, which may be modules too.
        line: its line, counted from 1.
        optional: whether the code around it expects that the module may be missing.
        level: the number of dots before the name.
        data: whether it is a call that reads a file of the module, which is a package.
    """

    module: str
    names: tuple[str, ...] = ()
    line: int = 0
    optional: bool = False
    level: int = 0
    data: bool = False

    def absolute(self, package: str) -> Import:
        """Return it with the module's full name, as far as the package of the importing file gives one."""
        parents = package.split(".") if package else []
        if not self.level or len(parents) < self.level:
            return self
        parts = [*parents[: len(parents) - self.level + 1], *([self.module] if self.module else [])]
        return dataclasses.replace(self, module=".".join(parts), level=0)

    @property
    def modules(self) -> list[str]:
        """Return the full names of the modules that it may import; ``package.*`` stands for a star import."""
        return [] if self.level else [self.module, *(f"{self.module}.{name}" for name in self.names)]


def imports_of_code(code: CodeType) -> Iterator[str]:
    """Yield the dotted names that a function without readable source imports, as ``Import.modules`` has them."""
    given: list[Any] = [None, None]
    for instruction in dis.get_instructions(code):
        if instruction.opname == "IMPORT_NAME":
            level, names = given
            if not level:
                yield from Import(instruction.argval, tuple(names or ())).modules
        if instruction.opname.startswith("LOAD_"):
            given = [given[1], instruction.argval]
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from imports_of_code(constant)


@dataclasses.dataclass(frozen=True)
class Calls:
    """How a file imports modules by calls.

    Args:
        functions: the functions that import, by the names under which the file calls them.
        texts: the texts that the file's names stand for.
        dotted: all texts of the file that may be names of modules, for calls whose argument is computed.
    """

    functions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    texts: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    dotted: tuple[str, ...] = ()


def import_calls(tree: ast.AST, text: str) -> Calls:
    """Return how a file imports modules by calls, from its syntax tree and text."""
    reads_data = any(module in text for module in _DATA_MODULES)
    known = {name: name for name in _CALLS | _LOOKUPS | (_DATA if reads_data else set()) if name in text}
    if not known:
        return Calls()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            known |= {alias.asname: known[alias.name] for alias in node.names if alias.asname and alias.name in known}
        elif isinstance(node, ast.Assign) and _name_of(node.value) in known:
            called = known[_name_of(node.value)]
            known |= {target.id: called for target in node.targets if isinstance(target, ast.Name)}
    return Calls(known, _texts_of_names(tree), tuple(_dotted_texts(tree)))


def _dotted_texts(tree: ast.AST) -> Iterator[str]:
    texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    for text in dict.fromkeys(texts):
        name = text.partition(":")[0]  # `package.module:attribute`
        if "." in name and all(part.isidentifier() for part in name.lstrip(".").split(".")):
            yield name


def _texts_of_names(tree: ast.AST) -> dict[str, tuple[str, ...]]:
    """Return the texts that each name stands for, if a file binds it to a text, or to the items of a list of texts."""
    found: dict[str, tuple[str, ...]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            bound = [(target, node.value) for target in node.targets]
        elif isinstance(node, ast.For | ast.AsyncFor | ast.comprehension):
            bound = [(node.target, node.iter)]
        else:
            continue
        for target, value in bound:
            items = getattr(value, "elts", [value])
            texts = [str(item.value) for item in items if isinstance(item, ast.Constant) and type(item.value) is str]
            if isinstance(value, ast.Name):  # `for name in NAMES`
                texts = list(found.get(value.id, ()))
            if isinstance(target, ast.Name) and texts:
                found[target.id] = (*found.get(target.id, ()), *texts)
    return found


def imports_in(nodes: Iterable[ast.AST], calls: Calls, *, optional: bool = False) -> Iterator[Import]:
    """Yield the imports in pieces of a syntax tree, except those under ``if TYPE_CHECKING:``.

    Args:
        nodes: the pieces.
        calls: how their file imports by calls.
        optional: the code around them expects that a module may be missing.
    """
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, (), node.lineno, optional) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module != "__future__":
                names = tuple(alias.name for alias in node.names)
                yield Import(node.module or "", names, node.lineno, optional, node.level)
        elif isinstance(node, ast.If | ast.IfExp):
            yield from _imports_of_choice(node, calls, optional=optional)
        else:
            if isinstance(node, ast.Call) and _name_of(node.func) in calls.functions:
                yield from _imports_by_call(node, calls, optional=optional)
            inside = optional or _expects_missing(node)
            yield from imports_in(_children(node, calls), calls, optional=inside)


def _children(node: ast.AST, calls: Calls) -> Iterator[ast.AST]:
    """Yield the parts of a node that can hold imports: expressions only in a file that imports by calls."""
    if calls.functions:
        yield from ast.iter_child_nodes(node)
        return
    for block in BLOCKS:
        inner = getattr(node, block, ())
        yield from inner if isinstance(inner, list) else ()  # a lambda's body is an expression


def _imports_of_choice(node: ast.If | ast.IfExp, calls: Calls, *, optional: bool) -> Iterator[Import]:
    body = node.body if isinstance(node, ast.If) else [node.body]
    orelse = node.orelse if isinstance(node, ast.If) else [node.orelse]
    optional = optional or any(_name_of(part) in _ABOUT_PYTHON for part in ast.walk(node.test))
    if calls.functions:
        yield from imports_in([node.test], calls, optional=optional)
    if not _is_type_checking(node.test) and not is_main_test(node.test):  # `__main__` never travels
        yield from imports_in(body, calls, optional=optional)
    if not (isinstance(node.test, ast.UnaryOp) and _is_type_checking(node.test.operand)):
        yield from imports_in(orelse, calls, optional=optional)


def _is_type_checking(test: ast.expr) -> bool:
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return any(map(_is_type_checking, test.values))
    return _name_of(test) == "TYPE_CHECKING"


def _expects_missing(node: ast.AST) -> bool:
    """Return whether a statement catches the error of an import inside it and goes on."""
    if isinstance(node, ast.Try | ast.TryStar):
        return any(_catches_missing(handler) for handler in node.handlers)
    if isinstance(node, ast.With):
        suppressed = [item.context_expr for item in node.items if isinstance(item.context_expr, ast.Call)]
        return any(_name_of(call.func) == "suppress" and _names_missing(call) for call in suppressed)
    return False


def _catches_missing(handler: ast.ExceptHandler) -> bool:
    if isinstance(handler.body[-1], ast.Raise):
        return False
    return handler.type is None or _names_missing(handler.type)


def _names_missing(node: ast.AST) -> bool:
    return any(_name_of(part) in _MISSING for part in ast.walk(node))


def _imports_by_call(node: ast.Call, calls: Calls, *, optional: bool) -> Iterator[Import]:
    called = calls.functions[_name_of(node.func)]
    given = {keyword.arg: keyword.value for keyword in node.keywords}
    first = node.args[0] if node.args else next((given[name] for name in _FIRST if name in given), None)
    texts = _texts(first, calls)
    optional = optional or called in _LOOKUPS | _DATA or not isinstance(first, ast.Constant)
    package = given.get("package", node.args[1] if len(node.args) > 1 else None)
    if called in _DATA and isinstance(first, ast.Name | ast.Attribute) and not texts:
        is_own = _name_of(first) in _OWN_PACKAGE  # `files(__package__)`, else `files(helpers)`
        yield Import("" if is_own else ast.unparse(first), (), node.lineno, True, int(is_own), data=True)
    elif isinstance(first, ast.Name) or not (first is None or texts or isinstance(first, ast.Constant)):
        yield from _candidates(node, package, calls)
    for text in texts:
        name = text.partition(":")[0]  # `resolve_name("package.module:attribute")`
        level = len(name) - len(name.lstrip("."))
        names: tuple[str, ...] = ("**",) if name.endswith("**") else ()
        module = name.removesuffix("**").strip(".")
        if called == "__import__":
            level, given_names = _of_dunder_import(node.args, given)
            names = names or given_names
            yield Import(module, names, node.lineno, optional, level)
            continue
        found = Import(module, names, node.lineno, optional, level, data=called in _DATA)
        if level and isinstance(package, ast.Constant):
            found = found.absolute(str(package.value))
        elif level and isinstance(package, ast.Attribute) and _name_of(package) in _OWN_PACKAGE:  # `helpers.__name__`
            found = dataclasses.replace(found, optional=True).absolute(ast.unparse(package.value))
        elif level and _name_of(package) not in _OWN_PACKAGE:
            continue  # its package is known only in the environment
        yield found


def _candidates(node: ast.Call, package: ast.expr | None, calls: Calls) -> Iterator[Import]:
    """Yield the modules that a call with a computed argument may import: all those that a text of its file names."""
    is_own = _name_of(package) in _OWN_PACKAGE
    for text in calls.dotted:
        level = len(text) - len(text.lstrip("."))
        found = Import(f"{text.lstrip('.')}.**", (), node.lineno, True, level)
        if level and isinstance(package, ast.Constant):
            found = found.absolute(str(package.value))
        if is_own or not found.level:
            yield found


def _texts(node: ast.expr | None, calls: Calls) -> list[str]:
    """Return the texts that an expression can be; ``package.**`` stands for any module of the package."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.Name):
        return list(calls.texts.get(node.id, ()))
    first: ast.expr | None = None
    if isinstance(node, ast.JoinedStr) and node.values:  # f"jobs.{name}"
        first = node.values[0]
        first = first.value if isinstance(first, ast.FormattedValue) else first
    elif isinstance(node, ast.BinOp):  # "jobs." + name
        first = node.left
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):  # "jobs.{}".format(name)
        first = node.func.value
    beginnings = _texts(first, calls) if isinstance(first, ast.Constant | ast.BinOp) else []
    packages = [text.partition("{")[0].partition("%")[0].rpartition(".") for text in beginnings]
    return [f"{package}.**" for package, dot, _ in packages if dot]


def _of_dunder_import(args: list[ast.expr], given: dict[str | None, ast.expr]) -> tuple[int, tuple[str, ...]]:
    """Return the level and the names that a call of ``__import__`` gives."""
    wanted = args[3] if len(args) > 3 else given.get("fromlist")
    level = args[4] if len(args) > 4 else given.get("level")
    names = [getattr(item, "value", None) for item in getattr(wanted, "elts", ())]
    number = level.value if isinstance(level, ast.Constant) and isinstance(level.value, int) else 0
    return number, tuple(name for name in names if isinstance(name, str))


def _name_of(node: ast.AST | None) -> str:
    return str(getattr(node, "attr", getattr(node, "id", "")))


@dataclasses.dataclass(frozen=True)
class RepeatedImport:
    """An import of one name; the other names of its line may not exist in the environment.

    Args:
        file: the number of its file among the module's.
        statement: the statement that it is a part of.
        text: the statement that imports only this name.
    """

    file: int
    statement: ast.Import | ast.ImportFrom
    text: str


def imports_of_name(name: str, value: Any, bindings: list[tuple[int, Binding]]) -> Iterator[RepeatedImport]:
    """Yield the imports that give a name its value, among statements that bind it, each with its file's number."""
    for number, binding in bindings:
        node = binding.statement
        assert isinstance(node, ast.Import | ast.ImportFrom)  # noqa: S101 -- the caller looked
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            continue
        for alias in node.names:
            if (alias.asname or alias.name.partition(".")[0]) == name and _is_import_of(alias, node, value):
                what = f"{alias.name} as {alias.asname}" if alias.asname else alias.name
                yield RepeatedImport(number, node, f"{_from(node)}import {what}\n")


def _is_import_of(alias: ast.alias, node: ast.stmt, value: Any) -> bool:
    """Return whether an import can have given a name its value, if several statements bind the name."""
    if isinstance(node, ast.Import) and alias.asname and isinstance(value, ModuleType):
        loaded = sys.modules.get(alias.name)
        return loaded is None or loaded is value or value.__name__ == alias.name
    return True


def star_import(name: str, value: Any, files: Sequence[ModuleFile], names: Mapping[str, Any]) -> RepeatedImport | None:
    """Return the import of a name whose value came by a star import in one of the module's files, or None."""
    for number, file in enumerate(files):
        for node in file.statements:
            if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
                module = "." * node.level + (node.module or "")
                full = importlib.util.resolve_name(module, names.get("__package__") or "")
                if getattr(sys.modules.get(full), name, files) is value:
                    return RepeatedImport(number, node, f"{_from(node)}import {name}\n")
    return None


def _from(node: ast.Import | ast.ImportFrom) -> str:
    return f"from {'.' * node.level}{node.module or ''} " if isinstance(node, ast.ImportFrom) else ""
