"""Connections to a registry: where it answers, whom to trust, and what follows a redirect."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import requests
from requests.adapters import HTTPAdapter

from k8s_venv.errors import K8sVenvError
from k8s_venv.registry.addresses import is_local, is_plain
from k8s_venv.registry.errors import RegistryError

# Threads of several images share one session.
_CONNECTIONS = 32


def open_session(host: str, address: str) -> requests.Session:
    """Return a session for a registry; it is safe to use from several threads.

    Args:
        host: the registry, as images name it.
        address: where it answers.

    Raises:
        K8sVenvError: the registry's certificates in Docker's folder cannot be used.
    """
    session = _Session()
    session.headers.update({"User-Agent": "k8s-venv", "Accept-Encoding": "identity"})
    session.auth = _as_it_is
    # As Docker does, this machine is never asked through a proxy.
    session.trust_env = not is_local(host)
    session.mount("https://", _Adapter(ssl.create_default_context()))
    session.mount(f"{address}/", _Adapter(_context(host)))
    return session


class _Session(requests.Session):
    """Sends credentials only where they belong, and none out of ~/.netrc, which are for other programs."""

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        url = str(prepared_request.url)
        place = urlsplit(url)
        if place.scheme == "http" and response.url.startswith("https:") and not is_plain(place.netloc):
            here = urlsplit(response.url).netloc
            raise RegistryError(f"{here} sends us on to {place.netloc}, without encryption.", lasting=True)
        if "Authorization" in prepared_request.headers and self.should_strip_auth(response.url, url):  # type: ignore[no-untyped-call]
            del prepared_request.headers["Authorization"]


class _Adapter(HTTPAdapter):
    """Trusts what the machine trusts, beside requests' own list or the one that its variables name."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__(pool_connections=_CONNECTIONS, pool_maxsize=_CONNECTIONS)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, ssl_context=self._context, **options)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        return super().proxy_manager_for(proxy, ssl_context=self._context, **options)


def same_origin(one: str, other: str) -> bool:
    """Return whether two addresses are of one server, whose credentials both may have."""
    return _origin(urlsplit(one)) == _origin(urlsplit(other))


def _origin(place: SplitResult) -> tuple[str, str | None, int]:
    return place.scheme, place.hostname, place.port or (443 if place.scheme == "https" else 80)


def _context(host: str) -> ssl.SSLContext:
    """Trust a registry's own authority, and show it a certificate of ours, as Docker does.

    https://docs.docker.com/engine/security/certificates/
    """
    context = ssl.create_default_context()
    for folder in (Path("/etc/docker/certs.d"), Path.home() / ".config/docker/certs.d"):
        try:
            for path in sorted((folder / host).glob("*.crt")):
                context.load_verify_locations(path)
            for path in sorted((folder / host).glob("*.cert")):
                context.load_cert_chain(path, path.with_suffix(".key"))
        except (OSError, ssl.SSLError) as error:
            raise K8sVenvError(f"The certificates in {folder / host} cannot be used: {error}.") from None
    return context


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request
