"""Docker Engine: connect to it, load images into it, and what ``docker buildx`` can build with it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from k8s_venv.config import MACHINES
from k8s_venv.errors import K8sVenvError, not_installed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from docker import DockerClient

    from k8s_venv.builders.oci import Image

# How `docker info` says that containerd keeps the engine's images, which allows images of several platforms.
_CONTAINERD = ["driver-type", "io.containerd.snapshotter.v1"]


class EngineError(K8sVenvError):
    """Docker Engine, or what it needs here, cannot be used."""


def connect() -> DockerClient:
    """Return a client of the engine at ``DOCKER_HOST`` or at its usual socket; the caller closes it.

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


def engine_platform(client: DockerClient) -> str:
    """Return the platform that an engine runs on, such as ``linux/arm64``."""
    machine = str(client.info()["Architecture"])
    return f"linux/{MACHINES.get(machine, machine)}"


def load_image(client: DockerClient, reference: str, images: Sequence[Image]) -> None:
    """Load an image into the engine; of several platforms, the engine's own.

    Args:
        client: the engine.
        reference: the image's name there.
        images: the image for each platform.

    Raises:
        EngineError: the engine refuses it, or no image is for its platform.
    """
    import docker

    from k8s_venv.builders.oci import write_archive  # running calls in the engine needs no images

    platform = engine_platform(client)
    own = [image for image in images if image.platform == platform]
    if not own:
        raise EngineError(f"Docker Engine runs on {platform}, for which {reference} has no image.")
    with tempfile.TemporaryDirectory(prefix="k8s-venv-load-") as folder:
        path = Path(folder) / "image.tar"
        write_archive({reference: own}, path)
        try:
            with path.open("rb") as stream:
                client.images.load(stream)
        except docker.errors.DockerException as error:
            raise EngineError(f"Docker Engine does not take {reference}: {error}") from None


@dataclasses.dataclass(frozen=True)
class Buildx:
    """The builder that ``docker buildx`` uses here.

    Args:
        name: its name.
        exports: whether it makes images for several platforms and writes OCI layouts.
        platforms: what it can run, emulated or not; empty while it has not started.
        engine: the platform of Docker Engine itself.
    """

    name: str
    exports: bool
    platforms: frozenset[str]
    engine: str

    def problem(self, platforms: Sequence[str]) -> str:
        """Return why it cannot build for some platforms and what to install, or an empty text if it can.

        Args:
            platforms: such as ``linux/arm64``.
        """
        if len(platforms) > 1 and not self.exports:
            return (
                f"The builder {self.name!r} is Docker Engine's own, which builds for one platform at a time. Run "
                "`docker buildx create --driver docker-container --use`, or have the engine keep images in containerd "
                '({"features": {"containerd-snapshotter": true}} in /etc/docker/daemon.json).'
            )
        missing = [platform for platform in platforms if self.platforms and platform not in self.platforms]
        return f"The builder {self.name!r} cannot run {' and '.join(missing)}. {emulation(missing)}" if missing else ""


def emulation(platforms: Sequence[str]) -> str:
    """Return how to make this machine run the programs of other platforms.

    Args:
        platforms: such as ``linux/arm64``.
    """
    machines = ",".join(platform.partition("/")[2] for platform in platforms)
    return (
        f"Install their emulation: `docker run --privileged --rm tonistiigi/binfmt --install {machines}`, or Debian's "
        "packages qemu-user-static and binfmt-support."
    )


def find_buildx() -> Buildx:
    """Return the builder that ``docker buildx`` uses here.

    Raises:
        EngineError: the engine, its client library or buildx is missing, or there is no such builder.
    """
    with contextlib.closing(connect()) as client:
        status, engine = client.info().get("DriverStatus") or [], engine_platform(client)
    program = shutil.which("docker")
    if program is None:
        raise EngineError("The `docker` command is not on PATH. Install Docker's command line and its buildx plugin.")
    if subprocess.run([program, "buildx", "version"], capture_output=True, check=False).returncode:
        raise EngineError(
            "Docker's buildx plugin is missing. Install the package docker-buildx-plugin (or docker-buildx)."
        )
    inspected = subprocess.run([program, "buildx", "inspect"], capture_output=True, text=True, check=False)
    if inspected.returncode:
        reason = inspected.stderr.strip().removeprefix("ERROR: ")
        raise EngineError(f"`docker buildx inspect` fails: {reason}. Choose another builder: `docker buildx use NAME`.")
    found = dict(re.findall(r"^(Name|Driver):\s*(\S+)", inspected.stdout, re.MULTILINE)[:2])
    platforms = re.findall(r"linux/\w+", " ".join(re.findall(r"^Platforms:(.*)", inspected.stdout, re.MULTILINE)))
    exports = found.get("Driver") != "docker" or _CONTAINERD in status
    return Buildx(found.get("Name", "default"), exports, frozenset(platforms), engine)
