"""The way to Docker Engine, for those who build with it and those who run on it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from k8s_venv.errors import K8sVenvError, not_installed

if TYPE_CHECKING:
    from docker import DockerClient


class EngineError(K8sVenvError):
    """Docker Engine, or what it needs here, cannot be used."""


def connect() -> DockerClient:
    """Return a client of the engine that ``DOCKER_HOST`` or its usual socket gives; the caller closes it.

    Raises:
        EngineError: the engine or its client library is missing.
    """
    try:
        import docker
    except ImportError:
        raise EngineError(not_installed("docker", "docker")) from None
    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException as error:
        address = os.environ.get("DOCKER_HOST") or "its usual socket"
        if "PermissionError" in str(error):
            raise EngineError(
                f"This user may not use the Docker Engine at {address}. Add it to the group that the socket belongs to "
                "(mostly `docker`), or set DOCKER_HOST to an engine of its own."
            ) from None
        raise EngineError(
            f"No Docker Engine answers at {address}. Install or start one, or set DOCKER_HOST to one that runs."
        ) from None
    return client
