"""What the triggerer makes of deferred pods: ended, collected, killed, or left alone when it restarts itself."""

from __future__ import annotations

import asyncio
import datetime
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from k8s_venv.backends.kubernetes.pod_runner import PodRunner
from k8s_venv.backends.kubernetes.pod_state import PodOutcome
from k8s_venv.calls import open_result
from k8s_venv.errors import BackendError
from tests.airflow_home import airflow_home
from tests.cluster.direct import PATIENCE, Cluster, add_one, sleep


def much(size: int) -> bytes:
    import os

    return os.urandom(size)


class Deferred:
    """A call whose pod a trigger waits for, as between a worker's two turns."""

    def __init__(self, cluster: Cluster, function: Callable[..., Any], *arguments: Any) -> None:
        from k8s_venv.airflow.trigger import IsolatedPodTrigger

        self.cluster = cluster
        self.call = cluster.call(function, *arguments)
        self.lines: list[str] = []
        self.pod = cluster.pod(f"trigger-{uuid.uuid4().hex[:8]}")
        self.run = PodRunner(cluster.client, self.pod, self.call, self.lines.append, print, PATIENCE)
        created = self.run.create()
        self.trigger = IsolatedPodTrigger(
            uid=created.metadata.uid,
            seen=self.run.seen,
            pod_name=self.pod.metadata.name,
            pod_namespace=cluster.namespace,
            trigger_start_time=datetime.datetime.now(datetime.UTC),
            base_container_name="base",
            kubernetes_conn_id="kubernetes_default",
        )

    async def fired(self) -> dict[str, Any]:
        async for event in self.trigger.run():
            payload: dict[str, Any] = event.payload
            return payload
        raise AssertionError("it never fired")

    def collect(self, event: dict[str, Any]) -> Any:
        try:
            return open_result(self.run.collect(PodOutcome.from_json(event)), self.call)
        finally:
            self.run.finish("delete_pod")

    def remove(self) -> None:
        self.cluster.delete(self.pod, grace_period_seconds=1)
        self.cluster.await_gone(self.pod.metadata.name)

    @property
    def is_leaving(self) -> bool:
        pods = self.cluster.client.list_namespaced_pod(
            self.cluster.namespace, field_selector=f"metadata.name={self.pod.metadata.name}"
        ).items
        return not pods or pods[0].metadata.deletion_timestamp is not None


@pytest.fixture
def defer(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Deferred]:
    airflow_home()
    monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", "kubernetes://")
    return lambda function, *arguments: Deferred(cluster, function, *arguments)


def test_a_pod_collected_after_its_success_still_yields_its_value(defer: Callable[..., Deferred]) -> None:
    deferred = defer(add_one, 1)
    event = asyncio.run(deferred.fired())

    deferred.remove()

    assert deferred.collect(event) == 2


def test_a_large_result_that_went_with_its_pod_is_a_failure_that_says_so(defer: Callable[..., Deferred]) -> None:
    deferred = defer(much, 100_000)
    event = asyncio.run(deferred.fired())

    deferred.remove()

    with pytest.raises(BackendError, match=r"result of much\(\)|Its result"):
        deferred.collect(event)


def test_a_pod_that_was_gone_before_the_triggerer_looked_is_a_failure(defer: Callable[..., Deferred]) -> None:
    deferred = defer(sleep, 60)
    deferred.remove()

    event = asyncio.run(deferred.fired())

    with pytest.raises(BackendError, match="its pod was deleted from outside"):
        deferred.collect(event)


def test_a_task_killed_while_deferred_leaves_no_pod_and_no_arguments(
    defer: Callable[..., Deferred], tmp_path: Path
) -> None:
    deferred = defer(sleep, 60)
    (tmp_path / "large.arguments").touch()
    _, options = deferred.trigger.serialize()
    deferred.trigger = type(deferred.trigger)(**options, arguments=[str(tmp_path), "large.arguments"])

    async def kill() -> None:
        waiting = asyncio.create_task(deferred.fired())
        await asyncio.sleep(2)
        await deferred.trigger.on_kill()
        waiting.cancel()

    asyncio.run(kill())

    assert deferred.is_leaving
    assert not list(tmp_path.iterdir())


def test_a_triggerer_that_restarts_leaves_the_pod_alone(defer: Callable[..., Deferred]) -> None:
    deferred = defer(sleep, 4)

    async def restart() -> dict[str, Any]:
        waiting = asyncio.create_task(deferred.fired())
        await asyncio.sleep(1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await deferred.trigger.cleanup()
        return await deferred.fired()

    event = asyncio.run(restart())

    assert deferred.collect(event) == "slept"
    assert deferred.lines == [f"second {number}" for number in range(4)]


def test_all_deferred_pods_share_one_watch(defer: Callable[..., Deferred], monkeypatch: pytest.MonkeyPatch) -> None:
    from k8s_venv.airflow import pod_wait

    made = []

    class Counted(pod_wait._NamespaceWatch):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(pod_wait, "_NamespaceWatch", Counted)
    deferred = [defer(sleep, 5) for _ in range(3)]

    async def wait() -> list[dict[str, Any]]:
        return await asyncio.gather(*(each.fired() for each in deferred))

    events = asyncio.run(wait())

    assert len(made) == 1
    assert [each.collect(event) for each, event in zip(deferred, events, strict=True)] == ["slept"] * 3
    assert not pod_wait._watches


def test_the_triggerers_log_shows_no_result(defer: Callable[..., Deferred]) -> None:
    from k8s_venv.airflow.pod_wait import _Event

    deferred = defer(add_one, 1)
    event = asyncio.run(deferred.fired())

    shown = str(_Event(payload=event))

    assert "inline" in str(event)
    assert "inline" not in shown
    assert deferred.collect(event) == 2
