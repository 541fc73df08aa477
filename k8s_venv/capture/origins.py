"""Where a module comes from decides how it travels.

* *installed*: the standard library and packages of the environment; imported there by name;
* *beside*: a file of the project that can be imported by its own name; it travels whole;
* *sliced*: the file of the function itself, and what no name imports: DAG files, scripts, notebooks.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.metadata
import json
import os
import sys
import sysconfig
from importlib.machinery import EXTENSION_SUFFIXES, PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from k8s_venv.capture.module_source import module_file
from k8s_venv.errors import CallError
from k8s_venv.wire.protocol import MAIN

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from types import FunctionType

_OWN_FOLDER = f"{Path(__file__).parents[1]}/"
# Folders beside those of the project that hold its code as well, such as Airflow's folder of plugins.
code_folders: set[str] = set()
_MAKING_NAMES = ("__getattr__", "exec(", "globals()", "import *", "setattr", "sys.modules", "vars(", "__path__")
_ADDING = {"append", "insert", "extend", "addsitedir"}


class Origins:
    """The origins of modules, as one function sees them.

    Args:
        root: the project's folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._sliced: dict[str, dict[str, Any]] = {}
        self._whole: set[str] = set()

    def slice(self, function: FunctionType) -> str:
        """Let the module of a function travel as slices and return its name."""
        name = str(function.__globals__.get("__name__") or "__main__")
        self.slice_module(name, function.__globals__)
        return name

    def slice_module(self, module: str, names: dict[str, Any]) -> None:
        """Let a module travel as slices, with the namespace of the class that is called."""
        self._sliced.setdefault(module, names)

    def keep_whole(self, module: str) -> None:
        """Let a module travel as a whole file, because other modules of the project import it."""
        self._sliced.pop(module, None)
        self._whole.add(module)

    def is_sliced(self, module: str) -> bool:
        """Return whether a module travels as slices."""
        if module in self._sliced:
            return True
        if module not in sys.modules or module in self._whole or is_installed(module) or self.is_beside(module):
            return False
        self._sliced[module] = sys.modules[module].__dict__
        return True

    def is_beside(self, module: str) -> bool:
        """Return whether a module travels as a whole file."""
        if module in self._sliced or module == "__main__":  # `python -m __main__` has a file of that name
            return False
        path = getattr(sys.modules.get(module), "__file__", None)
        if not path or is_installed(module):
            return False
        found = file_of(module, import_roots(Path(path), self._root))
        return found is not None and found.resolve() == Path(path).resolve()

    def namespace(self, module: str) -> dict[str, Any]:
        """Return the namespace of a module."""
        if module in self._sliced:
            return self._sliced[module]
        return getattr(sys.modules.get(module), "__dict__", {})

    def resolve(self, module: str, qualname: str) -> Any:
        """Return the object that a qualified name stands for in a module, or None."""
        first, *parts = qualname.split(".")
        found = self.namespace(module).get(first)
        for part in parts:
            found = getattr(found, part, None)
        return found

    def importable(self, value: Any) -> str | None:
        """Return the module from which a function or class can be imported by its name, or None."""
        module = getattr(value, "__module__", None)
        if not module or self.is_sliced(module) or self.resolve(module, value.__qualname__) is not value:
            return None
        return str(module)


def sent_name(module: str) -> str:
    """Return a module's name in the environment, where the runner is the process's ``__main__``."""
    return MAIN if module == "__main__" else module


def is_available(value: Any, packages: Collection[str]) -> bool:
    """Return whether a value comes from the standard library, the project, or one of certain installed packages."""
    module = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", type(value).__module__)
    root = str(module).partition(".")[0]
    return root in sys.stdlib_module_names or root in packages or not is_installed(str(module))


def is_installed(module: str) -> bool:
    """Return whether a loaded module is part of Python or of an installed package."""
    if module == "__main__":
        return False
    found = sys.modules.get(module)
    path = getattr(found, "__file__", None)
    if path is None:
        # It is built into the interpreter, or was made at run time, where no import finds it.
        return getattr(found, "__spec__", None) is not None or module.partition(".")[0] in sys.stdlib_module_names
    return is_installed_file(path)


def is_installed_file(path: str) -> bool:
    """Return whether a file belongs to Python or to an installed package."""
    parts = Path(path).parts
    if "site-packages" in parts or "dist-packages" in parts or path.endswith((".so", ".pyd")):
        return True
    # Every archive has its own part of this package, which may be a plain folder on the sender's side.
    return path.startswith((*_library_folders(), _OWN_FOLDER))


@functools.cache
def _library_folders() -> tuple[str, ...]:
    return tuple(f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib"))


def is_editable(path: Path) -> bool:
    """Return whether a file belongs to a package that is installed from its own folder (PEP 610)."""
    for distribution in importlib.metadata.distributions():
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        folder = unquote(urlsplit(str(origin.get("url", ""))).path)
        if origin.get("dir_info", {}).get("editable") and path.is_relative_to(folder):
            return True
    return False


def is_importable(module: ModuleType) -> bool:
    """Return whether importing a module by its name finds it; a module made at run time is not found."""
    name = module.__name__
    if sys.modules.get(name) is not module:
        return name in sys.modules and is_installed(name)
    if getattr(module, "__file__", None) or module.__spec__ is not None or name == "__main__":
        return True
    parent = name.rpartition(".")[0]  # packages have such modules, as `six.moves` is one
    return name.partition(".")[0] in sys.stdlib_module_names or (parent in sys.modules and is_installed(parent))


def modules_beside(imports: Iterable[str], file: Path | None, root: Path) -> dict[str, Path]:
    """Return the files of the project that run when names are imported.

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
        if name in seen or name.partition(".")[0] == "k8s_venv":  # every archive has its own part of this package
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
    """Yield the dotted names that a file of a package imports anywhere in it."""
    try:
        imports = module_file(str(path)).imports
    except (CallError, OSError, SyntaxError, ValueError):
        return  # importing the file raises the error
    for each in imports:
        yield from each.absolute(package).modules


def package_of(entry: str) -> str:
    """Return the package of a file by its path below the import root."""
    dotted = dotted_name(entry)
    return dotted if entry.endswith("/__init__.py") else dotted.rpartition(".")[0]


def dotted_name(entry: str) -> str:
    """Return the module's name of a file by its path below the import root."""
    return entry.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".")


def file_of(module: str, roots: Sequence[Path]) -> Path | None:
    """Return the file that a module's name stands for below the import roots, or None."""
    found = list(_files_of(module, roots))
    if found and dotted_name(found[-1][1]) == module:
        return found[-1][0]
    return None


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
    """Return the names in a module's ``__all__``, which ``from … import *`` imports if they are modules."""
    try:
        statements = module_file(str(path)).statements
        return [
            str(name)
            for node in statements
            if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "__all__" for target in node.targets)
            for name in ast.literal_eval(node.value)
        ]
    except (CallError, OSError, SyntaxError, ValueError, TypeError):
        return []  # it is computed, or importing the file raises the error


def import_roots(file: Path | None, root: Path) -> list[Path]:
    """Return the folders on ``sys.path`` that belong to a project, or hold a file of it.

    They lie in the project's folder, the root, or beside it, as Airflow's plugins lie beside its DAGs.
    """
    path = tuple(map(os.path.abspath, sys.path))
    return list(_import_roots(file.resolve() if file else None, root.resolve(), path, frozenset(code_folders)))


@functools.lru_cache(maxsize=64)
def _import_roots(
    file: Path | None, root: Path, path: tuple[str, ...], code_folders: frozenset[str]
) -> tuple[Path, ...]:
    given = {Path(folder).resolve() for folder in code_folders}
    prefixes = [Path(prefix).resolve() for prefix in {sys.prefix, sys.base_prefix}]
    prefixes = [prefix for prefix in prefixes if not root.is_relative_to(prefix)]  # a project can lie in /usr/local
    roots = []
    for folder in (Path(entry).resolve() for entry in path):
        holds = file is not None and file.is_relative_to(folder)
        lies_beside = folder.parent == root.parent and folder not in _of_installed_packages()
        own = folder.is_relative_to(root) or holds or folder in given or lies_beside
        if own and not _is_library(folder) and not any(folder.is_relative_to(prefix) for prefix in prefixes):
            roots.append(folder)
    return tuple(dict.fromkeys([*roots, *([file.parent] if file else [])]))


def _is_library(folder: Path) -> bool:
    if "site-packages" in folder.parts or "dist-packages" in folder.parts:
        return True
    return any(folder.is_relative_to(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "scripts"))


@functools.cache
def _of_installed_packages() -> frozenset[Path]:
    """Return the folders that packages installed as editable put on ``sys.path``."""
    files = [file for folder in sys.path if _is_library(Path(folder)) for file in Path(folder).glob("*.pth")]
    lines = [line.strip() for file in files for line in file.read_text("utf-8", errors="replace").splitlines()]
    return frozenset(Path(line).resolve() for line in lines if line and not line.startswith(("#", "import ")))


def why_absent(module: str, file: Path | None, root: Path) -> str | None:
    """Return why a module of this machine does not travel, and what to do, or None for a module that is not here.

    Args:
        module: its full name.
        file: the file that imports it, if it is known.
        root: the project's folder.
    """
    roots = import_roots(file, root)
    folders = [folder for folder in map(Path.resolve, map(Path, sys.path)) if not _is_library(folder)]
    everywhere = [*roots, *(folder for folder in folders if folder not in _of_installed_packages())]
    path = module.replace(".", "/")
    compiled_files = (folder / f"{path}{suffix}" for folder in everywhere for suffix in EXTENSION_SUFFIXES)
    if compiled := next(filter(Path.is_file, compiled_files), None):
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
        return f"{package} is {whole}, which is not a package."
    namespaces = (root / package.replace(".", "/") for root in roots if package)
    parent = whole.parent if whole is not None else next(filter(Path.is_dir, namespaces), None)
    return f"There is no {name}.py in {parent}." if parent is not None else None


def _where_to_put(found: Path, root: Path) -> str:
    above = Path(os.path.commonpath([found, root]))
    if len(above.parts) <= 1 or above == Path.home():
        return "Move it to the project's folder, or make a package of it and add that to the requirements."
    return f"Move the project file and the locks to {above}, so that both lie below it."


def modules_among(names: Iterable[str], package: Path | None) -> list[str]:
    """Return the names, out of those that ``from … import`` takes from a package, that can only be modules of it.

    The package is given by its file, or None for a folder without ``__init__.py``.
    """
    bound = {"*", "**", "__doc__", "__file__", "__name__", "__package__", "__path__", "__spec__"}
    if package is not None:
        text = package.read_text("utf-8", errors="replace")
        if package.name != "__init__.py" or any(word in text for word in _MAKING_NAMES):
            return []  # its names are known only when it runs
        with contextlib.suppress(CallError):  # it is empty
            bound |= module_file(str(package)).bindings.keys()
    return [name for name in names if name not in bound]


def line_of_path_change(nodes: Iterable[ast.AST]) -> int | None:
    """Return the line on which a piece of source adds a folder to ``sys.path``, or None."""
    for node in (part for each in nodes for part in ast.walk(each)):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in _ADDING:
            if ast.unparse(node.func).startswith(("sys.path.", "site.")):
                return node.lineno
        elif isinstance(node, ast.Assign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(ast.unparse(target).startswith("sys.path") for target in targets):
                return node.lineno
    return None


def shadowing(beside: Mapping[str, Path]) -> dict[str, Path]:
    """Return the project's files that hide a module of the standard library here, by the module's name.

    A script's folder comes before the standard library on ``sys.path``; that of DAG files comes after it.

    Args:
        beside: the project's files, by their paths below the import root.
    """
    files = {dotted_name(entry): path for entry, path in beside.items()}
    return {name: path for name, path in files.items() if name in sys.stdlib_module_names and _is_imported(name, path)}


def _is_imported(name: str, path: Path) -> bool:
    """Return whether importing a name here gives a file."""
    if name in sys.modules:
        found = getattr(sys.modules[name], "__file__", None)
    else:
        spec = None if name in sys.builtin_module_names else PathFinder.find_spec(name)
        found = spec.origin if spec else None
    return found is not None and Path(found).resolve() == path.resolve()
