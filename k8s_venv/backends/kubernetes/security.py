"""Security contexts that the ``restricted`` Pod Security Standard admits, under what a user says.

Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from kubernetes.client import ApiClient
from kubernetes.client import models as k8s

from k8s_venv.errors import K8sVenvError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

_POD = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
_CONTAINER = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def pod_security(*given: Any) -> k8s.V1PodSecurityContext:
    """Return a pod's security context: ours, and over it what was given, key by key.

    Args:
        given: security contexts as objects or dictionaries, or None; later ones win. ``None`` as a dictionary's value
            takes a default away.

    Raises:
        K8sVenvError: there is no such key.
    """
    return _merged(k8s.V1PodSecurityContext, "security_context", _POD, given)


def container_security(*given: Any) -> k8s.V1SecurityContext:
    """Return a container's security context: ours, and over it what was given; see ``pod_security``."""
    return _merged(k8s.V1SecurityContext, "container_security_context", _CONTAINER, given)


def _merged(kind: type, option: str, default: Mapping[str, Any], given: tuple[Any, ...]) -> Any:
    client = ApiClient()
    said: dict[str, Any] = {}
    for context in given:
        said = _over(said, client.sanitize_for_serialization(context) or {})
    known = sorted(kind.attribute_map.values())  # type: ignore[attr-defined]  # the client's models have it
    for key in said:
        if key not in known:
            raise K8sVenvError(f"{option} has no key {key!r}.{did_you_mean(key, known)} It takes {', '.join(known)}.")
    context = _without_nulls(_over(_fitting(default, said), said))
    return client.deserialize(SimpleNamespace(data=json.dumps(context)), kind.__name__)


def _fitting(default: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults that do not contradict what somebody said, which Kubernetes would refuse."""
    fitting = dict(default)
    if said.get("runAsUser") == 0:
        fitting["runAsNonRoot"] = False
    if said.get("privileged") or "SYS_ADMIN" in ((said.get("capabilities") or {}).get("add") or ()):
        fitting.pop("allowPrivilegeEscalation", None)
    return fitting


def _over(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        merged[key] = _over(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _without_nulls(context: Mapping[str, Any]) -> dict[str, Any]:
    plain = {key: _without_nulls(value) if isinstance(value, dict) else value for key, value in context.items()}
    return {key: value for key, value in plain.items() if value is not None}
