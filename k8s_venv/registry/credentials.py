"""The credentials of ``docker login`` (or ``podman login``): configuration files and their helper programs.

https://docs.docker.com/reference/cli/docker/login/#credential-stores and
https://github.com/containers/image/blob/main/docs/containers-auth.json.5.md
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
from k8s_venv.registry.addresses import DOCKER_HUB

# Under this address Docker keeps the credentials of Docker Hub; Podman under the others.
_DOCKER_HUB_KEYS = ("https://index.docker.io/v1/", DOCKER_HUB, "index.docker.io", "registry-1.docker.io")
# The whole configuration in a variable, as CI systems set it.
_AUTH_CONFIG_VARIABLE = "DOCKER_AUTH_CONFIG"
# What a helper gives as the user when its secret is a token to be exchanged.
_TOKEN_USER = "<token>"  # noqa: S105 -- a name, not a secret
_HELPER_TIMEOUT = 60  # seconds
# What helpers answer for a registry that they do not know: Docker's own words, and the macOS keychain's.
_UNKNOWN = ("credentials not found", "could not be found in the keychain")


@dataclasses.dataclass(frozen=True)
class Credentials:
    """Who to be on a registry.

    Args:
        user: the user's name.
        password: its password.
        identity_token: a token to exchange for others (OAuth 2), in place of both.
        source: where they were found.
    """

    user: str = ""
    password: str = dataclasses.field(default="", repr=False)
    identity_token: str = dataclasses.field(default="", repr=False)
    source: str = ""

    @property
    def name(self) -> str:
        """Return who it is and who says so."""
        return f"{self.user or 'an identity token'} (in {self.source})"


def find_credentials(host: str) -> Credentials | None:
    """Return what is known of a registry, or None.

    The first that knows it of: ``DOCKER_AUTH_CONFIG``, ``REGISTRY_AUTH_FILE``, Docker's configuration, Podman's.

    Args:
        host: the registry.

    Raises:
        K8sVenvError: a file, or a helper that it names, cannot be used.
    """
    for source, config in _configurations():
        found = _from_configuration(config, host, source)
        if found:
            return found
    return None


def _configurations() -> list[tuple[str, dict[str, Any]]]:
    """Read every configuration that there is, with the name of where it is."""
    given = os.environ.get(_AUTH_CONFIG_VARIABLE)
    found = [(_AUTH_CONFIG_VARIABLE, _parsed(given, _AUTH_CONFIG_VARIABLE))] if given else []
    podmans, session = os.environ.get("REGISTRY_AUTH_FILE"), os.environ.get("XDG_RUNTIME_DIR")
    places = [
        *([Path(podmans)] if podmans else ()),
        Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json",
        *([Path(session) / "containers/auth.json"] if session else ()),
        Path.home() / ".config/containers/auth.json",
    ]
    for path in places:
        try:
            text = path.read_text("utf-8")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            raise K8sVenvError(f"The registries' credentials {path} cannot be read: {error}.") from None
        found.append((str(path), _parsed(text, str(path))))
    return found


def _parsed(text: str, source: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
        if all(isinstance(config.get(key) or {}, dict) for key in ("auths", "credHelpers")):
            return dict(config)
    except (ValueError, AttributeError):
        pass
    # What is wrong in it is not quoted: it may be half of a password.
    raise K8sVenvError(f"The registries' credentials {source} cannot be read: they are not Docker's JSON.")


def _from_configuration(config: dict[str, Any], host: str, source: str) -> Credentials | None:
    keys = _DOCKER_HUB_KEYS if host == DOCKER_HUB else (host, f"https://{host}", f"http://{host}")
    helpers = config.get("credHelpers") or {}
    helper = next((helpers[key] for key in (host, *keys) if key in helpers), config.get("credsStore"))
    if helper:
        found = next((one for key in keys if (one := _from_helper(str(helper), key))), None)
        if found:
            return found
    # Podman may keep a key for one namespace of a registry; the registry's own goes before.
    auths = sorted((config.get("auths") or {}).items(), key=lambda pair: len(pair[0]), reverse=True)
    entries = {_plain(key): value for key, value in auths if isinstance(value, dict)}
    entry = next((entries[key] for key in map(_plain, keys) if entries.get(key)), None)
    return _from_entry(entry, source) if entry else None


def _plain(key: str) -> str:
    """Return the host of a key that may be written as an address."""
    return (key.partition("://")[2] or key).partition("/")[0].lower()


def _from_entry(entry: dict[str, Any], source: str) -> Credentials | None:
    if entry.get("identitytoken"):
        return Credentials(identity_token=entry["identitytoken"], source=source)
    if entry.get("auth"):
        try:
            user, colon, password = base64.b64decode(entry["auth"]).decode().partition(":")
        except (binascii.Error, ValueError, TypeError):
            user = colon = ""
        if not colon:
            raise K8sVenvError(f"The registries' credentials {source} are garbled: run `docker login` again.")
        return Credentials(user, password.strip("\0"), source=source)
    if entry.get("username"):
        return Credentials(entry["username"], entry.get("password", ""), source=source)
    return None


def _from_helper(helper: str, key: str) -> Credentials | None:
    program = f"docker-credential-{helper}"
    try:
        ran = subprocess.run(
            [program, "get"], input=key, capture_output=True, text=True, check=False, timeout=_HELPER_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        problem = f"did not answer for {key} within {_HELPER_TIMEOUT} seconds"
        raise K8sVenvError(f"Docker's credential helper {program} {problem}.") from None
    except OSError as error:
        raise K8sVenvError(f"Docker's credential helper {program} cannot be run: {error.strerror}.") from None
    if ran.returncode:
        said = (ran.stderr.strip() or ran.stdout.strip())[-500:]
        if any(words in ran.stdout + ran.stderr for words in _UNKNOWN):
            return None
        words = "it printed a secret, which is not shown here" if '"Secret"' in said else said or "it does not say why"
        raise K8sVenvError(f"Docker's credential helper {program} failed for {key}: {words}")
    try:
        found = json.loads(ran.stdout)
        user, secret = str(found.get("Username") or ""), str(found.get("Secret") or "")
    except (ValueError, AttributeError):
        raise K8sVenvError(f"Docker's credential helper {program} gave no JSON for {key}.") from None
    if user == _TOKEN_USER:
        return Credentials(identity_token=secret, source=program)
    return Credentials(user, secret, source=program) if user else None
