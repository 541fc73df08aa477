"""Run a packed call somewhere and bring its result back."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol, cast, get_args

from k8s_venv.config import BackendName
from k8s_venv.errors import K8sVenvError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from k8s_venv.calls import PackedCall, Result
    from k8s_venv.config.environment import Environment
    from k8s_venv.config.project import Project

BACKEND_VARIABLE = "K8S_VENV_BACKEND"
DEFAULT: BackendName = "kubernetes"


class Backend(Protocol):
    """Where calls run."""

    def run(self, call: PackedCall, log: Callable[[str], None]) -> Result:
        """Run a call until it has ended.

        Args:
            call: what to run.
            log: is called with each line that the task prints, as it is printed.

        Raises:
            BackendError: the call could not be run, or ended without a result.
        """


def image_of(environment: Environment, project: Project) -> str:
    """Return the image that an environment names, else the one that is built from its lock.

    Args:
        environment: which one.
        project: the project, which says where its images are.

    Raises:
        LockError: the environment was never locked, or its lock is stale.
        ProjectError: no registry is configured.
    """
    from k8s_venv.locks.locking import read_lock  # not for each DAG file

    if environment.image:
        return environment.image
    lock = read_lock(environment)
    return environment.image_reference(project.require_registry(), lock.digest)


def choose_backend(asked: str | None, project: Project, configured: str | None = None) -> BackendName:
    """Return where a call runs; nothing ever falls back to another backend.

    Args:
        asked: what the task says.
        project: the project, which may have a default.
        configured: what the surroundings, such as airflow.cfg, say.

    Raises:
        K8sVenvError: there is no such backend.
    """
    sources = (
        ("the task's option `backend`", asked),
        (BACKEND_VARIABLE, os.environ.get(BACKEND_VARIABLE)),
        ("[k8s_venv] backend in airflow.cfg", configured),
        (f"`backend` in {project.path}", project.backend),
    )
    for source, name in sources:
        if name:
            known = get_args(BackendName)
            if name not in known:
                hint = did_you_mean(name, known)
                raise K8sVenvError(f"{source}: there is no backend {name!r}.{hint} Known: {', '.join(known)}.")
            return cast("BackendName", name)
    return DEFAULT
