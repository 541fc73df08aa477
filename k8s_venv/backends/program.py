"""A program that runs in an environment in place of a call."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from k8s_venv.config.environment import Environment


@dataclasses.dataclass(frozen=True)
class Program:
    """A program to run.

    Args:
        environment: where it runs.
        command: its name or path, and its arguments.
        extra: requirements of packages that are added for this run alone.
        variables: variables that it gets; they may be secrets, so they stand in no pod.
    """

    environment: Environment
    command: tuple[str, ...]
    extra: tuple[str, ...] = ()
    variables: Mapping[str, str] = dataclasses.field(default_factory=dict)
