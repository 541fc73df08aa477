"""What pod options mean for one container of a Docker Engine, as pure functions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from k8s_venv.backends.command import runner_command
from k8s_venv.backends.resources import amount, amounts
from k8s_venv.backends.variables import plain_variables
from k8s_venv.errors import BackendError
from k8s_venv.wire import protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from k8s_venv.config.environment import Environment

LABEL = "k8s-venv.environment"  # of a call's container and its volume
FOLDER = "/k8s-venv"
SCRATCH = "/tmp"  # noqa: S108 -- a file system of the container's own
# Who runs a call in an image that names no user, or root: as in images that k8s-venv builds.
USER = "50000:0"
_ROOT = re.compile(r"(?:|0|root)(?::.*)?")
_PERIOD = 100_000  # microseconds, of which a container gets its share of CPU time


def container_options(environment: Environment, given: Mapping[str, Any], image_user: str) -> dict[str, Any]:
    """Return how a call's container is made.

    Args:
        environment: whose call it is.
        given: the pod options that this backend honours, in any of the forms that ``KubernetesPodOperator`` takes.
        image_user: the user whom the image names.

    Raises:
        BackendError: an option cannot be honoured.
    """
    from docker.types import LogConfig, Mount

    settings = {"HOME": SCRATCH, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
    return {
        "entrypoint": runner_command("python", f"{FOLDER}/{protocol.ARCHIVE}"),
        "command": ["--result", f"{FOLDER}/result", "--secrets", "-"],
        "environment": {**settings, **plain_variables(environment, given.get("env_vars"), "docker")},
        "user": USER if _ROOT.fullmatch(image_user) else image_user,
        "stdin_open": True,
        "read_only": True,
        "tmpfs": {SCRATCH: "rw,exec,nosuid,nodev,mode=1777"},
        # Without a name: it goes with the container.
        "mounts": [Mount(FOLDER, None, no_copy=True, labels={LABEL: environment.name})],
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        # What a task prints goes to its sender alone.
        "log_config": LogConfig(type="none"),
        **_resources(environment, given.get("container_resources")),
    }


def memory_limit(given: Mapping[str, Any]) -> str:
    """Return a container's limit of memory in its author's words, for messages.

    Args:
        given: pod options by name.
    """
    size = amounts(given.get("container_resources"), "limits").get("memory")
    return f"limit {size}" if size else "no limit of its own: the machine ran out"


def _resources(environment: Environment, given: Any) -> dict[str, Any]:
    """Return a container's limits; requests only tell a scheduler where there is room."""
    limits = amounts(given, "limits")
    options: dict[str, Any] = {}
    if "memory" in limits:
        size = int(_amount(environment, limits["memory"]))
        options |= {"mem_limit": size, "memswap_limit": size}
    if "cpu" in limits:
        share = int(_amount(environment, limits["cpu"]) * _PERIOD)
        options |= {"cpu_period": _PERIOD, "cpu_quota": max(share, 1000)}
    return options


def _amount(environment: Environment, quantity: Any) -> float:
    try:
        return amount(quantity)
    except ValueError as error:
        raise BackendError(environment.name, str(error)) from None
