"""Wait for a deferred task's pod: the part of the trigger that needs the Kubernetes provider and its client."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import aiohttp
from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger
from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async
from kubernetes_asyncio import client
from kubernetes_asyncio.client.exceptions import ApiException

from k8s_venv.airflow.compat import task_state
from k8s_venv.airflow.context import SecretNames, resolve_secrets
from k8s_venv.airflow.shared_watch import refusal, subscribe
from k8s_venv.backends.kubernetes import render, stages
from k8s_venv.backends.kubernetes.logs import printed_lines
from k8s_venv.backends.kubernetes.refusals import missing_right, why
from k8s_venv.backends.process import line_logger
from k8s_venv.errors import CallError
from k8s_venv.wire.masking import masker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

# How long a pod may stay unknown to the watch before it is asked for, and what counts as "at the deadline"; in seconds.
_UNKNOWN = 10.0
_LONGEST = 3600.0
_NEARLY = 2.0
_LAST_LINES = 1000


class PodWait(KubernetesPodTrigger):
    """Fire when a pod has ended, is gone, or cannot start, with what tells why.

    Of ``KubernetesPodTrigger`` it keeps how it reaches the cluster; it watches instead of polling.

    Args:
        uid: the pod's uid: another pod of its name is never touched.
        seen: when each of the pod's phases was seen, in seconds since the epoch.
        deadline: when the task's ``execution_timeout`` ends, in seconds since the epoch.
        taken_over: whether the pod is one of an earlier try.
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
        arguments: Sequence[str] | None = None,
        secrets: Mapping[str, Sequence[str]] | None = None,
        schedule_timeout: int = 120,
        on_kill_action: str = "delete_pod",
        termination_grace_period: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.uid = uid
        self.seen = seen
        self.deadline = deadline
        self.taken_over = taken_over
        self.arguments = list(arguments) if arguments else None
        self.secrets = {kind: list(names) for kind, names in (secrets or {}).items()}
        self.schedule_timeout = schedule_timeout
        self.termination_grace_period = termination_grace_period
        self._keeps_killed = on_kill_action == "keep_pod"
        self._fired_event = False

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait until the pod has ended, and fire."""
        event: dict[str, Any] = {"name": self.pod_name, "namespace": self.pod_namespace, "uid": self.uid}
        event |= {"taken_over": self.taken_over, "arguments": self.arguments}
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
        judge = stages.Judge(stages.Timeouts(self.schedule_timeout, self.startup_timeout), dict(self.seen))
        access = (self.kubernetes_conn_id, self.cluster_context, self.in_cluster, repr(self.config_dict))
        started = time.monotonic()
        watched = False
        async with subscribe(self.hook, access, self.pod_namespace, self.pod_name, self.uid) as states:
            while True:
                patience = min(judge.patience(), _LONGEST) if watched else _UNKNOWN
                pod, gone = await states.next(min(patience, self._time_left()))
                watched = pod is not None
                if not watched and time.monotonic() - started > _UNKNOWN:
                    pod, gone = await self._look()
                if pod is not None or gone:
                    end = judge.see("DELETED" if gone else "MODIFIED", stages.to_pod(pod) if pod else None)
                    if end is not None:
                        return stages.to_json(end, pod)
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
                pod = stages.summary(await response.json())
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
            self.log.warning(
                "The log of pod %s is not shown, since its secrets are not known: %s", self.pod_name, error
            )
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
                self.log.warning("The log of pod %s could not be read. %s", self.pod_name, why(error))

    async def _mask(self) -> Callable[[str], str]:
        """Return what hides the call's secrets in what other programs printed, which the runner did not see."""
        delivered = await sync_to_async(resolve_secrets)(SecretNames.of(self.pod_name, **self.secrets), self.pod_name)
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
                    pod = f"{self.pod_namespace}/{self.pod_name}"
                    self.log.error("The pod %s could not be deleted and is still there. %s", pod, why(error))
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
