"""How long a call takes at a pod that waits, next to the floor, to a pod of its own and to `@task.kubernetes`.

The floor F is that of the benchmark `latency`. Contenders take turns in random order, each at a random moment.
Pods wait before a call that is measured begins; what it takes to have another one is a contender of its own.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.benchmarks import _cluster, latency
from tests.benchmarks._pool import Pool

PROJECT = f"""
[environments.measured]
python = "{_cluster.HERE}"

[environments.waiting]
python = "{_cluster.HERE}"
warm = {{ min = 1, max = 10 }}

[environments.frames]
python = "{_cluster.HERE}"
requirements = ["pandas"]

[environments.frames_waiting]
python = "{_cluster.HERE}"
requirements = ["pandas"]
warm = {{ min = 1, max = 10, preload = ["pandas"] }}
"""
DAG_FILE = """
from airflow.sdk import DAG, task

with DAG("warm") as dag:
    for environment in ("measured", "waiting"):

        @task.isolated(environment, task_id=environment)
        def add_one(number: int) -> int:
            return number + 1

        add_one(1)

    for environment in ("frames", "frames_waiting"):

        @task.isolated(environment, task_id=environment)
        def total(number: int) -> int:
            import pandas

            return int(pandas.DataFrame({"a": [number, 1]})["a"].sum())

        total(1)
"""
COLD, WARM, FRAMES, WARM_FRAMES = "own pod", "waiting pod", "pandas, own pod", "pandas, waiting pod"


class Contenders:
    """What is compared.

    Args:
        place: the project and the namespace.
    """

    def __init__(self, place: _cluster.Place) -> None:
        self.file = place.folder / "warm_dag.py"
        self.file.write_text(DAG_FILE)
        self.tasks = _cluster.load_tasks(self.file)
        self.pools = {name: Pool(place, name) for name in ("waiting", "frames_waiting")}
        self.starts: Counter[str] = Counter()  # how the calls that should be warm got their pods
        peers = _cluster.load_tasks(place.folder / "peers.py")
        self.timed: dict[str, Callable[[], float]] = {
            "floor": lambda: latency.floor(place),
            COLD: lambda: latency.executed(self.tasks["measured"]),
            WARM: lambda: self.executed("waiting"),
            f"{WARM}, fresh process": lambda: latency.fresh(self.file, "waiting"),
            FRAMES: lambda: latency.executed(self.tasks["frames"]),
            WARM_FRAMES: lambda: self.executed("frames_waiting"),
            "another waiting pod": self.pools["waiting"].refill,
            "@task.kubernetes": lambda: latency.executed(peers["as_it_comes"]),
        }
        self.before: dict[str, Callable[[], None]] = {
            WARM: self.pools["waiting"].fill,
            f"{WARM}, fresh process": self.pools["waiting"].fill,
            WARM_FRAMES: self.pools["frames_waiting"].fill,
        }

    def executed(self, name: str) -> float:
        """Execute a task of an environment with waiting pods; note how it got its pod."""
        prepared, context = self.tasks[name].prepare_for_execution(), _cluster.make_context(self.tasks[name])
        started = time.perf_counter()
        value = prepared.execute(context)
        seconds = time.perf_counter() - started
        assert value == 2, value
        start = prepared._running.runner.start
        self.starts[start.missed or start.kind] += 1
        return seconds


def main(arguments: list[str]) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="warm", description=__doc__)
    parser.add_argument("--runs", type=int, default=30, help="counted runs of each contender")
    parser.add_argument("--only", nargs="*", help="these contenders, beside the floor")
    parser.add_argument("--mapped", type=int, default=100, help="how many mapped tasks; 0 leaves this part out")
    options = parser.parse_args(arguments)
    with _cluster.place(PROJECT) as place:
        _cluster.quiet()
        compared = Contenders(place)
        only = ["floor", *options.only] if options.only else None
        figures = latency.report(latency.measure(compared.timed, options.runs, only, compared.before))
        figures["starts"] = dict(compared.starts)
        print(f"Of the calls that should find a waiting pod: {dict(compared.starts)}")
        compared.pools["waiting"].fill()
        figures["idle"] = compared.pools["waiting"].idle()
        print(f"A waiting pod takes {figures['idle']['mib']} MiB and {figures['idle']['cpu_ms_a_minute']} ms a minute")
        if options.mapped:
            figures["mapped"] = mapped(compared, options.mapped)
    print(json.dumps(figures))
    return 0


def mapped(compared: Contenders, number: int) -> dict[str, Any]:
    """Run tasks ten at a time in pods of their own, then at waiting pods of which ten are held."""
    figures: dict[str, Any] = {COLD: throughput(compared.tasks["measured"], number)}
    with compared.pools["waiting"].kept(10):
        figures[WARM] = throughput(compared.tasks["waiting"], number)
    for name, each in figures.items():
        print(f"{number} mapped tasks, 10 at a time, {name}: {each['a_second']} a second, {each['requests']} requests")
    return figures


def throughput(task: Any, number: int) -> dict[str, float]:
    """Return how many tasks a second end, and what each asks the API server."""
    requests = _cluster.Requests()
    started = time.perf_counter()
    run = functools.partial(_cluster.execute, task)
    with requests.counted(), concurrent.futures.ThreadPoolExecutor(10) as pool:
        values = [value for _, value in pool.map(run, range(number))]
    seconds = time.perf_counter() - started
    assert values == [2] * number, Counter(values)
    return {"a_second": round(number / seconds, 2), "requests": round(requests.total() / number, 2)}
