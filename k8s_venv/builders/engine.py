"""What building asks of the local Docker Engine."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from k8s_venv.builders.archive import write_archive
from k8s_venv.dockerengine import EngineError, connect

if TYPE_CHECKING:
    from collections.abc import Sequence

    import docker

    from k8s_venv.builders.image import Image


def require_buildx() -> None:
    """Make sure that Docker Engine can be asked to build.

    Raises:
        EngineError: the engine, its client library or buildx is missing.
    """
    connect().close()
    program = shutil.which("docker")
    if program is None:
        raise EngineError("The `docker` command is not on PATH. Install Docker's command line and its buildx plugin.")
    found = subprocess.run([program, "buildx", "version"], capture_output=True, check=False)
    if found.returncode:
        raise EngineError(
            "Docker's buildx plugin is missing. Install the package docker-buildx-plugin (or docker-buildx)."
        )


def load_archive(client: docker.DockerClient, reference: str, images: Sequence[Image]) -> None:
    """Load an image into the engine; of several platforms, the engine's own.

    Args:
        client: the engine.
        reference: the image's name there.
        images: the image for each platform.

    Raises:
        EngineError: the engine refuses it, or there is none for its platform.
    """
    import docker

    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(client.info()["Architecture"], "")
    fitting = [image for image in images if image.platform == f"linux/{machine}"]
    if not fitting:
        raise EngineError(f"Docker Engine runs on linux/{machine}, for which {reference} has no image.")
    with tempfile.TemporaryDirectory(prefix="k8s-venv-load-") as folder:
        path = Path(folder) / "image.tar"
        write_archive({reference: fitting}, path)
        try:
            with path.open("rb") as stream:
                client.images.load(stream)
        except docker.errors.DockerException as error:
            raise EngineError(f"Docker Engine does not take {reference}: {error}") from None
