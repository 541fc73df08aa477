"""How long a trivial task takes on Kubernetes, next to the floor and to `@task.kubernetes`, and what it asks for.

The floor F is the same pod with one emptyDir and `python -c pass`, from its creation to its terminal event seen by a
watch. The kubelet looks once a second, so every measurement starts at a random moment, and the contenders take turns
in random order.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks import _cluster

FRESH = """
import sys
from pathlib import Path
from tests.benchmarks import _cluster

_cluster.quiet()
task = _cluster.load_tasks(Path(sys.argv[1]))[sys.argv[2]]
_cluster.random_moment()
print(_cluster.execute(task)[0])
"""


def main(arguments: list[str]) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="latency", description=__doc__)
    parser.add_argument("--runs", type=int, default=30, help="counted runs of each contender")
    parser.add_argument("--only", nargs="*", help="these contenders")
    options = parser.parse_args(arguments)
    with _cluster.place() as place:
        _cluster.quiet()
        print(json.dumps(report(measure(contenders(place), options.runs, options.only))))
    return 0


def contenders(place: _cluster.Place) -> dict[str, Callable[[], float]]:
    """Return what is compared, by name; each returns its seconds."""
    ours = _cluster.load_tasks(place.folder / "dag.py")["ours"]
    peers = _cluster.load_tasks(place.folder / "peers.py")
    return {
        "floor": lambda: floor(place),
        "ours": lambda: executed(ours),
        "ours, fresh process": lambda: fresh(place.folder / "dag.py"),
        "@task.kubernetes": lambda: executed(peers["as_it_comes"]),
        "@task.kubernetes, 1 s": lambda: executed(peers["every_second"]),
    }


def measure(
    contenders: dict[str, Callable[[], float]],
    runs: int,
    only: list[str] | None,
    before: Mapping[str, Callable[[], None]] | None = None,
) -> tuple[dict[str, list[float]], dict[str, list[int]]]:
    """Return each contender's seconds and requests; the first run of each is not counted.

    Args:
        contenders: what is compared, by name; each returns its seconds.
        runs: how often each is counted.
        only: the names of those that run; by default all.
        before: what is done before a contender's time begins, by its name.
    """
    names = [name for name in contenders if not only or name in only]
    times: dict[str, list[float]] = {name: [] for name in names}
    asked: dict[str, list[int]] = {name: [] for name in names}
    requests = _cluster.Requests()
    with requests.counted():
        for number in range(runs + 1):
            for name in random.sample(names, len(names)):
                (before or {}).get(name, lambda: None)()
                _cluster.random_moment()
                requests.take()
                seconds = contenders[name]()
                if number:
                    times[name].append(seconds)
                    asked[name].append(requests.take())
    return times, asked


def report(measured: tuple[dict[str, list[float]], dict[str, list[int]]]) -> dict[str, Any]:
    """Print the table; return the figures."""
    times, asked = measured
    floor = statistics.median(times["floor"])
    figures: dict[str, Any] = {}
    print(f"{'':24}{'median':>9}{'p95':>9}{'min':>9}{'max':>9}{'to F':>8}{'requests':>10}")
    for name, each in times.items():
        each.sort()
        median, p95 = statistics.median(each), each[int(0.95 * (len(each) - 1))]
        requests = statistics.median(asked[name])
        print(f"{name:24}{median:8.2f}s{p95:8.2f}s{each[0]:8.2f}s{each[-1]:8.2f}s{median / floor:8.2f}{requests:10.0f}")
        figures[name] = {"median": round(median, 3), "p95": round(p95, 3), "to_floor": round(median / floor, 3)}
        figures[name]["requests"] = requests
    return figures


def executed(task: Any) -> float:
    """Execute a task that adds one."""
    seconds, value = _cluster.execute(task)
    assert value == 2, value
    return seconds


def fresh(file: Path, task: str = "ours") -> float:
    """Execute a task in a process that has loaded the DAG file and nothing else."""
    done = subprocess.run([sys.executable, "-c", FRESH, str(file), task], check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


def floor(place: _cluster.Place) -> float:
    """Time an empty program in a pod, from its creation to its terminal event seen by a watch."""
    from kubernetes import client, watch

    core, name = client.CoreV1Api(), f"floor-{uuid.uuid4().hex[:8]}"
    scratch = {"name": "scratch", "mountPath": "/tmp"}
    pod = {
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "volumes": [{"name": "scratch", "emptyDir": {}}],
            "containers": [
                {"name": "base", "image": place.image, "command": ["python", "-c", "pass"], "volumeMounts": [scratch]}
            ],
        },
    }
    started = time.perf_counter()
    version = core.create_namespaced_pod(place.namespace, pod).metadata.resource_version
    events = watch.Watch().stream(
        core.list_namespaced_pod, place.namespace, field_selector=f"metadata.name={name}", resource_version=version
    )
    for event in events:
        statuses = event["object"].status.container_statuses
        if statuses and statuses[0].state.terminated:
            break
    seconds = time.perf_counter() - started
    core.delete_namespaced_pod(name, place.namespace)
    return seconds
