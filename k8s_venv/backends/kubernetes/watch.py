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


def pod_events(
    client: Any, namespace: str, name: str, patience: Callable[[], float], say: Callable[[str], None]
) -> Iterator[tuple[str, Any]]:
    """Yield a pod's states as they change, beginning with the present one.

    A broken connection is taken up again. When nothing happens for as long as ``patience`` says, the present
    state is yielded once more, so that the caller can look at the clock.

    Args:
        client: a ``CoreV1Api``.
        namespace: the pod's namespace.
        name: its name.
        patience: returns the seconds to wait for the next event.
        say: is called when the API server does not answer, and when it answers again.

    Yields:
        ``ADDED``, ``MODIFIED`` or ``DELETED``, and the pod (None when it is not there any more).

    Raises:
        ApiException: the account may not watch pods.
    """
    away, refused = False, Refusals()
    while True:
        problem: object = None
        seconds = max(1, int(min(patience(), _QUIET)))
        try:
            stream = Watch().stream(
                client.list_namespaced_pod,
                namespace,
                field_selector=f"metadata.name={name}",
                timeout_seconds=seconds,
                _request_timeout=(10, seconds + 10),
            )
            for event in stream:
                refused.over()
                if away:
                    say("The Kubernetes API server answers again.")
                    away = False
                yield event["type"], event["object"]
            yield "MODIFIED", client.read_namespaced_pod(name, namespace)
        except ApiException as error:
            if error.status == 404:
                yield DELETED, None
            elif error.status in (401, 403) and refused.last():
                raise
            elif error.status != 410:  # so long away that the server has forgotten: begin anew
                problem = error.reason
        except ReadTimeoutError:
            pass  # a connection that died quietly: another one tells more
        except (HTTPError, OSError) as error:
            problem = error
        if problem is not None:
            if not away:
                say(f"The Kubernetes API server does not answer ({problem}); the pod is not affected. Trying again.")
                away = True
            time.sleep(_RETRY)
