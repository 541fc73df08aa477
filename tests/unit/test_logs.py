"""The log of a container: each line once, in order, whatever the node and the connection do."""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("kubernetes", reason="the kubernetes client is not installed")

from kubernetes.client.exceptions import ApiException

from k8s_venv.backends.kubernetes.logs import LogFollower, printed_lines
from k8s_venv.wire.protocol import BEGIN, END

NOW = datetime.datetime.now(datetime.UTC)


def stamped(numbers: range) -> list[bytes]:
    return [f"{NOW + datetime.timedelta(milliseconds=n):%Y-%m-%dT%H:%M:%S.%fZ} line {n}\n".encode() for n in numbers]


BEGINNING = f"2025-12-31T23:59:59Z {BEGIN}\n".encode()  # of every log that is whole


class Response:
    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks

    def stream(self, **options: Any) -> Iterator[bytes]:
        return self._chunks

    def close(self) -> None:
        pass


class Node:
    """A node that has put a log aside, since it grew: it ends what followed it, and has only the newer lines.

    Args:
        aside: the lines that were put aside, which only those read who had begun to.
        present: the lines that anybody can read.
        slow: whether those who follow are still behind when the container ends.
    """

    def __init__(self, aside: list[bytes], present: list[bytes], *, slow: bool) -> None:
        self._aside = aside
        self._present = present
        self._slow = slow
        self.begun, self.ended = threading.Event(), threading.Event()

    def read_namespaced_pod_log(self, *pod: str, follow: bool, **options: Any) -> Response:
        if not follow:
            self.ended.set()
            return Response(iter(self._present))
        if self.begun.is_set():
            return Response(iter(self._present))
        return Response(self._behind())

    def _behind(self) -> Iterator[bytes]:
        yield from self._aside[:2]
        self.begun.set()
        if self._slow:
            self.ended.wait(10)
            yield from self._aside[2:]
            yield from self._present


def followed(node: Node) -> list[str]:
    lines: list[str] = []
    follower = LogFollower(node, "tasks", "work-1", "base", lines.append)
    follower.start()
    assert node.begun.wait(10)
    assert follower.finish() == ""
    return lines


def test_lines_that_the_node_puts_aside_are_waited_for() -> None:
    lines = stamped(range(1000))

    assert followed(Node([BEGINNING, *lines[:900]], lines[900:], slow=True)) == [f"line {n}" for n in range(1000)]


def test_lines_that_are_lost_are_told() -> None:
    lines = stamped(range(1000))

    first, told, *rest = followed(Node([BEGINNING, *lines[:900]], lines[900:], slow=False))

    assert first == "line 0"
    assert "Lines may be missing here" in told
    assert rest == [f"line {n}" for n in range(900, 1000)]


@pytest.mark.parametrize(
    "first", ["2026-01-01T00:00:00.5Z", "2026-01-01T00:00:00Z", "2026-01-01T01:59:59.987654321+02:00"]
)
def test_lines_are_ordered_by_time_whatever_its_precision(first: str) -> None:
    """What was passed on already is dropped, though times of different precision do not compare as text."""
    again = [f"{first} a\n".encode(), b"2026-01-01T00:00:00.75Z b\n"]
    node = Node([BEGINNING, again[0]], again, slow=False)

    assert followed(node) == ["a", "b"]


def test_a_line_of_any_length_comes_whole_and_its_characters_too() -> None:
    text = "aä€𝄞" * 200_000
    data = BEGINNING + f"2026-01-01T00:00:00.5Z {text}\n2026-01-01T00:00:00.6Z next\n".encode()
    node = Node([], [data[start : start + 65_537] for start in range(0, len(data), 65_537)], slow=False)
    lines: list[str] = []

    assert LogFollower(node, "tasks", "work-1", "base", lines.append).finish() == ""

    assert "".join(lines[:-1]) == text
    assert lines[-1] == "next"


def test_bytes_that_are_no_text_are_shown_escaped() -> None:
    node = Node([], [BEGINNING, b"2026-01-01T00:00:00.5Z \xff\x00\xc3(\n"], slow=False)
    lines: list[str] = []

    LogFollower(node, "tasks", "work-1", "base", lines.append).finish()

    assert lines == ["\\xff\x00\\xc3("]


class Log:
    """A log that can only be read when its container has ended.

    Args:
        answers: what the API server says, request by request; the last one again and again.
    """

    def __init__(self, *answers: list[bytes] | ApiException) -> None:
        self._answers = list(answers)

    def read_namespaced_pod_log(self, *pod: str, **options: Any) -> Response:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, ApiException):
            raise answer
        return Response(iter(answer))


def read(log: Log, *, ran: bool = True) -> tuple[str, list[str]]:
    lines: list[str] = []
    return LogFollower(log, "tasks", "work-1", "base", lines.append).finish(ran=ran), lines


@pytest.mark.parametrize("count", [0, 3, 1000])
def test_a_beginning_that_the_node_put_aside_is_told_where_it_would_stand(count: int) -> None:
    problem, lines = read(Log(stamped(range(count))))

    assert problem == ""
    assert "Lines are missing here: the node put the log's beginning aside" in lines[0]
    assert lines[1:] == [f"line {n}" for n in range(count)]


def test_a_log_that_the_follower_has_not_begun_to_pass_on_is_waited_for() -> None:
    """The node lets only those read what it put aside who had opened the log before."""
    opened, ended = threading.Event(), threading.Event()
    lines = stamped(range(1000))

    class Slow:
        def read_namespaced_pod_log(self, *pod: str, follow: bool, **options: Any) -> Response:
            return Response(self._old() if follow else self._new())

        def _old(self) -> Iterator[bytes]:
            opened.set()
            ended.wait(10)
            yield from [BEGINNING, *lines]

        def _new(self) -> Iterator[bytes]:
            ended.set()
            yield from lines[900:]

    passed: list[str] = []
    follower = LogFollower(Slow(), "tasks", "work-1", "base", passed.append)
    follower.start()
    assert opened.wait(10)

    assert follower.finish() == ""
    assert passed == [f"line {n}" for n in range(1000)]


def test_what_an_image_prints_before_the_runner_begins_is_no_sign_of_loss() -> None:
    early = b"2025-12-31T23:59:58Z ERROR: ld.so: object cannot be preloaded\n"

    assert read(Log([early, BEGINNING, *stamped(range(2))])) == (
        "",
        ["ERROR: ld.so: object cannot be preloaded", "line 0", "line 1"],
    )


def test_a_container_that_could_not_run_lacks_no_beginning() -> None:
    assert read(Log([b"2026-01-01T00:00:00Z exec /bin/python: exec format error\n"]), ran=False) == (
        "",
        ["exec /bin/python: exec format error"],
    )


@pytest.mark.parametrize(
    "said",
    [
        b"failed to create fsnotify watcher: too many open files",
        b"unable to retrieve container logs for containerd://0123",
        b"rpc error: code = NotFound desc = an error occurred\n",
    ],
)
def test_what_the_kubelet_says_is_never_a_line_of_the_task(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("k8s_venv.backends.kubernetes.logs._RETRY", 0.0)
    whole = [BEGINNING, *stamped(range(3))]

    assert read(Log([*whole[:2], said], whole)) == ("", ["line 0", "line 1", "line 2"])
    assert read(Log([*whole, said])) == (
        f"the kubelet says: {said.decode().strip()}.",
        ["line 0", "line 1", "line 2"],
    )
    assert printed_lines(b"".join([*whole, said])) == ["line 0", "line 1", "line 2"]


def test_a_log_that_may_not_be_read_names_the_right() -> None:
    refusal = ApiException(status=403, reason="Forbidden")
    account = "system:serviceaccount:airflow:worker"
    refusal.body = json.dumps(
        {"message": f'pods "w" is forbidden: User "{account}" cannot get resource "pods/log" in API group ""'}
    )

    problem, lines = read(Log(refusal))

    assert problem.startswith(f"The account {account} needs the right to `get` `pods/log`")
    assert lines == []


def test_lines_are_those_between_line_feeds_alone() -> None:
    data = BEGINNING + b"2026-01-01T00:00:00Z \x1eERROR - a\x1eb\x0b\xe2\x80\xa8c\n2026-01-01T00:00:01Z \n"

    assert printed_lines(data) == ["\x1eERROR - a\x1eb\x0b\u2028c", ""]


# The log of a call whose document came over a connection, before the node knows of its end.

TOKEN, OTHER = "0123456789abcdef", "fedcba9876543210"


class Live:
    """A log that is followed while its container runs; whoever reads it otherwise gets what it has by then.

    Args:
        lines: what is printed at once.
        later: what is printed when the rest is read, or the follower is about to stop.
    """

    def __init__(self, *lines: str, later: str = "") -> None:
        times = (NOW + datetime.timedelta(milliseconds=n) for n in range(len(lines) + 2))
        texts = (BEGIN, *lines, later)
        stamped = zip(times, texts, strict=True)
        self._lines = [f"{time:%Y-%m-%dT%H:%M:%S.%fZ} {text}\n".encode() for time, text in stamped]
        self.read, self.rest = threading.Event(), 0

    def read_namespaced_pod_log(self, *pod: str, follow: bool, **options: Any) -> Response:
        self.rest += not follow
        return Response(self._followed() if follow else iter(self._lines))

    def _followed(self) -> Iterator[bytes]:
        yield from self._lines[:-1]
        self.read.set()
        threading.Event().wait(0.2)
        yield self._lines[-1]
        threading.Event().wait(5)


def ended(log: Live, token: str = TOKEN) -> list[str]:
    lines: list[str] = []
    follower = LogFollower(log, "tasks", "work-1", "base", lines.append)
    follower.start()
    assert log.read.wait(10)
    assert follower.finish(end=token) == ""
    return lines


def test_a_log_is_complete_at_its_end_without_asking_the_node_again() -> None:
    log = Live("one", "two", later=f"{END} {TOKEN}")

    assert ended(log) == ["one", "two"]
    assert log.rest == 0


def test_the_end_of_a_log_may_follow_a_line_without_an_end() -> None:
    assert ended(Live("one", later=f"two{END} {TOKEN}")) == ["one", "two"]


@pytest.mark.parametrize("printed", [f"{END} {OTHER}", f"{END} ", END])
def test_a_function_cannot_cut_its_log_by_what_it_prints(printed: str) -> None:
    lines = ended(Live("one", printed, "two", later=f"{END} {TOKEN}"))

    assert [line for line in lines if line != printed] == ["one", "two"]


def test_a_log_whose_end_does_not_come_is_read_to_where_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("k8s_venv.backends.kubernetes.logs._END_WAIT", 0.1)
    log = Live("one", later="two")

    assert ended(log) == ["one", "two"]
    assert log.rest == 1


def test_the_end_is_never_shown() -> None:
    data = f"2026-01-01T00:00:00Z a\n2026-01-01T00:00:01Z b{END} {TOKEN}\n2026-01-01T00:00:01Z {END} {TOKEN}\n"

    assert printed_lines(data.encode()) == ["a", "b"]
    assert read(Log([BEGINNING, data.encode()])) == ("", ["a", "b"])
