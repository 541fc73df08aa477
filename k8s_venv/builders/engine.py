"""What building asks of the local Docker Engine."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from k8s_venv.builders.archive import write_archive
from k8s_venv.builders.dockerengine import EngineError
from k8s_venv.config import MACHINES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from docker import DockerClient

    from k8s_venv.builders.image import Image


def engine_platform(client: DockerClient) -> str:
    """Return the platform that an engine runs on, such as ``linux/arm64``."""
    machine = str(client.info()["Architecture"])
    return f"linux/{MACHINES.get(machine, machine)}"


def load_archive(client: DockerClient, reference: str, images: Sequence[Image]) -> None:
    """Load an image into the engine; of several platforms, the engine's own.

    Args:
        client: the engine.
        reference: the image's name there.
        images: the image for each platform.

    Raises:
        EngineError: the engine refuses it, or no image is for its platform.
    """
    import docker

    platform = engine_platform(client)
    fitting = [image for image in images if image.platform == platform]
    if not fitting:
        raise EngineError(f"Docker Engine runs on {platform}, for which {reference} has no image.")
    with tempfile.TemporaryDirectory(prefix="k8s-venv-load-") as folder:
        path = Path(folder) / "image.tar"
        write_archive({reference: fitting}, path)
        try:
            with path.open("rb") as stream:
                client.images.load(stream)
        except docker.errors.DockerException as error:
            raise EngineError(f"Docker Engine does not take {reference}: {error}") from None
