"""What a registry's refusal, or its silence, means for the user."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from urllib3 import Retry
from urllib3.exceptions import InvalidHeader

from k8s_venv.errors import K8sVenvError, masked

if TYPE_CHECKING:
    import requests

    from k8s_venv.registry.credentials import Credentials

DENIED = 403  # the status if a registry lets only others do it
_LONGEST = 500  # characters of a registry's own words


class RegistryError(K8sVenvError):
    """A registry cannot be reached, refuses, or gives a wrong answer.

    Args:
        problem: what is wrong and what to do, as sentences.
        status: the HTTP status of its answer, or None if there was no answer.
        retry_after: the seconds that it asks to wait before the next request, if it does.
        lasting: whether the same request would fail again, though no status shows it.
    """

    def __init__(
        self, problem: str, status: int | None = None, retry_after: float | None = None, *, lasting: bool = False
    ) -> None:
        self.status = status
        self.retry_after = retry_after
        self.lasting = lasting
        super().__init__(problem)


def refusal(
    response: requests.Response, host: str, credentials: Credentials | None, pull: tuple[str, ...], push: str
) -> RegistryError:
    """Return what an unexpected answer means, and what to do.

    Args:
        response: the answer.
        host: the registry.
        credentials: the user who asked, if there is one.
        pull: the repositories that were read.
        push: the repository that was written, or nothing.
    """
    status, words = response.status_code, _words_of(response)
    user = credentials.name if credentials else None
    scope_missing = status == 401 and 'error="insufficient_scope"' in response.headers.get("WWW-Authenticate", "")
    if status == 401 and not scope_missing:
        who = f"the credentials of {user}" if user else "a request without credentials"
        return RegistryError(f"The registry {host} refused {who}: {words}. Run `docker login {host}`.", status)
    if status == DENIED or scope_missing:
        action = f"pushing to {push}" if push else f"pulling from {', '.join(pull)}"
        advice = (
            f" Does it exist, and may {user or 'everybody'} do that? `docker login {host}` logs in"
            f"{' as somebody else' if user else ''}."
        )
        limited = re.search(r"quota|limit|exceed", words, re.IGNORECASE)
        return RegistryError(f"The registry {host} denies {action}: {words}.{'' if limited else advice}", DENIED)
    if push and "NAME_UNKNOWN" in {one.get("code") for one in _errors_in(response)}:
        return RegistryError(f"The registry {host} has no repository {push}: {words}. {_creation(host, push)}", status)
    seconds = _retry_after(response)
    later = f" It asks to come back in {seconds:.0f} s." if seconds else ""
    place = urlsplit(response.request.url or "").path
    problem = f"The registry {host} answered {response.request.method} {place} with {status}: {words}.{later}"
    return RegistryError(problem, status, seconds)


def _retry_after(response: requests.Response) -> float | None:
    """Return the seconds of the header Retry-After, which has them or a date (RFC 9110, 10.2.3)."""
    try:
        return float(Retry().parse_retry_after(response.headers.get("Retry-After", "")))
    except (InvalidHeader, ValueError, OverflowError):  # nothing, no date, or a number without an end
        return None


def _creation(host: str, repository: str) -> str:
    if amazon := re.fullmatch(r"\d+\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com(\.cn)?", host):
        return f"Create it: `aws ecr create-repository --region {amazon[1]} --repository-name {repository}`."
    return "Create it there, or let `registry` in k8s-venv.toml name another place."


def _words_of(response: requests.Response) -> str:
    """Return a registry's own words (OCI distribution specification, error codes)."""
    words = [str(one.get("message") or one.get("code") or "").strip().rstrip(".") for one in _errors_in(response)]
    text = " ".join("; ".join(filter(None, words)).split()) or str(response.reason or "it gives no reason")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _errors_in(response: requests.Response) -> list[dict[str, object]]:
    try:
        found = json.loads(response.content)["errors"]
    except (ValueError, KeyError, TypeError, OSError):  # OSError: the connection broke
        return []
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def document(response: requests.Response) -> dict[str, Any]:
    """Return the JSON document of an answer.

    Raises:
        RegistryError: it holds something else, such as the page of a proxy.
    """
    try:
        found = json.loads(response.content)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        kind = response.headers.get("Content-Type") or "nothing"
        place = urlsplit(response.url)
        raise RegistryError(
            f"{place.netloc} answered {place.path} with {kind} instead of a JSON document: is it a registry?",
            lasting=True,
        )
    return found


def reason(error: BaseException) -> str:
    """Return the words of the innermost of nested errors of the network."""
    while True:
        inner = getattr(error, "reason", None) or error.__cause__ or error.__context__
        inner = next((part for part in error.args if isinstance(part, BaseException)), inner)
        if not isinstance(inner, BaseException):
            break
        error = inner
    return masked(str(getattr(error, "strerror", None) or error)).rstrip(".") or type(error).__name__
