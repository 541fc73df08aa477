"""What a value needs to be built elsewhere, while it is being collected."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from k8s_venv.capture.imports import Import


@dataclasses.dataclass(frozen=True)
class Build:
    """Stands for a method of the runner's half, ``wire.restoring.Builder``."""

    name: str

    def __call__(self) -> None:
        """Be callable, as pickle wants it."""


@dataclasses.dataclass(frozen=True)
class Attribute:
    """Stands for an attribute of a class, which is set there.

    Args:
        kind: the class.
        name: the attribute's name.
        value: its value.
    """

    kind: type
    name: str
    value: Any


class StateError(Exception):
    """A value that cannot travel as one.

    Args:
        problem: what is in the way, to be put after "it".
    """

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


@dataclasses.dataclass
class Parts:
    """What a pickled value needs besides its bytes.

    Args:
        data: the pickle.
        coded: the values that it refers to by number and that codecs carry.
        sources: the functions and classes without a name in their module, as slices.
        defined_in: the modules of these.
        imports: the imports in them.
        globals: the names of sliced modules that it refers to, with their modules.
        modules: the other modules that it imports from.
        calls_own: restoring it calls functions of sliced modules (``__reduce__``), which need their names by then.
    """

    data: bytes = b""
    coded: list[Any] = dataclasses.field(default_factory=list)
    sources: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    defined_in: set[str] = dataclasses.field(default_factory=set)
    imports: list[Import] = dataclasses.field(default_factory=list)
    globals: set[tuple[str, str]] = dataclasses.field(default_factory=set)
    modules: set[str] = dataclasses.field(default_factory=set)
    calls_own: bool = False
