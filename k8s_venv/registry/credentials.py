"""The credentials of ``docker login``: ``~/.docker/config.json`` and its helper programs.

https://docs.docker.com/reference/cli/docker/login/#credential-stores
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from k8s_venv.errors import K8sVenvError
from k8s_venv.registry.reference import DOCKER_HUB

# Under this address Docker keeps the credentials of Docker Hub.
_DOCKER_HUB_KEY = "https://index.docker.io/v1/"
# What a helper gives as the user when its secret is a token to be exchanged.
_TOKEN_USER = "<token>"  # noqa: S105 -- a name, not a secret


@dataclasses.dataclass(frozen=True)
class Credentials:
    """Who to be on a registry.

    Args:
        user: the user's name.
        password: its password.
        identity_token: a token to exchange for others (OAuth 2), in place of both.
    """

    user: str = ""
    password: str = dataclasses.field(default="", repr=False)
    identity_token: str = dataclasses.field(default="", repr=False)


def find_credentials(host: str) -> Credentials | None:
    """Return what ``docker login`` keeps for a registry, or None.

    Args:
        host: the registry.

    Raises:
        K8sVenvError: the file, or a helper that it names, cannot be used.
    """
    path = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise K8sVenvError(f"Docker's credentials {path} cannot be read: {error}.") from None
    keys = [_DOCKER_HUB_KEY] if host == DOCKER_HUB else [host, f"https://{host}", f"http://{host}"]
    helpers = config.get("credHelpers") or {}
    helper = next((helpers[key] for key in [host, *keys] if key in helpers), config.get("credsStore"))
    if helper:
        found = next((one for key in keys if (one := _from_helper(helper, key))), None)
        if found:
            return found
    entries = {_plain(key): value for key, value in (config.get("auths") or {}).items()}
    entry = next((entries[key] for key in map(_plain, keys) if entries.get(key)), None)
    return _from_entry(entry, path) if entry else None


def _plain(key: str) -> str:
    """Return the host of a key that may be written as an address."""
    return key.partition("://")[2].partition("/")[0] or key.partition("/")[0]


def _from_entry(entry: dict[str, Any], path: Path) -> Credentials | None:
    if entry.get("identitytoken"):
        return Credentials(identity_token=entry["identitytoken"])
    if entry.get("auth"):
        try:
            user, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise K8sVenvError(f"Docker's credentials {path} are garbled: run `docker login` again.") from None
        return Credentials(user, password)
    if entry.get("username"):
        return Credentials(entry["username"], entry.get("password", ""))
    return None


def _from_helper(helper: str, key: str) -> Credentials | None:
    program = f"docker-credential-{helper}"
    try:
        ran = subprocess.run([program, "get"], input=key, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise K8sVenvError(f"Docker's credential helper {program} cannot be run: {error}.") from None
    said = (ran.stdout + ran.stderr).strip()
    if ran.returncode:
        if "not found" in said:
            return None
        raise K8sVenvError(f"Docker's credential helper {program} failed for {key}: {said}")
    try:
        found = json.loads(ran.stdout)
    except ValueError:
        raise K8sVenvError(f"Docker's credential helper {program} gave no JSON for {key}.") from None
    if found.get("Username") == _TOKEN_USER:
        return Credentials(identity_token=found.get("Secret", ""))
    return Credentials(found.get("Username", ""), found.get("Secret", ""))
