"""A triggerer by itself: one event loop that runs many triggers, as Airflow's does, and reports what fired and when.

It reads the arguments of one trigger a line, then says ``ready`` once it has seen all their pods, and then one line of
JSON for each event; the last line says what it took.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.benchmarks import _cluster
from tests.benchmarks.scale import counted_watches


def main() -> None:
    """Run the triggers of standard input."""
    _cluster.quiet()
    triggers = [json.loads(line) for line in sys.stdin]
    asyncio.run(run(triggers))


async def run(triggers: list[dict[str, Any]]) -> None:
    """Run the triggers until each has fired."""
    import k8s_venv.airflow.pod_wait  # what it takes with it is no task's  # noqa: F401
    from k8s_venv.airflow.trigger import IsolatedPodTrigger

    asked: Counter[str] = Counter()
    before = resident()
    with counted_watches(asked):
        waiting = [asyncio.create_task(fired(IsolatedPodTrigger(**options))) for options in triggers]
        await asyncio.sleep(1)
        while len(known_pods()) < len(triggers):
            await asyncio.sleep(0.1)
        await asyncio.sleep(2)
        each = (resident() - before) / len(triggers)
        say(ready=True)
        used = time.process_time()
        await asyncio.gather(*waiting)
        used = time.process_time() - used
    say(bytes_each=round(each), asked=dict(asked), cpu_seconds=round(used, 2))


def known_pods() -> dict[str, Any]:
    """Return the pods that the watch has seen."""
    from k8s_venv.airflow import pod_wait

    return {name: pod for watch in pod_wait._watches.values() for name, pod in watch._pods.items()}


async def fired(trigger: Any) -> None:
    """Run one trigger as Airflow's triggerer does, and report its event."""
    trigger.task_instance = SimpleNamespace(dag_id="scale", task_id="deferred", run_id="run", map_index=-1)
    async for event in trigger.run():
        say(at=time.time(), event=event.payload)
        return


def say(**fields: Any) -> None:
    """Write one line of JSON."""
    print(json.dumps(fields), flush=True)


def resident() -> int:
    """Return the memory that this process has now, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise AssertionError("/proc says nothing about memory")


if __name__ == "__main__":
    main()
