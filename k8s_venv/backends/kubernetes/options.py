"""Pod options as people write them, in the types of the Kubernetes client; and the defaults of omitted ones."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from kubernetes.client import ApiClient
from kubernetes.client import models as k8s
from kubernetes.config import list_kube_config_contexts
from kubernetes.config.kube_config import KubeConfigLoader

from k8s_venv.backends.pod_options import variable_text
from k8s_venv.errors import K8sVenvError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# The type of each option that may be written as Kubernetes itself writes it.
_ONE = {
    "affinity": "V1Affinity",
    "container_resources": "V1ResourceRequirements",
    "dns_config": "V1PodDNSConfig",
    "full_pod_spec": "V1Pod",
}
_SEVERAL = {
    "env_from": "V1EnvFromSource",
    "env_vars": "V1EnvVar",
    "host_aliases": "V1HostAlias",
    "image_pull_secrets": "V1LocalObjectReference",
    "init_containers": "V1Container",
    "pod_runtime_info_envs": "V1EnvVar",
    "ports": "V1ContainerPort",
    "tolerations": "V1Toleration",
    "volume_mounts": "V1VolumeMount",
    "volumes": "V1Volume",
}
# What the ``restricted`` Pod Security Standard admits.
# Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/
_POD_SECURITY = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
_CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def typed(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return pod options with what is written as in Kubernetes, such as in a project file, in the client's types.

    Args:
        options: the options; what has the client's types already stays as it is.

    Raises:
        K8sVenvError: Kubernetes has no such key, or a value is not what it takes.
    """
    return {name: _typed_option(name, value) for name, value in options.items()}


def variables(given: Any) -> list[k8s.V1EnvVar]:
    """Return environment variables in the client's type.

    Args:
        given: the option ``env_vars``: values by names, or a list as Kubernetes writes it.
    """
    if hasattr(given, "items"):
        return [k8s.V1EnvVar(name=str(name), value=variable_text(value)) for name, value in given.items()]
    return [_with_text(variable) for variable in _typed_option("env_vars", given)]


def _with_text(variable: k8s.V1EnvVar) -> k8s.V1EnvVar:
    if variable.value is None:
        return variable
    return k8s.V1EnvVar(name=variable.name, value=variable_text(variable.value), value_from=variable.value_from)


def _typed_option(name: str, value: Any) -> Any:
    if name in _ONE and isinstance(value, dict):
        return _typed(name, value, _ONE[name])
    if name == "image_pull_secrets" and value:
        names = value.split(",") if isinstance(value, str) else value
        value = [{"name": each.strip()} if isinstance(each, str) else each for each in names]
    if name in _SEVERAL and isinstance(value, list | tuple):
        return [_typed(name, each, _SEVERAL[name]) if isinstance(each, dict) else each for each in value]
    return value


def _typed(option: str, written: dict[str, Any], kind: str) -> Any:
    plain = ApiClient().sanitize_for_serialization(written)
    try:
        made = from_manifest(plain, kind)
    except (ValueError, TypeError, AttributeError) as error:
        raise K8sVenvError(f"`{option}` cannot be read as Kubernetes' {kind}: {error}.") from None
    lost = next(_lost(plain, ApiClient().sanitize_for_serialization(made)), None)
    if lost:  # the client drops what it does not know
        raise K8sVenvError(
            f"`{option}`: Kubernetes' {kind} has no key {lost!r}. Write keys as in its manifests, such as hostPath."
        )
    return made


def from_manifest(manifest: Mapping[str, Any], kind: str) -> Any:
    """Return the client's object of a kind, such as ``V1Pod``, for a JSON object of Kubernetes."""
    return ApiClient().deserialize(SimpleNamespace(data=json.dumps(manifest)), kind)


def _lost(written: Any, made: Any, place: str = "") -> Iterator[str]:
    """Yield the keys that were written and not taken, with those above them."""
    if isinstance(written, dict):
        for key, value in written.items():
            if value is None:
                continue
            if not isinstance(made, dict) or key not in made:
                yield f"{place}{key}"
            else:
                yield from _lost(value, made[key], f"{place}{key}.")
    elif isinstance(written, list) and isinstance(made, list):
        for one, other in zip(written, made, strict=False):
            yield from _lost(one, other, place)


def pod_security(*given: Any) -> k8s.V1PodSecurityContext:
    """Return a pod's security context: our defaults, and over them what was given, key by key.

    Args:
        given: security contexts as objects or dictionaries, or None; later ones win. ``None`` as a dictionary's value
            takes a default away.

    Raises:
        K8sVenvError: there is no such key.
    """
    return _merged(k8s.V1PodSecurityContext, "security_context", _POD_SECURITY, given)


def container_security(*given: Any) -> k8s.V1SecurityContext:
    """Return a container's security context: our defaults, and over them what was given; see ``pod_security``."""
    return _merged(k8s.V1SecurityContext, "container_security_context", _CONTAINER_SECURITY, given)


def _merged(kind: type, option: str, default: Mapping[str, Any], contexts: tuple[Any, ...]) -> Any:
    given: dict[str, Any] = {}
    for context in contexts:
        given = _over(given, ApiClient().sanitize_for_serialization(context) or {})
    known = sorted(kind.attribute_map.values())  # type: ignore[attr-defined]  # the client's models have it
    for key in given:
        if key not in known:
            raise K8sVenvError(f"{option} has no key {key!r}.{did_you_mean(key, known)} It takes {', '.join(known)}.")
    return from_manifest(_without_nulls(_over(_fitting(default, given), given)), kind.__name__)


def _fitting(default: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults without those that Kubernetes refuses beside what was given."""
    fitting = dict(default)
    if given.get("runAsUser") == 0:
        fitting["runAsNonRoot"] = False
    if given.get("privileged") or "SYS_ADMIN" in ((given.get("capabilities") or {}).get("add") or ()):
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


@dataclasses.dataclass(frozen=True)
class Namespace:
    """The namespace of a pod."""

    name: str
    origin: str  # what names it, for messages


def own_namespace() -> Namespace | None:
    """Return the namespace of the pod in which this process runs, if it runs in one."""
    if not _OWN_NAMESPACE.is_file():
        return None
    return Namespace(_OWN_NAMESPACE.read_text("utf-8").strip(), "that of this very pod")


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
