"""Calls run as pods straight through the engine, without Airflow around them."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from k8s_venv.backends.kubernetes import render
from k8s_venv.backends.kubernetes.pod_runner import PodRunner
from k8s_venv.backends.kubernetes.pod_state import Timeouts
from k8s_venv.calls import open_result, pack
from k8s_venv.config.environment import Environment
from tests import waiting
from tests.waiting import eventually

PATIENCE = Timeouts(schedule=waiting.PATIENCE, startup=waiting.PATIENCE)


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
        name = name or f"fault-{uuid.uuid4().hex[:8]}"
        labels = {"try_number": attempt, **options.pop("labels", {})}
        options = {"image": self.image, "active_deadline_seconds": deadline, "labels": labels, **options}
        secret = render.fresh_secret_name(name)
        return render.pod(name, "x", options, secret=secret, namespace=self.namespace)

    def run(
        self,
        pod: Any,
        call: Any,
        *,
        client: Any = None,
        timeouts: Timeouts = PATIENCE,
        while_running: Callable[[], object] = bool,
    ) -> Outcome:
        """Run a call.

        Args:
            pod: its pod.
            call: the call.
            client: who makes it; by default the cluster's administrator.
            timeouts: how long the pod may take to start.
            while_running: is called once, when the function has printed its first line.
        """
        outcome = Outcome()

        def log(line: str) -> None:
            outcome.lines.append(line)
            if len(outcome.lines) == 1:
                while_running()

        run = PodRunner(client or self.client, pod, call, log, outcome.said.append, timeouts)
        try:
            run.create()
            outcome.value = open_result(run.wait(), call)
        except Exception as error:  # noqa: BLE001 -- it is what the tests look at
            outcome.error = error
        finally:
            run.finish("delete_pod")
        return outcome

    def await_gone(self, name: str) -> None:
        """Wait until nothing is left whose name begins so: neither pods nor Secrets."""

        def is_gone() -> bool:
            things = [
                *self.client.list_namespaced_pod(self.namespace).items,
                *self.client.list_namespaced_secret(self.namespace, field_selector="type=Opaque").items,  # not Helm's
            ]
            return not any(thing.metadata.name.startswith(name) for thing in things)

        eventually(is_gone)

    def delete(self, pod: Any, **options: Any) -> None:
        self.client.delete_namespaced_pod(pod.metadata.name, self.namespace, **options)


@dataclasses.dataclass
class Outcome:
    """How a call ended, and what it and its pod said."""

    value: Any = None
    error: Exception | None = None
    lines: list[str] = dataclasses.field(default_factory=list)
    said: list[str] = dataclasses.field(default_factory=list)
    pod: Any = None
    start: Any = None
