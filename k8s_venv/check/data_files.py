"""Data files that the source which travels reads, and that do not travel with it."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import TYPE_CHECKING

from k8s_venv.calls.files import matched

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k8s_venv.calls.capturing import Captured

_READING = {"r", "rb", "rt"}


def files_left_behind(captured: Captured) -> Iterator[tuple[str, int, str]]:
    """Yield each use of a data file of the project that does not travel, as file, line and sentence.

    Args:
        captured: the captured function.
    """
    root, patterns = captured.environment.root, captured.environment.files
    travelling = {path.resolve() for path in matched(patterns, root)}
    whole = {str(path) for path in captured.beside.values()}
    for file, statements in captured.trees:
        if file in whole:  # its `__file__` stands in the archive
            continue
        folder = Path(file).parent
        for node in (node for statement in statements for node in ast.walk(statement)):
            named = _named_file(node, Path(file), folder)
            if named is None or not named.is_file() or not named.resolve().is_relative_to(root.resolve()):
                continue
            found = named.resolve()
            name = found.relative_to(root.resolve()).as_posix()
            line: int = getattr(node, "lineno", 1)
            given = f"files={json.dumps([*patterns, name], ensure_ascii=False)}"
            if found not in travelling:
                yield file, line, f"reads {name}, which does not travel. Give the task {given}{_opening(node, name)}."
            elif isinstance(node, ast.Call) and _is_open(node):
                yield file, line, f"opens {name} in the working folder, which differs there: open it{_by_file(name)}."


def _opening(node: ast.AST, name: str) -> str:
    return f", and open it{_by_file(name)}" if isinstance(node, ast.Call) and _is_open(node) else ""


def _by_file(name: str) -> str:
    return f" by its path from Path(__file__), such as Path(__file__).with_name({Path(name).name!r})"


def _is_open(node: ast.Call) -> bool:
    return isinstance(node.func, ast.Name) and node.func.id == "open"


def _named_file(node: ast.AST, file: Path, folder: Path) -> Path | None:
    """Return the file that an expression names by its own text, or None."""
    if isinstance(node, ast.Call) and _is_open(node):
        first = node.args[0] if node.args else None
        mode = node.args[1] if len(node.args) > 1 else ast.Constant("r")
        if isinstance(first, ast.Constant) and isinstance(first.value, str) and _text(mode) in _READING:
            given = Path(first.value)
            return given if given.is_absolute() else next((p for p in (folder / given, given) if p.is_file()), None)
        return None
    found = _path(node, file)
    return found if found is not None and found != file else None


def _path(node: ast.AST, file: Path) -> Path | None:
    """Return the path that an expression makes of ``__file__`` and texts, or None."""
    if isinstance(node, ast.Name) and node.id == "__file__":
        return file
    if isinstance(node, ast.Attribute) and node.attr == "parent":
        inner = _path(node.value, file)
        return inner.parent if inner is not None else None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return _joined(_path(node.left, file), [node.right])
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute) and node.value.attr == "parents":
        inner, number = _path(node.value.value, file), getattr(node.slice, "value", None)
        if inner is not None and isinstance(number, int) and 0 <= number < len(inner.parents):
            return inner.parents[number]
    return _of_call(node, file) if isinstance(node, ast.Call) else None


def _of_call(node: ast.Call, file: Path) -> Path | None:
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    on = node.func.value if isinstance(node.func, ast.Attribute) else None
    first = _path(node.args[0], file) if node.args else None
    if name in ("Path", "abspath", "realpath") and len(node.args) == 1:
        return first
    if name == "dirname" and first is not None:
        return first.parent
    if name == "join" and first is not None:
        return _joined(first, node.args[1:])
    inner = _path(on, file) if on is not None else None
    if inner is not None and name in ("resolve", "absolute"):
        return inner
    if inner is not None and name == "joinpath":
        return _joined(inner, node.args)
    if inner is not None and name == "with_name":
        return _joined(inner.parent, node.args)
    return None


def _joined(path: Path | None, parts: list[ast.expr]) -> Path | None:
    texts = [_text(part) for part in parts]
    return path.joinpath(*map(str, texts)) if path is not None and None not in texts else None


def _text(node: ast.AST) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
