"""The modules that an environment can import, by the files of its locked packages; names are never guessed."""

from __future__ import annotations

import functools
import importlib.metadata
import re
import sys
from typing import TYPE_CHECKING

from stdlib_list import in_stdlib

from k8s_venv import cache
from k8s_venv.errors import LockError, did_you_mean
from k8s_venv.locks import uv
from k8s_venv.locks.resolving import uv_platform

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from k8s_venv.config.environment import Environment
    from k8s_venv.locks.lockfile import Lock

_NAMESPACE_DEPTH = 3
# Raised whenever the same lock would be listed in another way.
_LISTING = 2
# In the own module of a package that shares its name with others (before PEP 420).
_SHARES_ITS_NAME = re.compile(rb"\b(extend_path|declare_namespace)\b")


class Provided:
    """The modules that one environment provides.

    Args:
        python: its minor version.
        modules: the packages and modules in its locked packages; of namespace packages their parts, with
            ``NAME.__init__`` if one has a module of its own (``pkgutil.extend_path``).
        more: whether it has other modules as well, which cannot be known here.
    """

    def __init__(self, python: str, modules: frozenset[str], *, more: bool = False) -> None:
        self._python = python
        self._modules = modules
        self._more = more

    def lacks(self, module: str, names: Iterable[str] = ()) -> list[str]:
        """Return the modules that an import lacks: the module, or modules that it takes from a namespace package.

        Args:
            module: its full name.
            names: the names after ``from … import``.
        """
        if not self.has(module):
            return [module]
        if not self._is_namespace(module):
            return []
        return [f"{module}.{name}" for name in names if name != "*" and not self.has(f"{module}.{name}")]

    def has(self, module: str) -> bool:
        """Return whether a module can be imported.

        Args:
            module: its full name.
        """
        parts = module.split(".")
        if self._more or _is_standard(parts[0], self._python):
            return True
        prefixes = {".".join(parts[:length]) for length in range(1, len(parts) + 1)}
        return bool(prefixes & self._modules) or self._has_parts(module)

    def nearest(self, module: str) -> str:
        """Return `` Did you mean 'x'?`` where a module's name is a misspelling, else nothing.

        Args:
            module: the name.
        """
        return did_you_mean(module, self._modules)

    def _has_parts(self, module: str) -> bool:
        return any(name.startswith(f"{module}.") for name in self._modules)

    def _is_namespace(self, module: str) -> bool:
        """Return whether it is a package without a module of its own (PEP 420)."""
        own = {module, f"{module}.__init__"} & self._modules
        return not own and self._has_parts(module)


def provided_by(environment: Environment, lock: Lock) -> Provided:
    """Return the modules that an environment provides; the files of each lock's packages are listed once.

    Args:
        environment: the environment.
        lock: its lock.

    Raises:
        LockError: the locked packages cannot be downloaded.
    """
    note = cache.note_path("modules", f"{lock.digest}-{_LISTING}")
    modules = cache.read_document(note)
    if modules is None:
        with cache.exclusive_lock(cache.lock_beside(note)):
            modules = cache.read_document(note)  # another process may have made it
            if modules is None:
                with cache.install_folder(f"modules-{lock.digest}") as folder:
                    modules = sorted(_list(environment, lock, folder))
                cache.write_note(note, modules)
    cache.mark_used(note)
    return Provided(environment.python, frozenset(modules), more=environment.system_site_packages)


@functools.cache
def providers(module: str, names: tuple[str, ...] = ()) -> list[str]:
    """Return the packages installed here that have a module, as a hint.

    A package that shares only the beginning of the name, as all of ``google.cloud`` do, is not one of them.

    Args:
        module: its full name.
        names: the names after ``from … import``; in a namespace package these are modules too.
    """
    top = module.partition(".")[0]
    sharing = set(importlib.metadata.packages_distributions().get(top, ()))
    modules = {package: _installed_modules(package) for package in sharing}
    inside = {f"{module}.{name}" for name in names}
    # Last a module without a folder, to whose name no other package can add: `six` makes `six.moves` when it runs.
    for wanted in ({module, f"{module}.__init__"}, inside | {f"{each}.__init__" for each in inside}, {top}):
        if having := sorted(package for package, found in modules.items() if wanted & found):
            return having
    return []


def _installed_modules(package: str) -> set[str]:
    """Return the modules of an installed package; of a folder with a module of its own, ``NAME.__init__``."""
    files = importlib.metadata.files(package) or ()
    return {
        ".".join((*file.parts[:-1], file.name.partition(".")[0])) for file in files if file.suffix in (".py", ".so")
    }


def _list(environment: Environment, lock: Lock, folder: Path) -> set[str]:
    if not lock.packages:
        return set()
    try:
        uv.run(
            [
                *("pip", "install", "--target", str(folder), "--no-deps", "--require-hashes"),
                *("--python", sys.executable, "--python-version", environment.python),
                *("--python-platform", uv_platform(environment.image_platforms[0]), "--requirements", str(lock.path)),
            ],
            indexes=lock.indexes,
        )
    except uv.UvError as error:
        raise LockError(environment.name, f"its locked packages cannot be had.\n{error.output}") from None
    return set(_modules_in(folder, ""))


def _modules_in(folder: Path, prefix: str) -> Iterator[str]:
    for entry in folder.iterdir():
        name = prefix + entry.name.partition(".")[0]
        if entry.is_dir() and entry.name.isidentifier():
            module = entry / "__init__.py"
            shares = module.is_file() and _SHARES_ITS_NAME.search(module.read_bytes()) is not None
            if (module.is_file() and not shares) or name.count(".") >= _NAMESPACE_DEPTH:
                yield name
            else:
                yield from [f"{name}.__init__"] if shares else ()
                yield from _modules_in(entry, f"{name}.")
        elif entry.suffix in (".py", ".so") and entry.name.partition(".")[0].isidentifier():
            yield name


def _is_standard(top: str, python: str) -> bool:
    if python == "{}.{}".format(*sys.version_info):
        return top in sys.stdlib_module_names
    try:
        return bool(in_stdlib(top, python))
    except ValueError:  # a version that the list does not have yet
        return top in sys.stdlib_module_names
