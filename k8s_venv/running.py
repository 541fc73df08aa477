"""Run one call outside Airflow: from a script, a notebook or a test."""

from __future__ import annotations

import getpass
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from k8s_venv.backends import choose_backend
from k8s_venv.backends.process import STDERR, parse_line
from k8s_venv.calls import open_result, pack
from k8s_venv.capture.functions import place_of
from k8s_venv.config.project import find_project, load_project
from k8s_venv.errors import CallError
from k8s_venv.wire.protocol import MARK

if TYPE_CHECKING:
    from collections.abc import Callable

    from k8s_venv.backends import Backend
    from k8s_venv.config import BackendName
    from k8s_venv.config.project import Project

T = TypeVar("T")


def run(environment: str, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Call a function in one of the project's environments and return its value.

    It travels, runs and fails as a task's function does; what it prints is printed here. The project is the one
    above the function's file, or above the working folder; ``K8S_VENV_BACKEND`` or the project choose where the call
    runs, by default on Kubernetes.

    Args:
        environment: the environment's name in ``k8s-venv.toml``.
        function: what to call.
        args: its positional arguments.
        kwargs: its keyword arguments.

    Returns:
        What the function returned.

    Raises:
        K8sVenvError: the call cannot travel or run, or ended without a result.
        Exception: the function's own exception.
    """
    if not isinstance(environment, str):
        raise CallError(f'run() takes an environment and a function, as in run("etl", work), not {environment!r}.')
    project = load_project(find_project(*_places(function)))
    call = pack(function, args, kwargs, environment=project.environment(environment))
    for note in call.notes:
        show(f"{MARK}WARNING - {note}")
    result = backend_named(choose_backend(None, project), project).run(call, show)
    value: T = open_result(result, call)
    return value


def backend_named(chosen: BackendName, project: Project) -> Backend:
    """Return a backend for calls outside Airflow, which prints what happens.

    Args:
        chosen: its name.
        project: the project of its calls.
    """
    if chosen == "local":
        from k8s_venv.backends.local.backend import LocalBackend

        return LocalBackend(show, project)
    if chosen == "docker":
        from k8s_venv.backends.docker.backend import DockerBackend

        return DockerBackend(project, progress=show)
    from k8s_venv.backends.kubernetes.backend import KubernetesBackend

    return KubernetesBackend(project, f"{getpass.getuser()}-{uuid.uuid4().hex}", show)


def _places(function: Callable[..., Any]) -> list[Path]:
    file = Path(place_of(function)[0] or "")
    return [*([file.parent] if file.is_file() else []), Path.cwd()]


def show(line: str) -> None:
    """Print a line of a call's output on the stream that it came from.

    Args:
        line: as the call's process printed it.
    """
    for kind, text in parse_line(line):
        stream = sys.stderr if kind == STDERR else sys.stdout
        stream.write(f"{text}\n" if kind in ("", STDERR) else f"{kind} - {text}\n")
        stream.flush()
