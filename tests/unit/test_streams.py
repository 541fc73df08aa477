"""What a task prints: marked on one side, told apart on the other, and tamed."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8s_venv.airflow.lines import line_logger
from k8s_venv.backends.marks import parse_line
from k8s_venv.runner import streams
from k8s_venv.runner.protocol import MARK


def printed(*pieces: bytes, mark: str = "") -> bytes:
    target = io.BytesIO()
    lines = streams.Lines(target, mark.encode())
    for piece in pieces:
        lines.write(piece)
    lines.end()
    return target.getvalue()


@given(st.lists(st.binary().map(lambda data: data.replace(b"\r", b"")), max_size=5))
def test_output_is_written_on_as_it_is(pieces: list[bytes]) -> None:
    assert printed(*pieces) == b"".join(pieces)


@given(st.lists(st.text(alphabet="ab\n\r", max_size=20), max_size=6))
def test_no_line_of_standard_error_is_without_its_mark(pieces: list[str]) -> None:
    lines = printed(*(piece.encode() for piece in pieces), mark="!").decode().split("\n")

    assert all(line.startswith("!") and "!" not in line[1:] for line in lines if line)
    assert "\r" not in "".join(lines)


def test_progress_on_one_line_is_shown_now_and_then_and_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(
        "k8s_venv.runner.streams.time.monotonic", lambda: next(clock)
    )  # a second for each carriage return

    lines = printed(*(f"\r{number} %".encode() for number in range(101)), b"\n", b"done\n").decode().splitlines()

    assert lines[-2:] == ["100 %", "done"]
    assert 101 / streams.PAUSE - 2 <= len(lines) - 2 <= 101 / streams.PAUSE + 2


def test_what_a_crash_interrupts_was_written() -> None:
    target = io.BytesIO()

    streams.Lines(target, b"").write(b"no end of a line")

    assert target.getvalue() == b"no end of a line"


def test_windows_ends_of_lines_are_ends_of_lines() -> None:
    assert printed(b"one\r\ntwo\r\n") == b"one\ntwo\n"


PROGRAM = """
import logging, sys
from k8s_venv.runner import records, streams
streams.install()
records.show(sys.stdout)
print("out")
print("err", file=sys.stderr)
sys.stdout.buffer.write(b"\\xff raw\\n")
logging.getLogger("x").warning("two\\nlines")
logging.debug("never")
print("ERROR - printed, not logged")
print("no end", end="")
streams.finish()
"""


def test_kinds_are_told_apart_end_to_end() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)

    out = [parse_line(line) for line in done.stdout.decode("utf-8", "backslashreplace").split("\n")]
    assert out == [
        ("", "out"),
        ("", "\\xff raw"),
        ("WARNING", "two"),
        ("WARNING", "lines"),
        ("", "ERROR - printed, not logged"),
        ("", "no end"),
    ]
    assert parse_line(done.stderr.decode().rstrip("\n")) == ("stderr", "err")


class Recorder:
    def __init__(self) -> None:
        self.lines: list[tuple[int, str]] = []

    def log(self, level: int, form: str, *arguments: Any) -> None:
        self.lines.append((level, form % arguments))

    def info(self, form: str, *arguments: Any) -> None:
        self.log(logging.INFO, form, *arguments)


def test_the_tasks_log_has_the_levels_of_records() -> None:
    recorder = Recorder()
    log = line_logger(recorder)

    for line in (
        "plain",
        f"{MARK}ERROR - bad",
        f"{MARK}stderr - said",
        f"{MARK}NOTICE - own",
        "1 %\r2 %\r",
        "a" + MARK,
    ):
        log(line)

    assert recorder.lines == [
        (logging.INFO, "plain"),
        (logging.ERROR, "bad"),
        (logging.WARNING, "said"),
        (logging.INFO, "NOTICE - own"),
        (logging.INFO, "2 %"),
        (logging.INFO, "a"),
    ]
