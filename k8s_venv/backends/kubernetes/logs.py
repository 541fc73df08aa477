"""Read a container's log as it is written: each line once, also where the connection breaks."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import math
import re
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from k8s_venv.backends.kubernetes.background import start_thread
from k8s_venv.backends.kubernetes.diagnose import request_problem
from k8s_venv.wire.protocol import BEGIN, END, MARK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_TIMESTAMP = re.compile(r"^(\d{4}-\d\d-\d\dT[\d:]+)(?:\.(\d+))?(Z|[+-]\d\d:\d\d) ?")
_LONGEST = 256 * 1024  # bytes of a line that are passed on at once
# A connection that says nothing for so long, in seconds, may be dead: a new one is made.
_SILENCE = 120.0
# How long a line may be under way, in seconds: as much is read again after a broken connection, and then dropped.
_UNDER_WAY = 30.0
# Seconds without a line after which a log that lags behind its container counts as stuck.
_STALLED = 10.0
# Whether the line before was the last one that was put aside is not known.
_MISSING = f"{MARK}WARNING - Lines may be missing here: the node put the log aside that had grown."
_NO_BEGINNING = f"{MARK}WARNING - Lines are missing here: the node put the log's beginning aside before it was read."
# Lines that an image's Python may print before the runner begins; where more come, it began before them.
_EARLY = 50
# What ends the log of a call whose document came over a connection. It follows what was printed without a line's end.
_END = re.compile(rf"{END} ([0-9a-f]{{16}})$")
# Seconds in which the end of a log comes that is being followed, once its document is there.
_END_WAIT = 2.0
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
        self._begun = False  # whether the log's first line came, or its absence was logged
        self._early: list[str] = []  # lines that came before it
        self._last = ""  # the stamp of the last line
        self._read_at: float | None = None  # when it came
        self._lock = threading.Lock()
        self._last_words = ""  # the token of the log's end
        self._passed_on = threading.Condition(self._lock)
        self.last_line = ""
        self._ended = False  # the container
        self._stopped = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to follow, once."""
        if self._thread is None:
            self._thread = start_thread(self._follow, "k8s-venv-log")

    def stop(self) -> None:
        """Stop passing lines on."""
        with self._lock:
            self._stopped = True

    def finish(self, *, ran: bool = True, end: str = "") -> str:
        """Stop following the container, which has ended, and pass on what is left.

        Args:
            ran: whether the runner had begun in it, so that the log has a beginning.
            end: the token of the log's end, if the call's document brought one: what follows that is not waited for.

        Returns:
            Why the log was not read to its end, or nothing.
        """
        self._ended = True
        problem = "" if end and self._reaches(end) else self._finish()
        with self._lock:
            self._stopped = True
            self._end_early(missing=ran and not problem)
        return problem

    def _reaches(self, end: str) -> bool:
        """Return whether the log's end, which no function can print beforehand, has been passed on or soon is."""
        with self._passed_on:
            return self._thread is not None and self._passed_on.wait_for(lambda: self._last_words == end, _END_WAIT)

    def _finish(self) -> str:
        problem = ""
        for attempt in range(_ATTEMPTS):
            try:
                self._read_rest()
            except ApiException as error:
                if error.status == 400:  # it never ran
                    return ""
                problem = request_problem(error)
                if error.status in (403, 404):  # it may not be read, or is gone
                    break
            except (HTTPError, OSError) as error:
                problem = request_problem(error)
            else:
                return ""
            time.sleep(_RETRY * attempt)
        return problem

    def _read_rest(self) -> None:
        """Pass on what is left, without waiting for the kubelet to notice that the container has ended."""
        with self._open(follow=False) as lines:
            first = next(lines, None)
            if first is None or not self._is_ahead(first):
                self.stop()
                self._pass_on(itertools.chain([first] if first else [], lines))
                return
        self._let_catch_up()
        self.stop()
        with self._open(follow=False) as lines:
            self._pass_on(lines)

    def _is_ahead(self, line: _Line) -> bool:
        """Return whether lines are missing between the last one that was passed on, or the beginning, and another.

        The kubelet puts a log aside when it grows. Only those who read it already get what was put aside.
        """
        with self._lock:
            if not self._last:
                return line.text != BEGIN
            return bool(line.stamp) and line.stamp > self._last

    def _let_catch_up(self) -> None:
        """Wait for the thread as long as it passes something on."""
        last: str | None = None
        while self._thread is not None and self._thread.is_alive() and last != self._last:
            last = self._last
            self._thread.join(_STALLED)

    def _follow(self) -> None:
        while not self._stopped:
            try:
                with self._open(follow=True) as lines:
                    self._pass_on(lines, lambda: not self._stopped)
            except ApiException as error:
                if error.status == 403:  # asking each second would not help; `finish` returns why
                    return
            except (HTTPError, OSError):
                pass
            if self._ended:
                return
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
        before, stale, joined = self._last, False, not self._last
        for line in lines:
            stale = stale if line.continued else bool(line.stamp) and line.stamp <= before
            if stale:
                joined = True
                continue  # already passed on, over the connection before this one
            with self._lock:
                if not wanted():
                    return
                if not joined and line.stamp:
                    self._log(_MISSING)
                    joined = True
                self._last, self._read_at = line.stamp or self._last, time.monotonic()
                self._show(line.text)

    def _show(self, text: str) -> None:
        """Pass a line on, or keep it until it is known whether there were others before it."""
        end = _END.search(text)
        if end is not None:
            self._last_words = end[1]
            self._passed_on.notify_all()
            text = text[: end.start()]
            if not text:
                return
        if not self._begun:
            if text == BEGIN:
                self._end_early(missing=False)
                return
            self._early.append(text)
            if len(self._early) > _EARLY:
                self._end_early(missing=True)
            return
        self.last_line = text
        self._log(text)

    def _end_early(self, *, missing: bool) -> None:
        if self._begun:
            return
        self._begun = True
        if missing:
            self._log(_NO_BEGINNING)
        for text in self._early:
            self._show(text)

    def _since(self) -> dict[str, int]:
        if self._read_at is None:
            return {}
        # A line may have been under way for long, or the clocks differ: a line that comes twice is found by its stamp.
        age = time.time() - datetime.datetime.fromisoformat(f"{self._last}Z").timestamp() if self._last else 0.0
        return {"since_seconds": math.ceil(max(time.monotonic() - self._read_at, age) + _UNDER_WAY)}


class _Line(NamedTuple):
    """A line of a log."""

    stamp: str  # when it was printed, in UTC and of a fixed length, so that text compares as time
    text: str
    continued: bool = False  # whether it continues the one before, since lines may be of any length


class KubeletError(OSError):
    """The kubelet's own words in a log's place, once its answer has begun: they alone have no time before them."""


def printed_lines(data: bytes) -> list[str]:
    """Return the lines that a container printed, for a part of its log with timestamps."""
    lines = [_line(line, continued=False) for line in data.split(b"\n")]
    texts = [line.text for line in lines if line.stamp and line.text != BEGIN]
    return [_END.sub("", text) for text in texts if not _END.match(text)]


def _lines(response: Any) -> Iterator[_Line]:
    rest, continued = b"", False
    for chunk in response.stream(amt=None, decode_content=True):
        *complete, rest = (rest + chunk).split(b"\n")
        for line in complete:
            yield _printed(line, continued)
            continued = False
        if len(rest) > _LONGEST:
            place = _cut(rest)
            yield _printed(rest[:place], continued)
            rest, continued = rest[place:], True
    if rest:
        yield _printed(rest, continued)


def _printed(data: bytes, continued: bool) -> _Line:
    line = _line(data, continued)
    if not line.stamp and not continued:
        raise KubeletError(f"the kubelet says: {line.text}")
    return line


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
