"""Where a module comes from decides how it travels.

* *installed*: the standard library and packages of the environment; imported there by name;
* *beside*: a file of the project that can be imported by its own name; it travels whole;
* *sliced*: the file of the function itself, and what no name imports: DAG files, scripts, notebooks.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from k8s_venv.capture.beside import file_of, import_roots
from k8s_venv.wire.protocol import MAIN

if TYPE_CHECKING:
    from collections.abc import Collection
    from types import FunctionType

_OWN_FOLDER = f"{Path(__file__).parents[1]}/"


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
        self._sliced.setdefault(name, function.__globals__)
        return name

    def slice_class(self, module: str, names: dict[str, Any]) -> None:
        """Let the module of a class that is called travel as slices, with its names as the class knows them."""
        self._sliced.setdefault(module, names)

    def keep_whole(self, module: str) -> None:
        """Let a module travel as a whole file, because others of the project import it."""
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
        if module in self._sliced or module == "__main__":  # of `python -m app`, whose file has that very name
            return False
        path = getattr(sys.modules.get(module), "__file__", None)
        if not path or is_installed(module):
            return False
        found = file_of(module, import_roots(Path(path), self._root))
        return found is not None and found.resolve() == Path(path).resolve()

    def namespace(self, module: str) -> dict[str, Any]:
        """Return the names of a module."""
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


def is_installed(module: str) -> bool:
    """Return whether a loaded module is part of Python or of an installed package."""
    if module == "__main__":
        return False
    found = sys.modules.get(module)
    path = getattr(found, "__file__", None)
    if path is None:
        # Built into the interpreter; or made at run time, and then by nothing that an import would find.
        return getattr(found, "__spec__", None) is not None or module.partition(".")[0] in sys.stdlib_module_names
    return is_installed_file(path)


def is_importable(module: ModuleType) -> bool:
    """Return whether importing a module by its name finds it, as nothing does that was made at run time."""
    name = module.__name__
    if sys.modules.get(name) is not module:
        return name in sys.modules and is_installed(name)
    if getattr(module, "__file__", None) or module.__spec__ is not None or name == "__main__":
        return True
    parent = name.rpartition(".")[0]  # packages have such modules, as `six.moves` is one
    return name.partition(".")[0] in sys.stdlib_module_names or (parent in sys.modules and is_installed(parent))


def is_installed_file(path: str) -> bool:
    """Return whether a file belongs to Python or to an installed package."""
    parts = Path(path).parts
    if "site-packages" in parts or "dist-packages" in parts or path.endswith((".so", ".pyd")):
        return True
    # Of this package every archive has its own part, wherever the sender's is.
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


def is_available(value: Any, packages: Collection[str]) -> bool:
    """Return whether a value is of Python's own modules, of the project, or of certain installed packages.

    Args:
        value: the value.
        packages: the packages.
    """
    module = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", type(value).__module__)
    root = str(module).partition(".")[0]
    return root in sys.stdlib_module_names or root in packages or not is_installed(str(module))


def sent_name(module: str) -> str:
    """Return a module's name in the environment, where the runner is the process's ``__main__``."""
    return MAIN if module == "__main__" else module
