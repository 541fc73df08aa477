"""Many tasks at once: whether all are right, what they ask of the API server, what they take of the worker's memory."""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import contextlib
import json
import resource
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

from tests.benchmarks import _cluster, _simulated

DAY = 24 * 3600


def main(arguments: list[str]) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="scale", description=__doc__)
    parser.add_argument("--tasks", type=int, default=200, help="how many on real nodes, of each kind")
    parser.add_argument("--at-once", type=int, default=20, help="how many the worker runs at a time")
    parser.add_argument("--simulated", type=int, default=0, help="how many deferred tasks on simulated nodes")
    parser.add_argument(
        "--restart",
        action="store_true",
        help="restart the API server meanwhile, by the commands K8S_VENV_TEST_STOP_API_SERVER and …_START_…",
    )
    options = parser.parse_args(arguments)
    figures: dict[str, Any] = {}
    with _cluster.place() as place:
        _cluster.quiet()
        if options.tasks:
            tasks = _cluster.load_tasks(place.folder / "dag.py")
            figures |= {**mapped(tasks["many"], options), **deferred(tasks["deferred"], options)}
        if options.simulated:
            figures |= simulated(place, options)
    print(json.dumps(figures))
    return 0


def simulated(place: _cluster.Place, options: argparse.Namespace) -> dict[str, Any]:
    """Defer many tasks whose pods simulated nodes run, where there are such nodes."""
    if missing := _simulated.missing_nodes():
        print(f"Nothing is simulated: {missing}.")
        return {"skipped": missing}
    return _simulated.deferred(place, options.simulated, restart=options.restart)


def mapped(task: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Run tasks from one process, some at a time; its memory is that of a worker that runs them all."""
    requests = _cluster.Requests()
    _cluster.execute(task)  # imports, and the client
    before = peak_memory()
    started = time.perf_counter()
    with requests.counted(), concurrent.futures.ThreadPoolExecutor(options.at_once) as pool:
        values = list(pool.map(lambda number: _cluster.execute(task, number)[1], range(options.tasks)))
    seconds = time.perf_counter() - started
    assert values == [2] * options.tasks, Counter(values)
    each = requests.total() / options.tasks
    grown = (peak_memory() - before) / 2**20
    print(
        f"{options.tasks} mapped tasks, {options.at_once} at a time: all right in {seconds:.0f} s, {each:.2f} requests"
    )
    print(f"each; the worker's memory grew by {grown:.1f} MiB at its peak")
    for day in (10_000, 1_000_000):
        print(f"{day:>9,} tasks a day: {each * day / DAY:.1f} requests a second")
    return {
        "mapped_seconds": round(seconds, 1),
        "requests_each": round(each, 2),
        "memory_grown_mib": round(grown, 1),
        "requests_a_second_at_a_million": round(each * 1_000_000 / DAY, 1),
    }


def deferred(task: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Defer tasks, wait for all of them in one triggerer, and go on where their pods have ended."""
    with concurrent.futures.ThreadPoolExecutor(options.at_once) as pool:
        waiting = list(pool.map(lambda number: defer(task, number), range(options.tasks)))
    asked: Counter[str] = Counter()
    with counted_watches(asked):
        events = asyncio.run(await_all([trigger for _, _, trigger, _ in waiting]))
    with concurrent.futures.ThreadPoolExecutor(options.at_once) as pool:
        resumed = zip(waiting, events, strict=True)
        values = list(pool.map(lambda each: each[0][0].trigger_reentry(each[0][1], each[1], **each[0][3]), resumed))
    assert values == [2] * options.tasks, Counter(values)
    print(f"{options.tasks} deferred tasks: all right; the triggerer asked {dict(asked)}")
    return {"triggerer_requests": dict(asked)}


def defer(task: Any, number: int) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Execute a task until it defers itself; return it, its context, what it waits for, and what it keeps."""
    from airflow.sdk.exceptions import TaskDeferred

    context, prepared = _cluster.make_context(task, number), task.prepare_for_execution()
    try:
        prepared.execute(context)
    except TaskDeferred as deferral:
        return prepared, context, deferral.trigger, deferral.kwargs or {}
    raise AssertionError("it was not deferred")


async def await_all(triggers: list[Any]) -> list[Any]:
    """Return what each trigger fires."""

    async def first(trigger: Any) -> Any:
        async for event in trigger.run():
            return event.payload
        raise AssertionError("it never fired")

    return await asyncio.gather(*(first(trigger) for trigger in triggers))


@contextlib.contextmanager
def counted_watches(asked: Counter[str]) -> Iterator[None]:
    """Count what asynchronous clients ask for, by kind."""
    from kubernetes_asyncio.client.rest import RESTClientObject

    request = RESTClientObject.request

    async def counting(self: Any, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        watching = any(name == "watch" for name, _ in kwargs.get("query_params") or ())
        single = not url.endswith("/pods")
        asked["watches" if watching else f"{method} of one" if single else "lists"] += 1
        return await request(self, method, url, *args, **kwargs)

    with patch.object(RESTClientObject, "request", counting):
        yield


def peak_memory() -> int:
    """Return the most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
