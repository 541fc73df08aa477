"""Build an environment's image with BuildKit (``docker buildx``) and push it."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import os
import re
import shutil
import subprocess
import tempfile
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from k8s_venv.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Callable

    from k8s_venv.environment import Environment
    from k8s_venv.locking import Lock

BASE_REGISTRY_VARIABLE = "K8S_VENV_BASE_REGISTRY"
# What a line of BuildKit's progress means, by what stands in it.
_STEPS = {
    "] FROM ": "pulling the base image",
    "sys.version_info": "checking the base image's Python",
    "apt-get install": "installing Debian packages",
    "compileall": "compiling the standard library",
    "] RUN --mount=type=cache,target=/root/.cache/pip": "getting uv",
    "uv pip sync": "installing the locked packages",
    "] COPY --from=build": "assembling the image",
    "exporting layers": "exporting layers",
    " pushing ": "pushing",
}
_LOG_LINES = 25


def build_and_push(
    environment: Environment, lock: Lock, reference: str, progress: Callable[[str], None] | None = None
) -> None:
    """Build an image and push it under its reference, or leave the registry as it was.

    Args:
        environment: what to build.
        lock: its lock.
        reference: the image's full reference.
        progress: is called with each step's name.

    Raises:
        BuildError: BuildKit failed; its last lines are in the error.

    """
    with tempfile.TemporaryDirectory(prefix="k8s-venv-build-") as name:
        context = Path(name)
        shutil.copy(lock.path, context / "pylock.toml")
        dockerfile = context / "Dockerfile"
        dockerfile.write_text(importlib.resources.files("k8s_venv.builders").joinpath("Dockerfile").read_text("utf-8"))
        lines = _run(_command(environment, lock, reference, context), progress or (lambda step: None))
    if lines is not None:
        raise BuildError(environment.name, _explanation(environment, lines), "\n".join(lines))


def base_reference(environment: Environment) -> str:
    """Return the base image to pull, where ``K8S_VENV_BASE_REGISTRY`` may name a mirror of the official ones."""
    mirror = os.environ.get(BASE_REGISTRY_VARIABLE)
    if mirror and environment.base is None:
        return f"{mirror.rstrip('/')}/{environment.base_image}"
    return environment.base_image


def _command(environment: Environment, lock: Lock, reference: str, context: Path) -> list[str]:
    arguments = {
        "BASE": base_reference(environment),
        "PYTHON": environment.python,
        "PACKAGES": " ".join(sorted(environment.packages)),
        "UV_VERSION": importlib.metadata.version("uv"),
    }
    labels = {
        "org.opencontainers.image.title": environment.name,
        "io.k8s-venv.environment": environment.name,
        "io.k8s-venv.python": environment.python,
        "io.k8s-venv.lock": lock.digest,
    }
    return [
        *("docker", "buildx", "build", "--progress", "plain", "--provenance", "false", "--push"),
        *(f"--build-arg={name}={value}" for name, value in arguments.items()),
        *(f"--label={name}={value}" for name, value in labels.items()),
        *("--tag", reference, str(context)),
    ]


def _run(command: list[str], progress: Callable[[str], None]) -> list[str] | None:
    """Run buildx; return its last lines when it failed, else None."""
    last: deque[str] = deque(maxlen=_LOG_LINES)
    now = ""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    ) as process:
        try:
            assert process.stdout is not None  # noqa: S101 -- it is a pipe
            for line in process.stdout:
                if line.strip():
                    last.append(line.rstrip())
                step = next((text for mark, text in _STEPS.items() if mark in line), now)
                if step != now:
                    progress(step)
                now = step
        except BaseException:
            process.terminate()
            raise
    return list(last) if process.returncode else None


def _explanation(environment: Environment, lines: list[str]) -> str:
    text = "\n".join(lines)
    base = base_reference(environment)
    if re.search(rf"{re.escape(base)}\S*: (?:not found|failed to resolve)|{re.escape(base)}: .*not found", text):
        return (
            f"its base image {base} does not exist or cannot be reached. Is there a Python {environment.python}? "
            f"`base` in k8s-venv.toml, or {BASE_REGISTRY_VARIABLE}, names another."
        )
    wrong = re.search(r"The base image has Python [\d.]+ instead of [\d.]+\.", text)
    if wrong:
        return f"its base image {base} does not fit: {wrong[0]}"
    missing = re.search(r"E: Unable to locate package (\S+)", text)
    if missing:
        return f"there is no Debian package {missing[1]!r}. Check `packages` of [environments.{environment.name}]."
    return "its image could not be built. The last lines of the build:"
