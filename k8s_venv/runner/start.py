"""The archive's ``__main__``: make the runner's modules importable from memory, and run it.

To read each module from a zip takes longer than to run it, and a function may remove the archive. So the archive holds
them once more in one piece: as bytecode where the environment has the sender's version of Python, else as source.
"""

from __future__ import annotations

import marshal
import os
import sys
import zlib
from _frozen_importlib_external import MAGIC_NUMBER, spec_from_file_location
from zipimport import zipimporter

TYPE_CHECKING = False  # `typing` itself is imported by no call that can do without
if TYPE_CHECKING:
    from types import CodeType, ModuleType
    from typing import Any, Dict, Optional, Tuple


class Bundle:
    """Loads modules from memory, as a finder on ``sys.meta_path``.

    Args:
        archive: loads what is not among them.
        modules: each module's path inside the archive and its source or bytecode, compressed, by its name.
        compiled: whether it is bytecode.
    """

    def __init__(self, archive: zipimporter, modules: Dict[str, Tuple[str, bytes]], *, compiled: bool) -> None:
        self._archive = archive
        self._modules = modules
        self._compiled = compiled

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return a module's spec, if it is among them."""
        if name not in self._modules:
            return None
        place = self._place(name)
        loader: Any = self
        inside = [os.path.dirname(place)] if place.endswith("__init__.py") else None
        return spec_from_file_location(name, place, loader=loader, submodule_search_locations=inside)

    def create_module(self, spec: Any) -> Optional[ModuleType]:
        """Leave it to Python to make the module."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Run a module."""
        exec(self.get_code(module.__name__), module.__dict__)  # noqa: S102 -- this is what importing means

    def get_code(self, name: str) -> CodeType:
        """Return a module's code."""
        content = zlib.decompress(self._modules[name][1])
        if self._compiled:
            return marshal.loads(content)  # type: ignore[no-any-return]  # noqa: S302 -- as all bytecode is loaded
        return compile(content, self._place(name), "exec", dont_inherit=True)

    def get_source(self, name: str) -> Optional[str]:
        """Return a module's source."""
        return self._archive.get_source(name)

    def _place(self, name: str) -> str:
        return os.path.join(self._archive.archive, self._modules[name][0])


if __name__ == "__main__":
    archive = os.path.abspath(sys.argv[0])  # the function may change the directory
    sys.path[:] = [archive, *(entry for entry in sys.path if entry != sys.argv[0])]
    loader = zipimporter(archive)
    magic, modules = marshal.loads(loader.get_data("runner.bin"))  # noqa: S302
    if magic in (b"", MAGIC_NUMBER):
        sys.meta_path.insert(0, Bundle(loader, modules, compiled=bool(magic)))
    from k8s_venv.runner.main import main

    sys.exit(main(archive, sys.argv[1:]))
