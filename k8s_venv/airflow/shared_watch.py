"""One watch for all deferred pods of a namespace: what a triggerer asks the API server, however many tasks wait."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

import aiohttp
from kubernetes_asyncio.client import CoreV1Api
from kubernetes_asyncio.client.exceptions import ApiException
from kubernetes_asyncio.watch import Watch

from k8s_venv.backends.kubernetes.patience import Refusals
from k8s_venv.backends.kubernetes.render import LABELS
from k8s_venv.backends.kubernetes.stages import summary

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Hashable

    from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook

_SELECTOR = ",".join(f"{name}={value}" for name, value in LABELS.items())
# How long the API server keeps one connection open, in seconds, and how long it may say nothing beyond that.
_SECONDS = 240
_SLACK = 15
_RETRY = 1.0

_log = logging.getLogger(__name__)
_watches: dict[Hashable, _NamespaceWatch] = {}


class Subscription:
    """The states of one pod, of which only the last one counts.

    Every try of a task gives its pod the same name. So what is heard of another uid says nothing: it may be late news
    of the pod before.

    Args:
        uid: the pod's.
    """

    def __init__(self, uid: str) -> None:
        self._uid = uid
        self._news = asyncio.Event()
        self._pod: dict[str, Any] | None = None
        self._gone = False
        self._problem: Exception | None = None

    def is_of(self, pod: dict[str, Any]) -> bool:
        """Return whether a pod is the one whose states these are."""
        return bool(pod["metadata"]["uid"] == self._uid)

    def put(self, pod: dict[str, Any], *, gone: bool = False) -> None:
        """Take note of a state, if it is this pod's."""
        if self.is_of(pod):
            self._pod, self._gone = pod, self._gone or gone
            self._news.set()

    def miss(self) -> None:
        """Take note that a list lacks the pod: it is gone if it was seen before, else it may be newer than the list."""
        if self._pod is not None:
            self._gone = True
            self._news.set()

    def fail(self, problem: Exception) -> None:
        """Let those who wait know that nothing comes any more, and why."""
        self._problem = problem
        self._news.set()

    async def next(self, seconds: float) -> tuple[dict[str, Any] | None, bool]:
        """Wait for news, at most for a while.

        Args:
            seconds: how long.

        Returns:
            The pod's last known state, as ``stages.summary`` gives it, and whether the pod is gone.

        Raises:
            ApiException: the account may not watch pods.
        """
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), max(0.0, seconds))
        self._news.clear()
        if self._problem is not None:
            raise self._problem
        return self._pod, self._gone


@contextlib.asynccontextmanager
async def subscribe(
    hook: AsyncKubernetesHook, access: Hashable, namespace: str, name: str, uid: str
) -> AsyncIterator[Subscription]:
    """Follow one pod over the watch of its namespace, which is opened when needed and closed when not.

    Args:
        hook: reaches the cluster.
        access: what is the same for hooks that reach the same cluster in the same way.
        namespace: the pod's namespace.
        name: the pod's name.
        uid: its uid.

    Yields:
        The pod's states.
    """
    key = (id(asyncio.get_running_loop()), access, namespace)
    watch = _watches.get(key)
    if watch is None or watch.over:
        watch = _watches[key] = _NamespaceWatch(hook, namespace)
    subscription = Subscription(uid)
    watch.add(name, subscription)
    try:
        yield subscription
    finally:
        watch.remove(name, subscription)
        if watch.idle:
            if _watches.get(key) is watch:
                del _watches[key]
            await watch.close()


async def refusal(response: Any) -> ApiException:
    """Return the exception for an answer that refuses, with the API server's reason."""
    error = ApiException(response.status, response.reason)
    error.body = await response.text()
    return error


class _NamespaceWatch:
    """All pods of ours in a namespace, kept up to date by one list and one watch."""

    def __init__(self, hook: AsyncKubernetesHook, namespace: str) -> None:
        self._hook = hook
        self._namespace = namespace
        self._pods: dict[str, dict[str, Any]] = {}
        self._refused = Refusals()
        self._version = ""  # the state that the cluster had when it last said something
        self._subscriptions: dict[str, list[Subscription]] = {}
        self._task = asyncio.create_task(self._run(), name=f"k8s-venv-watch-{namespace}")

    @property
    def idle(self) -> bool:
        return not self._subscriptions

    @property
    def over(self) -> bool:
        return self._task.done()

    def add(self, name: str, subscription: Subscription) -> None:
        self._subscriptions.setdefault(name, []).append(subscription)
        if name in self._pods:
            subscription.put(self._pods[name])

    def remove(self, name: str, subscription: Subscription) -> None:
        self._subscriptions[name].remove(subscription)
        if not self._subscriptions[name]:
            del self._subscriptions[name]

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        while True:
            try:
                async with self._hook.get_conn() as connection:
                    api = CoreV1Api(connection)
                    if not self._version:
                        await self._list(api)
                    await self._watch(api)
                    continue
            except ApiException as error:
                if error.status in (401, 403) and self._refused.last():
                    self._fail(error)
                    return
                if error.status == 410:  # so long away that the server has forgotten: list again
                    self._version = ""
                problem: object = f"{error.status} {error.reason}"
            except (OSError, TimeoutError, aiohttp.ClientError) as error:
                problem = error
            except Exception as error:  # noqa: BLE001 -- whatever it is, those who wait must hear of it
                self._fail(error)
                return
            _log.warning("The watch on the pods of namespace %s broke: %s", self._namespace, problem)
            await asyncio.sleep(_RETRY)

    async def _list(self, api: Any) -> None:
        response = await api.list_namespaced_pod(
            self._namespace, label_selector=_SELECTOR, _preload_content=False, _request_timeout=60
        )
        if response.status >= 400:
            raise await refusal(response)
        listed = await response.json()
        self._pods = {pod["metadata"]["name"]: summary(pod) for pod in listed["items"]}
        for name, subscriptions in self._subscriptions.items():
            pod = self._pods.get(name)
            for subscription in subscriptions:
                if pod is not None and subscription.is_of(pod):
                    subscription.put(pod)
                else:
                    subscription.miss()
        self._version = listed["metadata"]["resourceVersion"]

    async def _watch(self, api: Any) -> None:
        """Follow the pods until the server ends the connection."""
        stream = Watch(return_type="object").stream(
            api.list_namespaced_pod,
            self._namespace,
            label_selector=_SELECTOR,
            resource_version=self._version,
            allow_watch_bookmarks=True,
            timeout_seconds=_SECONDS,
            _request_timeout=_SECONDS + _SLACK,
        )
        async for event in stream:
            pod = event["raw_object"]
            if event["type"] != "BOOKMARK":
                self._put(pod["metadata"]["name"], summary(pod), gone=event["type"] == "DELETED")
            self._version = pod["metadata"]["resourceVersion"]
            self._refused.over()

    def _put(self, name: str, pod: dict[str, Any], *, gone: bool) -> None:
        if gone:
            self._pods.pop(name, None)
        else:
            self._pods[name] = pod
        for subscription in self._subscriptions.get(name, ()):
            subscription.put(pod, gone=gone)

    def _fail(self, problem: Exception) -> None:
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.fail(problem)
