"""The package stays small enough to walk through: the number of its modules, their length, that of functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import k8s_venv

PACKAGE = Path(k8s_venv.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# A new capability raises the first two with it; a new way to do an old thing does not.
MOST_MODULES = 170
MOST_LINES = 35_300
LONGEST_MODULE = 500
LONGEST_FUNCTION = 40


def lines_of(module: Path) -> int:
    return len(module.read_text("utf-8").splitlines())


def functions_of(module: Path) -> Iterator[tuple[str, int]]:
    """Yield the place of each function of a module, and how many lines it has without its docstring."""
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            documented = ast.get_docstring(node) is not None
            yield f"{place_of(module)}:{node.lineno} {node.name}", span(node) - (documented and span(node.body[0]))


def span(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def place_of(module: Path) -> str:
    return str(module.relative_to(PACKAGE.parent))


def test_the_package_has_few_modules() -> None:
    assert len(MODULES) <= MOST_MODULES


def test_the_package_has_few_lines() -> None:
    assert sum(map(lines_of, MODULES)) <= MOST_LINES


def test_each_module_can_be_read_in_one_sitting() -> None:
    assert [(place_of(each), lines_of(each)) for each in MODULES if lines_of(each) > LONGEST_MODULE] == []


def test_each_function_fits_on_a_screen() -> None:
    functions = [function for module in MODULES for function in functions_of(module)]

    assert [(name, length) for name, length in functions if length > LONGEST_FUNCTION] == []
