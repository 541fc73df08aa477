"""What the runner needs of its process after the function, put back after what the function did to it."""

from __future__ import annotations

import builtins
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_FINDING = ("meta_path", "path", "path_hooks")
_LIMITS = ("RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_NOFILE")


class Preserved:
    """Gives back, after a ``with`` block, the modules, how more are found, the built-in names, and limits.

    What the block added stays, behind what was there before.
    """

    def __enter__(self) -> None:
        self._names, self._modules, self._sys = vars(builtins), sys.modules, vars(sys)
        self._kept_names, self._kept_modules = dict(self._names), dict(self._modules)
        self._finding = {name: list(self._sys[name]) for name in _FINDING}
        self._importers = dict(sys.path_importer_cache)
        self._recursion_limit = sys.getrecursionlimit()
        self._umask = os.umask(0)
        os.umask(self._umask)

    def __exit__(self, *error: object) -> None:
        self._names.update(self._kept_names)  # first: what follows uses some of them
        sys.setrecursionlimit(max(self._recursion_limit, sys.getrecursionlimit()))
        self._modules.update(self._sys.get("modules", {}))
        self._modules.update(self._kept_modules)
        sys.modules = self._modules
        for name, kept in self._finding.items():
            found = self._sys.get(name)
            added = [entry for entry in found if entry not in kept] if isinstance(found, list) else []
            self._sys[name] = kept + added
        sys.path_importer_cache = self._importers
        os.umask(self._umask)
        _lift_soft_limits()


def _lift_soft_limits() -> None:
    """Let the runner have the memory, files and time that the function denied itself."""
    resource: Any = sys.modules.get("resource")
    if resource is None:  # then nobody has set any
        return
    for limit in (getattr(resource, name) for name in _LIMITS):
        most = resource.getrlimit(limit)[1]
        try:
            resource.setrlimit(limit, (most, most))
        except (OSError, ValueError):  # the system denies it
            continue
