"""What deferred tasks hear when the API server stammers: a server that says what the real one says only seldom."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("kubernetes_asyncio")

from aiohttp import web
from kubernetes_asyncio.client import ApiClient, Configuration
from kubernetes_asyncio.client.exceptions import ApiException

from tests.airflow_home import airflow_home

if TYPE_CHECKING:
    from k8s_venv.airflow.pod_wait import Subscription

PODS = "/api/v1/namespaces/work/pods"
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def pod(uid: str, version: int, phase: str = "Running") -> dict[str, Any]:
    metadata = {"name": "task", "namespace": "work", "uid": uid, "resourceVersion": str(version)}
    return {"metadata": metadata, "spec": {"containers": [{"name": "base"}]}, "status": {"phase": phase}}


def listed(*pods: dict[str, Any], version: int = 1) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        assert "watch" not in request.query
        return web.json_response({"items": pods, "metadata": {"resourceVersion": str(version)}})

    return answer


def watched(*events: tuple[str, dict[str, Any]], since: int, broken: bool = False) -> Answer:
    """Answer with events; then stay silent, or break off."""

    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.query["resourceVersion"] == str(since)
        response = web.StreamResponse()
        await response.prepare(request)
        for kind, state in events:
            await response.write(json.dumps({"type": kind, "object": state}).encode() + b"\n")
        if broken:
            assert request.transport is not None
            request.transport.abort()
        else:
            await asyncio.sleep(60)
        return response

    return answer


def refused(status: int) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response({"kind": "Status", "code": status, "reason": "No", "message": "no"}, status=status)

    return answer


class Hook:
    """Reaches the server, as Airflow's hook does."""

    def __init__(self, port: int) -> None:
        self._configuration = Configuration(host=f"http://127.0.0.1:{port}")

    @contextlib.asynccontextmanager
    async def get_conn(self) -> AsyncIterator[ApiClient]:
        async with ApiClient(self._configuration) as client:
            yield client


@contextlib.asynccontextmanager
async def server(*answers: Answer) -> AsyncIterator[Any]:
    """Run an API server that gives these answers, one after the other, and none about a single pod."""
    left = iter(answers)

    async def handle(request: web.Request) -> web.StreamResponse:
        return await next(left, watched(since=0))(request)

    application = web.Application()
    application.router.add_get(PODS, handle)
    application.router.add_get(f"{PODS}/task", refused(503))
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield Hook(runner.addresses[0][1])
    finally:
        await runner.cleanup()


@pytest.fixture(autouse=True)
def _airflow() -> None:
    airflow_home()  # before Airflow is imported


def subscribe(*arguments: Any) -> Any:
    from k8s_venv.airflow.pod_wait import subscribe

    return subscribe(*arguments)


async def heard(states: Subscription, seconds: float = 10) -> tuple[str | None, bool]:
    """Return the phase that the next news tells, and whether the pod is gone."""
    state, gone = await states.next(seconds)
    return state["status"]["phase"] if state else None, gone


def test_a_server_that_is_too_busy_to_list_is_asked_again() -> None:
    async def scenario() -> None:
        answers = (refused(429), refused(503), listed(pod("ours", 1)), watched(since=1))
        async with server(*answers) as hook, subscribe(hook, "busy", "work", "task", "ours") as states:
            assert await heard(states) == ("Running", False)

    asyncio.run(scenario())


def test_late_news_of_the_try_before_do_not_end_this_one() -> None:
    async def scenario() -> None:
        events = (("DELETED", pod("before", 2)), ("ADDED", pod("ours", 3, "Pending")))
        answers = (listed(pod("before", 1)), watched(*events, since=1))
        async with server(*answers) as hook, subscribe(hook, "late", "work", "task", "ours") as states:
            assert await heard(states) == ("Pending", False)

    asyncio.run(scenario())


def test_a_watch_that_breaks_goes_on_where_it_was() -> None:
    async def scenario() -> None:
        broken = watched(("ADDED", pod("ours", 7, "Pending")), since=1, broken=True)
        answers = (listed(), broken, watched(("MODIFIED", pod("ours", 8)), since=7))
        async with server(*answers) as hook, subscribe(hook, "broken", "work", "task", "ours") as states:
            assert await heard(states) == ("Pending", False)
            assert await heard(states) == ("Running", False)

    asyncio.run(scenario())


def test_a_pod_that_is_missing_after_an_outage_is_gone_only_if_it_was_there() -> None:
    async def scenario() -> None:
        events = (("ADDED", pod("ours", 2)),)
        answers = (listed(), watched(*events, since=1, broken=True), refused(410), listed(), watched(since=1))
        async with (
            server(*answers) as hook,
            subscribe(hook, "missing", "work", "task", "ours") as states,
            subscribe(hook, "missing", "work", "other", "newer") as newer,
        ):
            assert await heard(states) == ("Running", False)
            assert await heard(states) == ("Running", True)
            assert await heard(newer, 0.1) == (None, False)

    asyncio.run(scenario())


def test_rights_that_are_refused_for_a_moment_end_nothing() -> None:
    async def scenario() -> None:
        watch = watched(("ADDED", pod("ours", 2, "Pending")), since=1, broken=True)
        answers = (listed(), watch, refused(403), watched(("MODIFIED", pod("ours", 3)), since=2))
        async with server(*answers) as hook, subscribe(hook, "moment", "work", "task", "ours") as states:
            assert await heard(states) == ("Pending", False)
            assert await heard(states) == ("Running", False)

    asyncio.run(scenario())


def test_a_task_that_comes_while_a_failed_watch_ends_gets_one_of_its_own() -> None:
    async def scenario() -> None:
        answers = (refused(403), listed(pod("ours", 1)), watched(since=1))
        async with server(*answers) as hook, subscribe(hook, "failed", "work", "task", "ours") as first:
            with pytest.raises(ApiException, match="403"):
                await first.next(10)
            async with subscribe(hook, "failed", "work", "task", "ours") as second:
                assert await heard(second) == ("Running", False)

    asyncio.run(scenario())


def trigger(hook: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    airflow_home()
    from k8s_venv.airflow import pod_wait

    monkeypatch.setattr(pod_wait, "_UNKNOWN", 0.2)
    waiting = pod_wait.PodWait(
        uid="ours",
        seen={"created": time.time()},
        pod_name="task",
        pod_namespace="work",
        trigger_start_time=datetime.datetime.now(datetime.UTC),
        base_container_name="base",
    )
    waiting.hook = hook
    return waiting


async def event_of(waiting: Any) -> dict[str, Any]:
    return {**(await anext(waiting.run())).payload}


def test_a_triggerer_that_starts_while_the_server_is_away_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> dict[str, Any]:
        async with server(refused(503), listed(pod("ours", 1, "Failed")), watched(since=1)) as hook:
            return await event_of(trigger(hook, monkeypatch))

    assert asyncio.run(scenario())["why"] == "ended"


def test_a_triggerer_that_cannot_go_on_hands_the_pod_back_to_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def get_conn(self) -> Any:
            raise ValueError("no such connection")

    async def scenario() -> dict[str, Any]:
        return await event_of(trigger(Broken(), monkeypatch))

    assert asyncio.run(scenario())["broken"] == "ValueError: no such connection"
