"""What ``docker buildx`` can build here."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

from k8s_venv.builders.dockerengine import EngineError, connect
from k8s_venv.builders.engine import engine_platform

if TYPE_CHECKING:
    from collections.abc import Sequence

# How Docker says that its images are containerd's (`docker info`), which keeps those of several platforms.
_CONTAINERD = ["driver-type", "io.containerd.snapshotter.v1"]


@dataclasses.dataclass(frozen=True)
class Buildx:
    """The builder that ``docker buildx`` uses here.

    Args:
        name: its name.
        exports: whether it makes images for several platforms, and writes OCI layouts.
        platforms: what it can run, emulated or not; nothing while it is not started yet.
        engine: the platform of Docker Engine itself.
    """

    name: str
    exports: bool
    platforms: frozenset[str]
    engine: str

    def problem(self, platforms: Sequence[str]) -> str:
        """Return why it cannot build for platforms, and what to install, or nothing where it can.

        Args:
            platforms: such as ``linux/arm64``.
        """
        if len(platforms) > 1 and not self.exports:
            return (
                f"The builder {self.name!r} is Docker Engine's own, which builds for one platform at a time. Run "
                "`docker buildx create --driver docker-container --use`, or have the engine keep images in containerd "
                '({"features": {"containerd-snapshotter": true}} in /etc/docker/daemon.json).'
            )
        lacking = [platform for platform in platforms if self.platforms and platform not in self.platforms]
        return f"The builder {self.name!r} cannot run {' and '.join(lacking)}. {emulation(lacking)}" if lacking else ""


def emulation(platforms: Sequence[str]) -> str:
    """Return how a machine learns to run the programs of other platforms.

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
    asked = subprocess.run([program, "buildx", "inspect"], capture_output=True, text=True, check=False)
    if asked.returncode:
        said = asked.stderr.strip().removeprefix("ERROR: ")
        raise EngineError(f"`docker buildx inspect` fails: {said}. Choose another builder: `docker buildx use NAME`.")
    found = dict(re.findall(r"^(Name|Driver):\s*(\S+)", asked.stdout, re.MULTILINE)[:2])
    platforms = re.findall(r"linux/\w+", " ".join(re.findall(r"^Platforms:(.*)", asked.stdout, re.MULTILINE)))
    exports = found.get("Driver") != "docker" or _CONTAINERD in status
    return Buildx(found.get("Name", "default"), exports, frozenset(platforms), engine)
