"""Run one call as one pod: create it, watch it, bring its result back, clean up."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any, Literal

from kubernetes.client.exceptions import ApiException

from k8s_venv.backends.kubernetes import diagnose, render, watch
from k8s_venv.backends.kubernetes.payload import PodPayload
from k8s_venv.calls import PackedCall, Result, parse_document
from k8s_venv.errors import BackendError
from k8s_venv.runner import protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubernetes.client import models as k8s

Keep = Literal["delete_pod", "keep_pod", "delete_succeeded_pod", "delete_active_pod"]
_LOG_PATIENCE = 5.0  # seconds between the end of a log and the state that should follow it


@dataclasses.dataclass(frozen=True)
class Timeouts:
    """How long a pod may take to start.

    Args:
        schedule: seconds until a node takes it.
        startup: seconds from then until it runs.
    """

    schedule: float = 120.0
    startup: float = 120.0


class PodRun:
    """One call in one pod.

    Args:
        client: a ``CoreV1Api``.
        pod: the pod to create, rendered whole.
        call: the call that it runs.
        log: is called with each line that the task prints.
        timeouts: how long it may take to start.
        follow_logs: whether the log is read at all.
    """

    def __init__(
        self,
        client: Any,
        pod: k8s.V1Pod,
        call: PackedCall,
        log: Callable[[str], None],
        timeouts: Timeouts | None = None,
        *,
        follow_logs: bool = True,
    ) -> None:
        self._client = client
        self._request = pod
        self._call = call
        self._log = log
        self._timeouts = timeouts or Timeouts()
        self._follow_logs = follow_logs
        self._name: str = pod.metadata.name
        self._namespace: str = pod.metadata.namespace
        self._succeeded = False
        self._ended = False
        self._payload = PodPayload(client, self._namespace, self._name, call, log)

    def create(self) -> k8s.V1Pod:
        """Create the pod, then the Secret that it waits for.

        A pod of the same name is this very call, left by a worker that died: it is taken over.

        Returns:
            The created pod.

        Raises:
            BackendError: Kubernetes refused one of them; then neither is left.
            CallError: the call is larger than a Secret.
        """
        render.secret_files(self._call)
        try:
            pod = self._client.create_namespaced_pod(self._namespace, self._request)
        except ApiException as error:
            if error.status != 409:
                raise self._refused(error, "pod") from None
            pod = self._client.read_namespaced_pod(self._name, self._namespace)
            if pod.metadata.deletion_timestamp is not None:
                raise BackendError(
                    self._call.environment.name, f"a pod {self._name} is still being removed. Try again in a minute."
                ) from None
        try:
            self._client.create_namespaced_secret(self._namespace, render.call_secret(pod, self._call))
        except ApiException as error:
            if error.status != 409:
                self._delete()
                raise self._refused(error, "secret") from None
        except BaseException:
            self._delete()
            raise
        return pod

    def wait(self) -> Result:
        """Wait until the call has ended and return its result.

        Raises:
            BackendError: it could not start, or ended without a result.
        """
        try:
            pod = self._await_end()
        except ApiException as error:
            raise self._refused(error, "watch on the pod") from None
        self._ended = True
        state = diagnose.container_state(pod)
        ended = state.terminated if state else None
        message = (ended.message or "") if ended else ""
        if not message.startswith("{"):
            raise diagnose.death(pod, self._call.environment, self._call.function)
        document = parse_document(message, self._call.environment.name)
        if document.outcome == protocol.FAILURE and (pod.status.reason or pod.metadata.deletion_timestamp):
            # What the function said when it was ended from outside is not why it ended.
            raise diagnose.death(pod, self._call.environment, self._call.function)
        result = self._payload.fetch(document)
        self._succeeded = document.outcome in (protocol.VALUE, protocol.SKIP)
        return result

    def finish(self, action: Keep) -> None:
        """Remove what is not wanted any more.

        Args:
            action: ``KubernetesPodOperator``'s ``on_finish_action``.
        """
        wanted = {
            "delete_pod": True,
            "delete_succeeded_pod": self._succeeded,
            "delete_active_pod": not self._ended,
            "keep_pod": False,
        }
        if wanted[action]:
            self._delete()
        else:
            self._payload.release()

    # --- watching -----------------------------------------------------------------------------------------

    def _await_end(self) -> Any:
        clock = _StartupClock(self._timeouts)
        follower = watch.LogFollower(self._client, self._namespace, self._name, render.BASE)
        logged, followed_until = not self._follow_logs, 0.0
        for kind, pod in watch.pod_events(self._client, self._namespace, self._name, clock.patience):
            if kind == watch.DELETED:
                raise BackendError(
                    self._call.environment.name,
                    f"{self._call.function}() ended without a result: its pod {self._name} was deleted from outside.",
                )
            state = diagnose.container_state(pod)
            if state and state.terminated:
                if not logged:
                    follower.follow(self._log)
                return pod
            if pod.status.phase in ("Failed", "Succeeded"):
                return pod
            if state and state.running:
                clock.started = True
                if self._follow_logs and time.monotonic() - followed_until > _LOG_PATIENCE:
                    logged = follower.follow(self._log)
                    followed_until = time.monotonic()
                continue
            failure = diagnose.startup_failure(pod, self._call.environment)
            if failure is not None:
                raise failure
            if clock.expired(pod):
                raise diagnose.startup_timeout(pod, self._call.environment, clock.allowed)
        raise AssertionError("a watch never ends by itself")

    # --- cleaning up --------------------------------------------------------------------------------------

    def _delete(self) -> None:
        try:
            self._client.delete_namespaced_pod(self._name, self._namespace)
        except ApiException as error:
            if error.status != 404:
                self._log(f"The pod {self._name} could not be deleted: {error.reason}")

    def _refused(self, error: ApiException, what: str) -> BackendError:
        return diagnose.refused(error, self._call.environment, what, self._namespace)


class _StartupClock:
    """Counts the time until a pod is scheduled, and from then until it runs."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._since = time.monotonic()
        self._scheduled = False
        self.started = False

    @property
    def allowed(self) -> float:
        return self._timeouts.startup if self._scheduled else self._timeouts.schedule

    def patience(self) -> float:
        if self.started:
            return _LOG_PATIENCE
        return max(0.0, self._since + self.allowed - time.monotonic())

    def expired(self, pod: Any) -> bool:
        conditions = pod.status.conditions or []
        if not self._scheduled and any(c.type == "PodScheduled" and c.status == "True" for c in conditions):
            self._scheduled = True
            self._since = time.monotonic()
        return time.monotonic() - self._since > self.allowed
