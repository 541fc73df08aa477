"""What a pod's status says about its call: how far it is, how it ended, whether it can start."""

from __future__ import annotations

import datetime
import re
from typing import Any

from k8s_venv.backends.kubernetes.render import BASE, SIDECAR

# The kubelet tries these again by itself, images as containers: they may pass.
_PASSING = (
    "qps exceeded",
    "too many requests",
    "rate limit",
    "timeout",
    "timed out",
    "deadline exceeded",
    "connection refused",
    "connection reset",
    "broken pipe",
    "eof",
    "no route to host",
    "network is unreachable",
    "server misbehaving",
    "is reserved for",
    "temporarily",
    "unavailable",
    "gateway",
)
# How kubelets before Kubernetes 1.32 wait for the next attempt, without the reason of the last one.
_BACKING_OFF = re.compile(r'back-off pulling image "\s*"')
IMAGE_REASONS = {
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
}
# Seconds within which a container ends whose program cannot be started.
_FAILS_WITHIN = 5.0
_DOCUMENT = '{"protocol"'  # how the runner begins its message
_CONTAINER_REASONS = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}


def container_state(pod: Any, name: str = BASE) -> Any:
    """Return a container's state, or None before the kubelet reported one."""
    statuses = (pod.status.container_statuses or []) if pod.status else []
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
    state = container_state(pod) if pod is not None else None
    text = (state.terminated.message or "") if state and state.terminated else ""
    return text if text.startswith(_DOCUMENT) else ""


def foreign_message(pod: Any) -> str:
    """Return the termination message that a program of the user's left in the result's place, or nothing."""
    state = container_state(pod) if pod is not None else None
    text = (state.terminated.message or "") if state and state.terminated else ""
    return "" if text.startswith(_DOCUMENT) else text.strip()


def has_run(pod: Any) -> bool:
    """Return whether a pod's runner must have begun: it left its result, or its container ran for seconds."""
    state = container_state(pod) if pod is not None else None
    if message(pod) or not state:
        return bool(message(pod))
    container = state.terminated or state.running
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
    # What was injected beside the call neither runs nor stops it.
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
    """Return whether a kubelet's message names no reason but that it waits for its next attempt.

    Args:
        message: what the kubelet says while a container waits.
        image: the container's image.
    """
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
