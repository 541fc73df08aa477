"""What comes over the connection to a waiting pod, cut anywhere, and what a hostile pod may send."""

from __future__ import annotations

import hashlib
import queue
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("kubernetes", reason="the kubernetes client is not installed")

from hypothesis import given
from hypothesis import strategies as st

from k8s_venv.backends.kubernetes import attached
from k8s_venv.backends.kubernetes.attached import Answer, Attached, Received
from k8s_venv.backends.kubernetes.exec_channel import BrokenOffError
from k8s_venv.wire import protocol
from k8s_venv.wire.protocol import Document

PAYLOAD = bytes(range(256)) * 400
DOCUMENT = b'{"protocol": 1}'
RESULT = b"payload %d\n%bdocument %d 0123456789abcdef\n%b" % (len(PAYLOAD), PAYLOAD, len(DOCUMENT), DOCUMENT)


class Pod:
    """The other side of a connection: says some bytes in pieces, and remembers what it is sent."""

    def __init__(self, pieces: list[bytes], *, breaks: bool = False) -> None:
        self._pieces = pieces
        self._breaks = breaks
        self.sent = b""

    def __call__(self, *ignored: Any, **options: Any) -> Pod:
        return self

    def send(self, data: Any) -> None:
        self.sent += bytes(data)

    def output(self, deadline: Callable[[], float], *, quiet: bool) -> Iterator[bytes]:
        yield from self._pieces
        if self._breaks:
            raise BrokenOffError("the connection was closed")

    def abort(self) -> None:
        """Break the connection."""


def connected(pod: Pod) -> Attached:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attached, "ExecChannel", pod)
        return Attached(None, None, print)


def received(*pieces: bytes, breaks: bool = False) -> Received | None:
    connection = connected(Pod([*pieces], breaks=breaks))
    news: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    connection._listen(news.put)
    assert (news.get()[0] == "RECEIVED") == (connection.received is not None)
    return connection.received


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % len(data) for place in places} - {0})
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


@given(st.lists(st.integers(0, 1 << 20), max_size=20))
def test_a_result_arrives_however_it_is_cut(places: list[int]) -> None:
    result = received(*cut(RESULT, places))

    assert result is not None
    assert (result.document, result.end) == (DOCUMENT.decode(), "0123456789abcdef")
    announced = Document("value", len(PAYLOAD), hashlib.sha256(PAYLOAD).hexdigest(), "3.12.1", {})
    assert bytes(result.payload_of(announced) or b"") == PAYLOAD


def test_a_payload_that_was_changed_on_its_way_is_not_taken() -> None:
    result = received(RESULT.replace(b"\x00", b"\x01"))

    assert result is not None
    assert result.payload_of(Document("value", len(PAYLOAD), hashlib.sha256(PAYLOAD).hexdigest(), "3.12.1", {})) is None


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"x" * 1_000_000,
        b"hello\n",
        b"document\n",
        b"document -1 token\n{}",
        b"document 5\nabcde",
        b"document %d token\n" % (protocol.DOCUMENT_LIMIT + 1),
        b"payload %d\n" % (protocol.HAND_OVER_LIMIT + 1),
        b"payload 99999999999999999999999999\n",
        b"payload 0\n",
        b"payload 1\n.payload 1\n.",
        b"document " + b"9" * 10_000 + b" token\n",
        b"document 100 token\nshort",
        RESULT[:-1],
        b"\xff\xfe \xff\n",
    ],
    ids=repr,
)
def test_what_is_no_result_leaves_the_pod_s_status_to_count(said: bytes) -> None:
    assert received(said) is None
    assert received(said, breaks=True) is None


@given(st.binary(max_size=300))
def test_any_bytes_are_a_result_or_none(said: bytes) -> None:
    result = received(said)

    assert result is None or len(result.document) <= len(said)


@pytest.mark.parametrize(("said", "answer"), [(b"delivered\n", Answer.DELIVERED), (b"taken\n", Answer.TAKEN)])
def test_a_delivery_says_each_file_and_its_size(said: bytes, answer: Answer) -> None:
    pod = Pod([said[:3], said[3:]])

    assert connected(pod).deliver({"secrets.json": b"{}", "call.pyz": b"zip\n"}) is answer

    assert pod.sent == b"k8s-venv 1\nsecrets.json 2\ncall.pyz 4\n\n{}zip\n"


@pytest.mark.parametrize("said", [b"", b"refused: it has no call.pyz\n", b"y" * 5000], ids=["nothing", "no", "much"])
def test_another_answer_is_a_problem_in_a_few_words(said: bytes) -> None:
    connection = connected(Pod([said]))

    with pytest.raises(BrokenOffError) as raised:
        connection.deliver({"call.pyz": b"zip"})

    assert len(str(raised.value)) < 200
    assert connection.sent
