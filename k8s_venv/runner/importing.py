"""Act when a module is first imported: what most calls never import, no call waits for."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any, Callable, Dict, List, Optional

    After = Callable[[ModuleType], None]


class Imports:
    """Calls functions before and after certain modules are imported, as a finder on ``sys.meta_path``."""

    def __init__(self) -> None:
        self._before: Dict[str, Callable[[], Optional[After]]] = {}
        self._after: Dict[str, List[After]] = {}

    def before(self, name: str, prepare: Callable[[], Optional[After]]) -> None:
        """Call a function before a module is imported.

        Args:
            name: the module's name.
            prepare: is called once; it may return what is then called with the module after its import.
        """
        self._before[name] = prepare

    def after(self, name: str, change: After) -> None:
        """Call a function with a module once that is imported, which may be now.

        Args:
            name: the module's name.
            change: is called once.
        """
        if name in sys.modules:
            change(sys.modules[name])
        else:
            self._after.setdefault(name, []).append(change)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return the spec that others find for a module, if anything waits for that."""
        prepare = self._before.pop(name, None)
        prepared = prepare() if prepare is not None else None
        if prepared is not None:
            self.after(name, prepared)
        if name not in self._after:
            return None
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, found), None)
        if spec is not None and spec.loader is not None:
            telling: Any = _Telling(spec.loader, self._tell)
            spec.loader = telling
        return spec

    def _tell(self, module: ModuleType) -> None:
        for change in self._after.pop(module.__name__, ()):  # of a second spec nothing is left
            change(module)


class _Telling:
    """Stands in for a module's loader, until the module is loaded."""

    def __init__(self, loader: Any, tell: After) -> None:
        self._loader = loader
        self._tell = tell

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._tell(module)
