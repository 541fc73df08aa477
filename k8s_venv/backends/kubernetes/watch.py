"""Follow one pod's states by a watch."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from kubernetes.client.exceptions import ApiException
from kubernetes.watch import Watch
from urllib3.exceptions import HTTPError, ReadTimeoutError

from k8s_venv.backends.kubernetes.patience import Refusals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DELETED = "DELETED"
# Seconds without an event after which the connection may be dead, and the pod is asked for.
_QUIET = 120.0
_RETRY = 1.0
# Seconds to connect and to wait for an answer.
_TIMEOUT = (10, 60)


def pod_events(
    client: Any, pod: Any, patience: Callable[[], float], say: Callable[[str], None]
) -> Iterator[tuple[str, Any]]:
    """Yield a pod's states as they change, beginning with the one that is known.

    Each watch begins at the last state that was seen, so that a pod which is gone before it is opened is missed by
    none. A broken connection is taken up again. When nothing happens for as long as ``patience`` says, the present
    state is yielded once more, so that the caller can look at the clock.

    Args:
        client: a ``CoreV1Api``.
        pod: the pod, as the API server last gave it.
        patience: returns the seconds to wait for the next event.
        say: is called when the API server does not answer, and when it answers again.

    Yields:
        ``ADDED``, ``MODIFIED`` or ``DELETED``, and the pod (None when it is not there any more).

    Raises:
        ApiException: the account may not list or watch pods.
    """
    follower = _Follower(client, pod)
    away, refused = False, Refusals()
    yield "ADDED", pod
    while True:
        problem: object = None
        try:
            for event in follower.events(max(1, int(min(patience(), _QUIET)))):
                refused.over()
                if away:
                    say("The Kubernetes API server answers again.")
                    away = False
                yield event
        except ApiException as error:
            if error.status in (401, 403) and refused.last():
                raise
            if error.status == 410:  # so long away that the server has forgotten
                follower.lose()
            else:
                problem = error.reason
        except ReadTimeoutError:
            follower.lose()  # a connection that died quietly
        except (HTTPError, OSError) as error:
            problem = error
        if problem is not None:
            if not away:
                say(f"The Kubernetes API server does not answer ({problem}); the pod is not affected. Trying again.")
                away = True
            time.sleep(_RETRY)


class _Follower:
    """Knows up to which state of the cluster a pod was followed.

    Args:
        client: a ``CoreV1Api``.
        pod: the pod, as the API server last gave it.
    """

    def __init__(self, client: Any, pod: Any) -> None:
        self._list = client.list_namespaced_pod
        self._namespace = pod.metadata.namespace
        self._selector = f"metadata.name={pod.metadata.name}"
        self._version: str | None = pod.metadata.resource_version

    def lose(self) -> None:
        """Begin with the present state the next time."""
        self._version = None

    def events(self, seconds: int) -> Iterator[tuple[str, Any]]:
        """Yield what changes in a while, before that the present state where the last one is not known."""
        if self._version is None:
            found = self._list(self._namespace, field_selector=self._selector, _request_timeout=_TIMEOUT)
            self._version = found.metadata.resource_version
            yield ("MODIFIED", found.items[0]) if found.items else (DELETED, None)
        stream = Watch().stream(
            self._list,
            self._namespace,
            field_selector=self._selector,
            resource_version=self._version,
            timeout_seconds=seconds,
            _request_timeout=(_TIMEOUT[0], seconds + 10),
        )
        for event in stream:
            self._version = event["object"].metadata.resource_version
            yield event["type"], event["object"]
        self.lose()
