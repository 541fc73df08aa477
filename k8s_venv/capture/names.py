"""Names in a piece of source: those that it looks up, those that it binds, and those in its annotations.

Lookups are taken from Python's own compiler, so that scopes are as Python has them.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import dataclasses
import dis
import inspect
import re
import typing
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
Function = ast.FunctionDef | ast.AsyncFunctionDef
BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")
_LOADS = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS", "STORE_GLOBAL", "DELETE_GLOBAL"}
_ATTRIBUTES = {"LOAD_ATTR", "LOAD_METHOD"}
_BY_TEXT = {"globals", "eval", "exec", "modules"}  # they find names by their text
_IDENTIFIER = re.compile(r"[^\W\d]\w*")
_EVERYWHERE = frozenset(dir(builtins)) | {
    "__name__", "__file__", "__package__", "__doc__", "__builtins__", "__annotations__", "__spec__", "__loader__",
    "__module__", "__qualname__", "__dict__", "__path__", "__cached__", "__debug__", "__firstlineno__",
    "__static_attributes__", "__classdict__", "__conditional_annotations__",
}  # fmt: skip
_AT_ONCE = {"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"}
_MAIN_TESTS = ("__name__ == '__main__'", "'__main__' == __name__")
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_TARGETS = ast.arg | ast.AnnAssign | Function
_MARKS = ("ClassVar", "InitVar", "KW_ONLY")
_MARKS_FROM = {"typing", "dataclasses", "typing_extensions"}
_READING = ("get_type_hints", "__annotations__", ".annotation")
_READING_PACKAGES = {
    "attr", "attrs", "beartype", "cattrs", "dacite", "marshmallow_dataclass", "mashumaro", "msgspec", "pydantic",
    "typeguard",
}  # fmt: skip
_PLAIN_METACLASSES = {"builtins", "abc", "enum", "typing"}


@dataclasses.dataclass(frozen=True)
class Uses:
    """The names that a statement looks up.

    Args:
        now: names looked up when the statement runs: decorators, defaults, bases, class bodies. ``do_*`` stands for
            every name that begins with ``do_``.
        later: names looked up when a function that it defines is called.
        attributes: the attributes of such names that are looked up, as ``package.module``.
    """

    now: frozenset[str]
    later: frozenset[str]
    attributes: frozenset[str]


def uses(statement: ast.stmt | ast.expr, filename: str) -> Uses:
    """Return the names that a statement or expression looks up outside itself, apart from those in annotations."""
    body = statement if isinstance(statement, ast.stmt) else ast.copy_location(ast.Expr(statement), statement)
    tree = ast.Module(body=[body], type_ignores=[])
    # A nested function's `nonlocal` or a method's `await` compiles by itself as well.
    flags = __future__.annotations.compiler_flag | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code = compile(tree, filename, "exec", flags=flags, dont_inherit=True)
    now, later, attributes = set[str](), set[str](), set[str]()
    _collect(code, now, later, attributes)
    if not isinstance(statement, Definition):
        now |= later  # `x = (lambda: y)()` may call what it defines
    return Uses(frozenset(now), frozenset(later), frozenset(attributes))


def names_in(code: CodeType) -> frozenset[str]:
    """Return the global names that a function looks up when it, or a function nested in it, is called.

    ``name.attribute`` stands for an attribute that is looked up on one of them.
    """
    found: set[str] = set()
    _collect(code, found, found, found)
    return frozenset(found)


def _collect(code: CodeType, now: set[str], later: set[str], attributes: set[str]) -> None:
    for name in _looked_up(code):
        (attributes if "." in name else now).add(name)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _collect(constant, now if _runs_at_once(constant) else later, later, attributes)


def _runs_at_once(code: CodeType) -> bool:
    is_function = bool(code.co_flags & inspect.CO_OPTIMIZED)
    return not is_function or code.co_name in _AT_ONCE or code.co_name.startswith("<generic parameters")


def _looked_up(code: CodeType) -> Iterator[str]:
    if not code.co_names:
        return
    if not _BY_TEXT.isdisjoint(code.co_names):
        texts = [constant for constant in code.co_consts[1:] if isinstance(constant, str)]  # without the docstring
        for text in texts:
            yield from _IDENTIFIER.findall(text)
        # `globals()["do_" + x]`
        yield from (f"{text}*" for text in texts if text.isidentifier() and text[-1] == "_" and text.strip("_"))
        yield "__getattr__"  # the module's own (PEP 562)
    stored = set()
    dotted = ""  # the name that the instructions before have looked up
    for instruction in dis.get_instructions(code):
        before, dotted = dotted, ""
        if instruction.opname == "STORE_NAME":
            stored.add(instruction.argval)
        elif instruction.opname in _LOADS and instruction.argval not in stored:
            dotted = instruction.argval
        elif before and instruction.opname in _ATTRIBUTES:
            dotted = f"{before}.{instruction.argval}"
        elif instruction.opname == "EXTENDED_ARG":
            dotted = before
            continue
        if dotted:
            yield dotted


def is_builtin(name: str) -> bool:
    """Return whether a name is a builtin of Python, or one that every module has."""
    return name in _EVERYWHERE


@dataclasses.dataclass(frozen=True)
class Binding:
    """A statement that binds a name of the module.

    Args:
        statement: the innermost statement that binds it.
        unit: the outermost compound statement around it (``if``, ``try``, ``for``, …), or the statement itself.
    """

    statement: ast.stmt
    unit: ast.stmt


def own_statements(body: list[ast.stmt], *, as_main: bool) -> Iterator[ast.stmt]:
    """Yield a module's own statements, in order.

    Those inside ``with DAG(…):`` belong to them; those inside ``if __name__ == "__main__":`` only where that block ran.

    Args:
        body: the module's body.
        as_main: it ran as the process's ``__main__``.
    """
    for statement in body:
        if isinstance(statement, ast.If) and is_main_test(statement.test):
            if as_main:
                yield from own_statements(statement.body, as_main=True)
            continue
        yield statement
        if isinstance(statement, ast.With | ast.AsyncWith):
            yield from own_statements(statement.body, as_main=as_main)


def is_main_test(test: ast.expr) -> bool:
    """Return whether a test asks for the process's ``__main__``."""
    return isinstance(test, ast.Compare) and ast.unparse(test) in _MAIN_TESTS


def bindings_of(statements: Iterable[ast.stmt]) -> dict[str, list[Binding]]:
    """Return the statements that bind each name of a module, in order, from the module's own statements."""
    found: dict[str, list[Binding]] = {}
    for unit in statements:
        for statement in [unit] if isinstance(unit, ast.With | ast.AsyncWith) else _innermost(unit):
            for name in _bound_names(statement):
                found.setdefault(name, []).append(Binding(statement, unit))
    return found


def _innermost(statement: ast.AST) -> Iterator[ast.stmt]:
    """Yield a statement and, where it is a compound one of the module's own scope, those inside it."""
    if isinstance(statement, ast.stmt):
        yield statement
    if not isinstance(statement, Definition):
        for block in BLOCKS:
            for inner in getattr(statement, block, ()):
                yield from _innermost(inner)


def _bound_names(statement: ast.stmt) -> set[str]:
    """Return the names that a statement binds itself, apart from the statements inside it."""
    if isinstance(statement, Definition):
        return {statement.name}
    names: set[str] = set()
    inside = {id(item) for block in BLOCKS for item in getattr(statement, block, ())}
    pending: list[tuple[ast.AST, bool]] = [(statement, False)]
    while pending:
        node, in_comprehension = pending.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del) and not in_comprehension:
            names.add(node.id)
        elif isinstance(node, ast.NamedExpr) and in_comprehension:
            names.add(node.target.id)
        elif isinstance(node, ast.Lambda):
            continue
        within = in_comprehension or isinstance(node, _COMPREHENSIONS)
        pending += [(child, within) for child in ast.iter_child_nodes(node) if id(child) not in inside]
    return names


def names_in_annotations(node: ast.AST) -> Iterator[str]:
    """Yield the names in the annotations of a piece of source, quoted ones included."""
    for part in ast.walk(node):
        if isinstance(part, _TARGETS):
            pending = list(ast.walk(_annotation(part) or ast.Pass()))
            for inner in pending:  # it grows
                if isinstance(inner, ast.Name):
                    yield inner.id
                elif isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                    pending += ast.walk(_parsed(inner.value) or ast.Pass())


def quoted(node: ast.AST) -> dict[ast.expr, str]:
    """Return the quoted parts of the annotations of a piece of source, each with its text.

    With PEP 563 they would be quoted twice, which ``typing.get_type_hints`` reads only from Python 3.9 on.
    """
    given = [_annotation(part) for part in ast.walk(node) if isinstance(part, _TARGETS)]
    return {found: text for each in given if each for found, text in _quoted_in(each)}


def _quoted_in(node: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str) and node.value.isprintable() and _parsed(node.value):
            yield node, node.value
    elif isinstance(node, ast.Subscript) and _means_types(node.value):
        yield from _quoted_in(node.slice)
    elif isinstance(node, ast.Tuple | ast.List | ast.BinOp):
        for child in ast.iter_child_nodes(node):
            yield from _quoted_in(child)


def _means_types(generic: ast.expr) -> bool:
    """Return whether texts between the brackets of a generic type mean types; those of ``Literal`` do not."""
    name = getattr(generic, "attr", getattr(generic, "id", ""))
    return name not in ("Annotated", "Literal") and (name in typing.__all__ or name in ("dict", "list", "set", "tuple"))


def _annotation(node: _TARGETS) -> ast.expr | None:
    return node.returns if isinstance(node, Function) else node.annotation


def _parsed(text: str) -> ast.Expression | None:
    try:
        return ast.parse(text, mode="eval")
    except SyntaxError:
        return None


def evaluated_names(fields: Iterable[tuple[str, frozenset[str]]], names: Mapping[str, Any]) -> set[str]:
    """Return the names in annotations of fields that Python or a metaclass looks at when it makes their class.

    Args:
        fields: the name of each field's class, with the names in the field's annotation.
        names: the module's namespace.
    """
    found: set[str] = set()
    for kind, used in fields:
        reads_all = _reads_annotations(names.get(kind))
        found |= {name for name in used if reads_all or _is_mark(name, names.get(name))}
    return found & names.keys()


def _is_mark(name: str, value: Any) -> bool:
    """Return whether a name marks a kind of field, as ``ClassVar`` does, or is the module of such marks."""
    if isinstance(value, ModuleType):
        return value.__name__ in _MARKS_FROM
    return name in _MARKS and getattr(value, "__module__", "") in _MARKS_FROM


def _reads_annotations(kind: Any) -> bool:
    """Return whether the annotations of a class are evaluated when it is made, as pydantic does."""
    if not isinstance(kind, type):
        return False
    made_by = {type(base).__module__.partition(".")[0] for base in kind.__mro__}
    return bool(made_by - _PLAIN_METACLASSES) or hasattr(kind, "__pydantic_fields__")


def are_read(texts: Iterable[str], packages: Collection[str]) -> bool:
    """Return whether code reads annotations of functions and classes, by its texts and the packages that it imports."""
    return not _READING_PACKAGES.isdisjoint(packages) or any(word in text for text in texts for word in _READING)
