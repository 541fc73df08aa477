"""What BuildKit prints (``--progress plain``): how far a build is, and why it failed."""

from __future__ import annotations

import re
from collections import defaultdict, deque
from typing import TYPE_CHECKING

from k8s_venv.builders.base import base_reference, missing_base
from k8s_venv.builders.basepackages import lacking_packages
from k8s_venv.builders.buildx import emulation
from k8s_venv.errors import BuildError, did_you_mean, masked
from k8s_venv.locks import uv
from k8s_venv.locks.debian import missing_packages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k8s_venv.config.environment import Environment

# What a line means, by what stands in it.
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
_LINE = re.compile(r"#(\d+) (?:\d+\.\d+ )?(.*)")
_FAILED = re.compile(r"^#(\d+) ERROR: (?!.*context canceled)", re.MULTILINE)
# The template's commands, which are long.
_COMMAND = re.compile(r"ERROR: (executor failed running|process \"/bin/sh)|\[build +\d+/\d+\] ")
_KEPT = 200  # lines of each step
_SHOWN = 25
_DISK_FULL = re.compile(r"no space left on device", re.IGNORECASE)
_NOT_RUNNABLE = re.compile(r"exec format error|exec /bin/sh: no such file", re.IGNORECASE)
_CUT = re.compile(
    r"^ERROR: .*(code = Unavailable|error reading from server|Cannot connect to the Docker daemon|closed network "
    r"connection|connection reset|connection refused|\bEOF\b)",
    re.MULTILINE,
)
_NOT_REACHED = re.compile(
    r"Failed to fetch: `?([^`\s]+)`?(?:(?!Failed to fetch)[\s\S])*?"
    r"(dns error|tcp connect error|Connection refused|timed out|certificate|unauthorized|\b40[13]\b)",
    re.IGNORECASE,
)
# How the template tells which Debian packages there are.
_KNOWN = re.compile(r"Debian has: (.*)")


class BuildLog:
    """Reads the lines of one build."""

    def __init__(self) -> None:
        self._steps: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=_KEPT))
        self._last: deque[str] = deque(maxlen=_KEPT)

    def read(self, line: str) -> str | None:
        """Take a line, and return the name of the step that it belongs to, where it tells.

        Args:
            line: what BuildKit printed.
        """
        if line.strip():
            self._last.append(line.rstrip())
        if found := _LINE.match(line):
            self._steps[found[1]].append(found[2].rstrip())
        return next((text for mark, text in _STEPS.items() if mark in line), None)

    def error(self, environment: Environment, reference: str, own_addresses: Sequence[str] = ()) -> BuildError:
        """Return what went wrong in a build, with the lines to show for it.

        Args:
            environment: what was built.
            reference: the image's reference.
            own_addresses: what the build was told to reach, and only this machine does.
        """
        text = "\n".join(self._last)
        failed = _FAILED.search(text)
        said = [line for line in self._last if line.startswith("ERROR: ")]
        step = "\n".join(self._steps[failed[1]] if failed else said or self._last)
        shown = "\n".join([line for line in step.splitlines() if line.strip() and not _COMMAND.match(line)][-_SHOWN:])
        problem, quoted = _known_cause(environment, text, step) or _package_fault(environment, step, own_addresses)
        if not problem and re.search(r"^ > pushing |failed to push", text, re.MULTILINE):
            problem, quoted = f"its image could not be pushed as {reference}.", True
        problem = masked(problem or "its image could not be built.")
        if not quoted:
            return BuildError(environment.name, problem)
        return BuildError(environment.name, f"{problem} The last lines of the build:", masked(shown))


def _known_cause(environment: Environment, text: str, step: str) -> tuple[str, bool] | None:
    """Return what is wrong with the base, the Debian packages or the engine, and whether the log helps."""
    name = environment.name
    if wrong := re.search(r"The base image has Python [\d.]+ instead of [\d.]+\.", step):
        return f"its base image {base_reference(environment)} does not fit. {wrong[0]}", False
    if lacking := re.search(r"^The base image lacks (.+)\.$", step, re.MULTILINE):
        return lacking_packages(environment, lacking[1]), False
    if unread := re.search(r"^#(\d+) \[internal\] load metadata for (?:.*\n)*?#\1 ERROR: (.+)", text, re.MULTILINE):
        return missing_base(environment, unread[2]), False
    if missing := re.search(r"E: Unable to locate package (\S+)", step):
        near = did_you_mean(missing[1], (known[1].split() if (known := _KNOWN.search(step)) else ()))
        return f"there is no Debian package {missing[1]!r}.{near} Check `packages` of [environments.{name}].", False
    if missing := re.search(r"E: Version '(\S+)' for '(\S+)' was not found", step):
        return f"there is no version {missing[1]!r} of the Debian package {missing[2]!r} any more.", False
    if _DISK_FULL.search(text):
        return (
            "there is no space left where Docker Engine builds. `docker system df` shows what takes it, `docker "
            "builder prune` and `docker image prune` free some.",
            True,
        )
    if _NOT_RUNNABLE.search(step):
        return f"the builder cannot run every platform. {emulation(environment.image_platforms)}", True
    if _CUT.search(text):
        return (
            "Docker Engine ended, or the connection to it. Start it, and build again: what was finished is kept.",
            True,
        )
    return None


def _package_fault(environment: Environment, step: str, own_addresses: Sequence[str]) -> tuple[str, bool]:
    """Return which locked package could not be had or compiled, and what to do; nothing where that was not it."""
    if failed := uv.failed_build(step):
        package, log = failed
        packages = missing_packages(log)
        listed = ", ".join(f'"{each}"' for each in [*environment.packages, *packages])
        remedy = (
            f"Debian has what it lacks: packages = [{listed}] in [environments.{environment.name}]."
            if packages
            else f"What it needs of Debian belongs into `packages` of [environments.{environment.name}]."
        )
        return f"{package} has no wheel, and could not be compiled. {remedy}", True
    if own_addresses and re.search(r"tcp connect error|Connection refused|dns error|timed out", step, re.IGNORECASE):
        return (
            f"{' and '.join(own_addresses)} is an address of this machine alone, where no build's container gets. Name "
            "it by one of the network.",
            True,
        )
    if found := _NOT_REACHED.search(step):
        return f"its packages cannot be had from a build's container: {found[1]} ({found[2]}).", True
    return "", True
