"""What a call costs beyond the work itself: ratios to doing the same by hand, side by side in one run."""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import k8s_venv
from k8s_venv.backends.local.environments import make_environment
from k8s_venv.backends.process import runner_command
from k8s_venv.calls import pack
from k8s_venv.config.environment import Environment
from k8s_venv.locks.locking import write_lock
from k8s_venv.wire import protocol, values

HERE = "{}.{}".format(*sys.version_info)


def first_line() -> float:
    """Return the time of the function's first line; the clock is the same in all processes of a machine."""
    return time.monotonic()


def main(arguments: list[str]) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="overhead", description=__doc__)
    parser.add_argument("--runs", type=int, default=15, help="counted runs of each contender")
    parser.add_argument("--python", nargs="*", default=["3.8", HERE], help="the environments' versions")
    options = parser.parse_args(arguments)
    ratios: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for python in options.python:
            start(Path(folder), python, options.runs, ratios)
        loop(Path(folder), ratios)
        capture(Path(folder), options.runs, ratios)
        frame(Path(folder), max(3, options.runs // 3), ratios)
    dictionaries(ratios)
    print(json.dumps({name: round(value, 3) for name, value in ratios.items()}))
    return 0


def start(folder: Path, python: str, runs: int, ratios: dict[str, float]) -> None:
    """Compare the time until the user's first line with that of `python -c pass`, as whole processes."""
    environment = Environment(name=f"bare{python.replace('.', '')}", root=folder, python=python)
    write_lock(environment)
    program = str(make_environment(environment))
    archive, result = folder / f"{environment.name}.pyz", folder / "result"
    archive.write_bytes(pack(first_line, (), {}, environment=environment).archive)

    def call() -> float:
        started = time.monotonic()
        run(runner_command(program, str(archive), "--result", str(result)))
        reached: float = values.loads((result / protocol.PAYLOAD).read_bytes())
        return reached - started

    times: dict[str, list[float]] = {"pass": [], "call": []}
    for _ in range(runs + 1):
        times["pass"].append(timed(lambda: run([program, "-c", "pass"])))
        times["call"].append(call())
    bare, reached = (statistics.median(each[1:]) for each in times.values())
    ratios[f"start_{python}"] = reached / bare
    print(f"start, Python {python}: pass {bare:.3f} s, the first line of a call {reached:.3f} s")


def loop(folder: Path, ratios: dict[str, float], rounds: int = 10) -> None:
    """Compare calls of `k8s_venv.run` on this machine, ten in a row, with as many runs of `python -c pass`."""
    (folder / "k8s-venv.toml").write_text(f'backend = "local"\n[environments.loop]\npython = "{HERE}"\n')
    (folder / "loop_module.py").write_text("def work(number):\n    return number\n")
    work = load(folder / "loop_module.py").work
    environment = Environment(name="loop", root=folder, python=HERE)
    write_lock(environment)
    program = str(make_environment(environment))
    for _ in range(3):
        k8s_venv.run("loop", work, 0)  # from then on an interpreter waits
    contenders: dict[str, Callable[[], Any]] = {
        "pass": lambda: run([program, "-c", "pass"]),
        "call": lambda: k8s_venv.run("loop", work, 1),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            times[name].append(timed(functools.partial(repeat, contender, 10)) / 10)
    bare, called = (statistics.median(each) for each in times.values())
    ratios["loop"], ratios["loop_ms"] = called / bare, 1000 * called
    print(f"a loop over {10 * rounds} calls: {1000 * called:.1f} ms a call, pass {1000 * bare:.1f} ms")


def load(path: Path) -> Any:
    """Return the module of a file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def capture(folder: Path, runs: int, ratios: dict[str, float]) -> None:
    """Time packing a function of a 2,000-line module, as source and by cloudpickle; in milliseconds."""
    body = "def f{0}(x):\n    y = x + {0}\n    return f{1}(y) if y < 0 else y\n\n"
    functions = "".join(body.format(n, max(n - 1, 0)) for n in range(500))
    path = folder / "large_module.py"
    path.write_text(f"import json\n{functions}")
    module = load(path)
    for name, python in (("source", "3.8"), ("cloudpickle", HERE)):
        environment = Environment(name="packing", root=folder, python=python)
        started = time.perf_counter()
        pack(module.f20, (1,), {}, environment=environment)
        ratios[f"pack_{name}_first_ms"] = 1000 * (time.perf_counter() - started)
        again = [timed(functools.partial(pack, module.f20, (1,), {}, environment=environment)) for _ in range(runs)]
        ratios[f"pack_{name}_next_ms"] = 1000 * statistics.median(again)
        first, following = (ratios[f"pack_{name}_{which}_ms"] for which in ("first", "next"))
        print(f"packing as {name}: first {first:.1f} ms, next {following:.1f} ms")


def frame(folder: Path, runs: int, ratios: dict[str, float]) -> None:
    """Compare a frame of 100 MB there and back with pickling it by hand, as whole processes through the backend.

    Memory is each process's most, beyond that of the same call with a frame of ten rows, as a multiple of the frame.
    """
    environment = Environment(name="frames", root=folder, python=HERE, requirements=("pandas",))
    write_lock(environment)
    make_environment(environment)
    large = 1_310_720
    measured: dict[tuple[str, int], list[dict[str, float]]] = {}
    for number in range(runs + 1):
        for contender in ("by_hand", "ours"):
            for rows in (10, large):
                target = [sys.executable, "-m", "tests.benchmarks._frame_target", contender, str(rows)]
                done = subprocess.run([*target, str(folder), HERE], check=True, capture_output=True, text=True)
                if number:
                    measured.setdefault((contender, rows), []).append(json.loads(done.stdout.splitlines()[-1]))

    def middle(contender: str, rows: int, what: str) -> float:
        return statistics.median(each[what] for each in measured[contender, rows])

    times = {contender: middle(contender, large, "seconds") for contender in ("by_hand", "ours")}
    ratios["frame"] = times["ours"] / times["by_hand"]
    for side in ("sender", "runner"):
        for contender in ("by_hand", "ours"):
            beyond = middle(contender, large, side) - middle(contender, 10, side)
            ratios[f"frame_memory_{side}_{contender}"] = beyond / (large * 10 * 8)
    print(f"frame of 100 MB: by hand {times['by_hand']:.2f} s, ours {times['ours']:.2f} s")


def dictionaries(ratios: dict[str, float]) -> None:
    """Compare a million small dictionaries with `json`."""
    data = [{"id": n, "name": f"row {n}", "value": n / 3} for n in range(1_000_000)]
    times = interleaved(
        {"json": lambda: json.loads(json.dumps(data)), "ours": lambda: values.loads(values.dumps(data))}, 3
    )
    ratios["dictionaries"] = times["ours"] / times["json"]
    print(f"a million dictionaries: json {times['json']:.2f} s, ours {times['ours']:.2f} s")


def interleaved(contenders: dict[str, Callable[[], Any]], runs: int) -> dict[str, float]:
    """Return each contender's median time in seconds, after one run that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(runs + 1):
        for name, contender in contenders.items():
            seconds = timed(contender)
            if number:
                times[name].append(seconds)
    return {name: statistics.median(each) for name, each in times.items()}


def repeat(work: Callable[[], Any], times: int) -> None:
    """Do some work several times in a row."""
    for _ in range(times):
        work()


def timed(work: Callable[[], Any]) -> float:
    """Return the seconds that some work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def run(command: list[str]) -> None:
    """Run a process to its end."""
    subprocess.run(command, check=True, capture_output=True)
