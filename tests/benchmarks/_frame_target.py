"""One frame there and back, in a process of its own: ``ours`` or ``by_hand``; prints the figures as JSON."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy
import pandas

from k8s_venv.backends.local.backend import LocalBackend
from k8s_venv.backends.local.environments import make_environment
from k8s_venv.calls import open_result, pack
from k8s_venv.config.environment import Environment

_CHILD = """
import sys, pandas
frame = pandas.read_pickle(sys.argv[1])
(frame * 2).to_pickle(sys.argv[2])
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


def doubled(frame: Any, report: str) -> Any:
    import atexit
    from pathlib import Path

    atexit.register(lambda: Path(report).write_text(Path("/proc/self/status").read_text()))
    return frame * 2


def peak(status: str) -> int:
    """Return the most memory that a process ever had, in bytes; ``ru_maxrss`` counts its parent's as well."""
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert match is not None
    return int(match[1]) * 1024


def ours(frame: Any, environment: Environment, folder: Path) -> tuple[Any, int]:
    call = pack(doubled, (frame, str(folder / "status")), {}, environment=environment)
    value = open_result(LocalBackend().run(call, print), call)
    return value, peak((folder / "status").read_text())


def by_hand(frame: Any, environment: Environment, folder: Path) -> tuple[Any, int]:
    sent, returned = str(folder / "sent"), str(folder / "returned")
    frame.to_pickle(sent)
    program = str(make_environment(environment))
    said = subprocess.run([program, "-c", _CHILD, sent, returned], check=True, capture_output=True, text=True)
    return pandas.read_pickle(returned), int(said.stdout) * 1024


def main() -> None:
    contender, rows, root, python = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    environment = Environment(name="frames", root=root, python=python, requirements=("pandas",))
    frame = pandas.DataFrame(numpy.random.default_rng(1).random((rows, 10)))
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        value, runner = {"ours": ours, "by_hand": by_hand}[contender](frame, environment, Path(folder))
        seconds = time.perf_counter() - started
    if not value.iloc[-1].equals(frame.iloc[-1] * 2):
        raise SystemExit("another frame came back")
    sender = peak(Path("/proc/self/status").read_text())
    print(json.dumps({"seconds": seconds, "sender": sender, "runner": runner}))


if __name__ == "__main__":
    main()
