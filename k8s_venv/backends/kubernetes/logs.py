"""Read a container's log as it is written: each line once, whatever happens to the connection."""

from __future__ import annotations

import contextvars
import datetime
import math
import re
import threading
import time
from typing import TYPE_CHECKING, Any

from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_TIMESTAMP = re.compile(r"^(\d{4}-\d\d-\d\dT[\d:]+)(?:\.(\d+))?(Z|[+-]\d\d:\d\d) ?")
_LONGEST = 256 * 1024  # bytes of a line that are passed on at once
# A connection that says nothing for so long, in seconds, may be dead: it is made anew.
_SILENCE = 120.0
# What a line may be under way, in seconds: so much is read again after a broken connection, and dropped by its stamp.
_UNDER_WAY = 30.0
_RETRY = 1.0
_ATTEMPTS = 5


class LogFollower:
    """Passes a container's log on, in a thread of its own while the container runs.

    Args:
        client: a ``CoreV1Api``.
        namespace: the pod's namespace.
        name: its name.
        container: the container's name.
        log: is called with each line.
    """

    def __init__(self, client: Any, namespace: str, name: str, container: str, log: Callable[[str], None]) -> None:
        self._client = client
        self._pod = (name, namespace)
        self._container = container
        self._log = log
        self._last = ""  # the stamp of the last line
        self._read_at: float | None = None  # when it came
        self._lock = threading.Lock()
        self._stopped = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to follow, once."""
        if self._thread is None:
            run = contextvars.copy_context().run  # what the task's logger knows about the task
            self._thread = threading.Thread(target=run, args=(self._follow,), daemon=True, name="k8s-venv-log")
            self._thread.start()

    def stop(self) -> None:
        """Pass nothing on any more."""
        with self._lock:
            self._stopped = True

    def finish(self) -> bool:
        """Stop following the container, which has ended, and pass on what is left.

        Returns:
            Whether the log came to its end.
        """
        self.stop()
        for attempt in range(_ATTEMPTS):
            try:
                self._read(follow=False, wanted=lambda: True)
            except ApiException as error:
                if error.status in (400, 403, 404):  # it never ran, may not be read, or is gone
                    return False
            except (HTTPError, OSError):
                pass
            else:
                return True
            time.sleep(_RETRY * attempt)
        return False

    def _follow(self) -> None:
        while not self._stopped:
            try:
                self._read(follow=True, wanted=lambda: not self._stopped)
            except ApiException as error:
                if error.status == 403:  # asking each second would not help; `finish` tells
                    return
            except (HTTPError, OSError):
                pass
            if not self._stopped:
                time.sleep(_RETRY)

    def _read(self, *, follow: bool, wanted: Callable[[], bool]) -> None:
        response = self._client.read_namespaced_pod_log(
            *self._pod,
            container=self._container,
            follow=follow,
            timestamps=True,
            _preload_content=False,
            _request_timeout=(10, _SILENCE),
            **self._since(),
        )
        before, stale = self._last, False
        try:
            for line, continued in _lines(response):
                stamp, text = ("", line) if continued else _split(line)
                stale = stale if continued else bool(stamp) and stamp <= before
                if stale:
                    continue  # already passed on, over the connection before this one
                with self._lock:
                    if not wanted():
                        return
                    self._last, self._read_at = stamp or self._last, time.monotonic()
                    self._log(text)
        finally:
            response.close()

    def _since(self) -> dict[str, int]:
        if self._read_at is None:
            return {}
        return {"since_seconds": math.ceil(time.monotonic() - self._read_at + _UNDER_WAY)}


def _lines(response: Any) -> Iterator[tuple[str, bool]]:
    """Yield each line, and whether it continues the one before, since lines may be of any length."""
    rest, continued = b"", False
    for chunk in response.stream(amt=None, decode_content=True):
        *complete, rest = (rest + chunk).split(b"\n")
        for line in complete:
            yield line.decode("utf-8", "backslashreplace"), continued
            continued = False
        if len(rest) > _LONGEST:
            yield rest.decode("utf-8", "backslashreplace"), continued
            rest, continued = b"", True
    if rest:
        yield rest.decode("utf-8", "backslashreplace"), continued


def _split(line: str) -> tuple[str, str]:
    """Split the kubelet's timestamp from a line; in UTC and of a fixed length, so that text compares as time."""
    match = _TIMESTAMP.match(line)
    if match is None:
        return "", line
    seconds = datetime.datetime.fromisoformat(match[1] + match[3]).astimezone(datetime.UTC)
    return f"{seconds:%Y-%m-%dT%H:%M:%S}.{match[2] or '':0<9}", line[match.end() :]
