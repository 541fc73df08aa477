"""Attributes of a class that are no longer what its body made them: registries, counters, what is made once."""

from __future__ import annotations

import ast
import enum
from collections import Counter, OrderedDict, defaultdict, deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_KINDS: tuple[type, ...] = (list, dict, set, Counter, OrderedDict, defaultdict, deque)
_NAMES = {kind.__name__ for kind in _KINDS}


def changed_attributes(kind: type, definition: ast.ClassDef) -> Iterator[tuple[str, Any]]:
    """Yield the attributes that were changed after a class was made, even where no statement says so.

    Only what a body makes of constants, and containers that it makes empty, can be told from what is there now.

    Args:
        kind: the class.
        definition: where it is defined.
    """
    if isinstance(kind, enum.EnumMeta):
        return
    for part in definition.body:
        if not isinstance(part, ast.Assign | ast.AnnAssign) or part.value is None:
            continue
        for target in part.targets if isinstance(part, ast.Assign) else [part.target]:
            name = _mangled(getattr(target, "id", "__"), kind)
            if not name.startswith("__") and name in vars(kind) and _has_changed(part.value, vars(kind)[name]):
                yield name, vars(kind)[name]


def _mangled(name: str, kind: type) -> str:
    is_private = name.startswith("__") and not name.endswith("__")
    return f"_{kind.__name__.lstrip('_')}{name}" if is_private else name


def _has_changed(written: ast.expr, value: Any) -> bool:
    if isinstance(written, ast.Constant):
        if written.value is None:
            return value is not None
        return type(value) is type(written.value) and value != written.value
    if type(value) not in _KINDS:
        return False
    if isinstance(written, ast.Call):  # `dict()`, `defaultdict(list)`
        called = getattr(written.func, "attr", getattr(written.func, "id", ""))
        return bool(value) and called in _NAMES and (not written.args or called == "defaultdict")
    try:
        return bool(value != ast.literal_eval(written))
    except ValueError:
        return False
