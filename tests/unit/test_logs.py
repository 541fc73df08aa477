"""The log of a container: each line once, in order, whatever the node and the connection do."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("kubernetes", reason="the kubernetes client is not installed")

from k8s_venv.backends.kubernetes.logs import LogFollower

NOW = datetime.datetime.now(datetime.UTC)


def stamped(numbers: range) -> list[bytes]:
    return [f"{NOW + datetime.timedelta(milliseconds=n):%Y-%m-%dT%H:%M:%S.%fZ} line {n}\n".encode() for n in numbers]


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
        yield self._aside[0]
        self.begun.set()
        if self._slow:
            self.ended.wait(10)
            yield from self._aside[1:]
            yield from self._present


def followed(node: Node) -> list[str]:
    lines: list[str] = []
    follower = LogFollower(node, "tasks", "work-1", "base", lines.append)
    follower.start()
    assert node.begun.wait(10)
    assert follower.finish()
    return lines


def test_lines_that_the_node_puts_aside_are_waited_for() -> None:
    lines = stamped(range(1000))

    assert followed(Node(lines[:900], lines[900:], slow=True)) == [f"line {n}" for n in range(1000)]


def test_lines_that_are_lost_are_told() -> None:
    lines = stamped(range(1000))

    first, told, *rest = followed(Node(lines[:900], lines[900:], slow=False))

    assert first == "line 0"
    assert "Lines may be missing here" in told
    assert rest == [f"line {n}" for n in range(900, 1000)]


@pytest.mark.parametrize(
    "first", ["2026-01-01T00:00:00.5Z", "2026-01-01T00:00:00Z", "2026-01-01T01:59:59.987654321+02:00"]
)
def test_lines_are_ordered_by_time_whatever_its_precision(first: str) -> None:
    """What was passed on already is dropped, though times of different precision do not compare as text."""
    again = [f"{first} a\n".encode(), b"2026-01-01T00:00:00.75Z b\n"]
    node = Node(again[:1], again, slow=False)

    assert followed(node) == ["a", "b"]


def test_a_line_of_any_length_comes_whole_and_its_characters_too() -> None:
    text = "aä€𝄞" * 200_000
    data = f"2026-01-01T00:00:00.5Z {text}\n2026-01-01T00:00:00.6Z next\n".encode()
    node = Node([], [data[start : start + 65_537] for start in range(0, len(data), 65_537)], slow=False)
    lines: list[str] = []

    assert LogFollower(node, "tasks", "work-1", "base", lines.append).finish()

    assert "".join(lines[:-1]) == text
    assert lines[-1] == "next"


def test_bytes_that_are_no_text_are_shown_escaped() -> None:
    node = Node([], [b"2026-01-01T00:00:00.5Z \xff\x00\xc3(\n"], slow=False)
    lines: list[str] = []

    LogFollower(node, "tasks", "work-1", "base", lines.append).finish()

    assert lines == ["\\xff\x00\\xc3("]
