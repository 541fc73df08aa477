"""Find the modules that lie beside a DAG file and are imported by it, directly or through one another.

They travel as source files. Installed packages never do: they belong in the environment's requirements.
"""

from __future__ import annotations

import ast
import functools
import os
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from k8s_venv.capture.modulefile import module_file
from k8s_venv.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


# Folders beside those of the project that hold its code as well, such as Airflow's folder of plugins.
code_folders: set[str] = set()


def modules_beside(imports: Iterable[str], file: Path | None, root: Path) -> dict[str, Path]:
    """Return the files that importing names runs, as far as they are of the project.

    Args:
        imports: dotted names; those after ``from … import`` may be modules or not.
        file: the importing file, if there is one.
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
        module, star, all_modules = name.partition(".*")
        for path, entry in _files_of(module, roots):
            if entry not in found:
                found[entry] = path
                pending.extend(imported_names(path, package_of(entry)))
            if star and dotted_name(entry) == module:
                pending += [f"{module}.{each}" for each in _exported(path)]
        if all_modules:
            pending += [f"{module}.{each}" for each in _modules_in(module, roots)]
    return found


def imported_names(path: Path, package: str) -> Iterator[str]:
    """Yield what a file imports anywhere in it, as dotted names.

    Args:
        path: the file.
        package: its package, for relative imports.
    """
    try:
        imports = module_file(str(path)).imports
    except (CallError, OSError, SyntaxError, ValueError):
        return  # importing it will say so, where that happens
    for each in imports:
        yield from each.absolute(package).modules


def package_of(entry: str) -> str:
    """Return the package of a file by its path below the import root."""
    dotted = dotted_name(entry)
    return dotted if entry.endswith("/__init__.py") else dotted.rpartition(".")[0]


def dotted_name(entry: str) -> str:
    """Return the module's name of a file by its path below the import root."""
    return entry.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".")


def import_roots(file: Path | None, root: Path) -> list[Path]:
    """Return the folders on ``sys.path`` that belong to the project of a file.

    They lie in the project's folder, or beside it (as Airflow's plugins beside its DAGs), or hold the file.

    Args:
        file: the file, if there is one.
        root: the project's folder.
    """
    path = tuple(map(os.path.abspath, sys.path))
    return list(_import_roots(file.resolve() if file else None, root.resolve(), path, frozenset(code_folders)))


@functools.lru_cache(maxsize=64)
def _import_roots(
    file: Path | None, root: Path, path: tuple[str, ...], code_folders: frozenset[str]
) -> tuple[Path, ...]:
    given = {Path(folder).resolve() for folder in code_folders}
    prefixes = [Path(prefix).resolve() for prefix in {sys.prefix, sys.base_prefix}]
    prefixes = [prefix for prefix in prefixes if not _is_within(root, prefix)]  # a project can lie in /usr/local
    roots = []
    for folder in (Path(entry).resolve() for entry in path):
        holds = file is not None and _is_within(file, folder)
        own = _is_within(folder, root) or holds or folder in given or _is_beside(folder, root)
        if own and not _is_library(folder) and not any(_is_within(folder, prefix) for prefix in prefixes):
            roots.append(folder)
    return tuple(dict.fromkeys([*roots, *([file.parent] if file else [])]))


def is_installed(folder: Path) -> bool:
    """Return whether a folder on ``sys.path`` is one of Python's own, or of installed packages."""
    return _is_library(folder) or folder in _of_installed_packages()


def _is_library(folder: Path) -> bool:
    if "site-packages" in folder.parts or "dist-packages" in folder.parts:
        return True
    return any(_is_within(folder, Path(sysconfig.get_path(name))) for name in ("stdlib", "platstdlib", "scripts"))


def _is_beside(folder: Path, root: Path) -> bool:
    """Return whether a folder lies beside the project's, and no installed package has put it on ``sys.path``."""
    return folder.parent == root.parent and folder not in _of_installed_packages()


@functools.cache
def _of_installed_packages() -> frozenset[Path]:
    """Return the folders that installed packages put on ``sys.path``, as those do that were installed as editable."""
    files = [file for folder in sys.path if _is_library(Path(folder)) for file in Path(folder).glob("*.pth")]
    lines = [line.strip() for file in files for line in file.read_text("utf-8", errors="replace").splitlines()]
    return frozenset(Path(line).resolve() for line in lines if line and not line.startswith(("#", "import ")))


def file_of(module: str, roots: Sequence[Path]) -> Path | None:
    """Return the file that a module's name stands for below the import roots, or None."""
    found = list(_files_of(module, roots))
    if found and dotted_name(found[-1][1]) == module:
        return found[-1][0]
    return None


def _is_within(path: Path, folder: Path) -> bool:
    return path == folder or folder in path.parents


def _files_of(name: str, roots: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Yield the files that importing a dotted name would run, with their paths below the import root."""
    parts = name.split(".")
    folders = list(roots)
    for depth, part in enumerate(parts, 1):
        file, folders = _found_in(folders, part)
        if file is not None:
            entry = "/".join(parts[:depth])
            yield file, f"{entry}/__init__.py" if file.name == "__init__.py" else f"{entry}.py"
        if not folders:
            return


def _found_in(folders: Iterable[Path], part: str) -> tuple[Path | None, list[Path]]:
    """Return the file of a module or package, and the folders in which its own modules lie, as Python finds them.

    A package without ``__init__.py`` (PEP 420) is spread over all folders of its name, unless one is a module.
    """
    portions = []
    for folder in folders:
        for candidate in (folder / part / "__init__.py", folder / f"{part}.py"):
            if part and candidate.is_file():
                return candidate, [candidate.parent] if candidate.parent != folder else []
        if part and (folder / part).is_dir():
            portions.append(folder / part)
    return None, portions


def _modules_in(package: str, roots: Sequence[Path]) -> Iterator[str]:
    """Yield the names of the modules and packages directly in a package."""
    folders = list(roots)
    for part in package.split("."):
        _, folders = _found_in(folders, part)
    for entry in (entry for folder in folders for entry in folder.iterdir()):
        if (entry.suffix == ".py" and entry.stem != "__init__") or (entry / "__init__.py").is_file():
            yield entry.stem


def _exported(path: Path) -> list[str]:
    """Return the names in a module's ``__all__``: of a package, ``from … import *`` imports those that are modules."""
    try:
        statements = module_file(str(path)).statements
        return [
            str(name)
            for node in statements
            if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "__all__" for target in node.targets)
            for name in ast.literal_eval(node.value)
        ]
    except (CallError, OSError, SyntaxError, ValueError, TypeError):
        return []  # it is not written out, or importing it fails
