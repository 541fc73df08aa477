"""Which modules an environment can import: by the files of its locked packages, never by a guess from names."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock
from stdlib_list import in_stdlib

from k8s_venv import uv
from k8s_venv.errors import LockError
from k8s_venv.locks.requirements import index_settings
from k8s_venv.locks.resolving import uv_platform

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k8s_venv.environment import Environment
    from k8s_venv.locks.lockfile import Lock

_NAMESPACE_DEPTH = 3


class Provided:
    """What one environment provides.

    Args:
        python: its minor version.
        modules: the packages and modules in its locked packages; of namespace packages (PEP 420) their parts.
        more: whether it sees others as well, which nobody can tell from here.
    """

    def __init__(self, python: str, modules: frozenset[str], *, more: bool = False) -> None:
        self._python = python
        self._modules = modules
        self._more = more

    def has(self, module: str) -> bool:
        """Tell whether a module can be imported.

        Args:
            module: its full name.
        """
        parts = module.split(".")
        if self._more or _is_standard(parts[0], self._python):
            return True
        prefixes = {".".join(parts[:length]) for length in range(1, len(parts) + 1)}
        return bool(prefixes & self._modules) or any(name.startswith(f"{module}.") for name in self._modules)


def provided_by(environment: Environment, lock: Lock) -> Provided:
    """Return what an environment provides.

    The locked packages' files are listed once for each lock; uv keeps the packages for later.

    Args:
        environment: which one.
        lock: its lock.

    Raises:
        LockError: the locked packages cannot be had.
    """
    path = uv.require_cache() / "modules" / f"{lock.digest}.json"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"), tempfile.TemporaryDirectory(dir=path.parent) as folder:
            if not path.is_file():
                listed = Path(folder) / "listed.json"
                listed.write_text(json.dumps(sorted(_list(environment, lock, Path(folder) / "packages"))))
                shutil.move(listed, path)
    modules = frozenset(json.loads(path.read_text("utf-8")))
    return Provided(environment.python, modules, more=environment.system_site_packages)


@functools.cache
def providers(module: str) -> list[str]:
    """Return the packages that provide a module among those installed here, as a hint.

    Args:
        module: its full name.
    """
    found = set(importlib.metadata.packages_distributions().get(module.partition(".")[0], ()))
    if len(found) > 1:  # they share a namespace
        path = module.replace(".", "/")
        own = {f"{path}.py", f"{path}/__init__.py"}
        having = {name for name in found if own & set(map(str, importlib.metadata.files(name) or ()))}
        found = having or found
    return sorted(found)


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
            indexes=index_settings(environment),
        )
    except uv.UvError as error:
        raise LockError(environment.name, f"its locked packages cannot be had.\n{error.output}") from None
    return set(_modules_in(folder, ""))


def _modules_in(folder: Path, prefix: str) -> Iterator[str]:
    for entry in folder.iterdir():
        name = prefix + entry.name.partition(".")[0]
        if entry.is_dir() and entry.name.isidentifier():
            if (entry / "__init__.py").is_file() or name.count(".") >= _NAMESPACE_DEPTH:
                yield name
            else:
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
