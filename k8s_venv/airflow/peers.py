"""Options that people bring from other operators, and what to do instead: one sentence for each.

They are those of ``@task.virtualenv``, ``@task.external_python``, ``@task.docker``, ``@task.kubernetes``, and of the
operators behind these, which an isolated task does not take. A test reads the operators' own signatures.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

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

# What stands in the project file instead, which is shown ready to be pasted.
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
    """Return what to do instead of an option of another operator, as a sentence, or None for any other name.

    Args:
        name: the option.
        options: all that were given, with their values.
        use: how the environment is named where they were given, such as ``@task.isolated("NAME")``.
    """
    if name in _OF_THE_PROJECT:
        return _project_file(options, use)
    return f"the option {name!r} cannot be set: {REFUSED[name]}." if name in REFUSED else None


def _project_file(options: Mapping[str, Any], use: str) -> str:
    """Return the sentence for what the project file says here, with the lines to write."""
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
