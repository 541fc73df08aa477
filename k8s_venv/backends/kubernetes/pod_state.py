"""What the states of a pod mean for the call in it: pure, so that a worker and a triggerer decide alike."""

from __future__ import annotations

import dataclasses
import datetime
import re
import time
from typing import TYPE_CHECKING, Any, Literal

from k8s_venv.backends.kubernetes.options import from_manifest
from k8s_venv.backends.kubernetes.render import BASE, CALL_VOLUME, SIDECAR
from k8s_venv.backends.limits import SCHEDULE_TIMEOUT, STARTUP_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Mapping

DELETED = "DELETED"  # what a watch calls a pod that is gone
# Why waiting for a pod is over: its call ended, it is gone, it can never start, it did not start in time.
Reason = Literal["ended", "deleted", "stuck", "late"]

IMAGE_REASONS = {
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
}
_CONTAINER_REASONS = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
# The kubelet tries these again by itself, images as containers: they may pass.
_PASSING = (
    *("qps exceeded", "too many requests", "rate limit", "timeout", "timed out", "deadline exceeded"),
    *("connection refused", "connection reset", "broken pipe", "eof", "no route to host", "network is unreachable"),
    *("server misbehaving", "is reserved for", "temporarily", "unavailable", "gateway"),
)
# How kubelets before Kubernetes 1.32 wait for the next attempt, without the reason of the last one.
_BACKING_OFF = re.compile(r'back-off pulling image "\s*"')
# Seconds within which a container ends whose program cannot be started.
_FAILS_WITHIN = 5.0
_DOCUMENT = '{"protocol"'  # how the runner begins its message

# The parts of a pod that show how its call ended; they hold no value that a user gave.
_METADATA = ("name", "namespace", "uid", "labels", "deletionTimestamp", "deletionGracePeriodSeconds")
_CONTAINER = ("name", "image", "resources")


@dataclasses.dataclass(frozen=True)
class Timeouts:
    """How long a pod may take to start, in seconds."""

    schedule: float = SCHEDULE_TIMEOUT  # until a node takes it
    startup: float = STARTUP_TIMEOUT  # from then until it runs


@dataclasses.dataclass(frozen=True)
class PodOutcome:
    """How waiting for a pod ended."""

    reason: Reason
    pod: Any  # its last known state, or None if none was seen
    seen: Mapping[str, float]  # when each phase was seen, in seconds since the epoch
    allowed: float = 0.0  # the seconds that were not enough, if it came late

    def to_json(self, pod: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return this outcome as plain data for the event of a trigger, with its pod as ``summary`` gives it."""
        return {"why": self.reason, "pod": pod, "seen": dict(self.seen), "allowed": self.allowed}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> PodOutcome:
        """Return the outcome that ``to_json`` wrote."""
        pod = to_pod(fields["pod"]) if fields["pod"] else None
        return cls(fields["why"], pod, dict(fields["seen"]), fields["allowed"])


class PodPhaseTracker:
    """Decides, state by state, whether waiting for a pod is over.

    Args:
        timeouts: how long it may take to start.
        seen: when it was ``created``, in seconds since the epoch; other phases are added.
    """

    def __init__(self, timeouts: Timeouts, seen: dict[str, float]) -> None:
        self._timeouts = timeouts
        self._seen = seen
        self._pod: Any = None

    def observe(self, kind: str, pod: Any) -> PodOutcome | None:
        """Record a state.

        Args:
            kind: ``ADDED``, ``MODIFIED`` or ``DELETED``.
            pod: the pod, or None if it does not exist any more.

        Returns:
            How waiting ended, or None while it goes on.
        """
        self._pod = pod or self._pod
        if pod is not None:
            self._note_phases(pod)
        if kind == DELETED:
            return self._outcome("deleted")
        if has_ended(pod):
            return self._outcome("ended")
        if "running" in self._seen:
            return None
        if cannot_start(pod):
            return self._outcome("stuck")
        return self._outcome("late") if self._left() <= 0 else None

    def received(self) -> PodOutcome:
        """Return the outcome of a call whose result came before the end of its pod was seen."""
        return self._outcome("ended")

    def next_look(self) -> float:
        """Return the seconds after which the pod must be looked at again, even if it does not change."""
        if "running" in self._seen:
            return float("inf")
        # The watch that shows it scheduled must not outlast the time that it then has.
        return self._left() if "scheduled" in self._seen else min(self._left(), self._timeouts.startup)

    def _left(self) -> float:
        since, allowed = self._allowed()
        return since + allowed - time.time()

    def _allowed(self) -> tuple[float, float]:
        if "scheduled" in self._seen:
            return self._seen["scheduled"], self._timeouts.startup
        return self._seen["created"], self._timeouts.schedule

    def _note_phases(self, pod: Any) -> None:
        now = time.time()
        true = {condition.type for condition in pod.status.conditions or () if condition.status == "True"}
        for phase, reached in (
            ("scheduled", "PodScheduled" in true),
            ("ready", "PodReadyToStartContainers" in true),
            ("running", has_started(pod)),
        ):
            if reached:
                self._seen.setdefault(phase, now)

    def _outcome(self, reason: Reason) -> PodOutcome:
        self._seen["ended"] = time.time()
        return PodOutcome(reason, self._pod, dict(self._seen), self._allowed()[1])


def summary(pod: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a pod, a JSON object as the API gives it, that show how its call ended."""
    spec = pod["spec"]
    kept = {
        "containers": [{key: each[key] for key in _CONTAINER if key in each} for each in spec["containers"]],
        "volumes": [volume for volume in spec.get("volumes", ()) if volume["name"] == CALL_VOLUME],
        "activeDeadlineSeconds": spec.get("activeDeadlineSeconds"),
    }
    metadata = {key: pod["metadata"][key] for key in _METADATA if key in pod["metadata"]}
    return {"metadata": metadata, "spec": kept, "status": pod.get("status", {})}


def to_pod(pod: Mapping[str, Any]) -> Any:
    """Return the client's object for a pod's JSON object."""
    return from_manifest(pod, "V1Pod")


def container_state(pod: Any, name: str = BASE) -> Any:
    """Return a container's state, or None if there is no pod, or the kubelet has reported none."""
    statuses = (pod.status.container_statuses or []) if pod is not None and pod.status else []
    return next((status.state for status in statuses if status.name == name), None)


def has_started(pod: Any) -> bool:
    """Return whether a pod's call runs or has ended."""
    state = container_state(pod)
    return bool(state and (state.running or state.terminated))


def has_ended(pod: Any) -> bool:
    """Return whether a pod's call has ended, or will never run."""
    state = container_state(pod)
    return bool((state and state.terminated) or pod.status.phase in ("Failed", "Succeeded"))


def message(pod: Any) -> str:
    """Return the result document in a pod's status, or nothing: a program of the user's may leave a message as well."""
    text = _termination_message(pod)
    return text if text.startswith(_DOCUMENT) else ""


def foreign_message(pod: Any) -> str:
    """Return the termination message that a program of the user's left in the result's place, or nothing."""
    text = _termination_message(pod)
    return "" if text.startswith(_DOCUMENT) else text.strip()


def _termination_message(pod: Any) -> str:
    state = container_state(pod)
    return (state.terminated.message or "") if state and state.terminated else ""


def has_run(pod: Any) -> bool:
    """Return whether a pod's runner must have begun: it left its result, or its container ran for seconds."""
    if message(pod):
        return True
    state = container_state(pod)
    container = (state.terminated or state.running) if state else None
    if not (container and container.started_at):
        return False
    ended = (state.terminated and state.terminated.finished_at) or datetime.datetime.now(datetime.UTC)
    return bool((ended - container.started_at).total_seconds() >= _FAILS_WITHIN)


def was_ended(pod: Any) -> bool:
    """Return whether Kubernetes, or somebody who deleted the pod, ended its call."""
    if pod.status.reason:
        return True
    if pod.metadata.deletion_timestamp is None:
        return False
    state = container_state(pod)
    if not (state and state.terminated and state.terminated.finished_at):
        return True
    grace = datetime.timedelta(seconds=pod.metadata.deletion_grace_period_seconds or 0)
    return bool(state.terminated.finished_at >= pod.metadata.deletion_timestamp - grace)


def cannot_start(pod: Any) -> Any:
    """Return the status of a container for which a pod waits in vain, or None while it may start."""
    # A container that was injected beside the call neither runs nor stops it.
    ours = [status for status in pod.status.container_statuses or [] if status.name in (BASE, SIDECAR)]
    for status in [*(pod.status.init_container_statuses or []), *ours]:
        waiting = status.state.waiting if status.state else None
        if waiting is None:
            continue
        if waiting.reason in (IMAGE_REASONS | _CONTAINER_REASONS) and not _may_pass(waiting.message, status.image):
            return status
    return None


def _may_pass(message: str | None, image: str) -> bool:
    """Return whether the kubelet's next attempt may succeed, by its message about the last one."""
    if is_backing_off(message, image):  # without the reason of the last attempt, which was seen before if it was final
        return True
    text = _without_image(message, image)
    return any(re.search(rf"\b{word}", text) for word in _PASSING)


def is_backing_off(message: str | None, image: str) -> bool:
    """Return whether a kubelet's message about an image names no reason but that it waits for its next attempt."""
    return bool(_BACKING_OFF.fullmatch(_without_image(message, image)))


def _without_image(message: str | None, image: str) -> str:
    """Return a message in small letters without the image's name, which may contain any word."""
    text = (message or "").lower()
    for name in (image, image.partition("@")[0], image.rpartition(":")[0]):
        text = text.replace(name.lower() or " ", " ")
    return text.strip()


def failed_init_container(pod: Any) -> Any:
    """Return the status of the init container that failed, or None.

    One that runs beside the call (``restartPolicy: Always``) may end as it likes: the call began, so it had started.
    """
    state = container_state(pod)
    if state and (state.running or (state.terminated and state.terminated.started_at)):
        return None
    for status in pod.status.init_container_statuses or []:
        ended = status.state.terminated if status.state else None
        if ended is not None and ended.exit_code:
            return status
    return None


def disruption(pod: Any) -> Any:
    """Return the condition with which Kubernetes says that it ended a pod itself, or None."""
    for condition in (pod.status.conditions or ()) if pod is not None else ():
        if condition.type == "DisruptionTarget" and condition.status == "True":
            return condition
    return None
