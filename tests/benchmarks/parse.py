"""What isolated tasks cost a DAG's parsing, next to `@task` and `@task.kubernetes`, side by side in one run."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.airflow_home import AIRFLOW

TASKS = 200
# In a process of its own: the import that the decorator brings, then the time of each task, in seconds.
PROGRAM = """
import sys, time
from {airflow} import dag, task

def body(decorator):
    @dag(schedule=None)
    def pipeline():
        for number in range({tasks}):
            @decorator
            def work(a, b=None):
                return a

            work(number)
    return pipeline

started = time.perf_counter()
decorator = {decorator}
imported = time.perf_counter() - started
first = time.perf_counter()
body(decorator)()
again = time.perf_counter()
body(decorator)()
print(imported, (time.perf_counter() - again) / {tasks})
"""
DECORATORS = {
    "@task": "task",
    "@task.isolated": 'task.isolated("bare")',
    "@task.kubernetes": 'task.kubernetes(image="python:3.12")',
}


def main(arguments: list[str]) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="parse", description=__doc__)
    parser.add_argument("--runs", type=int, default=7, help="counted runs of each contender")
    options = parser.parse_args(arguments)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in DECORATORS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "k8s-venv.toml").write_text('[environments.bare]\npython = "3.12"\n')
        for number in range(options.runs + 1):
            for contender, decorator in DECORATORS.items():
                found = parse(folder, decorator)
                if number:
                    times[contender].append(found)
    imports = {name: statistics.median(each for each, _ in found) for name, found in times.items()}
    tasks = {name: statistics.median(each for _, each in found) for name, found in times.items()}
    for name in DECORATORS:
        print(f"{name:17} import {1000 * imports[name]:7.1f} ms, each task {1000 * tasks[name]:5.2f} ms")
    ours = "@task.isolated"
    ratios = {
        "import_ms": 1000 * (imports[ours] - imports["@task"]),
        "import_to_kubernetes": imports[ours] / imports["@task.kubernetes"],
        "task_ms": 1000 * tasks[ours],
        "task_to_task": tasks[ours] / tasks["@task"],
        "task_to_kubernetes": tasks[ours] / tasks["@task.kubernetes"],
    }
    print(json.dumps({name: round(value, 3) for name, value in ratios.items()}))
    return 0


def parse(folder: Path, decorator: str) -> tuple[float, float]:
    """Return the seconds that importing a decorator takes, and each task."""
    program = folder / "dag.py"
    program.write_text(PROGRAM.format(airflow=AIRFLOW, decorator=decorator, tasks=TASKS))
    environ = {**os.environ, "AIRFLOW_HOME": str(folder / "home")}
    done = subprocess.run([sys.executable, program], env=environ, capture_output=True, text=True, check=True)
    imported, each = done.stdout.split()[-2:]
    return float(imported), float(each)
