"""Claim a pod that waits for a call, and deliver the call to it; or take over the pod of an earlier try.

A claim is one patch, guarded by the pod's version. Then the pod takes the task's lock, and only then the call is
delivered; so a task never runs twice at once, wherever a worker dies. Where no waiting pod can be had, the call gets a
pod of its own, and one line in the log says why.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import random
import time
from typing import TYPE_CHECKING, Any

from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException

from k8s_venv.backends.kubernetes import diagnose, pod_state, pool, render, takeover
from k8s_venv.backends.kubernetes.attached import Answer, Attached
from k8s_venv.backends.kubernetes.background import in_background
from k8s_venv.backends.kubernetes.creation import await_removal, is_removed, remove
from k8s_venv.backends.kubernetes.exec_channel import BrokenOffError
from k8s_venv.backends.kubernetes.lock import HeldError, LockRefusedError
from k8s_venv.backends.kubernetes.options import from_manifest
from k8s_venv.backends.kubernetes.payload import check_location, pod_files, withdraw_arguments
from k8s_venv.backends.limits import RETRY_FOR, RETRY_PAUSE
from k8s_venv.backends.process import RELAY_FAILED
from k8s_venv.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from k8s_venv.backends.kubernetes.api import PodApi
    from k8s_venv.backends.kubernetes.lock import TaskLock
    from k8s_venv.backends.kubernetes.phases import Miss
    from k8s_venv.calls import PackedCall
    from k8s_venv.wire.registry import Buffer

# How often another worker may be faster before a call gets a pod of its own.
_MOST_LOST = 3
# How long a connection is tried again to which nothing was delivered, in seconds: a pod of its own takes less.
_CONNECT_FOR = 5.0
# How long a pod may take to go to which nothing was delivered.
_DISCARD_FOR = 20.0


@dataclasses.dataclass(frozen=True)
class Warm:
    """A call at a pod that waited for it, or at one that an earlier try claimed."""

    pod: k8s.V1Pod
    attached: Attached | None  # None if the call was delivered before: then its pod is watched as any
    claimed_at: float  # when the pod was this task's, in seconds since the epoch
    taken_over: bool = False


class _ColdError(Exception):
    """The call gets a pod of its own; the text is a clause that says why."""

    def __init__(self, missed: Miss, text: str) -> None:
        super().__init__(text)
        self.missed = missed


class WarmPods:
    """The waiting pods of one environment, for one call.

    Args:
        client: a ``CoreV1Api``.
        api: the requests about pods.
        request: the whole pod that the call would have of its own.
        call: the call, packed.
        say: is called with what happens.
        complain: is called with what a pod says while its call is delivered.
        lock: the task's lock.
        declared: returns the environment's pod as the chart has it, to name what differs.
        killed: returns whether the task was ended.
    """

    def __init__(
        self,
        client: Any,
        api: PodApi,
        request: k8s.V1Pod,
        call: PackedCall,
        say: Callable[[str], None],
        complain: Callable[[str], None],
        lock: TaskLock,
        declared: Callable[[], k8s.V1Pod] | None,
        killed: Callable[[], bool],
    ) -> None:
        self._client = client
        self._api = api
        self._request = request
        self._call = call
        self._say = say
        self._complain = complain
        self._lock = lock
        self._declared = declared
        self._killed = killed
        self._identity = takeover.CallIdentity(call, request)
        self._seal = in_background(self._identity.seal)  # it takes as long as the first request
        self._wanted = pool.from_call(request, call.environment)
        self._discarded: set[str] = set()  # pods that were claimed in vain, by uid
        self.claimed: k8s.V1Pod | None = None  # also while the call is being delivered
        self.missed: Miss | None = None  # why no waiting pod took the call

    def start(self, holder: k8s.V1Pod | None = None) -> Warm | None:
        """Start the call at a waiting pod, or take over a claimed one.

        Args:
            holder: the pod that holds the task's lock, if that is known.

        Returns:
            The call; or None if it gets a pod of its own, or one of its own from an earlier try may be there.

        Raises:
            BackendError: the task was ended, or a pod of an earlier try cannot be removed.
            CallError: the call is larger than its pod takes.
        """
        check_location(self._call, self._request)
        lost, found = 0, [holder] if holder is not None else []
        while lost < _MOST_LOST:
            if self._killed():
                raise diagnose.killed(self._call.environment, self._call.function)
            try:
                own, waiting = self._look()
                earlier, changed = self._settle({pod.metadata.uid: pod for pod in (*found, *own)})
                found = []
                if earlier is not None:
                    return self._take_over(earlier) if pool.is_pool_pod(earlier) else None
                if changed:
                    continue
                started = self._claim(random.choice(self._fitting(waiting)))  # noqa: S311 -- so that workers rarely meet
                if started is not None:
                    return started
                lost += 1
            except HeldError as held:
                found = [held.pod]
            except _ColdError as cold:
                self._run_cold(cold)
                return None
        self._run_cold(_ColdError("lost", f"other calls were faster {lost} times"))
        return None

    def _run_cold(self, cold: _ColdError) -> None:
        self.claimed, self.missed = None, cold.missed
        self._say(f"No waiting pod takes the call, which gets a pod of its own: {str(cold).rstrip('.')}.")

    # --- what is there ---------------------------------------------------------------------------------------

    def _look(self) -> tuple[list[k8s.V1Pod], list[dict[str, Any]]]:
        """Return the pods of this task, and those that wait for a call like this one."""
        key = self._wanted.metadata.labels[render.SLOT]
        try:
            found = self._api.list_pods(f"{render.SLOT} in ({key},{self._own_slot})")
        except ApiException as error:
            raise _ColdError("rights", diagnose.request_problem(error)) from None
        waiting = [pod for pod in found if pod["metadata"]["labels"][render.SLOT] == key and _is_staying(pod)]
        own = [from_manifest(pod, "V1Pod") for pod in found if pod["metadata"]["labels"][render.SLOT] != key]
        return [pod for pod in own if pod.metadata.uid not in self._discarded], waiting

    @property
    def _own_slot(self) -> str:
        slot: str = self._request.metadata.labels[render.SLOT]
        return slot

    def _settle(self, pods: dict[str, k8s.V1Pod]) -> tuple[k8s.V1Pod | None, bool]:
        """Return the pod that is taken over, if there is one, and whether others were removed."""
        attempt = (self._request.metadata.labels or {}).get(render.TRY)
        changed = False
        for pod in pods.values():
            decision = takeover.decide(pod, attempt, self._identity)
            if decision is takeover.ExistingPod.TAKEN:
                return pod, changed
            if decision is takeover.ExistingPod.CHECKED:
                continue
            self._say(f"Pod {render.full_name(pod)} of an earlier try is there: {decision.value}.")
            changed = True
            if decision is takeover.ExistingPod.LEAVING:
                await_removal(self._api, pod, self._call)
            else:
                remove(self._api, pod, self._call)
        return None, changed

    def _fitting(self, waiting: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the pods that can be claimed now; raise why there are none."""
        if not self._call.environment.values.exec:
            raise _ColdError("values", "with exec = false, its values may not go through `pods/exec`")
        ready = [pod for pod in waiting if pool.is_ready(pod)]
        if ready:
            return ready
        if waiting:
            raise _ColdError("starting", f"of the waiting pods that fit, {len(waiting)} are starting and none is ready")
        differing = pool.differences(self._wanted, self._declared()) if self._declared is not None else []
        if differing:
            names = ", ".join(f"`{name}`" for name in differing)
            raise _ColdError("options", f"its pod differs from the environment's waiting pods in {names}")
        raise _ColdError("none", f"no pod of environment {self._call.environment.name!r} waits")

    # --- a pod that waits ------------------------------------------------------------------------------------

    def _claim(self, waiting: dict[str, Any]) -> Warm | None:
        """Make a waiting pod this task's and deliver the call to it; return None if another one was faster."""
        metadata = k8s.V1ObjectMeta(name=waiting["metadata"]["name"], namespace=waiting["metadata"]["namespace"])
        # To connect takes as long as the claim and the lock; nothing is sent before these are had.
        connect = functools.partial(Attached, self._client, k8s.V1Pod(metadata=metadata), self._complain)
        opened = in_background(connect)
        delivered = False
        try:
            pod = self._patched(waiting)
            if pod is None:
                return None
            started = self._begin(pod, opened)
            delivered = started.attached is not None
            return started
        finally:
            if not delivered:
                in_background(lambda: opened().close())

    def _patched(self, waiting: dict[str, Any]) -> k8s.V1Pod | None:
        ours = self._request.metadata
        metadata = {
            "resourceVersion": waiting["metadata"]["resourceVersion"],
            "labels": ours.labels,
            "annotations": {**(ours.annotations or {}), takeover.CALL: self._seal()},
            # What waits goes with the chart's release, which owns it; a task's pod does not.
            "ownerReferences": None,
        }
        allowed = self._request.spec.active_deadline_seconds
        spec = {"activeDeadlineSeconds": int(_age(waiting)) + allowed} if allowed is not None else {}
        try:
            return self._api.patch_pod(waiting["metadata"]["name"], {"metadata": metadata, "spec": spec})
        except ApiException as error:
            raise _ColdError("rights" if error.status == 403 else "refused", diagnose.request_problem(error)) from None

    def _begin(self, pod: k8s.V1Pod, opened: Callable[[], Attached]) -> Warm:
        """Take the lock for a pod that was just claimed, and deliver the call to it."""
        self.claimed = pod
        try:
            self._lock.take(pod)
            claimed_at = time.time()
            return Warm(pod, self._deliver(pod, opened), claimed_at)
        except LockRefusedError as error:
            self._discard(pod)
            raise _ColdError("rights", str(error)) from None
        except HeldError:
            self._discarded.add(pod.metadata.uid)
            self._api.delete(pod.metadata.name, pod.metadata.uid)
            raise
        except _ColdError:
            raise
        except BaseException:
            self._api.delete(pod.metadata.name, pod.metadata.uid)
            withdraw_arguments(self._call, pod)
            raise

    def _take_over(self, pod: k8s.V1Pod) -> Warm:
        """Take over a claimed pod: it runs or has ended, or its worker died before it had delivered the call."""
        if not pod_state.has_ended(pod):
            try:
                self._lock.take_or_warn(pod)
            except HeldError:  # then nothing was delivered to this one
                self._discarded.add(pod.metadata.uid)
                self._api.delete(pod.metadata.name, pod.metadata.uid)
                raise
        self._say(takeover.announcement(pod))
        self.claimed = pod
        claimed_at = time.time()
        attached = None if pod_state.has_ended(pod) else self._deliver(pod, earlier=True)
        return Warm(pod, attached, claimed_at, taken_over=True)

    def _discard(self, pod: k8s.V1Pod) -> None:
        """Remove a claimed pod to which this worker delivered nothing, before the call gets a pod of its own."""
        self._api.delete(pod.metadata.name, pod.metadata.uid)
        withdraw_arguments(self._call, pod)
        # Another worker of the same task may have delivered to it: two never run at once.
        if not is_removed(self._api, pod, _DISCARD_FOR):
            self._lock.release(pod)  # its node does not answer, which has waited for that as well

    # --- the delivery ----------------------------------------------------------------------------------------

    def _deliver(
        self, pod: k8s.V1Pod, opened: Callable[[], Attached] | None = None, *, earlier: bool = False
    ) -> Attached | None:
        """Deliver the call; return the connection, or None if the call is there already.

        A pod takes one delivery. Where a connection broke after all was sent, the next one finds out what arrived.

        Args:
            pod: the pod.
            opened: returns the first connection, if that is being opened.
            earlier: whether an earlier try may have delivered the call.
        """
        files = pod_files(self._call, pod)
        connect = functools.partial(Attached, self._client, pod, self._complain)
        begun, unclear, first = time.monotonic(), earlier, opened or connect
        while True:
            attempt = _attempted(first, files)
            first = connect
            if attempt.answer is not None:
                return attempt.attached if attempt.answer is Answer.DELIVERED else None
            if self._killed():
                raise diagnose.killed(self._call.environment, self._call.function)
            problem = attempt.problem
            unclear = (unclear or attempt.sent) and problem.exit_code not in RELAY_FAILED
            over = time.monotonic() - begun > (RETRY_FOR if unclear else _CONNECT_FOR)
            if over or problem.refused or (problem.final and not unclear):
                break
            time.sleep(RETRY_PAUSE)
        if unclear:
            self._find_out(pod, str(problem))
            return None
        self._discard(pod)
        raise _ColdError("exec", f"pod {pod.metadata.name} did not take it ({problem})")

    def _find_out(self, pod: k8s.V1Pod, problem: str) -> None:
        """Leave a pod that may have the call to the watch if it has ended or is gone; else remove it."""
        state = self._api.pod(pod.metadata.name)
        if state is None or pod_state.has_ended(state):
            return
        remove(self._api, pod, self._call)
        raise BackendError(
            self._call.environment.name,
            f"pod {pod.metadata.name} does not answer ({problem}), so it is not known whether {self._call.function}() "
            "was delivered to it. The pod was removed.",
        )


@dataclasses.dataclass(frozen=True)
class _Attempt:
    """What came of one connection."""

    attached: Attached | None = None
    answer: Answer | None = None
    sent: bool = False  # whether all was sent, though there was no answer
    problem: BrokenOffError = dataclasses.field(default_factory=lambda: BrokenOffError(""))


def _attempted(connect: Callable[[], Attached], files: Mapping[str, Buffer]) -> _Attempt:
    attached = None
    try:
        attached = connect()
        answer = attached.deliver(files)
    except BrokenOffError as error:
        if attached is not None:
            attached.close()
        return _Attempt(sent=attached is not None and attached.sent, problem=error)
    if answer is Answer.TAKEN:
        attached.close()
    return _Attempt(attached, answer)


def _is_staying(pod: dict[str, Any]) -> bool:
    """Return whether a pod waits or is going to: it neither ended nor is it being removed."""
    ended = pod.get("status", {}).get("phase") in ("Failed", "Succeeded")
    return not ended and "deletionTimestamp" not in pod["metadata"]


def _age(pod: dict[str, Any]) -> float:
    """Return for how many seconds a pod has been active, as its deadline counts."""
    started = datetime.datetime.fromisoformat(pod["status"]["startTime"])
    return max(0.0, time.time() - started.timestamp())
