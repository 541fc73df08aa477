"""The options of ``KubernetesPodOperator`` that isolated tasks take, by name.

The names are written down, not read off the provider, because importing it takes a second of every DAG parse; a
test holds the list against the provider's signature.
"""

from __future__ import annotations

import enum
import functools
import inspect
from typing import TYPE_CHECKING, Any

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

# What the provider has and an isolated task does not take, with the reason.
_OWN = "k8s-venv sets it itself"
_WATCHED = "pods are watched, so there is nothing to poll"
_LATER = "this version does not support it"
REFUSED: Mapping[str, str] = {
    "arguments": _OWN,
    "base_container_name": _OWN,
    "base_container_status_polling_interval": _WATCHED,
    "callbacks": _LATER,
    "cmds": _OWN,
    "container_logs": _LATER,
    "container_name_log_prefix_enabled": _LATER,
    "durable": "the pod of the same try is always taken over",
    "init_container_logs": _LATER,
    "is_delete_operator_pod": "use on_finish_action",
    "log_events_on_failure": "the cause of a failure is always reported",
    "log_events_on_startup": _LATER,
    "log_formatter": _LATER,
    "log_pod_spec_on_failure": "pod specs are never logged",
    "logging_interval": _LATER,
    "poll_interval": _WATCHED,
    "progress_callback": _LATER,
    "random_name_suffix": _OWN,
    "reattach_on_restart": "the pod of the same try is always taken over",
    "skip_on_exit_code": "call runtime.skip() in the function",
    "startup_check_interval_seconds": _WATCHED,
    "termination_message_policy": _OWN,
    "trigger_kwargs": _LATER,
    "xcom_sidecar_container_security_context": "the sidecar takes the base container's",
}
# What people know from elsewhere: from Airflow's Python operators, such as ``@task.virtualenv``, or of containers.
_RESOURCES = 'write it into container_resources={"limits": {"memory": "2Gi", "cpu": "1"}}'
_ENVIRONMENT = "k8s-venv.toml says it of the environment"
_INDEXES = "name indexes among the environment's requirements, or by UV_INDEX_URL or PIP_INDEX_URL"
REFUSED_OTHERS: Mapping[str, str] = {
    "cpu": _RESOURCES,
    "expect_airflow": "Airflow is used where the environment has it",
    "expect_pendulum": "pendulum is used where the environment has it",
    "index_urls": _INDEXES,
    "index_urls_from_connection_ids": _INDEXES,
    "inherit_env": "an environment sees nothing of the worker's; give env_vars, connections or variables",
    "memory": _RESOURCES,
    "pip_install_options": _INDEXES,
    "python": f"{_ENVIRONMENT}, as `python` or `interpreter`",
    "show_return_value_in_logs": "what a task returns is never logged",
    "string_args": "pass arguments",
    "system_site_packages": f"{_ENVIRONMENT}, as `system-site-packages`",
    "use_dill": 'values that no codec carries travel with serializer="cloudpickle"',
    "venv_cache_path": "environments are kept in K8S_VENV_CACHE",
}


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


def check_options(names: set[str], where: str, others: frozenset[str] = frozenset()) -> None:
    """Refuse what is not a pod option.

    Args:
        names: the options that somebody wrote.
        where: what they were written for, such as ``environment 'x'``.
        others: what can be written there besides.

    Raises:
        K8sVenvError: one of them is unknown, or not to be set.
    """
    for name in sorted(names - OPTIONS):
        reason = REFUSED.get(name) or REFUSED_OTHERS.get(name)
        if reason:
            raise K8sVenvError(f"{where}: the option {name!r} cannot be set: {reason}.")
        raise K8sVenvError(
            f"{where}: there is no option {name!r}.{did_you_mean(name, OPTIONS | others)} "
            "It takes what KubernetesPodOperator takes."
        )
