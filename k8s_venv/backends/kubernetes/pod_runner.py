"""Run one call as one pod: create it, or adopt the one of a worker that died; watch it; bring its result; clean up."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, Literal

from kubernetes.client.exceptions import ApiException

from k8s_venv.backends.kubernetes import diagnose, phases, pod_state, render, takeover
from k8s_venv.backends.kubernetes.api import ExistsError, PodApi, without_retries
from k8s_venv.backends.kubernetes.logs import LogFollower
from k8s_venv.backends.kubernetes.payload import CallSecrets, PodResult, withdraw_arguments
from k8s_venv.backends.kubernetes.pod_state import DELETED, PodOutcome, PodPhaseTracker, Timeouts
from k8s_venv.calls import PackedCall, Result, SentCall, parse_document
from k8s_venv.errors import BackendError
from k8s_venv.wire import protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubernetes.client import models as k8s

Keep = Literal["delete_pod", "keep_pod", "delete_succeeded_pod", "delete_active_pod"]

# How long a pod that is being removed may take for it, beyond its own grace period, in seconds.
_REMOVAL = 90.0
# The seconds that a living worker takes between its pod and the Secrets: another one may be at it right now.
_MOMENT = 1.0


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
        self._creation: _Creation | None = None
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
        asked = self._creation.request if self._creation is not None else self._request
        return self._created or asked

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
        self._creation, self._created = _Creation(self._api, self._request, self._call, self._say), None
        self._created, self.taken_over = self._creation.create_or_adopt()
        self.seen = {"created": time.time()}  # not before: an earlier pod may have taken its time to go
        self._result = PodResult(self._client, self._created, self._call, self._log)
        return self._created

    def wait(self) -> Result:
        """Wait until the call has ended and return its result.

        Raises:
            BackendError: it could not start, or ended without a result.
        """
        try:
            outcome = self._watch()
            while self.must_start_again(outcome):
                self.create()
                outcome = self._watch()
            return self.collect(outcome)
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
        assert self._result is not None  # noqa: S101 -- the pod's end is known
        result = self._result.fetch(document)
        self.phases = phases.phase_seconds(outcome.seen, document.timings, self.start)
        self._say(phases.describe(outcome.seen, document.timings, self.start))
        self._succeeded = document.outcome in (protocol.VALUE, protocol.SKIP)
        return result

    def _document(self, outcome: PodOutcome) -> protocol.Document:
        """Return the result document in a pod's status; raise why there is no result."""
        environment, function, pod = self._call.environment, self._call.function, outcome.pod
        text = pod_state.message(pod)
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
        self._api.mark_checked(self._name)
        if self._result is not None:
            self._result.release()

    def leave(self) -> None:
        """Stop reading, and remove the arguments from the location for large values: the call is over."""
        if self._follower is not None:
            self._follower.stop()
        if self._result is not None:
            self._result.close()

    @property
    def stored_arguments(self) -> tuple[str, str] | None:
        """Return where the arguments may lie, if in no Secret; see ``PayloadTransfer``."""
        return self._result.stored_arguments if self._result is not None else None

    def _watch(self) -> PodOutcome:
        tracker = PodPhaseTracker(self._timeouts, self.seen)
        self._follower = self._new_follower()
        try:
            for kind, pod in self._api.events(self.pod, tracker.next_look):
                replaced = pod is not None and pod.metadata.uid != self.pod.metadata.uid
                outcome = tracker.observe(DELETED, None) if replaced else tracker.observe(kind, pod)
                if outcome is not None:
                    return outcome
                if self._follow_logs and "running" in self.seen:
                    self._follower.start()
        except ApiException as error:
            raise self._api.refused(error, "watch on the pod") from None
        raise AssertionError("a watch never ends by itself")

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
        return self._follower.finish(ran=pod_state.has_run(pod))

    def _show_evidence(self, pod: Any) -> str:
        """Log the last lines of the container that failed, if they are not logged yet; return the last one."""
        failed = pod_state.failed_init_container(pod)
        if failed is None and self._follow_logs and self._follower is not None:
            return self._follower.last_line
        lines = self._api.last_lines(self._name, render.BASE if failed is None else failed.name)
        for line in lines:
            self._log(line)
        return lines[-1] if lines else ""


class _Creation:
    """Creates the pod of one call with its Secrets, or takes over the pod of a worker that died.

    The pod's name gets a number if pods of the name are kept.
    """

    def __init__(self, api: PodApi, pod: k8s.V1Pod, call: PackedCall, say: Callable[[str], None]) -> None:
        self._api = api
        self._pod = pod
        self._call = call
        self._say = say
        self.request = pod  # what is asked for now

    def create_or_adopt(self) -> tuple[k8s.V1Pod, bool]:
        """Create the pod, then the Secrets that it waits for; or take over one that exists.

        Returns:
            The pod, and whether an earlier worker made it.

        Raises:
            BackendError: Kubernetes refused the pod or a Secret; then neither is left.
            CallError: the call is larger than its Secrets may be.
        """
        identity = takeover.CallIdentity(self._call, self._pod)
        annotations = {**(self._pod.metadata.annotations or {}), takeover.CALL: identity.seal()}
        pod = render.with_metadata(self._pod, annotations=annotations)
        while True:
            secrets = CallSecrets(self._call, pod)
            try:
                created, taken_over = self._create_or_find(secrets.pod, identity)
                if not taken_over:
                    self._deliver(secrets, created)
                    return created, False
            except BaseException:
                withdraw_arguments(self._call, secrets.pod)
                raise
            withdraw_arguments(self._call, secrets.pod)  # the pod that exists has its own, or never had
            if pod_state.has_started(created):
                return created, True
            time.sleep(_MOMENT)
            if self._has_secrets(created):
                return created, True
            self._say(f"Pod {self._shown} lacks its Secrets, since the worker before died: starting again.")
            self._remove(created)

    def _deliver(self, secrets: CallSecrets, pod: k8s.V1Pod) -> None:
        try:
            for secret in secrets.for_pod(pod):
                with contextlib.suppress(ExistsError):  # by a request whose answer was lost: its name is used once
                    self._api.create_secret(secret)
        except BaseException:
            self._api.delete(pod.metadata.name, pod.metadata.uid)
            raise

    def _has_secrets(self, pod: k8s.V1Pod) -> bool:
        """Return whether the worker before made all Secrets of its pod, of which it makes the last one last.

        Creating is all that Airflow's account may do with Secrets. What this creates goes with the pod.
        """
        try:
            self._api.create_secret(render.call_secret(pod, render.secret_names(pod)[-1], {}))
        except ExistsError:
            return True
        return False

    def _create_or_find(self, pod: k8s.V1Pod, identity: takeover.CallIdentity) -> tuple[k8s.V1Pod, bool]:
        attempt = (pod.metadata.labels or {}).get(render.TRY)
        number = 1
        while True:
            name = pod.metadata.name + (f"-{number}" if number > 1 else "")
            self.request = render.with_metadata(pod, name=name)
            try:
                return self._api.create_pod(self.request), False
            except ExistsError:
                found = self._api.pod(name)
            if found is None:
                continue
            if self._is_own(found):
                return found, False
            decision = takeover.decide(found, attempt, identity)
            if decision is takeover.ExistingPod.TAKEN:
                earlier = (found.metadata.labels or {}).get(render.TRY, "an earlier one")
                self._say(f"Taking over pod {self._shown} of try {earlier}: it is still there.")
                return found, True
            if decision is takeover.ExistingPod.CHECKED:
                number += 1
                continue
            self._say(f"Pod {self._shown} of an earlier try is there: {decision.value}.")
            if decision is takeover.ExistingPod.LEAVING:
                self._await_removal(found)
            else:
                self._remove(found)

    def _is_own(self, found: k8s.V1Pod) -> bool:
        """Return whether this very worker made a pod, by a request whose answer was lost: each has its own salt."""
        own, its = (pod.metadata.annotations or {} for pod in (self.request, found))
        return found.metadata.deletion_timestamp is None and own[takeover.CALL] == its.get(takeover.CALL)

    @property
    def _shown(self) -> str:
        return f"{self.request.metadata.namespace}/{self.request.metadata.name}"

    def _remove(self, pod: k8s.V1Pod) -> None:
        """End and remove a pod, with the arguments that its worker left at the location for large values."""
        self._api.remove(pod.metadata.name, pod.metadata.uid)
        self._await_removal(pod)
        withdraw_arguments(self._call, pod)

    def _await_removal(self, pod: k8s.V1Pod) -> None:
        deadline = time.monotonic() + (pod.metadata.deletion_grace_period_seconds or 30) + _REMOVAL
        for kind, state in self._api.events(pod, lambda: deadline - time.monotonic()):
            if kind == DELETED or state.metadata.uid != pod.metadata.uid:
                return
            if time.monotonic() > deadline:
                raise BackendError(
                    self._call.environment.name,
                    f"the pod {pod.metadata.name} of an earlier try is still being removed, and a task never runs "
                    "twice at once. Is its node gone?",
                )
