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

from k8s_venv.backends.process import line_logger, parse_line
from k8s_venv.runner import streams
from k8s_venv.wire.protocol import MARK


def printed(*pieces: bytes, mark: str = "") -> bytes:
    target = io.BytesIO()
    lines = streams.Lines(target, mark.encode())
    for piece in pieces:
        lines.write(piece)
    lines.end()
    return target.getvalue()


@given(st.lists(st.binary().map(lambda data: data.translate(None, b"\r\x1e")), max_size=5))
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
from k8s_venv.runner import streams
streams.install()
streams.show_records(logging, sys.stdout)
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

    lines = done.stdout.decode("utf-8", "backslashreplace").split("\n")
    out = [part for line in lines for part in parse_line(line)]
    assert out == [
        ("", "out"),
        ("", "\\xff raw"),
        ("WARNING", "two"),
        ("WARNING", "lines"),
        ("", "ERROR - printed, not logged"),
        ("", "no end"),
    ]
    assert parse_line(done.stderr.decode().rstrip("\n")) == [("stderr", "err")]


def parts_of(program: str) -> list[tuple[str, str]]:
    """Run a program as the runner runs functions, with both streams in one text; return what a sender makes of it."""
    before = """
import logging, sys
from k8s_venv.runner import streams
streams.install()
streams.show_records(logging, sys.stdout)
"""
    command = [sys.executable, "-c", f"{before}{program}\nstreams.finish()"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True)
    return [part for line in done.stdout.decode().split("\n") if line for part in parse_line(line)]


HALF_LINES = {
    'print("Loading ...", end=""); logging.warning("slow"); print(" done")': [
        ("", "Loading ..."),
        ("WARNING", "slow"),
        ("", " done"),
    ],
    'print("Loading ...", end=""); print("slow", file=sys.stderr); print(" done")': [
        ("", "Loading ..."),
        ("stderr", "slow"),
        ("", " done"),
    ],
    'sys.stderr.write("Loading"); print("out"); sys.stderr.write(" done")': [
        ("stderr", "Loading"),
        ("", "out"),
        ("stderr", " done"),
    ],
    'print("Loading", end=""); logging.warning("slow"); print(); print("next")': [
        ("", "Loading"),
        ("WARNING", "slow"),
        ("", "next"),
    ],
    'print("\\r10 %", end=""); logging.warning("slow"); print("\\r20 %")': [
        ("WARNING", "slow"),
        ("", "10 %"),
        ("", "20 %"),
    ],
    'import os; os.write(1, b"compiled"); logging.warning("slow")': [("", "compiled"), ("WARNING", "slow")],
    'import os; os.write(1, b"compiled"); print("said", file=sys.stderr)': [("", "compiled"), ("stderr", "said")],
}


@pytest.mark.parametrize("program", HALF_LINES)
def test_a_line_that_was_begun_is_not_glued_to_a_record_or_to_standard_error(program: str) -> None:
    assert parts_of(program) == HALF_LINES[program]


@pytest.mark.parametrize(
    "program",
    [
        "import io; sys.stdout = io.TextIOWrapper(sys.stdout.detach(), encoding='utf-8')",
        "import codecs; sys.stdout = codecs.getwriter('utf-8')(sys.stdout.detach())",
        "sys.stdout = None",
        "sys.stdout.close()",
        "sys.stdout.reconfigure(encoding='latin-1', line_buffering=True)",
    ],
)
def test_records_are_shown_whatever_becomes_of_standard_output(program: str) -> None:
    assert parts_of(f"{program}; logging.error('seen')") == [("ERROR", "seen")]


def test_a_handler_that_the_function_points_elsewhere_writes_there() -> None:
    program = "logging.getLogger().handlers[0].setStream(sys.stderr); logging.error('seen')"

    assert parts_of(program) == [("stderr", "seen")]


ATTRIBUTES = """
stream = getattr(sys, NAME)
print(*(repr(getattr(stream, name)) for name in ("name", "mode", "encoding", "newlines", "closed")))
print(stream.fileno(), stream.isatty(), stream.readable(), stream.seekable(), stream.buffer.name, stream.buffer.mode)
for name in ("read", "tell"):
    try:
        getattr(stream, name)()
    except OSError as error:
        print(type(error).__name__, error)
try:
    stream.buffer.write(5)
except TypeError as error:
    print("refused")
"""


@pytest.mark.parametrize("name", ["stdout", "stderr", "__stdout__", "__stderr__"])
def test_streams_say_of_themselves_what_pythons_own_say(name: str) -> None:
    program = ATTRIBUTES.replace("NAME", repr(name))
    plain = subprocess.run([sys.executable, "-c", "import sys" + program], capture_output=True, check=True)

    assert [text for _, text in parts_of(program)] == plain.stdout.decode().splitlines()


def test_bytes_come_the_same_by_every_way_in() -> None:
    program = """
sys.stdout.writelines(["a\\n", "b\\n"])
sys.stdout.buffer.writelines([b"c\\n", bytearray(b"d\\n")])
sys.stdout.buffer.raw.write(memoryview(b"e\\n"))
sys.__stdout__.write("f\\n")
sys.__stderr__.write("g\\n")
"""

    assert parts_of(program) == [*(("", letter) for letter in "abcdef"), ("stderr", "g")]


@pytest.mark.parametrize(
    ("program", "part"),
    [
        (r"print('\x1eERROR - forged')", ("", r"\x1eERROR - forged")),
        (r"print('text\x1eERROR - forged')", ("", r"text\x1eERROR - forged")),
        (r"print('\x1eERROR - forged', file=sys.stderr)", ("stderr", r"\x1eERROR - forged")),
        (r"logging.info('text\x1eERROR - forged')", ("INFO", r"text\x1eERROR - forged")),
        (r"print('a\x0b\x0c\x1c\x85\u2028b')", ("", r"a\x0b\x0c\x1c\x85\u2028b")),
        (r"print('\x1b]0;title\x07\x1b[2J\u202e\0')", ("", r"\x1b]0;title\x07\x1b[2J\u202e\x00")),
        (r"print('\x1b[31mred')", ("", "\x1b[31mred\x1b[0m")),
        (r"print('::group::Details')", ("", "::group::Details")),
        (r"print('done\r', end='')", ("", "done")),
    ],
)
def test_what_is_printed_imitates_no_mark_and_hides_nothing(program: str, part: tuple[str, str]) -> None:
    assert parts_of(program) == [part]


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
        (logging.INFO, "a\\x1e"),
    ]
