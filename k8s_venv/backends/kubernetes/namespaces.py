"""The namespace of pods whose options name none, and where it comes from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubernetes.config import list_kube_config_contexts
from kubernetes.config.kube_config import KubeConfigLoader

if TYPE_CHECKING:
    from collections.abc import Mapping

_OWN = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclasses.dataclass(frozen=True)
class Namespace:
    """A namespace.

    Args:
        name: its name.
        origin: what names it, for messages.
    """

    name: str
    origin: str


def own_namespace() -> Namespace | None:
    """Return the namespace of the pod in which this process runs, if it runs in one."""
    return Namespace(_OWN.read_text("utf-8").strip(), "that of this very pod") if _OWN.is_file() else None


def context_namespace(config: str | Mapping[str, Any] | None, context: str | None) -> Namespace:
    """Return the namespace of a kubeconfig's context.

    Args:
        config: the kubeconfig's path, or its content; by default the one that KUBECONFIG or the home folder has.
        context: the context's name; by default the current one.

    Raises:
        ConfigException: there is no such kubeconfig, or it has no such context.
    """
    if config is None or isinstance(config, str):
        contexts, active = list_kube_config_contexts(config)
        chosen: Mapping[str, Any] = next((each for each in contexts if each["name"] == context), active)
    else:
        chosen = KubeConfigLoader(config, active_context=context).current_context
    name = chosen["context"].get("namespace")
    if name:
        return Namespace(name, f"from the context {chosen['name']!r} of the kubeconfig")
    return Namespace("default", f"the context {chosen['name']!r} of the kubeconfig names none")
