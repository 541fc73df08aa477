"""Third-party libraries, imported when a value needs them."""

from __future__ import annotations

import importlib

from k8s_venv.wire.errors import MissingLibraryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Tuple


def library(name: str, *alternatives: str) -> Any:
    """Import a library by name, or the first of its alternatives.

    Raises:
        MissingLibraryError: none of them can be imported; the reason is its cause.
    """
    candidates = (name, *alternatives)
    for candidate in candidates:
        try:
            return importlib.import_module(candidate)
        except ImportError as error:
            reason = error
    raise MissingLibraryError(candidates[-1]) from reason


def version(module: Any) -> Tuple[int, int]:
    """Return a library's major and minor version."""
    major, minor = module.__version__.split(".")[:2]
    return int(major), int(minor)
