"""Pod options as people write them, in the types of the Kubernetes client."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from kubernetes.client import ApiClient
from kubernetes.client import models as k8s

from k8s_venv.errors import K8sVenvError

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
        return [k8s.V1EnvVar(name=str(name), value=_text(value)) for name, value in given.items()]
    found = _typed_option("env_vars", given)
    for variable in found:
        if variable.value is not None:
            variable.value = _text(variable.value)
    return list(found)


def _text(value: Any) -> str:
    return "" if value is None else str(value)


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
    client = ApiClient()
    plain = client.sanitize_for_serialization(written)
    try:
        made = client.deserialize(SimpleNamespace(data=json.dumps(plain)), kind)
    except (ValueError, TypeError, AttributeError) as error:
        raise K8sVenvError(f"`{option}` cannot be read as Kubernetes' {kind}: {error}.") from None
    lost = next(_lost(plain, client.sanitize_for_serialization(made)), None)
    if lost:  # the client drops what it does not know
        raise K8sVenvError(
            f"`{option}`: Kubernetes' {kind} has no key {lost!r}. Write keys as in its manifests, such as hostPath."
        )
    return made


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
