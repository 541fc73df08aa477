"""The pod options of isolated tasks, which are those of ``KubernetesPodOperator``, and the remedy for other options.

The names are a list, since importing the provider would take a second of each DAG parse; a test compares them with its
signature. Other options come from ``@task.virtualenv``, ``@task.external_python``, ``@task.docker``,
``@task.kubernetes`` and the operators behind these; a test reads their signatures.
"""

from __future__ import annotations

import enum
import functools
import inspect
import json
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
# The rendered fields of the Kubernetes client's own types, by the types' names.
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
    """The value of an option that was not given: ``None`` is a value, and an enumeration survives deep copies."""

    UNSET = "unset"


UNSET: Any = _Unset.UNSET


def with_pod_options(init: Callable[..., None]) -> Callable[..., None]:
    """Add all pod options to a constructor's signature, where Airflow looks for the names in ``default_args``.

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
    """Return the parameters of the constructors of an operator and of its bases."""
    makers = [vars(kind)["__init__"] for kind in operator.__mro__ if "__init__" in vars(kind)]
    return frozenset(name for maker in makers for name in inspect.signature(maker).parameters)


def check_options(
    given: Mapping[str, Any],
    where: str,
    others: frozenset[str] = frozenset(),
    use: str = 'IsolatedOperator(environment="NAME", …)',
) -> None:
    """Refuse options that are no pod options.

    Args:
        given: the options with their values.
        where: their place, such as ``environment 'x'``.
        others: further options that the place takes.
        use: how that place names the environment.

    Raises:
        K8sVenvError: one of them is unknown, or cannot be set.
    """
    known = OPTIONS | others
    for name in sorted(set(given) - known):
        instead = instead_of(name, given, use)
        if instead:
            raise K8sVenvError(f"{where}: {instead}")
        hint = did_you_mean(name, known)
        raise K8sVenvError(f"{where}: there is no option {name!r}.{hint} It takes what KubernetesPodOperator takes.")


_OWN = "leave it out: k8s-venv sets it itself"
_SCRIPT = "leave it out: what the command did becomes the function's body, and k8s-venv makes the command"
_WATCHED = "leave it out: pods are watched, so there is nothing to poll"
_LATER = "leave it out: this version does not support it"
_RESOURCES = 'write it into container_resources={"limits": {"memory": "2Gi", "cpu": "1"}}'
_FILE = "of the environment in k8s-venv.toml says it"
_INDEXES = "name indexes among the environment's requirements, or by UV_INDEX_URL or PIP_INDEX_URL"
_ENGINE = "leave it out: DOCKER_HOST, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH name the engine of the docker backend"
_TMP = "leave it out: each task has a /tmp of its own, and values need no folder"
_ON_KUBERNETES = "on Kubernetes, give"

# The message for these has lines for the project file, ready to be pasted.
_OF_THE_PROJECT = ("requirements", "python_version", "system_site_packages")

REFUSED: Mapping[str, str] = {
    # PythonVirtualenvOperator, ExternalPythonOperator
    "expect_airflow": "leave it out: Airflow is used where the environment has it",
    "expect_pendulum": "leave it out: pendulum is used where the environment has it",
    "index_urls": _INDEXES,
    "index_urls_from_connection_ids": _INDEXES,
    "inherit_env": "leave it out: an environment sees nothing of the worker's; give env_vars, connections or variables",
    "pip_install_options": f"leave it out: uv installs what is locked; {_INDEXES}",
    "provide_context": "leave it out: parameters named like Airflow's context keys, such as ds and ti, receive them",
    "python": f'`interpreter = "/path/to/python"` {_FILE}, for the local backend; `python = "3.12"` is its version',
    "show_return_value_in_logs": "leave it out: what a task returns is never logged",
    "string_args": "leave it out: pass arguments",
    "use_airflow_context": "leave it out: runtime.get_current_context() always has the context",
    "use_dill": 'leave it out: values that no codec carries travel with serializer="cloudpickle"',
    "venv_cache_path": "leave it out: environments are kept in the folder that K8S_VENV_CACHE names",
    # DockerOperator
    "api_version": "leave it out: the client and the engine agree on it",
    "auto_remove": "leave it out: containers are always removed; on_finish_action says which pods are kept",
    "cap_add": f'{_ON_KUBERNETES} container_security_context={{"capabilities": {{"add": […]}}}}',
    "command": _SCRIPT,
    "container_name": "leave it out: containers are named by the engine; `name` names a pod",
    "cpus": _RESOURCES,
    "device_requests": f'{_ON_KUBERNETES} container_resources={{"limits": {{"nvidia.com/gpu": "1"}}}}',
    "dns": f'{_ON_KUBERNETES} dns_config and dnspolicy="None"',
    "dns_search": f"{_ON_KUBERNETES} dns_config",
    "docker_conn_id": "log in with `docker login`; on Kubernetes, give image_pull_secrets",
    "docker_url": _ENGINE,
    "entrypoint": _SCRIPT,
    "env_file": "give the variables in env_vars={…}, and secrets in connections=[…] or variables=[…]",
    "extra_hosts": f"{_ON_KUBERNETES} host_aliases",
    "force_pull": 'give image_pull_policy="Always"',
    "host_tmp_dir": _TMP,
    "ipc_mode": f"{_ON_KUBERNETES} full_pod_spec with host_ipc",
    "log_opts_max_file": "leave it out: what a task prints goes to Airflow's log alone",
    "log_opts_max_size": "leave it out: what a task prints goes to Airflow's log alone",
    "mem_limit": _RESOURCES,
    "mount_tmp_dir": _TMP,
    "mounts": f"{_ON_KUBERNETES} volumes and volume_mounts; the docker backend mounts nothing of this machine",
    "network_mode": f'{_ON_KUBERNETES} hostnetwork=True where it was "host"; the docker backend takes none',
    "port_bindings": f"{_ON_KUBERNETES} ports",
    "private_environment": "name secrets in connections=[…] or variables=[…], which no pod or container shows",
    "privileged": f'{_ON_KUBERNETES} container_security_context={{"privileged": True}}',
    "python_command": f"leave it out: it is the image's `python`, whose version `python = …` {_FILE}",
    "retrieve_output": "leave it out: what the function returns is the task's value",
    "retrieve_output_path": "leave it out: what the function returns is the task's value",
    "shm_size": f'{_ON_KUBERNETES} volumes and volume_mounts with an emptyDir of medium "Memory" at /dev/shm',
    "timeout": "execution_timeout says how long a task may take",
    "tls_ca_cert": _ENGINE,
    "tls_client_cert": _ENGINE,
    "tls_client_key": _ENGINE,
    "tls_hostname": _ENGINE,
    "tls_ssl_version": _ENGINE,
    "tls_verify": _ENGINE,
    "tmp_dir": _TMP,
    "tty": "leave it out: what a task prints is logged line by line, as it is printed",
    "ulimits": "call resource.setrlimit() in the function",
    "user": f'{_ON_KUBERNETES} container_security_context={{"runAsUser": 1000}}, or name the user in the image',
    "working_dir": "call os.chdir() in the function",
    "xcom_all": "leave it out: what the function returns is the task's value",
    # KubernetesPodOperator
    "arguments": _SCRIPT,
    "base_container_name": _OWN,
    "base_container_status_polling_interval": _WATCHED,
    "callbacks": _LATER,
    "cmds": _SCRIPT,
    "container_logs": _LATER,
    "container_name_log_prefix_enabled": _LATER,
    "durable": "leave it out: the pod of the same task is always taken over",
    "init_container_logs": _LATER,
    "is_delete_operator_pod": "use on_finish_action",
    "log_events_on_failure": "leave it out: the cause of a failure is always reported",
    "log_events_on_startup": _LATER,
    "log_formatter": _LATER,
    "log_pod_spec_on_failure": "leave it out: pod specs are never logged",
    "logging_interval": _LATER,
    "poll_interval": _WATCHED,
    "progress_callback": _LATER,
    "random_name_suffix": _OWN,
    "reattach_on_restart": "leave it out: the pod of the same task is always taken over",
    "skip_on_exit_code": "it is an option of the task, not of its pod",
    "startup_check_interval_seconds": _WATCHED,
    "termination_message_policy": _OWN,
    "trigger_kwargs": _LATER,
    "xcom_sidecar_container_security_context": "leave it out: the sidecar takes the base container's",
    # Of containers in general
    "cpu": _RESOURCES,
    "memory": _RESOURCES,
}


def instead_of(name: str, options: Mapping[str, Any], use: str) -> str | None:
    """Return a sentence with the remedy for an option of another operator, or None for any other name.

    Args:
        name: the option.
        options: all given options with their values.
        use: how their place names the environment, such as ``@task.isolated("NAME")``.
    """
    if name in _OF_THE_PROJECT:
        return _project_file(options, use)
    return f"the option {name!r} cannot be set: {REFUSED[name]}." if name in REFUSED else None


def _project_file(options: Mapping[str, Any], use: str) -> str:
    """Return the sentence for options that belong in the project file, with the lines to write."""
    *others, last = [name for name in _OF_THE_PROJECT if name in options]
    listed = f"{', '.join(others)} and {last}" if others else last
    wanted = options.get("requirements")
    lines_of_text = wanted.splitlines() if isinstance(wanted, str) else []
    several = list(wanted) if isinstance(wanted, list | tuple | set) else lines_of_text
    requirements = wanted if len(lines_of_text) == 1 else several  # one line names a file
    environment = options.get("environment")
    name = environment if isinstance(environment, str) else "NAME"
    lines = [f"[environments.{name}]", f'python = "{options.get("python_version") or "3.12"}"']
    if requirements:
        lines.append(f"requirements = {json.dumps(requirements, default=str)}")
    if options.get("system_site_packages"):
        lines.append("system-site-packages = true")
    block = "".join(f"    {line}\n" for line in lines)
    return (
        f"write {listed} into k8s-venv.toml, so that all of it can be locked and built before the task "
        f"runs:\n\n{block}\nand the task is {use.replace('NAME', name)}."
    )
