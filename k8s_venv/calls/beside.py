"""Find the modules that lie beside a DAG file and are imported by it, directly or through one another.

They travel as source files. Installed packages never do: they belong in the environment's requirements.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def modules_beside(filename: str, package: str, root: Path) -> dict[str, str]:
    """Return the source of each module that a file imports from its own project.

    Args:
        filename: the importing file.
        package: its package, for relative imports.
        root: the project's folder.

    Returns:
        Each file's text by its path below the import root, such as ``helpers/clean.py``.

    """
    roots = _import_roots(Path(filename), root)
    found: dict[str, str] = {}
    pending = [(Path(filename), package)]
    while pending:
        path, package = pending.pop()
        for name in _imported_names(path, package):
            for file, entry in _files_of(name, roots):
                if entry not in found and file != Path(filename):
                    found[entry] = file.read_text("utf-8")
                    inside = entry.removesuffix("/__init__.py").removesuffix(".py")
                    is_package = entry.endswith("/__init__.py")
                    dotted = inside.replace("/", ".")
                    pending.append((file, dotted if is_package else dotted.rpartition(".")[0]))
    return found


def _import_roots(file: Path, root: Path) -> list[Path]:
    """Return the folders on ``sys.path`` that belong to the project."""
    folders = [Path(entry).resolve() for entry in sys.path if entry]
    own = [folder for folder in folders if _is_within(folder, root) or _is_within(file.resolve(), folder)]
    prefixes = {Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()}
    roots = [folder for folder in own if not any(_is_within(folder, prefix) for prefix in prefixes)]
    return list(dict.fromkeys([*roots, file.resolve().parent]))


def _is_within(path: Path, folder: Path) -> bool:
    return path == folder or folder in path.parents


def _imported_names(path: Path, package: str) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (OSError, SyntaxError):
        return  # importing it will say so, where that happens
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, *([base] if base else [])])
            yield base
            for alias in node.names:
                yield f"{base}.{alias.name}" if base else alias.name


def _files_of(name: str, roots: list[Path]) -> Iterator[tuple[Path, str]]:
    """Yield the files that importing a dotted name would run, with their paths below the import root."""
    parts = [part for part in name.split(".") if part]
    for root in roots:
        if not parts or not ((root / parts[0]).is_dir() or (root / f"{parts[0]}.py").is_file()):
            continue
        for depth in range(1, len(parts) + 1):
            inner = Path(*parts[:depth])
            for candidate in (inner / "__init__.py", inner.with_suffix(".py")):
                if (root / candidate).is_file():
                    yield root / candidate, candidate.as_posix()
                    break
        return
