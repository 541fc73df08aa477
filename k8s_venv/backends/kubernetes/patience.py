"""Ask the API server again while it is away, so that a restart of it loses nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from k8s_venv.backends.kubernetes import refusals

if TYPE_CHECKING:
    from collections.abc import Callable

    from k8s_venv.config.environment import Environment

T = TypeVar("T")
K = TypeVar("K", bound=Any)

# Answers that pass: too many requests, and those of a server that starts, ends or is overloaded.
_PASSING = (429, 500, 502, 503, 504)
_SECONDS = 60.0
_PAUSE = 1.0


def patiently(ask: Callable[[], T], environment: Environment) -> T:
    """Return what the API server answers, asking again for a minute while it is away.

    Args:
        ask: asks; it must be safe to repeat.
        environment: whose call it is, for messages.

    Raises:
        ApiException: the server refused.
        BackendError: it did not answer.
    """
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            return ask()
        except ApiException as error:
            if not (error.status in _PASSING or is_conflict(error)) or time.monotonic() > deadline:
                raise
        except (HTTPError, OSError) as error:
            if time.monotonic() > deadline:
                raise refusals.unreachable(error, environment, _SECONDS) from None
        time.sleep(_PAUSE)


def without_retries(client: K) -> K:
    """Return a client whose requests fail at once: who asks here asks again, and urllib3 would warn at each attempt.

    Args:
        client: one of the API's groups, such as a ``CoreV1Api``.
    """
    manager = client.api_client.rest_client.pool_manager
    manager.connection_pool_kw["retries"] = False
    manager.clear()  # what was made before has the setting of then
    return client


class Refusals:
    """Tells a right that the account lacks from one that the server forgets.

    While an API server starts, or cannot ask who decides about rights, it refuses what it had allowed before. So a
    refusal counts at once where nothing was allowed yet, else when it lasts.
    """

    def __init__(self) -> None:
        self._allowed = False
        self._since: float | None = None

    def over(self) -> None:
        """Take note that the server allowed what was asked."""
        self._allowed, self._since = True, None

    def last(self) -> bool:
        """Take note of a refusal, and say whether it counts."""
        self._since = self._since or time.monotonic()
        return not self._allowed or time.monotonic() - self._since > _SECONDS


def is_conflict(error: ApiException) -> bool:
    """Return whether two requests met, as on a quota; that something of the name exists is another 409."""
    return error.status == 409 and refusals.status_field(error, "reason") == "Conflict"
