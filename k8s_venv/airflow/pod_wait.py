"""Wait for a deferred task's pod: the part of the trigger that needs the Kubernetes provider and its client.

One watch serves all deferred pods of a namespace, so what a triggerer asks the API server does not grow with the tasks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

import aiohttp
from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger
from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async
from kubernetes_asyncio import client
from kubernetes_asyncio.client.exceptions import ApiException
from kubernetes_asyncio.watch import Watch

from k8s_venv.airflow.compat import task_state
from k8s_venv.airflow.context import SecretNames, resolve_secrets
from k8s_venv.backends.kubernetes import pod_state, render
from k8s_venv.backends.kubernetes.api import PermissionGrace
from k8s_venv.backends.kubernetes.diagnose import missing_right, request_problem
from k8s_venv.backends.kubernetes.logs import printed_lines
from k8s_venv.backends.limits import REQUEST_TIMEOUT, RETRY_PAUSE, SCHEDULE_TIMEOUT
from k8s_venv.backends.process import line_logger
from k8s_venv.errors import CallError
from k8s_venv.wire.masking import masker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Hashable, Mapping, Sequence

    from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook

# How long a pod may stay unknown to the watch before it is asked for, and what counts as "at the deadline"; in seconds.
_UNKNOWN = 10.0
_LONGEST = 3600.0
_NEARLY = 2.0
_LAST_LINES = 1000

_SELECTOR = ",".join(f"{name}={value}" for name, value in render.LABELS.items())
# How long the API server keeps one connection open, in seconds, and how long it may say nothing beyond that.
_SECONDS = 240
_SLACK = 15

_log = logging.getLogger(__name__)
_watches: dict[Hashable, _NamespaceWatch] = {}


class PodWait(KubernetesPodTrigger):
    """Fire when a pod has ended, is gone, or cannot start, with the reason.

    It reaches the cluster as ``KubernetesPodTrigger`` does, and watches instead of polling.

    Args:
        uid: the pod's uid: another pod of its name is never touched.
        seen: when each of the pod's phases was seen, in seconds since the epoch.
        deadline: when the task's ``execution_timeout`` ends, in seconds since the epoch.
        taken_over: whether the pod is one of an earlier try.
        start: how the call got its pod; see ``PodStart.to_json``.
        arguments: where the call's arguments lie, if in no Secret; see ``PayloadTransfer.stored_arguments``.
        secrets: the ids of the ``connections`` and the keys of the ``variables`` that the call has.
        schedule_timeout: how long the pod may wait for a node, in seconds.
        on_kill_action: ``delete_pod`` or ``keep_pod``.
        termination_grace_period: how long an ended pod may take, in seconds; by default what its specification says.
        options: those of ``KubernetesPodTrigger``.
    """

    def __init__(
        self,
        uid: str,
        seen: dict[str, float],
        deadline: float | None = None,
        *,
        taken_over: bool = False,
        start: Mapping[str, Any] | None = None,
        arguments: Sequence[str] | None = None,
        secrets: Mapping[str, Sequence[str]] | None = None,
        schedule_timeout: int = int(SCHEDULE_TIMEOUT),
        on_kill_action: str = "delete_pod",
        termination_grace_period: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.uid = uid
        self.seen = seen
        self.deadline = deadline
        self.taken_over = taken_over
        self.start = start
        self.arguments = list(arguments) if arguments else None
        self.secrets = {kind: list(names) for kind, names in (secrets or {}).items()}
        self.schedule_timeout = schedule_timeout
        self.termination_grace_period = termination_grace_period
        self._keeps_killed = on_kill_action == "keep_pod"
        self._fired_event = False

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait until the pod has ended, and fire."""
        event: dict[str, Any] = {"name": self.pod_name, "namespace": self.pod_namespace, "uid": self.uid}
        event |= {"taken_over": self.taken_over, "start": self.start, "arguments": self.arguments}
        try:
            event |= await self._wait()
        except ApiException as error:
            event["refused"] = missing_right(error) or (
                f"{error.status} {error.reason}: its account needs the rights to `get`, `list` and `watch` `pods`."
            )
        except Exception as error:  # a trigger that fails would leave its pod behind: a worker removes it
            self.log.exception("Pod %s/%s cannot be watched.", self.pod_namespace, self.pod_name)
            event["broken"] = f"{type(error).__name__}: {error}"
        self._fired_event = True
        yield _Event(payload=event)

    async def on_kill(self) -> None:
        """Remove the pod of a task that somebody cleared or marked while it was deferred."""
        if not self._fired_event and not self._keeps_killed:
            self.log.info("Deleting pod %s/%s: its task was ended.", self.pod_namespace, self.pod_name)
            await self._delete()

    async def cleanup(self) -> None:
        """Remove the pod of a task that was killed while it was deferred, or whose time is over."""
        if self._fired_event:
            return
        if self._is_over(_NEARLY):
            await self._end_in_time()
        elif not hasattr(BaseTrigger, "on_kill") and await self.safe_to_cancel():  # Airflow 3.3 calls `on_kill` itself
            await self.on_kill()

    async def safe_to_cancel(self) -> bool:
        """Return whether the task was ended, rather than this triggerer: then nothing waits for it any more."""
        return await task_state(self.task_instance) not in ("deferred", "scheduled", "queued", "running")

    async def _wait(self) -> dict[str, Any]:
        timeouts = pod_state.Timeouts(self.schedule_timeout, self.startup_timeout)
        tracker = pod_state.PodPhaseTracker(timeouts, dict(self.seen))
        access = (self.kubernetes_conn_id, self.cluster_context, self.in_cluster, repr(self.config_dict))
        started = time.monotonic()
        watched = False
        async with subscribe(self.hook, access, self.pod_namespace, self.pod_name, self.uid) as states:
            while True:
                next_look = min(tracker.next_look(), _LONGEST) if watched else _UNKNOWN
                pod, gone = await states.next(min(next_look, self._time_left()))
                watched = pod is not None
                if not watched and time.monotonic() - started > _UNKNOWN:
                    pod, gone = await self._look()
                if pod is not None or gone:
                    outcome = tracker.observe("DELETED" if gone else "MODIFIED", pod_state.to_pod(pod) if pod else None)
                    if outcome is not None:
                        return outcome.to_json(pod)
                if self._is_over():
                    await self._end_in_time()
                    return {"timeout": True}

    def _time_left(self) -> float:
        return float("inf") if self.deadline is None else self.deadline - time.time()

    def _is_over(self, nearly: float = 0.0) -> bool:
        return self._time_left() <= nearly

    async def _look(self) -> tuple[dict[str, Any] | None, bool]:
        """Return the pod's state, if the API server says it, and whether the pod is gone."""
        try:
            async with self.hook.get_conn() as connection:
                api: Any = client.CoreV1Api(connection)
                response = await api.read_namespaced_pod(
                    self.pod_name, self.pod_namespace, _preload_content=False, _request_timeout=_UNKNOWN
                )
                if response.status == 404:
                    return None, True
                if response.status in (401, 403):
                    raise await refusal(response)
                if response.status >= 400:
                    return None, False
                pod = pod_state.summary(await response.json())
        except (OSError, TimeoutError, aiohttp.ClientError):
            return None, False  # the server is away: the watch says so, and tries again
        return (pod, False) if pod["metadata"]["uid"] == self.uid else (None, True)

    async def _end_in_time(self) -> None:
        """End a pod whose task's time is over; Airflow 2 does not come back to the worker for that."""
        self._fired_event = True
        if self.get_logs:
            await self._show_log()
        await self._delete()

    async def _show_log(self) -> None:
        try:
            mask = await self._mask()
        except Exception as error:  # noqa: BLE001 -- any backend of secrets may fail; they must not be shown
            name = self.pod_name
            self.log.warning("The log of pod %s is not shown, since its secrets are not known: %s", name, error)
            return
        async with self.hook.get_conn() as connection:
            api: Any = client.CoreV1Api(connection)
            try:
                response = await api.read_namespaced_pod_log(
                    self.pod_name,
                    self.pod_namespace,
                    container=render.BASE,
                    tail_lines=_LAST_LINES,
                    timestamps=True,
                    _preload_content=False,
                )
                if response.status == 200:
                    log = line_logger(self.log, mask)
                    for line in printed_lines(await response.read()):
                        log(line)
                elif response.status not in (400, 404):  # it never ran, or is gone
                    raise await refusal(response)
            except ApiException as error:
                self.log.warning("The log of pod %s could not be read. %s", self.pod_name, request_problem(error))

    async def _mask(self) -> Callable[[str], str]:
        """Return what hides the call's secrets in what other programs printed, which the runner did not see."""
        names = SecretNames(**{kind: tuple(names) for kind, names in self.secrets.items()})
        delivered = await sync_to_async(resolve_secrets)(names, self.pod_name)
        return masker(delivered.get("masked", ()))

    async def _delete(self) -> None:
        options = client.V1DeleteOptions(
            grace_period_seconds=self.termination_grace_period, preconditions=client.V1Preconditions(uid=self.uid)
        )
        async with self.hook.get_conn() as connection:
            try:
                await client.CoreV1Api(connection).delete_namespaced_pod(
                    self.pod_name, self.pod_namespace, body=options
                )
            except ApiException as error:
                if error.status not in (404, 409):  # it is gone, or another one has its name
                    place, problem = f"{self.pod_namespace}/{self.pod_name}", request_problem(error)
                    self.log.error("The pod %s could not be deleted and is still there. %s", place, problem)
        if self.arguments:
            try:
                await asyncio.to_thread(_remove, self.arguments)
            except CallError as error:
                self.log.warning("%s", error)


def _remove(arguments: Sequence[str]) -> None:
    from k8s_venv.calls import remove_arguments  # few triggers need it

    remove_arguments(arguments)


class _Event(TriggerEvent):
    """An event that the triggerer can log: a result, which may be in it, has no place in a log."""

    def __repr__(self) -> str:
        pod = self.payload.get("pod")
        shown = {name: value for name, value in self.payload.items() if name != "pod"}
        phase = pod["status"].get("phase") if pod else None
        return f"TriggerEvent<{ {**shown, 'phase': phase}!r}>"

    __str__ = __repr__


class Subscription:
    """The states of one pod, of which only the last one counts.

    Every try of a task gives its pod the same name. So the state of a pod with another uid counts for nothing: it may
    be late news of the pod before.

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
        """Record a state, if it is this pod's."""
        if self.is_of(pod):
            self._pod, self._gone = pod, self._gone or gone
            self._news.set()

    def miss(self) -> None:
        """Record that a list lacks the pod: it is gone if it was seen before, else it may be newer than the list."""
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
            The pod's last known state, as ``pod_state.summary`` gives it, and whether the pod is gone.

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
        self._permission = PermissionGrace()
        self._version = ""  # the state of the cluster at its last answer
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
                    api = client.CoreV1Api(connection)
                    if not self._version:
                        await self._list(api)
                    await self._watch(api)
                    continue
            except ApiException as error:
                if error.status in (401, 403) and self._permission.refuse():
                    self._fail(error)
                    return
                if error.status == 410:  # so long away that the server has forgotten: list again
                    self._version = ""
                problem: object = f"{error.status} {error.reason}"
            except (OSError, TimeoutError, aiohttp.ClientError) as error:
                problem = error
            except Exception as error:  # noqa: BLE001 -- those who wait must hear of any failure
                self._fail(error)
                return
            _log.warning("The watch on the pods of namespace %s broke: %s", self._namespace, problem)
            await asyncio.sleep(RETRY_PAUSE)

    async def _list(self, api: Any) -> None:
        response = await api.list_namespaced_pod(
            self._namespace, label_selector=_SELECTOR, _preload_content=False, _request_timeout=REQUEST_TIMEOUT[1]
        )
        if response.status >= 400:
            raise await refusal(response)
        listed = await response.json()
        self._pods = {pod["metadata"]["name"]: pod_state.summary(pod) for pod in listed["items"]}
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
                self._put(pod["metadata"]["name"], pod_state.summary(pod), gone=event["type"] == "DELETED")
            self._version = pod["metadata"]["resourceVersion"]
            self._permission.allow()

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
