"""Who we are on a registry: the credentials of ``docker login`` or ``podman login``, and the tokens that they give.

https://docs.docker.com/reference/cli/docker/login/#credential-stores,
https://github.com/containers/image/blob/main/docs/containers-auth.json.5.md,
https://distribution.github.io/distribution/spec/auth/token/ and, with an identity token, .../auth/oauth/
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from requests.utils import parse_dict_header

from k8s_venv.errors import K8sVenvError
from k8s_venv.registry.errors import RegistryError, document

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import requests

DOCKER_HUB = "docker.io"
# Docker keeps the credentials of Docker Hub under this address, Podman under the others.
_DOCKER_HUB_KEYS = ("https://index.docker.io/v1/", DOCKER_HUB, "index.docker.io", "registry-1.docker.io")
# The whole configuration in a variable, as CI systems set it.
_AUTH_CONFIG_VARIABLE = "DOCKER_AUTH_CONFIG"
# What a helper gives as the user if its secret is an identity token.
_TOKEN_USER = "<token>"  # noqa: S105 -- a name, not a secret
_HELPER_TIMEOUT = 60  # seconds
# The answer of helpers for a registry that they do not know: in Docker's own words, and in the macOS keychain's.
_UNKNOWN = ("credentials not found", "could not be found in the keychain")

_LIFETIME = 60.0  # seconds of a token, if its service names none
_EARLY = 10.0  # a token is renewed so many seconds before its end, or at half of its lifetime


@dataclasses.dataclass(frozen=True)
class Credentials:
    """A user of a registry.

    Args:
        user: the user's name.
        password: its password.
        identity_token: a token to exchange for others (OAuth 2), in place of both.
        source: the file, variable or helper that has them.
    """

    user: str = ""
    password: str = dataclasses.field(default="", repr=False)
    identity_token: str = dataclasses.field(default="", repr=False)
    source: str = ""

    @property
    def name(self) -> str:
        """Return the user and where the credentials are, for messages."""
        return f"{self.user or 'an identity token'} (in {self.source})"


def find_credentials(host: str) -> Credentials | None:
    """Return the credentials for a registry, or None.

    They are from the first of these that has any: ``DOCKER_AUTH_CONFIG``, ``REGISTRY_AUTH_FILE``, Docker's
    configuration, Podman's.

    Args:
        host: the registry.

    Raises:
        K8sVenvError: a file, or a helper that it names, cannot be used.
    """
    found = (_from_configuration(config, host, source) for source, config in _configurations())
    return next((credentials for credentials in found if credentials), None)


def _configurations() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of each place with a configuration, and the configuration."""
    if given := os.environ.get(_AUTH_CONFIG_VARIABLE):
        yield _AUTH_CONFIG_VARIABLE, _parsed(given, _AUTH_CONFIG_VARIABLE)
    podmans, session = os.environ.get("REGISTRY_AUTH_FILE"), os.environ.get("XDG_RUNTIME_DIR")
    places = [
        *([Path(podmans)] if podmans else ()),
        Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json",
        *([Path(session) / "containers/auth.json"] if session else ()),
        Path.home() / ".config/containers/auth.json",
    ]
    for path in places:
        try:
            yield str(path), _parsed(path.read_text("utf-8"), str(path))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            raise K8sVenvError(f"The registries' credentials {path} cannot be read: {error}.") from None


def _parsed(text: str, source: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
        if all(isinstance(config.get(key) or {}, dict) for key in ("auths", "credHelpers")):
            return dict(config)
    except (ValueError, AttributeError):
        pass
    # The message does not quote what is wrong: it may be half of a password.
    raise K8sVenvError(f"The registries' credentials {source} cannot be read: they are not Docker's JSON.")


def _from_configuration(config: dict[str, Any], host: str, source: str) -> Credentials | None:
    keys = _DOCKER_HUB_KEYS if host == DOCKER_HUB else (host, f"https://{host}", f"http://{host}")
    helpers = config.get("credHelpers") or {}
    helper = next((helpers[key] for key in (host, *keys) if key in helpers), config.get("credsStore"))
    if helper:
        found = next((one for key in keys if (one := _from_helper(str(helper), key))), None)
        if found:
            return found
    # Podman may have a key for one namespace of a registry; the registry's own key is taken before it.
    auths = sorted((config.get("auths") or {}).items(), key=lambda pair: len(pair[0]), reverse=True)
    entries = {_host_of(key): value for key, value in auths if isinstance(value, dict)}
    entry = next((entries[key] for key in map(_host_of, keys) if entries.get(key)), None)
    return _from_entry(entry, source) if entry else None


def _host_of(key: str) -> str:
    """Return the host of a key, which may be an address."""
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
        return Credentials(user, password, source=source)
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
        if any(words in ran.stdout + ran.stderr for words in _UNKNOWN):
            return None
        output = (ran.stderr.strip() or ran.stdout.strip())[-500:] or "it does not say why"
        if '"Secret"' in output:
            output = "it printed a secret, which is not shown here"
        raise K8sVenvError(f"Docker's credential helper {program} failed for {key}: {output}")
    try:
        found = json.loads(ran.stdout)
        user, secret = str(found.get("Username") or ""), str(found.get("Secret") or "")
    except (ValueError, AttributeError):
        raise K8sVenvError(f"Docker's credential helper {program} gave no JSON for {key}.") from None
    if user == _TOKEN_USER:
        return Credentials(identity_token=secret, source=program)
    return Credentials(user, secret, source=program) if user else None


@dataclasses.dataclass(frozen=True)
class Challenge:
    """What a registry asks for in its answer 401.

    Args:
        kind: ``basic`` or ``bearer``.
        realm: the address of its token service.
        service: its own name there.
        scope: the access that the token must have, several separated by spaces.
    """

    kind: str
    realm: str = ""
    service: str = ""
    scope: str = ""

    @classmethod
    def of(cls, response: requests.Response) -> Challenge:
        """Read the header of an answer (RFC 9110, 11.6.1)."""
        kind, _, rest = response.headers.get("WWW-Authenticate", "").partition(" ")
        given = parse_dict_header(rest)  # type: ignore[no-untyped-call]
        return cls(kind.lower(), **{name: str(given.get(name) or "") for name in ("realm", "service", "scope")})

    def token_request(
        self, scopes: Iterable[str], credentials: Credentials | None, address: str
    ) -> tuple[str, str, dict[str, Any]]:
        """Return the method and the address that give a token, and further arguments for requests.

        Args:
            scopes: the access that the token must have.
            credentials: the user, or None.
            address: the registry's address.

        Raises:
            RegistryError: credentials would go over the network without encryption.
        """
        realm = urljoin(address, self.realm)
        if credentials and address.startswith("https:") and not realm.startswith("https:"):
            raise RegistryError(
                f"{urlsplit(address).netloc} wants its credentials sent to {realm}, without encryption.", lasting=True
            )
        wanted = sorted({*scopes, *self.scope.split()})
        if credentials and credentials.identity_token:
            form = {
                "grant_type": "refresh_token",
                "client_id": "k8s-venv",
                "service": self.service,
                "scope": " ".join(wanted),
                "refresh_token": credentials.identity_token,
            }
            return "POST", realm, {"data": form}
        parameters = [("service", self.service)] if self.service else []
        options: dict[str, Any] = {"params": [*parameters, *(("scope", one) for one in wanted)]}
        if credentials and credentials.user:
            options["auth"] = (credentials.user.encode(), credentials.password.encode())
        return "GET", realm, options


@dataclasses.dataclass(frozen=True)
class Token:
    """The value of an Authorization header.

    Args:
        header: the value.
        until: when it should be renewed, by the monotonic clock.
    """

    header: str = dataclasses.field(repr=False)
    until: float = float("inf")

    @classmethod
    def basic(cls, credentials: Credentials) -> Token:
        """Return the token of a user and a password (RFC 7617)."""
        pair = f"{credentials.user}:{credentials.password}"
        return cls(f"Basic {base64.b64encode(pair.encode()).decode()}")

    @classmethod
    def read(cls, response: requests.Response, asked: float) -> Token:
        """Read the answer of a token service to a request that was sent at a time of the monotonic clock.

        Raises:
            RegistryError: it holds no token.
        """
        answer = document(response)
        text = answer.get("token") or answer.get("access_token")
        if not isinstance(text, str):
            place = urlsplit(response.url).netloc
            raise RegistryError(f"{place} gave no token where it was asked for one.", lasting=True)
        given = answer.get("expires_in")
        lifetime = float(given) if isinstance(given, int | float) and given > 0 else _LIFETIME
        return cls(f"Bearer {text}", asked + max(lifetime - _EARLY, lifetime / 2))

    @property
    def is_valid(self) -> bool:
        """Return whether it need not be renewed yet."""
        return time.monotonic() < self.until
