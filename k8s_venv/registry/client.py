"""One registry over HTTP: authentication, retries, and what its answers mean.

No library on the package index does mounts, resumed uploads and retries after 429; this is what the
specification asks for, over requests.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit, urlunsplit

from k8s_venv.registry.addresses import address_of, is_plain
from k8s_venv.registry.credentials import Credentials, find_credentials
from k8s_venv.registry.errors import DENIED, InterruptedTransferError, RegistryError, reason, refusal
from k8s_venv.registry.tokens import Challenge, Scopes, Token, basic, read_token, token_request

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import requests

RETRIED = (408, 429, 500, 502, 503, 504)
# How servers, and the storage that they send us on to, answer HEAD where they know GET alone; where GET is refused as
# well, its answer says why.
HEAD_REFUSED = (401, 403, 405, 501)
_TIMEOUT = (5, 120)  # seconds to connect, and between two pieces of an answer
_UNHEARD = 3  # tries of a registry that has not answered once: one that is not there is named soon
_LONGEST_BACKOFF = 10.0  # seconds
_LONGEST_WAIT = 120.0  # seconds; a registry that asks for more is not waited for


@dataclasses.dataclass(frozen=True)
class _Request:
    """A request, to be sent as often as it takes."""

    method: str
    url: str
    pull: tuple[str, ...] = ()
    push: str = ""
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def scopes(self) -> Scopes:
        """Return the access that it needs."""
        written = [f"repository:{self.push}:pull,push"] if self.push else []
        return frozenset([*(f"repository:{name}:pull" for name in self.pull), *written])


class Registry:
    """A registry's client; safe to use from several threads.

    Args:
        host: the registry, with its port where it has one.
        attempts: how often a request is tried that meets a busy, failing or silent registry.
    """

    def __init__(self, host: str, attempts: int = 6) -> None:
        self.host = host
        self.attempts = attempts
        self.address = address_of(host)
        self._stopping = threading.Event()
        self._heard = False
        self._asking: dict[Scopes, threading.Lock] = {}
        self._challenge: Challenge | None = None
        self._tokens: dict[Scopes, Token] = {}

    @functools.cached_property
    def _credentials(self) -> Credentials | None:
        return find_credentials(self.host)

    @functools.cached_property
    def _session(self) -> requests.Session:
        from k8s_venv.registry.transport import open_session

        return open_session(self.host, self.address)

    def stop(self) -> None:
        """End what is under way in other threads, and begin nothing any more."""
        self._stopping.set()

    def require_going(self) -> None:
        """Give up when the client was told to stop.

        Raises:
            InterruptedTransferError: it was.
        """
        if self._stopping.is_set():
            raise InterruptedTransferError(f"The transfer with the registry {self.host} was interrupted.", lasting=True)

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
        """Send a request; authenticate when the registry asks for it.

        Args:
            method: the HTTP method.
            place: a path under ``/v2/``, or an address that the registry gave.
            pull: the repositories to read.
            push: the repository to write.
            expect: the statuses that the caller understands.
            headers: further headers.
            data: the body.
            stream: whether the answer's body is left to be read in pieces.
            retry: whether to try again here; else that is the caller's to do.

        Raises:
            RegistryError: the registry cannot be reached or answers something else.
        """
        asked = _Request(method, self._url(place), tuple(pull), push, headers or {}, {"data": data, "stream": stream})
        for attempt in itertools.count(1):
            try:
                response = self._authenticated(asked)
                if response.status_code in expect:
                    return response
                raise self._refused(response, asked)
            except RegistryError as error:
                if not (retry and self.may_retry(error, attempt)):
                    raise
                self.wait(error, attempt)
        raise AssertionError  # never: the loop has no end of its own

    def may_retry(self, error: RegistryError, attempt: int) -> bool:
        """Return whether what failed may succeed when it is tried again.

        Args:
            error: how it failed.
            attempt: how often it was tried, counted from 1.
        """
        if error.lasting or (error.retry_after or 0) > _LONGEST_WAIT:
            return False
        silent = error.status is None
        most = self.attempts if self._heard or not silent else min(_UNHEARD, self.attempts)
        return attempt < most and (silent or error.status in RETRIED)

    def wait(self, error: RegistryError, attempt: int) -> None:
        """Wait before the next try, as long as the registry asks for, or longer with each one.

        Raises:
            InterruptedTransferError: the client was told to stop.
        """
        backoff = min(_LONGEST_BACKOFF, 0.3 * 2**attempt)
        self._stopping.wait(backoff if error.retry_after is None else error.retry_after)
        self.require_going()

    def _authenticated(self, asked: _Request) -> requests.Response:
        """Send a request, and once more when the registry wants to see something with it."""
        from k8s_venv.registry.transport import same_origin

        token = self._tokens.get(asked.scopes)
        if self._challenge and not (token and token.lasts):
            token = self._authenticate(self._challenge, asked, token)
        response = self._send(asked, token)
        # What another host asks for, it does not get from here.
        if response.status_code == 401 and same_origin(response.url, self.address):
            new = self._authenticate(Challenge.of(response), asked, token)
            if new and new != token:
                return self._send(asked, new)
        return response

    def _send(self, asked: _Request, token: Token | None = None) -> requests.Response:
        import requests

        from k8s_venv.registry.transport import same_origin

        self.require_going()
        headers = dict(asked.headers)
        # An upload may go to another host, which this registry's token is not for.
        if token and same_origin(asked.url, self.address):
            headers["Authorization"] = token.header
        try:
            response = self._session.request(
                asked.method, asked.url, headers=headers, timeout=_TIMEOUT, **asked.options
            )
        except (requests.RequestException, OSError) as error:
            lasting = isinstance(error, requests.exceptions.SSLError | requests.exceptions.InvalidURL)
            place = "" if same_origin(asked.url, self.address) else f" at {urlsplit(asked.url).netloc}"
            way = " through the proxy" if isinstance(error, requests.exceptions.ProxyError) else ""
            problem = f"The registry {self.host} cannot be reached{place}{way}: {reason(error)}."
            raise RegistryError(problem, lasting=lasting) from None
        self._heard = True
        return response

    def _url(self, place: str) -> str:
        """Return the address of a path, or of what a registry behind a proxy calls its own address."""
        if "://" not in place:
            return urljoin(f"{self.address}/v2/", place)
        given, own = urlsplit(place), urlsplit(self.address)
        if given.scheme == "http" and own.scheme == "https" and not is_plain(given.netloc):
            if given.hostname != own.hostname:
                raise RegistryError(
                    f"The registry {self.host} wants data sent to {given.netloc}, without encryption.", lasting=True
                )
            return urlunsplit(given._replace(scheme="https", netloc=own.netloc))
        return place

    def _authenticate(self, challenge: Challenge, asked: _Request, used: Token | None) -> Token | None:
        """Get what the registry wants to see, once for all threads that need the same."""
        scopes = asked.scopes
        with self._asking.setdefault(scopes, threading.Lock()):
            known = self._tokens.get(scopes)
            if known and known != used and known.lasts:
                return known
            found = self._credentials
            if challenge.kind == "basic" and found and found.user:
                token = basic(found)
            elif challenge.kind == "bearer":
                token = self._ask_for_token(challenge, asked, found)
            else:
                return None
            # The scope and the error are of this request alone.
            self._challenge = dataclasses.replace(challenge, scope="", error="")
            self._tokens[scopes] = token
            return token

    def _ask_for_token(self, challenge: Challenge, asked: _Request, found: Credentials | None) -> Token:
        method, realm, headers, options = token_request(challenge, asked.scopes, found, self.address)
        asking = _Request(method, realm, asked.pull, asked.push, headers, options)
        started = time.monotonic()
        response = self._send(asking)
        if response.status_code != 200:
            raise self._refused(response, asked)
        return read_token(response, started)

    def _refused(self, response: requests.Response, asked: _Request) -> RegistryError:
        found = self._credentials if response.status_code in (401, DENIED) else None
        return refusal(response, self.host, found, asked.pull, asked.push)


_registries: dict[str, Registry] = {}


def registry_at(host: str) -> Registry:
    """Return this process's client of a registry, with its connections and tokens.

    Args:
        host: the registry, with its port where it has one.
    """
    return _registries.setdefault(host, Registry(host))


def stop_registries() -> None:
    """End what this process's clients have under way, since it was told to end."""
    for registry in tuple(_registries.values()):
        registry.stop()
