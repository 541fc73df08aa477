"""What a registry wants to see with a request: basic credentials, or a token of the service that it names.

https://distribution.github.io/distribution/spec/auth/token/ and, with an identity token, .../auth/oauth/
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from k8s_venv.registry.errors import RegistryError, document

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    import requests

    from k8s_venv.registry.credentials import Credentials

Scopes = frozenset[str]
_LIFETIME = 60.0  # seconds, where a token service names none
_EARLY = 10.0  # a token is renewed so many seconds before its end, or at half of its life


@dataclasses.dataclass(frozen=True)
class Challenge:
    """What a registry asks for.

    Args:
        kind: ``basic`` or ``bearer``.
        realm: the address of its token service.
        service: its own name there.
        scope: the access that it wants to see, several separated by spaces.
        error: what was wrong with the token that it got, such as ``insufficient_scope``.
    """

    kind: str
    realm: str = ""
    service: str = ""
    scope: str = ""
    error: str = ""

    @classmethod
    def of(cls, response: requests.Response) -> Challenge:
        """Read the header of an answer (RFC 9110, 11.6.1)."""
        from requests.utils import parse_dict_header

        kind, _, rest = response.headers.get("WWW-Authenticate", "").partition(" ")
        given = parse_dict_header(rest)  # type: ignore[no-untyped-call]
        names = ("realm", "service", "scope", "error")
        return cls(kind.lower(), **{name: str(given.get(name) or "") for name in names})


@dataclasses.dataclass(frozen=True)
class Token:
    """The value of an Authorization header.

    Args:
        header: the value.
        until: when it should be renewed, by the monotonic clock.
    """

    header: str = dataclasses.field(repr=False)
    until: float = float("inf")

    @property
    def lasts(self) -> bool:
        """Return whether it is still good."""
        return time.monotonic() < self.until


def basic(found: Credentials) -> Token:
    """Return the header of a user and a password (RFC 7617)."""
    from requests.auth import _basic_auth_str

    return Token(_basic_auth_str(found.user.encode(), found.password.encode()))


def token_request(
    challenge: Challenge, scopes: Iterable[str], found: Credentials | None, address: str
) -> tuple[str, str, dict[str, str], dict[str, Any]]:
    """Return how to ask for a token: the method, the address, the headers, and what else requests takes.

    Args:
        challenge: what the registry asked for.
        scopes: the access that the request needs.
        found: the account, or None for none.
        address: the registry's address.

    Raises:
        RegistryError: credentials would go over the network in the clear.
    """
    realm = urljoin(address, challenge.realm)
    if found and address.startswith("https:") and not realm.startswith("https:"):
        raise RegistryError(
            f"{urlsplit(address).netloc} wants its credentials sent to {realm}, without encryption.", lasting=True
        )
    wanted = sorted({*scopes, *challenge.scope.split()})
    if found and found.identity_token:
        form = {
            "grant_type": "refresh_token",
            "client_id": "k8s-venv",
            "service": challenge.service,
            "scope": " ".join(wanted),
            "refresh_token": found.identity_token,
        }
        return "POST", realm, {}, {"data": form}
    fields = [("service", challenge.service), *(("scope", one) for one in wanted)]
    headers = {"Authorization": basic(found).header} if found and found.user else {}
    return "GET", realm, headers, {"params": [pair for pair in fields if pair[1]]}


def read_token(response: requests.Response, asked: float) -> Token:
    """Read a token service's answer.

    Args:
        response: the answer.
        asked: when it was asked, by the monotonic clock.

    Raises:
        RegistryError: it holds no token.
    """
    answer = document(response)
    text = answer.get("token") or answer.get("access_token")
    if not isinstance(text, str):
        raise RegistryError(f"{urlsplit(response.url).netloc} gave no token where it was asked for one.", lasting=True)
    told = answer.get("expires_in")
    lifetime = float(told) if isinstance(told, int | float) and told > 0 else _LIFETIME
    return Token(f"Bearer {text}", asked + max(lifetime - _EARLY, lifetime / 2))
