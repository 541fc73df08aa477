"""The local Docker Engine, and what the registry behind it has."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

from k8s_venv.errors import K8sVenvError

if TYPE_CHECKING:
    import docker

_UNREACHABLE = ("connection refused", "no such host", "dial tcp", "i/o timeout", "connect:", "lookup ")


class EngineError(K8sVenvError):
    """Docker Engine, buildx or the registry cannot be used."""


def connect() -> docker.DockerClient:
    """Return a client of the running Docker Engine, after making sure that it can build.

    Raises:
        EngineError: the engine, its client library or buildx is missing.
    """
    try:
        import docker
    except ImportError:
        raise EngineError("Building needs the docker package: pip install 'k8s-venv[docker]'.") from None
    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException:
        address = os.environ.get("DOCKER_HOST") or "its usual socket"
        raise EngineError(
            f"No Docker Engine answers at {address}. Start it, or set DOCKER_HOST to one that runs."
        ) from None
    _require_buildx()
    return client


def image_exists(client: docker.DockerClient, reference: str) -> bool:
    """Tell whether the registry has an image.

    Args:
        client: asks the registry, with the credentials of `docker login`.
        reference: the image's full reference.

    Raises:
        EngineError: the registry cannot be asked.
    """
    import docker

    try:
        client.images.get_registry_data(reference)
    except docker.errors.NotFound:
        return False
    except docker.errors.APIError as error:
        reason = str(error.explanation or error).strip().rstrip(".")
        registry = reference.partition("/")[0]
        if "denied" in reason or "unauthorized" in reason.lower():
            raise EngineError(
                f"The registry {registry} refused access: {reason}. Run `docker login {registry}`."
            ) from None
        if any(word in reason for word in _UNREACHABLE):
            raise EngineError(f"The registry {registry} cannot be reached: {reason}.") from None
        if "manifest unknown" in reason or "not found" in reason:
            return False
        raise EngineError(f"The registry {registry} cannot be asked for {reference}: {reason}.") from None
    return True


def _require_buildx() -> None:
    program = shutil.which("docker")
    if program is None:
        raise EngineError("The `docker` command is not on PATH. Install Docker's command line and its buildx plugin.")
    found = subprocess.run([program, "buildx", "version"], capture_output=True, check=False)
    if found.returncode:
        raise EngineError(
            "Docker's buildx plugin is missing. Install the package docker-buildx-plugin (or docker-buildx)."
        )
