"""Files of the project that have the name of a module of Python's own: in an environment, the name means that one."""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def shadowing(beside: Mapping[str, Path]) -> dict[str, Path]:
    """Return the files that stand for a name of Python's own on this side, by that name.

    A script's folder comes before Python's own; that of a DAG file comes after it, so that nothing is hidden.

    Args:
        beside: the project's files, by their paths below the import root.
    """
    tops = {entry.removesuffix("/__init__.py").removesuffix(".py"): path for entry, path in beside.items()}
    return {name: path for name, path in tops.items() if name in sys.stdlib_module_names and _is_here(name, path)}


def _is_here(name: str, path: Path) -> bool:
    """Return whether importing a name on this side gives a file."""
    if name in sys.modules:
        found = getattr(sys.modules[name], "__file__", None)
    else:
        spec = None if name in sys.builtin_module_names else PathFinder.find_spec(name)
        found = spec.origin if spec else None
    return found is not None and Path(found).resolve() == path.resolve()
