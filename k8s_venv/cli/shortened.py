"""Values as commands show them: short, and without secrets."""

from __future__ import annotations

import re
import reprlib
from typing import TYPE_CHECKING, Any

from k8s_venv.errors import masked

if TYPE_CHECKING:
    from collections.abc import Callable

_PLAIN_MODULES = {"builtins", "datetime", "decimal", "uuid", "pathlib"}
_SECRET_NAME = re.compile(r"(?i)pass|secret|token|api_?key|credential|private|conn|dsn")


def has_secret_name(name: str) -> bool:
    """Return whether a name is one of those that hold secrets.

    Args:
        name: of a variable, an argument or a key.
    """
    return _SECRET_NAME.search(name) is not None


class Shortened(reprlib.Repr):
    """Shortens values, and shows neither secrets nor the texts of objects, which may hold some.

    Args:
        is_secret: returns whether a name is one of those that hold secrets.
    """

    def __init__(self, is_secret: Callable[[str], bool] | None = None) -> None:
        super().__init__()
        self._is_secret = is_secret or has_secret_name
        self.maxstring = self.maxother = 60
        self.maxlevel = 3
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdeque = 6

    def repr_str(self, x: str, level: int) -> str:
        """Return a text, shortened."""
        return super().repr_str(masked(x), level)

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        """Return a dictionary, shortened."""
        shown = {key: "***" if isinstance(key, str) and self._is_secret(key) else value for key, value in x.items()}
        return super().repr_dict(shown, level)

    def repr_instance(self, x: Any, level: int) -> str:
        """Return a object, shortened."""
        kind = type(x)
        return super().repr_instance(x, level) if kind.__module__ in _PLAIN_MODULES else f"<{kind.__qualname__}>"
