"""Run one call as one pod: create it, or adopt the one of a worker that died; watch it; bring its result; clean up."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Literal

from kubernetes.client.exceptions import ApiException

from k8s_venv.backends.kubernetes import diagnose, phases, pod_state, render, takeover
from k8s_venv.backends.kubernetes.api import PodApi, without_retries
from k8s_venv.backends.kubernetes.attached import RECEIVED, UNWATCHED, Attached, Received
from k8s_venv.backends.kubernetes.creation import Creation
from k8s_venv.backends.kubernetes.lock import HeldError, TaskLock
from k8s_venv.backends.kubernetes.logs import LogFollower
from k8s_venv.backends.kubernetes.payload import PodResult
from k8s_venv.backends.kubernetes.pod_state import DELETED, PodOutcome, PodPhaseTracker, Timeouts
from k8s_venv.backends.kubernetes.warm import WarmPods
from k8s_venv.calls import PackedCall, Result, SentCall, parse_document
from k8s_venv.errors import BackendError
from k8s_venv.wire import protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kubernetes.client import models as k8s

Keep = Literal["delete_pod", "keep_pod", "delete_succeeded_pod", "delete_active_pod"]

# The seconds after which a call at a pod that waited for it is watched as well: most have ended by then.
_UNWATCHED = 5.0


class PodRunner:
    """One call in one pod.

    Args:
        client: a ``CoreV1Api``.
        pod: the whole pod to create; of a pod that exists already, name and namespace are enough.
        call: the call that it runs; to create its pod, packed.
        log: is called with each line that the task prints.
        say: is called with what happens to the pod.
        timeouts: how long it may take to start.
        follow_logs: whether the log is read at all.
        killed: returns whether the caller's own ``on_kill`` has ended the pod.
        origin: where the pod's namespace comes from, for messages.
        declared: returns the pod that the environment has waiting, to name what differs from it.
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
        declared: Callable[[], k8s.V1Pod] | None = None,
    ) -> None:
        self._client = without_retries(client)
        self._api = PodApi(client, pod.metadata.namespace, call.environment, say, origin)
        self._request = pod
        self._declared = declared
        self._creation: Creation | None = None
        self._warm: WarmPods | None = None
        self._attached: Attached | None = None
        self._created: k8s.V1Pod | None = None
        self._call = call
        self._log = log
        self._say = say
        self._timeouts = timeouts or Timeouts()
        self._follow_logs = follow_logs
        self._killed = killed
        self._succeeded = False
        self._ended = False
        self._follower: LogFollower | None = None
        self._result: PodResult | None = None
        self.taken_over = False
        self.start = phases.COLD  # how the call got its pod
        self.phases: dict[str, float] = {}  # how long each part took, in seconds, once there is a result
        self.seen: dict[str, float] = {}

    @property
    def pod(self) -> k8s.V1Pod:
        """Return the pod: as it is asked for until it is created."""
        claimed = self._warm.claimed if self._warm is not None else None
        asked = self._creation.request if self._creation is not None else self._request
        return self._created or claimed or asked

    def create(self) -> k8s.V1Pod:
        """Create the pod, then the Secrets that it waits for.

        A pod of the same name is this very task's, left by a worker that died. If it runs the same call, or holds a
        result of it that was not read, it is taken over, so that a task never runs twice at once and no result is
        lost. A pod of another call is ended and removed first.

        Returns:
            The pod.

        Raises:
            BackendError: Kubernetes refused the pod or a Secret; then neither is left.
            CallError: the call is larger than a Secret.
        """
        assert isinstance(self._call, PackedCall)  # noqa: S101 -- a call that was only sent has its pod
        if self._result is not None:
            self._result.close()  # that of a pod which is gone
        self._creation = self._created = self._warm = None
        self._leave_connection()
        if self._call.environment.warm is None:
            self._create_own(self._call, None)
        else:
            self._claim_or_create(self._call)
        assert self._created is not None  # noqa: S101 -- it was just made
        self._result = PodResult(self._client, self._created, self._call, self._log)
        return self._created

    def _create_own(self, call: PackedCall, lock: TaskLock | None) -> None:
        self._creation = Creation(self._api, self._request, call, self._say, lock)
        self._created, self.taken_over = self._creation.create_or_adopt()
        self.seen = {"created": time.time()}  # not before: an earlier pod may have taken its time to go

    def _claim_or_create(self, call: PackedCall) -> None:
        """Start the call at a pod that waits, or at one of its own; but never beside another one of the same task."""
        namespace, identity = self._request.metadata.namespace, self._request.metadata.labels[render.SLOT]
        lock = TaskLock(self._client, self._api, namespace, identity, self._say)
        holder = None
        while self._created is None:
            begun = time.time()
            self._warm = WarmPods(
                self._client, self._api, self._request, call, self._say, self._log, lock, self._declared, self._killed
            )
            started = self._warm.start(holder)
            if started is not None:
                self._created, self._attached, self.taken_over = started.pod, started.attached, started.taken_over
                self.start = phases.PodStart.of_waiting(started.pod)
                self.seen = {"created": begun, "claimed": started.claimed_at}
                return
            self.start = phases.PodStart(missed=self._warm.missed)
            try:
                self._create_own(call, lock)
            except HeldError as held:
                holder = held.pod

    def wait(self) -> Result:
        """Wait until the call has ended and return its result.

        Raises:
            BackendError: it could not start, or ended without a result.
        """
        result = self.wait_for(math.inf)
        assert result is not None  # noqa: S101 -- it was waited for without an end
        return result

    def wait_for(self, seconds: float) -> Result | None:
        """Return the result of a call that ends within a time, or None if it goes on; see ``wait``.

        Where the time has an end, the log is read when the call has ended: else another process reads all of it.

        Args:
            seconds: the time.
        """
        until = time.monotonic() + seconds
        try:
            outcome = self._watch(until)
            while outcome is not None and self.must_start_again(outcome):
                self.create()
                outcome = self._watch(until)
            return None if outcome is None else self.collect(outcome)
        except BackendError:
            if self._killed():
                raise diagnose.killed(self._call.environment, self._call.function) from None
            raise

    def must_start_again(self, outcome: PodOutcome) -> bool:
        """Return whether the pod was one of an earlier try, and was removed because that try was."""
        gone = outcome.reason == "deleted" and not pod_state.message(outcome.pod)
        return gone and self.taken_over and not self._killed()

    def collect(self, outcome: PodOutcome) -> Result:
        """Return the result of a call that has ended.

        Args:
            outcome: how it ended.

        Raises:
            BackendError: it could not start, or ended without a result.
        """
        environment = self._call.environment
        self._ended = outcome.reason in ("ended", "deleted")
        if outcome.pod is not None:
            self._result = PodResult(self._client, outcome.pod, self._call, self._log)
        if outcome.reason == "stuck":
            raise diagnose.startup_failure(outcome.pod, environment)
        if outcome.reason == "late":
            warning = self._api.last_warning(self._name)
            raise diagnose.startup_timeout(outcome.pod, environment, outcome.allowed, warning)
        problem = self._finish_log(outcome.pod)
        if problem:
            self._say(f"The log of pod {self._name} could not be read to its end: {problem}")
        document = self._document(outcome)
        result = self._fetched(document)
        self.phases = phases.phase_seconds(outcome.seen, document.timings, self.start)
        self._say(phases.describe(outcome.seen, document.timings, self.start))
        self._succeeded = document.outcome in (protocol.VALUE, protocol.SKIP)
        return result

    def _fetched(self, document: protocol.Document) -> Result:
        """Return the result that a document announces: it came over the connection, or it is read from the pod."""
        assert self._result is not None  # noqa: S101 -- the pod's end is known
        received = self._received
        payload = received.payload_of(document) if received is not None else None
        if payload is None:
            return self._result.fetch(document)
        self._result.keep()
        return Result(document, payload, checked=True)

    def _document(self, outcome: PodOutcome) -> protocol.Document:
        """Return the result document, from the connection or the pod's status; raise why there is no result."""
        environment, function, pod = self._call.environment, self._call.function, outcome.pod
        text = pod_state.message(pod)
        if not text and self._received is not None:
            text = self._received.document
        if not text:
            state = pod_state.container_state(pod)
            if outcome.reason == "deleted" and not (state and state.terminated) and not pod_state.disruption(pod):
                raise diagnose.gone(environment, function)
            left = self._call.mask(pod_state.foreign_message(pod))
            raise diagnose.death(pod, environment, function, self._show_evidence(pod), left)
        document = parse_document(text, self._call.environment.name)
        if document.outcome == protocol.FAILURE and pod_state.was_ended(pod):
            # The exception of a function that was ended from outside is not the reason of its end.
            raise diagnose.death(pod, environment, function)
        if outcome.reason == "deleted" and document.inline is None and not document.stored:
            raise diagnose.gone(environment, function, f"Its result ({document.size:,} bytes) went with it.")
        return document

    def finish(self, action: Keep) -> None:
        """Remove the pod if it is not wanted any more.

        Args:
            action: ``KubernetesPodOperator``'s ``on_finish_action``.
        """
        received = self._received is not None
        self.leave()
        wanted = {
            "delete_pod": True,
            "delete_succeeded_pod": self._succeeded,
            "delete_active_pod": not self._ended,
            "keep_pod": False,
        }
        if wanted[action]:
            self._api.delete(self._name, self.pod.metadata.uid)
            return
        self._api.mark_checked(self._name, {takeover.READ: "True"} if received else {})
        if self._result is not None:
            self._result.release()

    def leave(self) -> None:
        """Stop reading, and remove the arguments from the location for large values: the call is over."""
        self._leave_connection()
        if self._follower is not None:
            self._follower.stop()
        if self._result is not None:
            self._result.close()

    @property
    def stored_arguments(self) -> tuple[str, str] | None:
        """Return where the arguments may lie, if in no Secret; see ``PayloadTransfer``."""
        return self._result.stored_arguments if self._result is not None else None

    def hand_off(self) -> None:
        """Close the connection to a pod that another process waits for from now on: the call goes on."""
        self._leave_connection()

    def _leave_connection(self) -> None:
        if self._attached is not None:
            self._attached.close()
            self._attached = None

    def _watch(self, until: float) -> PodOutcome | None:
        tracker = PodPhaseTracker(self._timeouts, self.seen)
        self._follower = self._new_follower()
        try:
            for kind, pod in self._states(tracker, until):
                outcome = self._outcome(tracker, kind, pod)
                if outcome is not None:
                    return outcome
                if time.monotonic() >= until:
                    return None
                if self._follow_logs and "running" in self.seen and until == math.inf:
                    self._follower.start()
        except ApiException as error:
            raise self._api.refused(error, "watch on the pod") from None
        raise AssertionError("a watch never ends by itself")

    def _states(self, tracker: PodPhaseTracker, until: float) -> Iterator[tuple[str, Any]]:
        def watch() -> Iterator[tuple[str, Any]]:
            return self._api.events(self.pod, lambda: min(tracker.next_look(), until - time.monotonic()))

        if self._attached is None:
            return watch()
        return self._attached.states(self.pod, watch, max(0.0, min(_UNWATCHED, until - time.monotonic())))

    def _outcome(self, tracker: PodPhaseTracker, kind: str, pod: Any) -> PodOutcome | None:
        if kind == UNWATCHED:
            return None
        if kind == RECEIVED:
            # What ended a function that failed, such as an eviction, is in the pod's status alone.
            return None if self._has_failed() else tracker.received()
        replaced = pod is not None and pod.metadata.uid != self.pod.metadata.uid
        return tracker.observe(DELETED, None) if replaced else tracker.observe(kind, pod)

    def _has_failed(self) -> bool:
        """Return whether the result that came is a failure, or cannot be read: then the pod's status counts."""
        if self._received is None:
            return True
        try:
            document = parse_document(self._received.document, self._call.environment.name)
        except BackendError:
            return True
        return document.outcome == protocol.FAILURE

    @property
    def _received(self) -> Received | None:
        return self._attached.received if self._attached is not None else None

    @property
    def _name(self) -> str:
        name: str = self.pod.metadata.name
        return name

    def _new_follower(self) -> LogFollower:
        return LogFollower(self._client, self.pod.metadata.namespace, self._name, render.BASE, self._log)

    def _finish_log(self, pod: Any) -> str:
        if not self._follow_logs:
            return ""
        self._follower = self._follower or self._new_follower()
        end = self._received.end if self._received is not None else ""
        if end:
            self._follower.start()  # it knows the log's end, which the container's own end may follow late
        return self._follower.finish(ran=pod_state.has_run(pod), end=end)

    def _show_evidence(self, pod: Any) -> str:
        """Log the last lines of the container that failed, if they are not logged yet; return the last one."""
        failed = pod_state.failed_init_container(pod)
        if failed is None and self._follow_logs and self._follower is not None:
            return self._follower.last_line
        lines = self._api.last_lines(self._name, render.BASE if failed is None else failed.name)
        for line in lines:
            self._log(line)
        return lines[-1] if lines else ""
