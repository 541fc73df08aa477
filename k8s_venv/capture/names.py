"""The names of its module that a piece of code looks up, as Python's own compiler sees them."""

from __future__ import annotations
import __future__

import ast
import builtins
import dataclasses
import dis
import inspect
import re
from types import CodeType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOADS = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS", "STORE_GLOBAL", "DELETE_GLOBAL"}
_ATTRIBUTES = {"LOAD_ATTR", "LOAD_METHOD"}
_BY_TEXT = {"globals", "vars", "eval", "exec", "modules"}  # what finds names by their text
_IDENTIFIER = re.compile(r"[^\W\d]\w*")
_EVERYWHERE = frozenset(dir(builtins)) | {
    "__name__", "__file__", "__package__", "__doc__", "__builtins__", "__annotations__", "__spec__", "__loader__",
    "__module__", "__qualname__", "__dict__", "__path__", "__cached__", "__debug__", "__firstlineno__",
    "__static_attributes__", "__classdict__", "__conditional_annotations__",
}  # fmt: skip
_AT_ONCE = {"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"}


@dataclasses.dataclass(frozen=True)
class Uses:
    """What a statement looks up.

    Args:
        now: names looked up when the statement runs: decorators, defaults, bases, class bodies. ``do_*`` stands for all
            names that begin so.
        later: names looked up when a function that it defines is called.
        attributes: the attributes of such names that are looked up, as ``package.module``.
    """

    now: frozenset[str]
    later: frozenset[str]
    attributes: frozenset[str]


def uses(statement: ast.stmt | ast.expr, filename: str) -> Uses:
    """Return the names that a statement looks up outside itself; annotations never count.

    Args:
        statement: the statement, or an expression.
        filename: its file.
    """
    body = statement if isinstance(statement, ast.stmt) else ast.copy_location(ast.Expr(statement), statement)
    tree = ast.Module(body=[body], type_ignores=[])
    # A nested function's `nonlocal` or a method's `await` compiles by itself as well.
    flags = __future__.annotations.compiler_flag | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code = compile(tree, filename, "exec", flags=flags, dont_inherit=True)
    now: set[str] = set()
    later: set[str] = set()
    attributes: set[str] = set()
    _collect(code, now, later, attributes)
    if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        now |= later  # `x = (lambda: y)()` may call what it defines
    return Uses(frozenset(now), frozenset(later), frozenset(attributes))


def names_in(code: CodeType) -> frozenset[str]:
    """Return the global names that a function looks up when it, or one nested in it, is called, and their attributes.

    Args:
        code: the function's.

    Returns:
        The names, and ``name.attribute`` for what is looked up on one of them.
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
        texts = [constant for constant in code.co_consts[1:] if isinstance(constant, str)]  # the first: the docstring
        for text in texts:
            yield from _IDENTIFIER.findall(text)
        # `globals()["do_" + x]`
        yield from (f"{text}*" for text in texts if text.isidentifier() and text[-1] == "_" and text.strip("_"))
        yield "__getattr__"  # the module's own (PEP 562)
    stored = set()
    dotted = ""  # what the instructions before have looked up
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
    """Return whether a name is one of Python's own, or one that every module has."""
    return name in _EVERYWHERE
