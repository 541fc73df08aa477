"""Run one call as one pod: create it, watch it, bring its result back, clean up."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

from kubernetes.client.exceptions import ApiException

from k8s_venv.backends.kubernetes import diagnose, pod_status, render, watch
from k8s_venv.backends.kubernetes.api import PodApi
from k8s_venv.backends.kubernetes.creating import Creation
from k8s_venv.backends.kubernetes.logs import LogFollower
from k8s_venv.backends.kubernetes.patience import without_retries
from k8s_venv.backends.kubernetes.payload import PodPayload
from k8s_venv.backends.kubernetes.stages import End, Judge, Timeouts, phases
from k8s_venv.calls import PackedCall, Result, SentCall, parse_document
from k8s_venv.errors import BackendError
from k8s_venv.wire import protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubernetes.client import models as k8s

Keep = Literal["delete_pod", "keep_pod", "delete_succeeded_pod", "delete_active_pod"]


class PodRun:
    """One call in one pod.

    Args:
        client: a ``CoreV1Api``.
        pod: the pod to create, rendered whole; of one that is there already, its name and namespace are enough.
        call: the call that it runs; to create its pod, packed.
        log: is called with each line that the task prints.
        say: is called with what happens to the pod.
        timeouts: how long it may take to start.
        follow_logs: whether the log is read at all.
        killed: returns whether the caller's own ``on_kill`` has ended the pod.
        origin: where the pod's namespace comes from, for messages.
    """

    def __init__(
        self,
        client: Any,
        pod: k8s.V1Pod,
        call: SentCall,
        log: Callable[[str], None],
        say: Callable[[str], None],
        timeouts: Timeouts | None = None,
        *,
        follow_logs: bool = True,
        killed: Callable[[], bool] = bool,
        origin: str = "",
    ) -> None:
        self._client = without_retries(client)
        self._api = PodApi(client, pod.metadata.namespace, call.environment, say, origin)
        self._request = pod
        self._pod = pod  # as it was made, as soon as it is
        self._call = call
        self._log = log
        self._say = say
        self._timeouts = timeouts or Timeouts()
        self._follow_logs = follow_logs
        self._killed = killed
        self._succeeded = False
        self._ended = False
        self._follower: LogFollower | None = None
        self._payload: PodPayload | None = None
        self.taken_over = False
        self.seen: dict[str, float] = {}

    def create(self) -> k8s.V1Pod:
        """Create the pod, then the Secret that it waits for.

        A pod of the same name is this very task's, left by a worker that died. Where it runs the same call, or holds
        a result of it that was not read, it is taken over, so that a task never runs twice at once and no result is
        lost. A pod of another call is ended and removed first.

        Returns:
            The pod.

        Raises:
            BackendError: Kubernetes refused one of them; then neither is left.
            CallError: the call is larger than a Secret.
        """
        assert isinstance(self._call, PackedCall)  # noqa: S101 -- of one that was only sent, the pod is there
        if self._payload is not None:
            self._payload.close()  # that of a pod which is gone
        self._pod = self._request
        made = Creation(self._api, self._request, self._call, self._say).run()
        self._pod, self.taken_over = made.pod, made.taken_over
        self.seen = {"created": time.time()}  # not before: an earlier pod may have taken its time to go
        self._payload = PodPayload(self._client, self._pod, self._call, self._log)
        return self._pod

    def wait(self) -> Result:
        """Wait until the call has ended and return its result.

        Raises:
            BackendError: it could not start, or ended without a result.
        """
        try:
            end = self._watch()
            while self.must_start_again(end):
                self.create()
                end = self._watch()
            return self.collect(end)
        except BackendError:
            if self._killed():
                raise diagnose.killed(self._call.environment, self._call.function) from None
            raise

    def must_start_again(self, end: End) -> bool:
        """Return whether the pod was one of an earlier try, and was removed because that try was."""
        return end.why == "deleted" and self.taken_over and not pod_status.message(end.pod) and not self._killed()

    def collect(self, end: End) -> Result:
        """Return the result of a call that has ended.

        Args:
            end: how it ended.

        Raises:
            BackendError: it could not start, or ended without a result.
        """
        environment = self._call.environment
        self._ended = end.why in ("ended", "deleted")
        if end.pod is not None:
            self._payload = PodPayload(self._client, end.pod, self._call, self._log)
        if end.why == "stuck":
            raise diagnose.startup_failure(end.pod, environment)
        if end.why == "late":
            raise diagnose.startup_timeout(end.pod, environment, end.allowed, self._api.last_warning(self._name))
        problem = self._finish_log(end.pod)
        if problem:
            self._say(f"The log of pod {self._name} could not be read to its end: {problem}")
        document = self._document(end)
        assert self._payload is not None  # noqa: S101 -- the pod has said how it ended
        result = self._payload.fetch(document)
        self._say(phases(end.seen, document.timings))
        self._succeeded = document.outcome in (protocol.VALUE, protocol.SKIP)
        return result

    def _document(self, end: End) -> protocol.Document:
        """Return the result document in a pod's status; raise why there is no result."""
        environment, function = self._call.environment, self._call.function
        text = pod_status.message(end.pod)
        if not text:
            state = pod_status.container_state(end.pod) if end.pod is not None else None
            if end.why == "deleted" and not (state and state.terminated) and not pod_status.disruption(end.pod):
                raise diagnose.gone(environment, function)
            left = self._call.mask(pod_status.foreign_message(end.pod))
            raise diagnose.death(end.pod, environment, function, self._show_evidence(end.pod), left)
        document = parse_document(text, environment.name)
        if document.outcome == protocol.FAILURE and pod_status.was_ended(end.pod):
            # What the function said when it was ended from outside is not why it ended.
            raise diagnose.death(end.pod, environment, function)
        if end.why == "deleted" and document.inline is None and not document.stored:
            raise diagnose.gone(environment, function, f"Its result ({document.size:,} bytes) went with it.")
        return document

    def finish(self, action: Keep) -> None:
        """Remove what is not wanted any more.

        Args:
            action: ``KubernetesPodOperator``'s ``on_finish_action``.
        """
        self.leave()
        wanted = {
            "delete_pod": True,
            "delete_succeeded_pod": self._succeeded,
            "delete_active_pod": not self._ended,
            "keep_pod": False,
        }
        if wanted[action]:
            self._api.delete(self._name, self._pod.metadata.uid)
            return
        self._api.mark_checked(self._name)
        if self._payload is not None:
            self._payload.release()

    def leave(self) -> None:
        """Stop reading, and remove the arguments from the location for large values: the call is over."""
        if self._follower is not None:
            self._follower.stop()
        if self._payload is not None:
            self._payload.close()

    @property
    def stored_arguments(self) -> tuple[str, str] | None:
        """Return where the arguments may lie, if in no Secret; see ``PayloadTransfer``."""
        return self._payload.stored_arguments if self._payload is not None else None

    def _watch(self) -> End:
        judge = Judge(self._timeouts, self.seen)
        self._follower = self._new_follower()
        try:
            for kind, pod in self._api.events(self._pod, judge.patience):
                replaced = pod is not None and pod.metadata.uid != self._pod.metadata.uid
                end = judge.see(watch.DELETED, None) if replaced else judge.see(kind, pod)
                if end is not None:
                    return end
                if self._follow_logs and "running" in self.seen:
                    self._follower.start()
        except ApiException as error:
            raise self._api.refused(error, "watch on the pod") from None
        raise AssertionError("a watch never ends by itself")

    @property
    def _name(self) -> str:
        name: str = self._pod.metadata.name
        return name

    def _new_follower(self) -> LogFollower:
        return LogFollower(self._client, self._pod.metadata.namespace, self._name, render.BASE, self._log)

    def _finish_log(self, pod: Any) -> str:
        if not self._follow_logs:
            return ""
        self._follower = self._follower or self._new_follower()
        return self._follower.finish(ran=pod_status.has_run(pod))

    def _show_evidence(self, pod: Any) -> str:
        """Log what failed last said, where that is not logged yet; return its last line."""
        failed = pod_status.failed_init_container(pod)
        if failed is None and self._follow_logs and self._follower is not None:
            return self._follower.last_line
        lines = self._api.last_lines(self._name, render.BASE if failed is None else failed.name)
        for line in lines:
            self._log(line)
        return lines[-1] if lines else ""
