"""Calls run as pods straight through the engine, without Airflow around them."""

from __future__ import annotations

import dataclasses
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from k8s_venv.backends.kubernetes import render
from k8s_venv.backends.kubernetes.engine import PodRun
from k8s_venv.backends.kubernetes.stages import Timeouts
from k8s_venv.calls import open_result, pack
from k8s_venv.environment import Environment

PATIENCE = Timeouts(schedule=60, startup=60)


def add_one(number: int) -> int:
    return number + 1


def sleep(seconds: float) -> str:
    import time

    for number in range(int(seconds * 10)):
        if number % 10 == 0:
            print(f"second {number // 10}")
        time.sleep(0.1)
    return "slept"


@dataclasses.dataclass
class Cluster:
    """Runs calls as pods of their own."""

    client: Any
    namespace: str
    image: str
    folder: Path

    def call(self, function: Callable[..., Any], *arguments: Any, python: str = "3.12") -> Any:
        return pack(function, arguments, {}, environment=Environment(name="x", root=self.folder, python=python))

    def pod(self, name: str = "", deadline: int = 300, attempt: str = "1", **options: Any) -> Any:
        labels = {"try_number": attempt, **options.pop("labels", {})}
        options = {"image": self.image, "labels": labels, **options}
        pod = render.pod(name or f"fault-{uuid.uuid4().hex[:8]}", self.namespace, deadline, options)
        pod.spec.volumes = render.volumes(render.fresh_secret_name(pod.metadata.name))
        return pod

    def run(self, pod: Any, call: Any, *, client: Any = None, timeouts: Timeouts = PATIENCE, **options: Any) -> Outcome:
        outcome = Outcome()
        run = PodRun(client or self.client, pod, call, outcome.lines.append, outcome.said.append, timeouts, **options)
        try:
            run.create()
            outcome.started.set()
            outcome.value = open_result(run.wait(), call)
        except Exception as error:  # noqa: BLE001 -- it is what the tests look at
            outcome.error = error
        finally:
            run.finish("delete_pod")
        return outcome

    def await_gone(self, name: str) -> None:
        for _ in range(60):
            things = [
                *self.client.list_namespaced_pod(self.namespace).items,
                *self.client.list_namespaced_secret(self.namespace).items,
            ]
            if not [thing for thing in things if thing.metadata.name.startswith(name)]:
                return
            time.sleep(1)
        pytest.fail(f"{name} is left")

    def await_running(self, name: str) -> Any:
        for _ in range(300):
            pods = self.client.list_namespaced_pod(self.namespace, field_selector=f"metadata.name={name}").items
            statuses = pods[0].status.container_statuses if pods else None
            if statuses and statuses[0].state.running:
                return pods[0]
            time.sleep(0.2)
        return pytest.fail(f"{name} never ran")


@dataclasses.dataclass
class Outcome:
    """How a call ended, and what it and its pod said."""

    value: Any = None
    error: Exception | None = None
    lines: list[str] = dataclasses.field(default_factory=list)
    said: list[str] = dataclasses.field(default_factory=list)
    started: threading.Event = dataclasses.field(default_factory=threading.Event)
