"""The checks of a task's declaration, which run while its DAG file is loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k8s_venv.airflow.compat import conf
from k8s_venv.airflow.options import check_options
from k8s_venv.backends import choose_backend
from k8s_venv.backends.pod_options import check_resources
from k8s_venv.calls.packed import check_serializer, check_transport
from k8s_venv.capture.functions import place_of, refuse_generator
from k8s_venv.config.environment import file_patterns
from k8s_venv.config.project import Project, find_project, load_project, project_at
from k8s_venv.errors import CallError, K8sVenvError

if TYPE_CHECKING:
    from collections.abc import Callable


def check_declared(
    project: Project,
    environment: str,
    task: str,
    backend: str | None,
    transport: str | None,
    serializer: str | None,
) -> None:
    """Refuse options that do not fit the environment that a task names.

    Args:
        project: the task's project.
        environment: the environment's name.
        task: the task, for messages.
        backend: the task's option.
        transport: the task's option.
        serializer: the task's option.

    Raises:
        K8sVenvError: one does not fit, or there is no such environment.
    """
    declared = project.environment(environment)
    for options, where in ((project.pod, "[pod]"), (declared.pod, f"environment {environment!r}")):
        check_options(options, f"{project.path}: {where}")
        check_resources(options.get("container_resources"), f"{project.path}: {where}")
        if options.get("secrets"):  # Python objects, which TOML does not have
            raise K8sVenvError(
                f"{project.path}: {where}: `secrets` can be given on a task only. Here, write "
                "env_from = [{ secretRef = { name = … } }] for variables, or volumes and volume_mounts."
            )
    choose_backend(backend, project)
    try:
        check_transport(transport, declared)
        check_serializer(serializer, declared)
    except CallError as error:
        raise K8sVenvError(f"{task}: {error}") from None


def project_of(function: Callable[..., Any], dag_file: str | None) -> Project:
    """Return the project of a task: the configured one, else that of the DAG's file, else that of the function's.

    Args:
        function: the task's function.
        dag_file: the DAG's file, if it is known.

    Raises:
        ProjectError: there is no project.
    """
    configured = conf.get("k8s_venv", "project", fallback=None)
    if configured:
        return load_project(project_at(Path(configured), "[k8s_venv] project in airflow.cfg"))
    files = [file for file in (dag_file, place_of(function)[0]) if file]
    return load_project(find_project(*(os.path.dirname(file) for file in files)))  # noqa: PTH120 -- for each task


def named_environment(environment: Any, task: str) -> str:
    """Return the environment's name that a task or its defaults give.

    Args:
        environment: the given value.
        task: the task, for messages.

    Raises:
        K8sVenvError: they name no environment.
    """
    if environment is None:
        raise K8sVenvError(
            f'{task} names no environment: @task.isolated("NAME"), IsolatedOperator(environment="NAME", …), or '
            'default_args={"environment": "NAME"} of its task group or DAG.'
        )
    if isinstance(environment, Mapping):  # DockerOperator's; its values may be secrets
        raise K8sVenvError(f"{task}: environment is the name of one; variables of the process go into env_vars={{…}}.")
    if not isinstance(environment, str):
        raise K8sVenvError(f"{task}: environment is the name of one, not {environment!r}.")
    return environment


def check_files(files: Any, task: str) -> tuple[str, ...]:
    """Return the patterns of a task's data files.

    Args:
        files: the given value.
        task: the task, for messages.

    Raises:
        K8sVenvError: it is no list of patterns.
    """
    try:
        return file_patterns(files)
    except ValueError as error:
        raise K8sVenvError(f"{task}: files: {error}.") from None


def require_function(python_callable: Any, task: str) -> None:
    """Refuse anything but a function that an environment can call.

    Args:
        python_callable: the given value.
        task: the task, for messages.

    Raises:
        K8sVenvError: it is no such function.
    """
    if hasattr(python_callable, "operator_class") and hasattr(python_callable, "function"):
        name = python_callable.function.__name__
        raise K8sVenvError(
            f"{task}: python_callable is {name}, which a @task decorator has made a task. Give the function itself: "
            f"remove the decorator, or write python_callable={name}.function."
        )
    if not callable(python_callable):
        raise K8sVenvError(f"{task}: python_callable must be a function, not {python_callable!r}.")
    try:
        refuse_generator(python_callable)
    except CallError as error:
        raise K8sVenvError(f"{task}: {error.problem}") from None
