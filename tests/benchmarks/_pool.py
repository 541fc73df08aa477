"""Pods that wait for calls, for the benchmarks: made as the keeper makes them, from the project's own declaration."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from k8s_venv.backends.kubernetes import pool, render
from k8s_venv.config.project import load_project
from tests.benchmarks import _cluster

# Holds a number of waiting pods in a process of its own, whose requests are no worker's.
KEEPER = """
import json, sys, time
import kubernetes

kubernetes.config.load_kube_config()
core = kubernetes.client.CoreV1Api()
namespace, selector, size, pod = json.loads(sys.stdin.read())
while True:
    found = len(core.list_namespaced_pod(namespace, label_selector=selector).items)
    for _ in range(size - found):
        core.create_namespaced_pod(namespace, pod)
    time.sleep(0.2)
"""


class Pool:
    """The waiting pods of one environment.

    Args:
        place: the project and the namespace.
        environment: the environment's name.
    """

    def __init__(self, place: _cluster.Place, environment: str) -> None:
        from kubernetes import client

        project = load_project(place.folder / "k8s-venv.toml")
        self._core = client.CoreV1Api()
        self._namespace = place.namespace
        self._pod = pool.declared_pod(project.environment(environment), project)
        self._selector = f"{render.SLOT}={pool.pool_key(self._pod)}"

    def fill(self, size: int = 1) -> None:
        """Wait until so many pods wait; make those that are missing."""
        for _ in range(size - len(self._waiting())):
            self._core.create_namespaced_pod(self._namespace, self._pod)
        deadline = time.monotonic() + 300
        while len(self.ready()) < size:
            if time.monotonic() > deadline:
                raise TimeoutError("the pods that shall wait do not start")
            time.sleep(0.1)

    def refill(self) -> float:
        """Return the seconds from the creation of one more pod until it may be claimed, as a watch sees it."""
        from kubernetes import watch

        started = time.perf_counter()
        created = self._core.create_namespaced_pod(self._namespace, self._pod)
        events = watch.Watch().stream(
            self._core.list_namespaced_pod,
            self._namespace,
            field_selector=f"metadata.name={created.metadata.name}",
            resource_version=created.metadata.resource_version,
        )
        for event in events:
            if is_ready(event["object"]):
                break
        seconds = time.perf_counter() - started
        self._core.delete_namespaced_pod(created.metadata.name, self._namespace, grace_period_seconds=0)
        return seconds

    @contextlib.contextmanager
    def kept(self, size: int) -> Iterator[None]:
        """Hold so many waiting pods while the block runs."""
        from kubernetes import client

        body = client.ApiClient().sanitize_for_serialization(self._pod)
        keeper = subprocess.Popen([sys.executable, "-c", KEEPER], stdin=subprocess.PIPE, text=True)
        assert keeper.stdin is not None
        keeper.stdin.write(json.dumps([self._namespace, self._selector, size, body]))
        keeper.stdin.close()
        try:
            self.fill(size)
            yield
        finally:
            keeper.terminate()
            keeper.wait()

    def idle(self, seconds: float = 20) -> dict[str, float]:
        """Return what one waiting pod takes: memory in MiB, and milliseconds of processor time a minute."""
        name = self.ready()[0].metadata.name
        containers = (render.BASE, render.SIDECAR)
        memory = sum(int(self._read(name, each, "/proc/1/status").split("VmRSS:")[1].split()[0]) for each in containers)
        before = sum(self._ticks(name, each) for each in containers)
        time.sleep(seconds)
        ticks = sum(self._ticks(name, each) for each in containers) - before
        return {"mib": round(memory / 1024, 1), "cpu_ms_a_minute": round(ticks * 10 * 60 / seconds, 1)}

    def ready(self) -> list[Any]:
        """Return the pods that may be claimed."""
        return [pod for pod in self._waiting() if is_ready(pod)]

    def _waiting(self) -> list[Any]:
        pods: list[Any] = self._core.list_namespaced_pod(self._namespace, label_selector=self._selector).items
        return [pod for pod in pods if pod.metadata.deletion_timestamp is None]

    def _ticks(self, name: str, container: str) -> int:
        fields = self._read(name, container, "/proc/1/stat").rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def _read(self, name: str, container: str, file: str) -> str:
        from kubernetes.stream import stream

        execute = self._core.connect_get_namespaced_pod_exec
        text: str = stream(execute, name, self._namespace, container=container, command=["cat", file], stdout=True)
        return text


def is_ready(pod: Any) -> bool:
    """Return whether a pod may be claimed."""
    return any(each.type == "Ready" and each.status == "True" for each in pod.status.conditions or ())
