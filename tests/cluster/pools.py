"""Pods that wait for calls, made by the tests themselves: no keeper makes others meanwhile."""

from __future__ import annotations

import dataclasses
from typing import Any

from k8s_venv.backends.kubernetes import pool, render
from k8s_venv.backends.kubernetes.pod_runner import PodRunner
from k8s_venv.calls import open_result, pack
from k8s_venv.config.environment import Environment
from k8s_venv.config.warm import WarmPool
from tests.cluster.direct import PATIENCE, Cluster, Outcome
from tests.waiting import eventually


@dataclasses.dataclass
class WarmCluster(Cluster):
    """Runs calls at pods that wait for them."""

    preload: tuple[str, ...] = ()
    memory: str = ""  # the limit of each pod

    @property
    def environment(self) -> Environment:
        return Environment(name="x", root=self.folder, python="3.12", warm=WarmPool(preload=self.preload))

    def options(self) -> dict[str, Any]:
        limit = {"container_resources": {"limits": {"memory": self.memory}}} if self.memory else {}
        return {"image": self.image, **limit}

    def pod(self, name: str = "", deadline: int = 300, attempt: str = "1", **options: Any) -> Any:
        return super().pod(name, deadline, attempt, **{**self.options(), **options})

    def declared(self) -> Any:
        return pool.pool_pod(self.environment, self.options())

    def call(self, function: Any, *arguments: Any, python: str = "3.12", **options: Any) -> Any:
        return pack(function, arguments, {}, environment=self.environment, **options)

    def fill(self, count: int = 1) -> None:
        """Have so many pods wait."""
        for _ in range(count - len(self.waiting())):
            self.client.create_namespaced_pod(self.namespace, self.declared())
        eventually(lambda: len([pod for pod in self.waiting() if is_ready(pod)]) >= count)

    def waiting(self) -> list[Any]:
        key = self.declared().metadata.labels[render.SLOT]
        return [pod for pod in self.listed(f"{render.SLOT}={key}") if pod.metadata.deletion_timestamp is None]

    def of_task(self, name: str) -> list[Any]:
        return self.listed(f"{render.SLOT}={name}")

    def listed(self, selector: str) -> list[Any]:
        pods: list[Any] = self.client.list_namespaced_pod(self.namespace, label_selector=selector).items
        return pods

    def annotate(self, pod: Any, **annotations: str) -> None:
        body = {"metadata": {"annotations": annotations}}
        self.client.patch_namespaced_pod(pod.metadata.name, self.namespace, body)

    def runner(self, pod: Any, call: Any, outcome: Outcome, client: Any = None, **options: Any) -> PodRunner:
        return PodRunner(
            client or self.client,
            pod,
            call,
            options.pop("log", outcome.lines.append),
            outcome.said.append,
            PATIENCE,
            declared=self.declared,
            **options,
        )

    def run(self, pod: Any, call: Any, *, client: Any = None, while_running: Any = bool, **options: Any) -> Outcome:
        """Run a call at a pod that waits; see ``Cluster.run``."""
        outcome = Outcome()

        def log(line: str) -> None:
            outcome.lines.append(line)
            if len(outcome.lines) == 1:
                while_running()

        run = self.runner(pod, call, outcome, client, log=log)
        try:
            run.create()
            outcome.pod = run.pod
            outcome.start = run.start
            outcome.value = open_result(run.wait(), call)
        except Exception as error:  # noqa: BLE001 -- it is what the tests look at
            outcome.error = error
        finally:
            run.finish(options.get("action", "delete_pod"))
        return outcome


def is_ready(pod: Any) -> bool:
    """Return whether a pod may be claimed."""
    return any(each.type == "Ready" and each.status == "True" for each in pod.status.conditions or ())
