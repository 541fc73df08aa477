"""One registry over HTTP: authentication, retries, and what its answers mean.

No library on the package index does mounts, resumed uploads and retries after 429; this is what the
specification asks for, over requests.
"""

from __future__ import annotations

import functools
import json
import os
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from k8s_venv.errors import K8sVenvError
from k8s_venv.registry.credentials import Credentials, find_credentials
from k8s_venv.registry.reference import DOCKER_HUB

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import requests

PLAIN_HTTP_VARIABLE = "K8S_VENV_PLAIN_HTTP"
RETRIED = (429, 500, 502, 503, 504)
MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_TIMEOUT = (5, 120)  # seconds to connect, and between two pieces of an answer
_LOCAL = ("localhost", "127.0.0.1", "[::1]")


class RegistryError(K8sVenvError):
    """A registry cannot be reached, refuses, or answers what it should not.

    Args:
        problem: what is wrong and what to do, as sentences.
        status: the HTTP status of its answer, or None where there was none.
        retry_after: the seconds that it asks to wait before the next request, if it says so.
    """

    def __init__(self, problem: str, status: int | None = None, retry_after: float | None = None) -> None:
        self.status = status
        self.retry_after = retry_after
        super().__init__(problem)


class Registry:
    """A registry's client; safe to use from several threads.

    Args:
        host: the registry, with its port where it has one.
        attempts: how often a request is tried that meets a busy, failing or silent registry.
    """

    def __init__(self, host: str, attempts: int = 6) -> None:
        self.host = host
        self.attempts = attempts
        self.address = _address(host)
        self._tokens: dict[frozenset[str], str] = {}
        self._local = threading.local()
        self._asking = threading.Lock()

    @functools.cached_property
    def _credentials(self) -> Credentials | None:
        return find_credentials(self.host)

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
            retry: whether to try again here, which takes a body that can be sent twice.

        Raises:
            RegistryError: the registry cannot be reached or answers something else.
        """
        import requests

        url = place if "://" in place else urljoin(f"{self.address}/v2/", place)
        written = [f"repository:{push}:pull,push"] if push else []
        scopes = frozenset([*(f"repository:{name}:pull" for name in pull), *written])
        try:
            response = self._send(method, url, scopes, headers, data, stream, retry)
            if response.status_code == 401 and self._authenticate(response, scopes):
                response = self._send(method, url, scopes, headers, data, stream, retry)
        except requests.exceptions.RetryError as error:
            raise RegistryError(f"The registry {self.host} keeps failing: {_reason(error)}.", 503) from None
        except (requests.RequestException, OSError) as error:
            raise RegistryError(f"The registry {self.host} cannot be reached: {_reason(error)}.") from None
        if response.status_code not in expect:
            raise self._refused(response)
        return response

    def _send(
        self,
        method: str,
        url: str,
        scopes: frozenset[str],
        headers: Mapping[str, str] | None,
        data: Any,
        stream: bool,
        retry: bool,
    ) -> requests.Response:
        given = dict(headers or {})
        token = self._tokens.get(scopes)
        # An upload may go to another host, which this registry's token is not for.
        if token and urlsplit(url).netloc == urlsplit(self.address).netloc:
            given["Authorization"] = token
        session = self._session(retry)
        return session.request(method, url, headers=given, data=data, stream=stream, timeout=_TIMEOUT)

    def _session(self, retry: bool) -> requests.Session:
        """Return this thread's session, with connections that stay open."""
        name = f"session_{retry}"
        if not hasattr(self._local, name):
            setattr(self._local, name, _session(self.attempts if retry else 1))
        found: requests.Session = getattr(self._local, name)
        return found

    def _authenticate(self, response: requests.Response, scopes: frozenset[str]) -> bool:
        """Get what the registry asks for; tell whether trying again makes sense."""
        from requests.utils import parse_dict_header

        kind, _, rest = response.headers.get("WWW-Authenticate", "").partition(" ")
        found = self._credentials
        if kind.lower() == "basic" and found and found.user:
            from requests.auth import _basic_auth_str

            value = _basic_auth_str(found.user, found.password)
        elif kind.lower() == "bearer":
            with self._asking:
                challenge = parse_dict_header(rest)  # type: ignore[no-untyped-call]
                value = f"Bearer {self._token(challenge, scopes, found)}"
        else:
            return False
        changed = self._tokens.get(scopes) != value
        self._tokens[scopes] = value
        return changed

    def _token(self, challenge: Mapping[str, str], scopes: frozenset[str], found: Credentials | None) -> str:
        """Get a bearer token (https://distribution.github.io/distribution/spec/auth/token/)."""
        wanted = sorted({*scopes, *filter(None, [challenge.get("scope")])})
        fields: list[tuple[str, str]] = [("service", challenge.get("service", "")), *(("scope", one) for one in wanted)]
        realm = urljoin(self.address, challenge.get("realm", ""))
        session = self._session(retry=True)
        if found and found.identity_token:
            form = {
                "grant_type": "refresh_token",
                "client_id": "k8s-venv",
                "service": challenge.get("service", ""),
                "scope": " ".join(wanted),
                "refresh_token": found.identity_token,
            }
            response = session.post(realm, data=form, timeout=_TIMEOUT)
        else:
            basic = (found.user, found.password) if found else _anonymous
            response = session.get(realm, params=fields, auth=basic, timeout=_TIMEOUT)
        if response.status_code != 200:
            raise self._refused(response)
        answer = response.json()
        return str(answer.get("token") or answer.get("access_token") or "")

    def _refused(self, response: requests.Response) -> RegistryError:
        said = _said(response)
        if response.status_code in (401, 403):
            who = "those credentials" if self._credentials else "a request without credentials"
            return RegistryError(
                f"The registry {self.host} refused {who}: {said}. Run `docker login {self.host}`.", response.status_code
            )
        request = response.request
        place = urlsplit(request.url or "").path
        return RegistryError(
            f"The registry {self.host} answered {request.method} {place} with {response.status_code}: {said}.",
            response.status_code,
            _seconds(response.headers.get("Retry-After", "")),
        )


def _address(host: str) -> str:
    """Return where a registry answers: plain HTTP only on this machine or on request."""
    if host == DOCKER_HUB:
        return "https://registry-1.docker.io"
    asked = [name.strip() for name in os.environ.get(PLAIN_HTTP_VARIABLE, "").split(",")]
    local = host.rpartition(":")[0] in _LOCAL or host in _LOCAL
    return f"http://{host}" if local or host in asked else f"https://{host}"


def _session(attempts: int) -> requests.Session:
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    session = requests.Session()
    session.headers["User-Agent"] = "k8s-venv"
    session.auth = _anonymous
    # requests itself knows REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE.
    if not (os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")):
        session.verify = os.environ.get("SSL_CERT_FILE") or True
    retries = Retry(
        total=attempts - 1,
        connect=min(2, attempts - 1),  # one that is not there is named soon
        other=0,  # such as a certificate that nobody trusts
        backoff_factor=0.3,
        backoff_max=10,
        status_forcelist=RETRIED,
        allowed_methods=None,
        raise_on_status=False,
        respect_retry_after_header=True,
    )
    session.mount("https://", HTTPAdapter(max_retries=retries))
    session.mount("http://", HTTPAdapter(max_retries=retries))
    return session


def _seconds(header: str) -> float | None:
    """Read a Retry-After header that counts seconds; one with a date leaves the wait to the caller."""
    return float(header) if header.isdecimal() else None


def _anonymous(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keep requests from taking credentials out of ~/.netrc, which are for other programs."""
    return request


def _said(response: requests.Response) -> str:
    """Return a registry's own words."""
    try:
        errors = json.loads(response.content)["errors"]
        return "; ".join(str(error.get("message") or error["code"]).rstrip(".") for error in errors) or response.reason
    except (ValueError, KeyError, TypeError, AttributeError):
        return str(response.reason)


def _reason(error: BaseException) -> str:
    """Return the words at the bottom of nested errors of the network."""
    while True:
        inner = getattr(error, "reason", None) or error.__cause__ or error.__context__
        inner = next((part for part in error.args if isinstance(part, BaseException)), inner)
        if not isinstance(inner, BaseException):
            break
        error = inner
    text = str(error)
    text = text.rpartition(": ")[2] if "object at 0x" in text else text
    return text.rstrip(".") or type(error).__name__
