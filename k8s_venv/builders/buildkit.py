"""Build an environment's image with BuildKit (``docker buildx``)."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.resources
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from k8s_venv.builders.base import base_reference
from k8s_venv.builders.buildlog import BuildLog
from k8s_venv.builders.buildx import find_buildx
from k8s_venv.builders.dockerengine import connect
from k8s_venv.builders.layered import image_labels
from k8s_venv.builders.saved import read_layout, read_saved
from k8s_venv.builders.secrets import Secrets
from k8s_venv.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from docker.models.images import Image as EngineImage

    from k8s_venv.builders.image import Image
    from k8s_venv.config.environment import Environment
    from k8s_venv.locks.lockfile import Lock

# Where the template takes an environment's own lines.
_LINES = "# (the environment's own lines)"

_GRACE = 10.0  # seconds between asking a build to end and ending it


class BuildKit:
    """Builds images, several at once from several threads, until it is told to stop."""

    def __init__(self) -> None:
        self._stopped = False
        self._running: set[subprocess.Popen[str]] = set()

    def build(
        self,
        environment: Environment,
        lock: Lock,
        reference: str,
        destination: Literal["push", "load"],
        progress: Callable[[str], None],
    ) -> None:
        """Build an image and bring it to its destination, or leave that as it was.

        Args:
            environment: what to build.
            lock: its lock.
            reference: the image's full reference.
            destination: the registry, or Docker Engine, which gets its own of several platforms.
            progress: is called with each step's name.

        Raises:
            BuildError: BuildKit failed; its last lines are in the error.
        """
        platforms = environment.image_platforms
        if destination == "load" and len(platforms) > 1:
            own = find_buildx().engine
            platforms = (own,) if own in platforms else platforms
        output = [f"--{destination}", "--tag", reference]
        self._build(environment, lock, reference, platforms, output, progress)

    def export(
        self, environment: Environment, lock: Lock, reference: str, folder: Path, progress: Callable[[str], None]
    ) -> list[Image]:
        """Build an image, and return it for each platform, its layers in a folder.

        Args:
            environment: what to build.
            lock: its lock.
            reference: the image's full reference.
            folder: an empty folder.
            progress: is called with each step's name.

        Raises:
            BuildError: BuildKit failed; its last lines are in the error.
        """
        platforms = environment.image_platforms
        if find_buildx().exports:
            output = [f"--output=type=oci,tar=false,dest={folder / 'image'}"]
            self._build(environment, lock, reference, platforms, output, progress)
            return read_layout(folder / "image")
        # The engine's own builder writes no archive, but the engine does.
        tag = f"k8s-venv-output:{uuid.uuid4().hex}"
        self._build(environment, lock, reference, platforms, ["--load", "--tag", tag], progress)
        progress("reading the image")
        with contextlib.closing(connect()) as client:
            try:
                self._save(client.images.get(tag), environment, folder / "saved.tar")
            finally:
                client.images.remove(tag)
        return read_saved(folder / "saved.tar", folder / "image")

    def stop(self) -> None:
        """End the builds that run and begin no other."""
        self._stopped = True
        running = tuple(self._running)
        for process in running:
            _signal(process, signal.SIGTERM)
        for process in running:
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:  # the engine does not answer; it ends a build that no client waits for
                _signal(process, signal.SIGKILL)

    def _save(self, image: EngineImage, environment: Environment, path: Path) -> None:
        with path.open("wb") as stream:
            for chunk in image.save():
                if self._stopped:
                    raise BuildError(environment.name, "its build was interrupted.")
                stream.write(chunk)

    def _build(
        self,
        environment: Environment,
        lock: Lock,
        reference: str,
        platforms: Sequence[str],
        output: list[str],
        progress: Callable[[str], None],
    ) -> None:
        log = BuildLog()
        with tempfile.TemporaryDirectory(prefix="k8s-venv-build-") as name:
            folder = Path(name)
            context = write_context(environment, lock, folder / "context")
            secrets = Secrets(environment)
            command = [
                *("docker", "buildx", "build", "--progress", "plain", "--provenance", "false"),
                *("--platform", ",".join(platforms), *output),
                *_arguments(environment, lock),
                *secrets.options(folder),
                str(context),
            ]
            failed = self._run(command, log, progress)
        if failed:
            raise log.error(environment, reference, secrets.own_addresses)

    def _run(self, command: list[str], log: BuildLog, progress: Callable[[str], None]) -> bool:
        """Run buildx, and tell whether it failed."""
        if self._stopped:
            return True
        now = ""
        # A session of its own, so that Ctrl-C reaches it through `stop` alone.
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        ) as process:
            self._running.add(process)
            if self._stopped:  # meanwhile
                _signal(process, signal.SIGTERM)
            assert process.stdout is not None  # noqa: S101 -- it is a pipe
            for line in process.stdout:
                step = log.read(line) or now
                if step != now:
                    progress(step)
                now = step
        self._running.discard(process)
        return process.returncode != 0


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Send a signal to `docker` and to its plugin, which does the work."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def write_context(environment: Environment, lock: Lock, context: Path) -> Path:
    """Write what BuildKit gets: the Dockerfile, the lock, and the local wheels that it names.

    Args:
        environment: what to build.
        lock: its lock.
        context: a folder that is made.
    """
    context.mkdir()
    shutil.copy(lock.path, context / "pylock.toml")
    for file in lock.local_files:
        (context / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(environment.root / file, context / file)
    builders, locks = (importlib.resources.files(f"k8s_venv.{package}") for package in ("builders", "locks"))
    for script in (builders / "_lacking.py", locks / "installed.py"):
        (context / script.name).write_text(script.read_text("utf-8"), "utf-8")
    template = (builders / "Dockerfile").read_text("utf-8")
    (context / "Dockerfile").write_text(template.replace(_LINES, "\n".join(environment.dockerfile)), "utf-8")
    return context


def _arguments(environment: Environment, lock: Lock) -> list[str]:
    base = base_reference(environment, lock.base_digest)
    official = environment.model_copy(update={"base": None})
    sources = any(package.sdist for package in lock.packages)
    arguments = {
        "BASE": base,
        "PYTHON": environment.python,
        # Whose interpreter a base without the wanted one gets; BuildKit pulls it only then.
        "PYTHON_IMAGE": base_reference(official) if environment.base else base,
        "PACKAGES": " ".join(sorted(environment.packages)),
        "BUILD_PACKAGES": "build-essential" if sources else "",
        "UV_VERSION": importlib.metadata.version("uv"),
        "VENV_OPTIONS": "--system-site-packages" if environment.system_site_packages else "",
        "SYSTEM_PACKAGES": " ".join(lock.system or ()),
    }
    return [
        *(f"--build-arg={name}={value}" for name, value in arguments.items()),
        *(f"--label={name}={value}" for name, value in image_labels(environment, lock).items()),
    ]
