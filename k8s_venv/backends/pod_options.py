"""What a task's pod options mean where there is no pod: on this machine, or in one container of a Docker Engine.

An option is honoured, or has no effect, which the log says with the reason. If a function would see a difference
without it, the call is refused, unless ``[pod]`` of the project file gives the option to all tasks. DAG files are
checked with this as they load, so it imports no client of Kubernetes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from k8s_venv.errors import BackendError, K8sVenvError

if TYPE_CHECKING:
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

# What says how a pod is reached, watched and removed, and is no part of it.
NOT_OF_THE_POD = frozenset(
    (
        *("cluster_context", "config_file", "get_logs", "in_cluster", "kubernetes_conn_id", "name", "namespace"),
        *("on_finish_action", "on_kill_action", "schedule_timeout_seconds", "startup_timeout_seconds"),
    )
)

# See https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)"
_QUANTITY = re.compile(rf"({_NUMBER})(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?\d+))?")
_FACTORS = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_FACTORS |= {f"{letter}i": 1024.0 ** (power + 1) for power, letter in enumerate("KMGTPE")}
_NAME = re.compile(r"[^=\0]+")


def check_own(backend: str, options: Mapping[str, Any], task: str) -> None:
    """Refuse a task's own options that it cannot do without, where it names a backend that has no pods.

    Args:
        backend: which one.
        options: the task's own pod options.
        task: the task, for messages.

    Raises:
        K8sVenvError: it needs an option that the backend does not have.
    """
    for name in sorted(NEEDED.keys() & given_options(options)):
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
        BackendError: the function needs an option that the backend does not have.
    """
    given = given_options({**environment.pod, **own})
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


def given_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that say something.

    Args:
        options: the pod options.
    """
    return {name: value for name, value in options.items() if value not in (None, [], (), {}, "")}


def is_template(value: Any) -> bool:
    """Return whether a text for Jinja is in an option's value.

    Args:
        value: text, or lists and tables of it.
    """
    if hasattr(value, "values"):
        return any(is_template(each) for each in value.values())
    if isinstance(value, list | tuple):
        return any(is_template(each) for each in value)
    return isinstance(value, str) and ("{{" in value or "{%" in value)


def _refusal(backend: str, name: str) -> str:
    reason, instead = NEEDED[name]
    return f"the option `{name}` needs a pod; on the {backend} backend, {reason}. {instead}"


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
        return [(str(name), variable_text(value)) for name, value in given.items()]
    pairs = []
    for variable in given:
        name = str(_field(variable, "name"))
        if _field(variable, "valueFrom") is not None or _field(variable, "value_from") is not None:
            raise BackendError(
                environment.name,
                f"its variable {name!r} in `env_vars` takes its value from Kubernetes, which the {backend} backend has "
                "not. Give it a value.",
            )
        pairs.append((name, variable_text(_field(variable, "value"))))
    return pairs


def variable_text(value: Any) -> str:
    """Return the text of a variable that may be written as another type."""
    return "" if value is None else str(value)


def _field(value: Any, name: str) -> Any:
    return value.get(name) if hasattr(value, "get") else getattr(value, name, None)


def amount(quantity: object) -> float:
    """Return what a quantity stands for.

    Args:
        quantity: such as ``500m`` or ``2Gi``.

    Raises:
        ValueError: it is not a quantity.
    """
    found = _QUANTITY.fullmatch(str(quantity))
    if found is None:
        raise ValueError(f"{quantity!r} in `container_resources` is not a quantity, such as 500m or 2Gi.")
    return float(found[1]) * (10.0 ** int(found[3]) if found[3] else _FACTORS.get(found[2], 1.0))


def amounts(given: Any, kind: str) -> Mapping[str, Any]:
    """Return a container's limits or requests.

    Args:
        given: the option ``container_resources``, in either of the ways to write it.
        kind: ``limits`` or ``requests``.
    """
    found = given.get(kind) if hasattr(given, "get") else getattr(given, kind, None)
    return found if isinstance(found, Mapping) else {}


def check_resources(given: Any, where: str) -> None:
    """Refuse amounts that Kubernetes cannot read.

    Args:
        given: the option ``container_resources``; what a template will fill in is left alone.
        where: whose it is, for messages.

    Raises:
        K8sVenvError: one cannot be read.
    """
    for kind in ("limits", "requests"):
        for quantity in amounts(given, kind).values():
            try:
                if "{{" not in str(quantity) and "{%" not in str(quantity):
                    amount(quantity)
            except ValueError as error:
                raise K8sVenvError(f"{where}: {error}") from None
