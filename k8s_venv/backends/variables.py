"""The option ``env_vars`` where there is no Kubernetes: plain names and values."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from k8s_venv.errors import BackendError

if TYPE_CHECKING:
    from k8s_venv.config.environment import Environment

_NAME = re.compile(r"[^=\0]+")


def plain_variables(environment: Environment, given: Any, backend: str) -> dict[str, str]:
    """Return the variables of a call's process that its task, or its environment, names.

    Args:
        environment: whose call it is.
        given: the option ``env_vars``, in any of the forms that ``KubernetesPodOperator`` takes.
        backend: where it runs, for messages.

    Raises:
        BackendError: a variable takes its value from Kubernetes, or cannot be one.
    """
    found: dict[str, str] = {}
    for name, value in _pairs(environment, given, backend):
        if not _NAME.fullmatch(name) or "\0" in value:
            raise BackendError(environment.name, f"`env_vars` has {name!r}, which cannot be a variable of a process.")
        found[name] = value
    return found


def _pairs(environment: Environment, given: Any, backend: str) -> list[tuple[str, str]]:
    if not given:
        return []
    if hasattr(given, "items"):
        return [(str(name), _text(value)) for name, value in given.items()]
    pairs = []
    for variable in given:
        name = str(_field(variable, "name"))
        if _field(variable, "valueFrom") is not None or _field(variable, "value_from") is not None:
            raise BackendError(
                environment.name,
                f"its variable {name!r} in `env_vars` takes its value from Kubernetes, which the {backend} backend has "
                "not. Give it a value.",
            )
        pairs.append((name, _text(_field(variable, "value"))))
    return pairs


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _field(value: Any, name: str) -> Any:
    return value.get(name) if hasattr(value, "get") else getattr(value, name, None)
