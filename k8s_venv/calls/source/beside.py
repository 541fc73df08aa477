"""Find the modules that lie beside a DAG file and are imported by it, directly or through one another.

They travel as source files. Installed packages never do: they belong in the environment's requirements.
"""

from __future__ import annotations

import ast
import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from k8s_venv.calls.source.facts import import_by_text
from k8s_venv.calls.source.modulefile import module_file
from k8s_venv.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


def modules_beside(imports: Iterable[str], file: Path, root: Path) -> dict[str, Path]:
    """Return the files that importing names runs, as far as they are of the project.

    Args:
        imports: dotted names; those after ``from … import`` may be modules or not.
        file: the importing file.
        root: the project's folder.

    Returns:
        Each file by its path below the import root, such as ``helpers/clean.py``.
    """
    roots = import_roots(file, root)
    found: dict[str, Path] = {}
    pending = list(imports)
    seen: set[str] = set()
    while pending:
        name = pending.pop()
        if name in seen or name.partition(".")[0] == "k8s_venv":  # every archive has its own part of that
            continue
        seen.add(name)
        for path, entry in _files_of(name, roots):
            if entry not in found:
                found[entry] = path
                pending.extend(imported_names(path, package_of(entry)))
    return found


def imported_names(path: Path, package: str) -> Iterator[str]:
    """Yield what a file imports anywhere in it, as dotted names.

    Args:
        path: the file.
        package: its package, for relative imports.
    """
    try:
        file = module_file(str(path))
    except (CallError, OSError, SyntaxError, ValueError):
        return  # importing it will say so, where that happens
    for statement in _statements(file.tree.body):
        if isinstance(statement, ast.Import | ast.ImportFrom):
            yield from names_of(statement, package)
    if "import_module" in file.text or "__import__" in file.text:
        yield from filter(None, map(import_by_text, ast.walk(file.tree)))


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a body and all those inside them; `ast.walk` would visit each expression as well."""
    for statement in body:
        yield statement
        for block in (statement, *getattr(statement, "handlers", ()), *getattr(statement, "cases", ())):
            for name in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(block, name, ()))


def names_of(statement: ast.Import | ast.ImportFrom, package: str) -> Iterator[str]:
    """Yield the dotted names that an import statement may import.

    Args:
        statement: the statement.
        package: the importing file's package, for relative imports.
    """
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            yield alias.name
        return
    base = statement.module or ""
    if statement.level:
        parent = package.split(".")[: len(package.split(".")) - statement.level + 1]
        base = ".".join([*parent, *([base] if base else [])])
    yield base
    for alias in statement.names:
        yield f"{base}.{alias.name}" if base else alias.name


def package_of(entry: str) -> str:
    """Return the package of a file by its path below the import root."""
    dotted = dotted_name(entry)
    return dotted if entry.endswith("/__init__.py") else dotted.rpartition(".")[0]


def dotted_name(entry: str) -> str:
    """Return the module's name of a file by its path below the import root."""
    return entry.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".")


def import_roots(file: Path, root: Path) -> list[Path]:
    """Return the folders on ``sys.path`` that belong to the project of a file.

    Args:
        file: the file.
        root: the project's folder.
    """
    return list(_import_roots(file.resolve(), root.resolve(), tuple(sys.path)))


@functools.lru_cache(maxsize=64)
def _import_roots(file: Path, root: Path, path: tuple[str, ...]) -> tuple[Path, ...]:
    folders = [Path(entry).resolve() for entry in path if entry]
    own = [folder for folder in folders if _is_within(folder, root) or _is_within(file, folder)]
    prefixes = {Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()}
    roots = [folder for folder in own if not any(_is_within(folder, prefix) for prefix in prefixes)]
    return tuple(dict.fromkeys([*roots, file.parent]))


def file_of(module: str, roots: Iterable[Path]) -> Path | None:
    """Return the file that a module's name stands for below the import roots, or None."""
    found = list(_files_of(module, list(roots)))
    if found and dotted_name(found[-1][1]) == module:
        return found[-1][0]
    return None


def _is_within(path: Path, folder: Path) -> bool:
    return path == folder or folder in path.parents


def _files_of(name: str, roots: list[Path]) -> Iterator[tuple[Path, str]]:
    """Yield the files that importing a dotted name would run, with their paths below the import root.

    A package without ``__init__.py`` can be spread over several roots (PEP 420).
    """
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
        if (root / parts[0] / "__init__.py").is_file() or (root / f"{parts[0]}.py").is_file():
            return
