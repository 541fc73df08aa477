"""The runner's connection to a sender that reads while the call runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from k8s_venv.runner.connection import _LAST, Connection


def test_a_sender_that_reads_nothing_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("k8s_venv.runner.connection._SILENCE", 0.1)
    (tmp_path / "payload").write_bytes(bytes(1_000_000))
    reading, writing = os.pipe()

    Connection(writing).send("{}", str(tmp_path / "payload"))

    assert not hasattr(sys, _LAST)  # no document follows a payload that is cut
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(writing)
    os.close(reading)


def test_a_call_without_a_document_sends_nothing() -> None:
    reading, writing = os.pipe()

    Connection(writing).send("", "")

    assert not hasattr(sys, _LAST)
    os.close(writing)
    assert os.read(reading, 10) == b""
    os.close(reading)
