"""Follow one pod: its states by a watch, its log as it is written."""

from __future__ import annotations

import datetime
import re
import time
from typing import TYPE_CHECKING, Any

from kubernetes.client.exceptions import ApiException
from kubernetes.watch import Watch
from urllib3.exceptions import HTTPError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DELETED = "DELETED"
_QUIET = 60.0  # seconds without an event after which the pod is asked for
# A connection that says nothing for so long, in seconds, may be dead: it is made anew.
_SILENCE = 120.0
_TIMESTAMP = re.compile(r"^(\d{4}-\d\d-\d\dT[\d:]+)(?:\.(\d+))?(Z|[+-]\d\d:\d\d) ?")
_RETRY = 1.0


def pod_events(client: Any, namespace: str, name: str, patience: Callable[[], float]) -> Iterator[tuple[str, Any]]:
    """Yield a pod's states as they change, beginning with the present one.

    A broken connection is taken up again. When nothing happens for as long as ``patience`` says, the present
    state is yielded once more, so that the caller can look at the clock.

    Args:
        client: a ``CoreV1Api``.
        namespace: the pod's namespace.
        name: its name.
        patience: returns the seconds to wait for the next event.

    Yields:
        ``ADDED``, ``MODIFIED`` or ``DELETED``, and the pod (None when it is not there any more).
    """
    while True:
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
                yield event["type"], event["object"]
            yield "MODIFIED", client.read_namespaced_pod(name, namespace)
        except ApiException as error:
            if error.status == 404:
                yield DELETED, None
            elif error.status in (401, 403):
                raise
            time.sleep(_RETRY)
        except (HTTPError, OSError):
            time.sleep(_RETRY)


class LogFollower:
    """Reads a container's log once, whatever happens to the connection.

    Args:
        client: a ``CoreV1Api``.
        namespace: the pod's namespace.
        name: its name.
        container: the container's name.
    """

    def __init__(self, client: Any, namespace: str, name: str, container: str) -> None:
        self._client = client
        self._pod = (name, namespace)
        self._container = container
        self._last = ""

    def follow(self, log: Callable[[str], None]) -> bool:
        """Pass on the log's new lines until the container ends or the connection breaks.

        Args:
            log: is called with each line.

        Returns:
            Whether the log came to its end.
        """
        try:
            response = self._client.read_namespaced_pod_log(
                *self._pod,
                container=self._container,
                follow=True,
                timestamps=True,
                _preload_content=False,
                _request_timeout=(10, _SILENCE),
            )
        except (ApiException, HTTPError, OSError):
            return False
        before = self._last
        try:
            for line in _lines(response):
                stamp, text = _split(line)
                if stamp and stamp <= before:
                    continue  # already passed on, over the connection before this one
                self._last = stamp or self._last
                log(text)
        except (HTTPError, OSError):
            return False
        finally:
            response.release_conn()
        return True


def _lines(response: Any) -> Iterator[str]:
    rest = b""
    for chunk in response.stream(amt=None, decode_content=True):
        *complete, rest = (rest + chunk).split(b"\n")
        for line in complete:
            yield line.decode("utf-8", "replace")
    if rest:
        yield rest.decode("utf-8", "replace")


def _split(line: str) -> tuple[str, str]:
    """Split the kubelet's timestamp from a line; in UTC and of a fixed length, so that text compares as time."""
    match = _TIMESTAMP.match(line)
    if match is None:
        return "", line
    seconds = datetime.datetime.fromisoformat(match[1] + match[3]).astimezone(datetime.UTC)
    return f"{seconds:%Y-%m-%dT%H:%M:%S}.{match[2] or '':0<9}", line[match.end() :]
