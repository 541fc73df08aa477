"""Why a module that a function imports does not travel: it lies outside of the project, or its file is not there."""

from __future__ import annotations

import ast
import contextlib
import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import TYPE_CHECKING

from k8s_venv.capture.beside import file_of, import_roots, is_installed
from k8s_venv.capture.modulefile import module_file
from k8s_venv.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Iterable

_MAKING_NAMES = ("__getattr__", "global", "import *", "exec", "setattr", "sys.modules", "__path__", "vars(")
_ADDING = {"append", "insert", "extend", "addsitedir"}


def why_absent(module: str, file: Path | None, root: Path) -> str | None:
    """Return why a module of this machine does not travel, and what to do, or None for one that is not here either.

    Args:
        module: its full name.
        file: the file that imports it, if it is known.
        root: the project's folder.
    """
    roots = import_roots(file, root)
    everywhere = [*roots, *(folder for folder in map(Path.resolve, map(Path, sys.path)) if not is_installed(folder))]
    compiled = _compiled_file(module, everywhere)
    if compiled is not None:
        return f"It is {compiled}, which is compiled for this Python alone and does not travel. Make a package of it."
    found = file_of(module, everywhere)
    if found is not None and file_of(module, roots) != found:
        return (
            f"It is {found}, which lies outside of the project's folder {root} and does not travel. "
            f"{_where_to_put(found, root)}"
        )
    if found is not None:
        return f"It is {found}, which did not travel, since no import names it. Import it by its name in the function."
    package, _, name = module.rpartition(".")
    whole = file_of(package, roots)
    if whole is not None and whole.name != "__init__.py":
        return f"{package} is {whole}, which is no package."
    folders = (root / package.replace(".", "/") for root in roots if package)
    folder = whole.parent if whole is not None else next((each for each in folders if each.is_dir()), None)
    return f"There is no {name}.py in {folder}." if folder is not None else None


def modules_among(names: Iterable[str], package: Path | None) -> list[str]:
    """Return which names, taken from a package by ``from … import``, can only be modules of it.

    Args:
        names: the names.
        package: the file of the package, or None for a folder without ``__init__.py``.
    """
    bound = {"*", "**", "__doc__", "__file__", "__name__", "__package__", "__path__", "__spec__"}
    if package is not None:
        text = package.read_text("utf-8", errors="replace")
        if package.name != "__init__.py" or any(word in text for word in _MAKING_NAMES):
            return []  # what it has is not known before it runs
        with contextlib.suppress(CallError):  # it is empty
            bound |= module_file(str(package)).bindings.keys()
    return [name for name in names if name not in bound]


def _where_to_put(found: Path, root: Path) -> str:
    above = Path(os.path.commonpath([found, root]))
    if len(above.parts) <= 1 or above == Path.home():
        return "Move it to the project's folder, or make a package of it and add that to the requirements."
    return f"Move the project file and the locks to {above}, so that both lie below it."


def _compiled_file(module: str, folders: Iterable[Path]) -> Path | None:
    path = module.replace(".", "/")
    files = (folder / f"{path}{suffix}" for folder in folders for suffix in EXTENSION_SUFFIXES)
    return next((file for file in files if file.is_file()), None)


def line_of_path_change(nodes: Iterable[ast.AST]) -> int | None:
    """Return the line on which a piece of source adds a folder to ``sys.path``, or None.

    Args:
        nodes: the piece's syntax trees.
    """
    for node in (part for each in nodes for part in ast.walk(each)):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in _ADDING:
            if ast.unparse(node.func).startswith(("sys.path.", "site.")):
                return node.lineno
        elif isinstance(node, ast.Assign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(ast.unparse(target).startswith("sys.path") for target in targets):
                return node.lineno
    return None
