"""How soon commands start: whole processes next to a Python that does nothing, side by side in one run."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

COMMAND = str(Path(sys.executable).with_name("k8s-venv"))
CONTENDERS = {
    "python -c pass": (sys.executable, "-c", "pass"),
    "k8s-venv --version": (COMMAND, "--version"),
    "k8s-venv --help": (COMMAND, "--help"),
    "k8s-venv lock --help": (COMMAND, "lock", "--help"),
    "k8s-venv list": (COMMAND, "list"),
}


def main(arguments: list[str]) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="cli", description=__doc__)
    parser.add_argument("--runs", type=int, default=15, help="counted runs of each contender")
    options = parser.parse_args(arguments)
    times: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "k8s-venv.toml").write_text('[environments.bare]\npython = "3.12"\n')
        for number in range(options.runs + 1):  # the first run writes bytecode
            for contender, command in CONTENDERS.items():
                seconds = run(command, folder)
                if number:
                    times[contender].append(seconds)
    medians = {name: 1000 * statistics.median(found) for name, found in times.items()}
    bare = medians["python -c pass"]
    for contender, median in medians.items():
        print(f"{contender:20} {median:6.0f} ms, {median / bare:5.1f} x bare Python, {median - bare:+6.0f} ms")
    print(json.dumps({name: round(median / bare, 2) for name, median in medians.items()}))
    return 0


def run(command: Sequence[str], folder: Path) -> float:
    """Return the seconds that a command takes, from its start to its end."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("K8S_VENV_")}
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environ, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started
