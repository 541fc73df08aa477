"""Pod options where there is no pod: on this machine, or in one container of a Docker Engine.

An option is honoured, or without effect, which the log says with the reason. Where a function would see something else
without it, the call is refused, unless ``[pod]`` of the project file says it for all tasks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from k8s_venv.errors import BackendError, K8sVenvError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from k8s_venv.config.environment import Environment
    from k8s_venv.config.project import Project

HONOURED: Mapping[str, frozenset[str]] = {
    "local": frozenset(("env_vars", "get_logs")),
    "docker": frozenset(("container_resources", "env_vars", "get_logs", "image", "image_pull_policy")),
}

_VARIABLES = "Give env_vars, or name connections=[…] or variables=[…]."
_DATA = "Pass the data as an argument, or let the function fetch it."
_SINGLY = "Give env_vars and what else is honoured as options of their own."
# What a function sees of its pod: why it cannot be had, and what to do instead.
NEEDED: Mapping[str, tuple[str, str]] = {
    "configmaps": ("there are no ConfigMaps", _VARIABLES),
    "env_from": ("there are no ConfigMaps and Secrets", _VARIABLES),
    "full_pod_spec": ("there is no pod to describe", _SINGLY),
    "init_containers": ("nothing runs before the call", "Do in the function what the container did."),
    "pod_runtime_info_envs": ("there is no pod", "Give env_vars."),
    "pod_template_dict": ("there is no pod to describe", _SINGLY),
    "pod_template_file": ("there is no pod to describe", _SINGLY),
    "secrets": ("there are no Secrets of Kubernetes", _VARIABLES),
    "volume_mounts": ("no volumes are mounted", _DATA),
    "volumes": ("no volumes are mounted", _DATA),
}

_CLUSTER = "no cluster is asked"
_SCHEDULING = "nothing is scheduled or waited for"
_NAMES = "there is no pod to name, label or reach"
_NETWORK = "the call has its machine's own network"
_END = "the call ends with its worker; execution_timeout ends a task"
_RIGHTS = "the user is the worker's own, or that of the image"
_MADE = "the call runs in the environment as its lock or interpreter gives it"
WITHOUT_EFFECT: Mapping[str, str] = {
    "active_deadline_seconds": _END,
    "affinity": _SCHEDULING,
    "annotations": _NAMES,
    "automount_service_account_token": _CLUSTER,
    "cluster_context": _CLUSTER,
    "config_file": _CLUSTER,
    "container_resources": "what a process uses is not limited",
    "container_security_context": _RIGHTS,
    "dns_config": _NETWORK,
    "dnspolicy": _NETWORK,
    "host_aliases": _NETWORK,
    "hostname": _NAMES,
    "hostnetwork": _NETWORK,
    "image": _MADE,
    "image_pull_policy": _MADE,
    "image_pull_secrets": _CLUSTER,
    "in_cluster": _CLUSTER,
    "kubernetes_conn_id": _CLUSTER,
    "labels": _NAMES,
    "name": _NAMES,
    "namespace": _CLUSTER,
    "node_selector": _SCHEDULING,
    "on_finish_action": _END,
    "on_kill_action": _END,
    "ports": _NAMES,
    "priority_class_name": _SCHEDULING,
    "runtime_class_name": _SCHEDULING,
    "schedule_timeout_seconds": _SCHEDULING,
    "schedulername": _SCHEDULING,
    "security_context": _RIGHTS,
    "service_account_name": _CLUSTER,
    "startup_timeout_seconds": _SCHEDULING,
    "subdomain": _NAMES,
    "termination_grace_period": _END,
    "tolerations": _SCHEDULING,
}


def check_own(backend: str, options: Mapping[str, Any], task: str) -> None:
    """Refuse a task's own options that it cannot do without, where it names a backend that has no pods.

    Args:
        backend: which one.
        options: the task's own pod options.
        task: the task, for messages.

    Raises:
        K8sVenvError: it needs one of them.
    """
    for name in sorted(NEEDED.keys() & _given(options)):
        raise K8sVenvError(f"{task}: {_refusal(backend, name)}")


def options_without_pod(
    backend: str, environment: Environment, own: Mapping[str, Any], project: Project | None
) -> tuple[dict[str, Any], str]:
    """Return the options of a call that a backend honours, and a sentence about the others, or nothing.

    Args:
        backend: which one.
        environment: whose call it is.
        own: the task's own options, which win over its environment's.
        project: the project, whose ``[pod]`` may be meant for Kubernetes alone.

    Raises:
        BackendError: the function needs one of them.
    """
    given = _given({**environment.pod, **own})
    for_all = project.pod if project else {}
    ignored: dict[str, list[str]] = {}
    for name in sorted(given.keys() - HONOURED[backend]):
        if name in NEEDED and (name in own or name not in for_all or for_all[name] != given[name]):
            raise BackendError(environment.name, _refusal(backend, name))
        reason = NEEDED[name][0] if name in NEEDED else WITHOUT_EFFECT[name]
        ignored.setdefault(reason, []).append(name)
    honoured = {name: value for name, value in given.items() if name in HONOURED[backend]}
    parts = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in ignored.items())
    return honoured, f"Without effect on the {backend} backend: {parts}." if parts else ""


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that say something."""
    return {name: value for name, value in options.items() if value not in (None, [], (), {}, "")}


def _refusal(backend: str, name: str) -> str:
    reason, instead = NEEDED[name]
    return f"the option `{name}` needs a pod; on the {backend} backend, {reason}. {instead}"
