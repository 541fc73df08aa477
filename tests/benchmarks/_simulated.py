"""Thousands of deferred tasks in one triggerer, whose pods a simulated node runs and ends.

A simulated node (kwok; labelled and tainted with `type=fake` and `fake`) runs a pod without a container, and ends one
that has the annotation `lab.test/message` a few seconds later, with that text as its termination message.
"""

from __future__ import annotations

import base64
import concurrent.futures
import datetime
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
import zlib
from typing import Any

from k8s_venv.backends.kubernetes import pod_state, render
from k8s_venv.calls.results import inline_result, parse_document
from k8s_venv.wire import protocol, values
from tests.benchmarks import _cluster

NODES = "type=fake"
MESSAGE = "lab.test/message"
ON_SIMULATED_NODES = {"node_selector": {"type": "fake"}, "tolerations": [{"key": "fake", "operator": "Exists"}]}
SENDERS = 8


def missing_nodes() -> str:
    """Return why nothing can be simulated, or nothing."""
    from kubernetes import client

    nodes = client.CoreV1Api().list_node(label_selector=NODES, limit=1).items
    return "" if nodes else f"the cluster has no simulated nodes (kwok) with the label {NODES}"


def deferred(place: _cluster.Place, number: int, *, restart: bool = False) -> dict[str, Any]:
    """Wait for many pods in one triggerer, end them all as fast as this machine can, and check what fired.

    Args:
        place: the namespace.
        number: how many.
        restart: end the API server and bring it back when half of the pods are told to end.
    """
    from kubernetes import client

    core = client.CoreV1Api()
    pods = [pod(place, each) for each in range(number)]
    with concurrent.futures.ThreadPoolExecutor(SENDERS + 1) as senders:
        created = list(senders.map(lambda each: core.create_namespaced_pod(place.namespace, each), pods))
        triggerer = start_triggerer([options(each) for each in created])
        print(f"{number:,} pods wait; the triggerer takes up its tasks", file=sys.stderr)
        assert json.loads(triggerer.stdout.readline()) == {"ready": True}
        lines = senders.submit(triggerer.stdout.readlines)  # all the while, so that it is never held up
        started = time.time()
        half = number // 2
        list(senders.map(lambda each: end(core, place, each, pods[each]), range(half)))
        if restart:
            restart_api_server()
        list(senders.map(lambda each: end(core, place, each, pods[each]), range(half, number)))
        *events, taken = map(json.loads, lines.result())
    assert triggerer.wait() == 0
    return report(number, events, taken, max(each["at"] for each in events) - started)


def pod(place: _cluster.Place, number: int) -> Any:
    """Return the pod of a call, for a simulated node."""
    chosen = {"image": place.image, **ON_SIMULATED_NODES}
    return render.pod(f"simulated-{number}", "measured", chosen, secret=f"simulated-{number}-none")


def options(created: Any) -> dict[str, Any]:
    """Return what a deferred task's trigger gets."""
    return {
        "uid": created.metadata.uid,
        "seen": {"created": time.time()},
        "pod_name": created.metadata.name,
        "pod_namespace": created.metadata.namespace,
        "trigger_start_time": datetime.datetime.now(datetime.UTC).isoformat(),
        "base_container_name": render.BASE,
        "kubernetes_conn_id": "kubernetes_default",
        "schedule_timeout": 3600,
        "startup_timeout": 3600,
    }


def start_triggerer(triggers: list[dict[str, Any]]) -> Any:
    """Start the triggerer's process with its tasks."""
    command = [sys.executable, "-m", "tests.benchmarks._triggerer"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    process.stdin.writelines(json.dumps(each) + "\n" for each in triggers)
    process.stdin.close()
    return process


def end(core: Any, place: _cluster.Place, number: int, pod: Any) -> None:
    """Let a pod end with the document of its own number."""
    patch = {"metadata": {"annotations": {MESSAGE: document(number)}}}
    core.patch_namespaced_pod(pod.metadata.name, place.namespace, patch)


def document(number: int) -> str:
    """Return the document of a call that returned a number."""
    payload = values.dumps(number)
    inline = base64.b85encode(zlib.compress(payload, 9)).decode()
    digest = hashlib.sha256(payload).hexdigest()
    timings = {"imports": 0.1, "run": 0.1, "clock": time.time()}
    done = protocol.Document(protocol.VALUE, len(payload), digest, _cluster.HERE, timings, inline=inline)
    return json.dumps(done.to_json())


def restart_api_server() -> None:
    """Run the commands that end the API server and bring it back."""
    for what in ("STOP", "START"):
        subprocess.run(os.environ[f"K8S_VENV_TEST_{what}_API_SERVER"], shell=True, check=True)


def report(number: int, events: list[dict[str, Any]], taken: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Check that each pod's own value came, once; return the figures."""
    late, came = [], []
    for each in events:
        outcome = pod_state.PodOutcome.from_json(each["event"])
        ended = pod_state.container_state(outcome.pod).terminated.finished_at
        late.append(each["at"] - ended.timestamp())
        name = each["event"]["name"]
        came.append(f"simulated-{value_of(pod_state.message(outcome.pod))}")
        assert came[-1] == name, f"{name} got the value of {came[-1]}"
    assert len(came) == len(set(came)) == number, f"{number - len(set(came))} events are lost"
    late.sort()
    median, p95 = statistics.median(late), late[int(0.95 * (len(late) - 1))]
    asked = sum(taken["asked"].values())
    print(f"{number:,} deferred tasks in one triggerer: all events came, {number / seconds:.0f} a second; from a pod's")
    print(f"end (in whole seconds, so up to one is of rounding) to its event: median {median:.1f} s, p95 {p95:.1f} s;")
    print(
        f"{taken['bytes_each'] / 1024:.0f} KiB and {1000 * taken['cpu_seconds'] / number:.1f} ms each; {asked} requests"
    )
    return {
        "simulated": number,
        "events_a_second": round(number / seconds, 1),
        "end_to_event_median": round(median, 2),
        "end_to_event_p95": round(p95, 2),
        "kib_each": round(taken["bytes_each"] / 1024, 1),
        "cpu_ms_each": round(1000 * taken["cpu_seconds"] / number, 2),
        "requests": taken["asked"],
    }


def value_of(text: str) -> Any:
    """Return the value in a document."""
    return values.loads(inline_result(parse_document(text, "measured"), "measured").payload)
