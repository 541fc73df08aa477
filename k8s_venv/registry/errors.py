"""What a registry's refusal, or its silence, means to whoever reads it."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from k8s_venv.errors import K8sVenvError, masked

if TYPE_CHECKING:
    import requests

    from k8s_venv.registry.credentials import Credentials

DENIED = 403  # the status where a registry lets only others do it
_LONGEST = 500  # characters of a registry's own words


class RegistryError(K8sVenvError):
    """A registry cannot be reached, refuses, or answers what it should not.

    Args:
        problem: what is wrong and what to do, as sentences.
        status: the HTTP status of its answer, or None where there was none.
        retry_after: the seconds that it asks to wait before the next request, if it says so.
        lasting: whether the same request, sent again, would fail again, though no status says so.
    """

    def __init__(
        self, problem: str, status: int | None = None, retry_after: float | None = None, *, lasting: bool = False
    ) -> None:
        self.status = status
        self.retry_after = retry_after
        self.lasting = lasting
        super().__init__(problem)


class InterruptedTransferError(RegistryError):
    """Whoever asked has been told to stop."""


def refusal(
    response: requests.Response, host: str, found: Credentials | None, pull: tuple[str, ...], push: str
) -> RegistryError:
    """Return what an unexpected answer means, and what to do.

    Args:
        response: the answer.
        host: the registry.
        found: who asked, if anybody.
        pull: the repositories that were read.
        push: the repository that was written, or nothing.
    """
    status, words = response.status_code, _said(response)
    scarce = status == 401 and 'error="insufficient_scope"' in response.headers.get("WWW-Authenticate", "")
    if status == 401 and not scarce:
        who = f"the credentials of {found.name}" if found else "a request without credentials"
        return RegistryError(f"The registry {host} refused {who}: {words}. Run `docker login {host}`.", status)
    if status == DENIED or scarce:
        deed = f"pushing to {push}" if push else f"pulling from {', '.join(pull)}"
        who = f"may {found.name} do that" if found else "may everybody do that"
        advice = f" Does it exist, and {who}? `docker login {host}` logs in{' as somebody else' if found else ''}."
        limited = re.search(r"quota|limit|exceed|immutable", words, re.IGNORECASE)
        return RegistryError(f"The registry {host} denies {deed}: {words}.{'' if limited else advice}", DENIED)
    if push and "NAME_UNKNOWN" in {one.get("code") for one in _errors(response)}:
        return RegistryError(f"The registry {host} has no repository {push}: {words}. {_creation(host, push)}", status)
    seconds = retry_after(response.headers.get("Retry-After", ""))
    later = f" It asks to come back in {seconds:.0f} s." if seconds else ""
    place = urlsplit(response.request.url or "").path
    problem = f"The registry {host} answered {response.request.method} {place} with {status}: {words}.{later}"
    return RegistryError(problem, status, seconds)


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


def retry_after(header: str) -> float | None:
    """Return the seconds of a Retry-After header, which names them or a date (RFC 9110, 10.2.3)."""
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # none, or a date without a zone
        return None


def _creation(host: str, repository: str) -> str:
    if amazon := re.fullmatch(r"\d+\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com(\.cn)?", host):
        return f"Create it: `aws ecr create-repository --region {amazon[1]} --repository-name {repository}`."
    return "Create it there, or let `registry` in k8s-venv.toml name another place."


def _said(response: requests.Response) -> str:
    """Return a registry's own words (OCI distribution specification, error codes)."""
    words = [str(one.get("message") or one.get("code") or "").strip().rstrip(".") for one in _errors(response)]
    text = " ".join("; ".join(filter(None, words)).split()) or str(response.reason or "it gives no reason")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _errors(response: requests.Response) -> list[dict[str, object]]:
    try:
        found = json.loads(response.content)["errors"]
    except (ValueError, KeyError, TypeError, OSError):  # OSError: the connection broke
        return []
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def reason(error: BaseException) -> str:
    """Return the words at the bottom of nested errors of the network."""
    while True:
        inner = getattr(error, "reason", None) or error.__cause__ or error.__context__
        inner = next((part for part in error.args if isinstance(part, BaseException)), inner)
        if not isinstance(inner, BaseException):
            break
        error = inner
    text = str(getattr(error, "strerror", None) or error)
    text = text.rpartition(": ")[2] if "object at 0x" in text else text
    return masked(text).rstrip(".") or type(error).__name__
