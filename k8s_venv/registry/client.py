"""One registry over HTTP: its address, connections, authentication, retries.

No library on the package index mounts blobs, resumes uploads and retries after 429, so this is what the specification
asks for, over requests. The retries of requests (urllib3's ``Retry``) would send an upload again instead of resuming
it, and would sleep through an interrupt.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import ssl
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit, urlunsplit

import requests
from requests.adapters import HTTPAdapter

from k8s_venv.errors import K8sVenvError
from k8s_venv.registry.credentials import DOCKER_HUB, Challenge, Credentials, Token, find_credentials
from k8s_venv.registry.errors import DENIED, RegistryError, reason, refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_PLAIN_HTTP_VARIABLE = "K8S_VENV_PLAIN_HTTP"
_DOCKER_HUB_HOST = "registry-1.docker.io"
_LOCAL = ("localhost", "127.0.0.1", "[::1]")
_CONNECTIONS = 32  # threads of several images share one session

RETRIED = (408, 429, 500, 502, 503, 504)
# How servers answer HEAD if they support GET alone, as do the addresses of storage that registries redirect to. If GET
# is refused as well, its answer has the reason.
_HEAD_REFUSED = (401, 403, 405, 501)
_TIMEOUT = (5, 120)  # seconds to connect, and between two pieces of an answer
_UNHEARD = 3  # tries of a registry that has never answered: if it does not exist, the user reads so soon
_LONGEST_BACKOFF = 10.0  # seconds
_LONGEST_WAIT = 120.0  # seconds; if a registry asks for more, the request fails


def _is_plain(host: str) -> bool:
    """Return whether HTTP without encryption is right for a host: only for this machine and on request."""
    requested = [name.strip().lower() for name in os.environ.get(_PLAIN_HTTP_VARIABLE, "").split(",")]
    return _is_local(host) or host.lower() in requested


def _is_local(host: str) -> bool:
    return host in _LOCAL or host.rpartition(":")[0] in _LOCAL


def _origin(url: str) -> tuple[str, str | None, int]:
    """Return what names a server: credentials for one address are for all with the same origin."""
    place = urlsplit(url)
    try:
        return place.scheme, place.hostname, place.port or (443 if place.scheme == "https" else 80)
    except ValueError:  # a port that is none, with which a request fails
        return place.scheme, place.hostname, 0


@dataclasses.dataclass(frozen=True)
class _Access:
    """What a request reads and writes, for which it may need a token."""

    pull: tuple[str, ...]
    push: str

    @property
    def scopes(self) -> list[str]:
        written = [f"repository:{self.push}:pull,push"] if self.push else []
        return [*(f"repository:{name}:pull" for name in self.pull), *written]


class Registry:
    """A registry's client; safe to use from several threads.

    Args:
        host: the registry, with its port if it has one.
        attempts: how often a request is tried if the registry is busy, fails or does not answer.
    """

    def __init__(self, host: str, attempts: int = 6) -> None:
        self.host = host
        self.attempts = attempts
        scheme = "http" if _is_plain(host) else "https"
        self.address = f"{scheme}://{_DOCKER_HUB_HOST if host == DOCKER_HUB else host}"
        self._stopping = threading.Event()
        self._heard = False
        self._asking: dict[_Access, threading.Lock] = {}
        self._challenge: Challenge | None = None
        self._tokens: dict[_Access, Token] = {}

    @functools.cached_property
    def _credentials(self) -> Credentials | None:
        return find_credentials(self.host)

    @functools.cached_property
    def _session(self) -> requests.Session:
        return _Session(self.host, self.address)

    def stop(self) -> None:
        """End what runs in other threads, and begin nothing more."""
        self._stopping.set()

    def raise_if_stopped(self) -> None:
        """Raise a ``RegistryError`` if the client was told to stop."""
        if self._stopping.is_set():
            raise RegistryError(f"The transfer with the registry {self.host} was interrupted.", lasting=True)

    def request(
        self,
        method: str,
        place: str,
        *,
        pull: Iterable[str] = (),
        push: str = "",
        expect: Iterable[int] = (200,),
        headers: Mapping[str, str] | None = None,
        data: Any = None,
        stream: bool = False,
        retry: bool = True,
    ) -> requests.Response:
        """Send a request; authenticate if the registry asks for it.

        Args:
            method: the HTTP method.
            place: a path under ``/v2/``, or an address that the registry gave.
            pull: the repositories to read.
            push: the repository to write.
            expect: the statuses that the caller understands.
            headers: further headers.
            data: the body.
            stream: whether the caller reads the answer's body in pieces.
            retry: whether to try again here; else the caller does so.

        Raises:
            RegistryError: the registry cannot be reached or answers with another status.
        """
        url, access, attempt = self._url(place), _Access(tuple(pull), push), 0
        while True:
            attempt += 1
            try:
                response = self._send_authenticated(access, method, url, headers=headers, data=data, stream=stream)
                if response.status_code in expect:
                    return response
                raise self._refused(response, access)
            except RegistryError as error:
                if not retry:
                    raise
                self.wait(error, attempt)

    def head(self, place: str, pull: str, headers: Mapping[str, str] | None = None) -> requests.Response:
        """Return the answer to HEAD, or to GET without its body if HEAD is not supported: 200, or 404.

        Args:
            place: a path under ``/v2/``.
            pull: the repository to read.
            headers: further headers.

        Raises:
            RegistryError: the registry cannot be reached or refuses.
        """
        expect = (200, 404, *_HEAD_REFUSED)
        response = self.request("HEAD", place, pull=[pull], headers=headers, expect=expect)
        if response.status_code in _HEAD_REFUSED:
            response = self.request("GET", place, pull=[pull], headers=headers, expect=(200, 404), stream=True)
            response.close()
        return response

    def wait(self, error: RegistryError, attempt: int, retried: Iterable[int] = RETRIED) -> None:
        """Wait before another try: as long as the registry asks for, or longer with each try.

        Args:
            error: how the last try failed.
            attempt: how often it was tried.
            retried: the statuses after which another try may succeed.

        Raises:
            RegistryError: the error itself if another try would fail, too; or the client was told to stop.
        """
        most = min(_UNHEARD, self.attempts) if error.status is None and not self._heard else self.attempts
        passing = not error.lasting and (error.status is None or error.status in retried)
        if not passing or attempt >= most or (error.retry_after or 0) > _LONGEST_WAIT:
            raise error
        backoff = min(_LONGEST_BACKOFF, 0.3 * 2**attempt)
        self._stopping.wait(backoff if error.retry_after is None else error.retry_after)
        self.raise_if_stopped()

    def _send_authenticated(self, access: _Access, method: str, url: str, **options: Any) -> requests.Response:
        """Send a request, and once more if the registry asks for credentials."""
        token = self._tokens.get(access)
        if self._challenge and not (token and token.is_valid):
            token = self._authenticate(self._challenge, access, token)
        response = self._send(method, url, token, **options)
        # A host that the registry redirects to does not get its credentials.
        if response.status_code == 401 and _origin(response.url) == _origin(self.address):
            new = self._authenticate(Challenge.of(response), access, token)
            if new and new != token:
                return self._send(method, url, new, **options)
        return response

    def _send(
        self, method: str, url: str, token: Token | None = None, *, headers: Any = None, **options: Any
    ) -> requests.Response:
        self.raise_if_stopped()
        # An upload may go to another host, which this registry's token is not for.
        own = _origin(url) == _origin(self.address)
        headers = {**(headers or {}), **({"Authorization": token.header} if token and own else {})}
        try:
            response = self._session.request(method, url, headers=headers, timeout=_TIMEOUT, **options)
        except (requests.RequestException, OSError) as error:
            lasting = isinstance(error, requests.exceptions.SSLError | requests.exceptions.InvalidURL)
            place = "" if own else f" at {urlsplit(url).netloc}"
            way = " through the proxy" if isinstance(error, requests.exceptions.ProxyError) else ""
            problem = f"The registry {self.host} cannot be reached{place}{way}: {reason(error)}."
            raise RegistryError(problem, lasting=lasting) from None
        self._heard = True
        return response

    def _url(self, place: str) -> str:
        """Return the full address of a path, or of an address by which a registry behind a proxy knows itself."""
        if "://" not in place:
            return urljoin(f"{self.address}/v2/", place)
        given, own = urlsplit(place), urlsplit(self.address)
        if given.scheme == "http" and own.scheme == "https" and not _is_plain(given.netloc):
            if given.hostname != own.hostname:
                raise RegistryError(
                    f"The registry {self.host} wants data sent to {given.netloc}, without encryption.", lasting=True
                )
            return urlunsplit(given._replace(scheme="https", netloc=own.netloc))
        return place

    def _authenticate(self, challenge: Challenge, access: _Access, used: Token | None) -> Token | None:
        """Return a token, which all threads with the same need share; None if there is none."""
        with self._asking.setdefault(access, threading.Lock()):
            known = self._tokens.get(access)
            if known and known != used and known.is_valid:
                return known
            credentials = self._credentials
            if challenge.kind == "basic" and credentials and credentials.user:
                token = Token.basic(credentials)
            elif challenge.kind == "bearer":
                method, realm, options = challenge.token_request(access.scopes, credentials, self.address)
                started = time.monotonic()
                response = self._send(method, realm, **options)
                if response.status_code != 200:
                    raise self._refused(response, access)
                token = Token.read(response, started)
            else:
                return None
            self._challenge = dataclasses.replace(challenge, scope="")  # the scope belongs to this request alone
            self._tokens[access] = token
            return token

    def _refused(self, response: requests.Response, access: _Access) -> RegistryError:
        credentials = self._credentials if response.status_code in (401, DENIED) else None
        return refusal(response, self.host, credentials, access.pull, access.push)


_registries: dict[str, Registry] = {}


def registry_at(host: str) -> Registry:
    """Return this process's client of a registry, with its connections and tokens; see ``Registry``."""
    return _registries.setdefault(host, Registry(host))


def stop_registries() -> None:
    """End what this process's clients are doing, since the process was told to end."""
    for registry in tuple(_registries.values()):
        registry.stop()


class _Session(requests.Session):
    """A session for a registry, which may be used from several threads.

    It sends credentials only to their own server, and never those of ~/.netrc, which are for other programs.
    """

    def __init__(self, host: str, address: str) -> None:
        super().__init__()
        self.headers.update({"User-Agent": "k8s-venv", "Accept-Encoding": "identity"})
        self.auth = lambda request: request
        # As Docker does, this machine is never reached through a proxy.
        self.trust_env = not _is_local(host)
        self.mount("https://", _Adapter(ssl.create_default_context()))
        self.mount(f"{address}/", _Adapter(_context(host)))

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        url = str(prepared_request.url)
        place = urlsplit(url)
        if place.scheme == "http" and response.url.startswith("https:") and not _is_plain(place.netloc):
            here = urlsplit(response.url).netloc
            raise RegistryError(f"{here} redirects to {place.netloc}, without encryption.", lasting=True)
        if "Authorization" in prepared_request.headers and self.should_strip_auth(response.url, url):  # type: ignore[no-untyped-call]
            del prepared_request.headers["Authorization"]


class _Adapter(HTTPAdapter):
    """Trusts the machine's authorities beside those of requests, or those that its variables name."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__(pool_connections=_CONNECTIONS, pool_maxsize=_CONNECTIONS)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, ssl_context=self._context, **options)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        return super().proxy_manager_for(proxy, ssl_context=self._context, **options)


def _context(host: str) -> ssl.SSLContext:
    """Return a context with a registry's own authority and our certificate for it, from the folders of Docker.

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
