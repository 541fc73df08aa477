"""Build an environment's image with BuildKit (``docker buildx``) and push it."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from k8s_venv import uv
from k8s_venv.builders.base import base_reference, missing_base
from k8s_venv.builders.layered import image_labels
from k8s_venv.errors import BuildError
from k8s_venv.locking import locked_packages
from k8s_venv.requirements import index_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from k8s_venv.environment import Environment
    from k8s_venv.locking import Lock

# What a line of BuildKit's progress means, by what stands in it.
_STEPS = {
    "] FROM ": "pulling the base image",
    "sys.version_info": "checking the base image's Python",
    "cp -a /python": "looking for Python",
    "apt-get install": "Debian packages",
    "compileall": "compiling the standard library",
    "pip install --quiet": "getting uv",
    "uv pip sync": "installing the locked packages",
    "] COPY --from=build": "assembling the image",
    "exporting layers": "exporting layers",
    " pushing ": "pushing",
}
_LOG_LINES = 25
# Where the template takes an environment's own lines.
_LINES = "# (the environment's own lines)"


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
        destination: str | Path,
        progress: Callable[[str], None],
    ) -> None:
        """Build an image and bring it to its destination, or leave that as it was.

        Args:
            environment: what to build.
            lock: its lock.
            reference: the image's full reference.
            destination: ``push``, ``load``, or the path of an OCI archive.
            progress: is called with each step's name.

        Raises:
            BuildError: BuildKit failed; its last lines are in the error.
        """
        with tempfile.TemporaryDirectory(prefix="k8s-venv-build-") as name:
            folder = Path(name)
            context = write_context(environment, lock, folder / "context")
            command = _command(environment, lock, reference, destination)
            lines = self._run([*command, *_secrets(environment, folder), str(context)], progress)
        if lines is not None:
            raise BuildError(environment.name, *_explain(environment, reference, lines))

    def stop(self) -> None:
        """End the builds that run and begin no other."""
        self._stopped = True
        for process in tuple(self._running):
            process.terminate()

    def _run(self, command: list[str], progress: Callable[[str], None]) -> list[str] | None:
        """Run buildx; return its last lines when it failed, else None."""
        if self._stopped:
            return []
        last: deque[str] = deque(maxlen=_LOG_LINES)
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
                process.terminate()
            assert process.stdout is not None  # noqa: S101 -- it is a pipe
            for line in process.stdout:
                if line.strip():
                    last.append(line.rstrip())
                step = next((text for mark, text in _STEPS.items() if mark in line), now)
                if step != now:
                    progress(step)
                now = step
        self._running.discard(process)
        return list(last) if process.returncode else None


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
    template = importlib.resources.files("k8s_venv.builders").joinpath("Dockerfile").read_text("utf-8")
    (context / "Dockerfile").write_text(template.replace(_LINES, "\n".join(environment.dockerfile)), "utf-8")
    return context


def _command(environment: Environment, lock: Lock, reference: str, destination: str | Path) -> list[str]:
    base = base_reference(environment, lock.base_digest)
    official = environment.model_copy(update={"base": None})
    sources = any("wheels" not in package and "archive" not in package for package in locked_packages(environment))
    arguments = {
        "BASE": base,
        "PYTHON": environment.python,
        # Whose interpreter a base without the wanted one gets; BuildKit pulls it only then.
        "PYTHON_IMAGE": base_reference(official) if environment.base else base,
        "PACKAGES": " ".join(sorted(environment.packages)),
        "BUILD_PACKAGES": "build-essential" if sources else "",
        "UV_VERSION": importlib.metadata.version("uv"),
    }
    platforms = environment.image_platforms
    return [
        *("docker", "buildx", "build", "--progress", "plain", "--provenance", "false"),
        *_output(destination),
        *(("--platform", ",".join(platforms)) if len(platforms) > 1 else ()),
        *(f"--build-arg={name}={value}" for name, value in arguments.items()),
        *(f"--label={name}={value}" for name, value in image_labels(environment, lock).items()),
        *("--tag", reference),
    ]


def _secrets(environment: Environment, folder: Path) -> list[str]:
    """Hand the package indexes with their passwords to the build, and to nothing that stays of it."""
    variables = uv.index_variables(index_settings(environment))
    path = folder / "indexes"
    path.touch(0o600)
    path.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()), "utf-8")
    found = [f"--secret=id=indexes,src={path}"]
    netrc = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    return [*found, f"--secret=id=netrc,src={netrc}"] if netrc.is_file() else found


def _output(destination: str | Path) -> list[str]:
    if isinstance(destination, Path):
        return [f"--output=type=oci,dest={destination}"]
    return [f"--{destination}"]


def _explain(environment: Environment, reference: str, lines: list[str]) -> tuple[str, str]:
    """Return what went wrong in a build, and the lines to show for it."""
    text = "\n".join(lines)
    base = base_reference(environment)
    if wrong := re.search(r"The base image has Python [\d.]+ instead of [\d.]+\.", text):
        return f"its base image {base} does not fit. {wrong[0]}", ""
    if unread := re.search(r"^#(\d+) \[internal\] load metadata for (?:.*\n)*?#\1 ERROR: (.+)", text, re.MULTILINE):
        return missing_base(environment, unread[2]), ""
    if missing := re.search(r"E: Unable to locate package (\S+)", text):
        return f"there is no Debian package {missing[1]!r}. Check `packages` of [environments.{environment.name}].", ""
    if missing := re.search(r"E: Version '(\S+)' for '(\S+)' was not found", text):
        return f"there is no version {missing[1]!r} of the Debian package {missing[2]!r} any more.", ""
    if re.search(r"^ > pushing |failed to push", text, re.MULTILINE):
        return f"its image could not be pushed as {reference}. The last lines of the build:", text
    return "its image could not be built. The last lines of the build:", text
