"""Read a container's log as it is written: each line once, whatever happens to the connection."""

from __future__ import annotations

import contextlib
import contextvars
import datetime
import itertools
import math
import re
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from k8s_venv.runner.protocol import MARK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_TIMESTAMP = re.compile(r"^(\d{4}-\d\d-\d\dT[\d:]+)(?:\.(\d+))?(Z|[+-]\d\d:\d\d) ?")
_LONGEST = 256 * 1024  # bytes of a line that are passed on at once
# A connection that says nothing for so long, in seconds, may be dead: it is made anew.
_SILENCE = 120.0
# What a line may be under way, in seconds: so much is read again after a broken connection, and dropped by its stamp.
_UNDER_WAY = 30.0
# Seconds without a line after which a log that lags behind its container counts as stuck.
_STALLED = 10.0
# Nothing tells whether the line before was the last one that was put aside.
_MISSING = f"{MARK}WARNING - Lines may be missing here: the node put the log aside that had grown."
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
        self.last_line = ""
        self._ended = False  # the container
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
        self._ended = True
        for attempt in range(_ATTEMPTS):
            try:
                return self._read_rest()
            except ApiException as error:
                if error.status in (400, 403, 404):  # it never ran, may not be read, or is gone
                    break
            except (HTTPError, OSError):
                pass
            time.sleep(_RETRY * attempt)
        self.stop()
        return False

    def _read_rest(self) -> bool:
        """Pass on what is left, without waiting for the kubelet to notice that the container has ended."""
        with self._open(follow=False) as lines:
            first = next(lines, None)
            if first is None or not self._is_ahead(first):
                self.stop()
                self._pass_on(itertools.chain([first] if first else [], lines))
                return True
        self._let_catch_up()
        self.stop()
        with self._open(follow=False) as lines:
            self._pass_on(lines)
        return True

    def _is_ahead(self, line: _Line) -> bool:
        """Tell whether lines are missing between the last one that was passed on and another.

        The kubelet puts a log aside when it grows, and gives nobody what was put aside, but those who read it already.
        """
        with self._lock:
            return bool(self._last) and bool(line.stamp) and line.stamp > self._last

    def _let_catch_up(self) -> None:
        """Wait for the thread as long as it passes something on."""
        last = ""
        while self._thread is not None and self._thread.is_alive() and last != self._last:
            last = self._last
            self._thread.join(_STALLED)

    def _follow(self) -> None:
        while not self._stopped:
            try:
                with self._open(follow=True) as lines:
                    self._pass_on(lines, lambda: not self._stopped)
                if self._ended:
                    return
            except ApiException as error:
                if error.status == 403:  # asking each second would not help; `finish` tells
                    return
            except (HTTPError, OSError):
                pass
            if not self._stopped:
                time.sleep(_RETRY)

    @contextlib.contextmanager
    def _open(self, *, follow: bool) -> Iterator[Iterator[_Line]]:
        """Give the log's lines from some time before the last one that was passed on."""
        response = self._client.read_namespaced_pod_log(
            *self._pod,
            container=self._container,
            follow=follow,
            timestamps=True,
            _preload_content=False,
            _request_timeout=(10, _SILENCE),
            **self._since(),
        )
        try:
            yield _lines(response)
        finally:
            response.close()

    def _pass_on(self, lines: Iterable[_Line], wanted: Callable[[], bool] = lambda: True) -> None:
        before, stale, begun = self._last, False, not self._last
        for line in lines:
            stale = stale if line.continued else bool(line.stamp) and line.stamp <= before
            if stale:
                begun = True
                continue  # already passed on, over the connection before this one
            with self._lock:
                if not wanted():
                    return
                if not begun and line.stamp:
                    self._log(_MISSING)
                    begun = True
                self._last, self._read_at = line.stamp or self._last, time.monotonic()
                self.last_line = line.text
                self._log(line.text)

    def _since(self) -> dict[str, int]:
        if self._read_at is None:
            return {}
        # A line may have been under way for long, or the clocks differ: what comes twice is told by its stamp.
        age = time.time() - datetime.datetime.fromisoformat(f"{self._last}Z").timestamp() if self._last else 0.0
        return {"since_seconds": math.ceil(max(time.monotonic() - self._read_at, age) + _UNDER_WAY)}


class _Line(NamedTuple):
    """A line of a log.

    Args:
        stamp: when it was printed, in UTC and of a fixed length, so that text compares as time.
        text: the line.
        continued: whether it continues the one before, since lines may be of any length.
    """

    stamp: str
    text: str
    continued: bool = False


def _lines(response: Any) -> Iterator[_Line]:
    rest, continued = b"", False
    for chunk in response.stream(amt=None, decode_content=True):
        *complete, rest = (rest + chunk).split(b"\n")
        for line in complete:
            yield _line(line, continued)
            continued = False
        if len(rest) > _LONGEST:
            place = _cut(rest)
            yield _line(rest[:place], continued)
            rest, continued = rest[place:], True
    if rest:
        yield _line(rest, continued)


def _cut(data: bytes) -> int:
    """Return where data may be cut that is UTF-8 (RFC 3629): before its last character, unless that is ASCII."""
    return next((len(data) - back for back in (1, 2, 3) if data[-back] >= 0xC0), len(data))


def _line(data: bytes, continued: bool) -> _Line:
    text = data.decode("utf-8", "backslashreplace")
    match = None if continued else _TIMESTAMP.match(text)
    if match is None:
        return _Line("", text, continued)
    seconds, fraction, zone = match.groups()
    if zone != "Z":
        moment = datetime.datetime.fromisoformat(seconds + zone).astimezone(datetime.UTC)
        seconds = f"{moment:%Y-%m-%dT%H:%M:%S}"
    return _Line(f"{seconds}.{fraction or '':0<9}", text[match.end() :])
