"""Where a registry answers: plain HTTP only on this machine or on request."""

from __future__ import annotations

import os

DOCKER_HUB = "docker.io"
PLAIN_HTTP_VARIABLE = "K8S_VENV_PLAIN_HTTP"
_LOCAL = ("localhost", "127.0.0.1", "[::1]")


def address_of(host: str) -> str:
    """Return the address of a registry.

    Args:
        host: the registry, with its port where it has one.
    """
    if host == DOCKER_HUB:
        return "https://registry-1.docker.io"
    return f"http://{host}" if is_plain(host) else f"https://{host}"


def is_plain(host: str) -> bool:
    """Return whether a host may be spoken to without encryption."""
    asked = [name.strip().lower() for name in os.environ.get(PLAIN_HTTP_VARIABLE, "").split(",")]
    return is_local(host) or host.lower() in asked


def is_local(host: str) -> bool:
    """Return whether a host, with or without a port, is this machine."""
    return host in _LOCAL or host.rpartition(":")[0] in _LOCAL
