"""The options of ``KubernetesPodOperator`` that isolated tasks take, by name.

The names are written down, not read off the provider, because importing it takes a second of every DAG parse; a
test holds the list against the provider's signature.
"""

from __future__ import annotations

import enum
import functools
import inspect
from typing import TYPE_CHECKING, Any

from k8s_venv.airflow.peers import instead_of
from k8s_venv.errors import K8sVenvError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Rendered with Jinja, as the provider does.
TEMPLATED = (
    "annotations",
    "cluster_context",
    "config_file",
    "configmaps",
    "container_resources",
    "env_from",
    "env_vars",
    "hostname",
    "image",
    "kubernetes_conn_id",
    "labels",
    "name",
    "namespace",
    "node_selector",
    "pod_template_dict",
    "pod_template_file",
    "volume_mounts",
    "volumes",
)
PLAIN = (
    "active_deadline_seconds",
    "affinity",
    "automount_service_account_token",
    "container_security_context",
    "dns_config",
    "dnspolicy",
    "full_pod_spec",
    "get_logs",
    "host_aliases",
    "hostnetwork",
    "image_pull_policy",
    "image_pull_secrets",
    "in_cluster",
    "init_containers",
    "on_finish_action",
    "on_kill_action",
    "pod_runtime_info_envs",
    "ports",
    "priority_class_name",
    "runtime_class_name",
    "schedule_timeout_seconds",
    "schedulername",
    "secrets",
    "security_context",
    "service_account_name",
    "startup_timeout_seconds",
    "subdomain",
    "termination_grace_period",
    "tolerations",
)
# What is rendered inside the Kubernetes client's own types, by their names.
RENDERED_FIELDS: Mapping[str, tuple[str, ...]] = {
    "V1ConfigMapEnvSource": ("name",),
    "V1ConfigMapVolumeSource": ("name",),
    "V1EnvFromSource": ("config_map_ref",),
    "V1EnvVar": ("value", "name"),
    "V1PersistentVolumeClaimVolumeSource": ("claim_name",),
    "V1ResourceRequirements": ("limits", "requests"),
    "V1Volume": ("name", "persistent_volume_claim", "config_map"),
    "V1VolumeMount": ("name", "sub_path"),
}
OPTIONS = frozenset((*TEMPLATED, *PLAIN))


class _Unset(enum.Enum):
    """What an option is that was not given: ``None`` is a value for some, and Airflow copies operators deeply."""

    UNSET = "unset"


UNSET: Any = _Unset.UNSET


def with_pod_options(init: Callable[..., None]) -> Callable[..., None]:
    """Name every pod option in a constructor's signature, which is where Airflow looks for ``default_args``.

    Args:
        init: an operator's ``__init__`` that takes the options in ``**kwargs``.
    """
    signature = inspect.signature(init)
    parameters = list(signature.parameters.values())
    named = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=UNSET) for name in sorted(OPTIONS)]
    position = next(n for n, p in enumerate(parameters) if p.kind is inspect.Parameter.VAR_KEYWORD)
    parameters[position:position] = named
    init.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return init


@functools.cache
def parameters_of(operator: type) -> frozenset[str]:
    """Return what the constructors of an operator and of its bases take."""
    makers = [vars(kind)["__init__"] for kind in operator.__mro__ if "__init__" in vars(kind)]
    return frozenset(name for maker in makers for name in inspect.signature(maker).parameters)


def check_options(
    given: Mapping[str, Any],
    where: str,
    others: frozenset[str] = frozenset(),
    use: str = 'IsolatedOperator(environment="NAME", …)',
) -> None:
    """Refuse what is not a pod option.

    Args:
        given: the options that somebody wrote, with their values.
        where: what they were written for, such as ``environment 'x'``.
        others: what can be written there besides.
        use: how the environment is named where they were written.

    Raises:
        K8sVenvError: one of them is unknown, or not to be set.
    """
    known = OPTIONS | others
    for name in sorted(set(given) - known):
        instead = instead_of(name, given, use)
        if instead:
            raise K8sVenvError(f"{where}: {instead}")
        hint = did_you_mean(name, known)
        raise K8sVenvError(f"{where}: there is no option {name!r}.{hint} It takes what KubernetesPodOperator takes.")
