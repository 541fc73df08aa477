"""Say why a pod did not bring a result, from what Kubernetes knows about it."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from k8s_venv.backends.kubernetes.render import BASE
from k8s_venv.errors import BackendError

if TYPE_CHECKING:
    from k8s_venv.environment import Environment

# The kubelet tries these again by itself: they may pass.
_PASSING = (
    "qps exceeded",
    "too many requests",
    "rate limit",
    "timeout",
    "temporarily",
    "unavailable",
    "gateway",
)
_IMAGE_REASONS = {
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
}
_CONTAINER_REASONS = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}


def container_state(pod: Any, name: str = BASE) -> Any:
    """Return a container's state, or None before the kubelet reported one."""
    statuses = (pod.status.container_statuses or []) if pod.status else []
    return next((status.state for status in statuses if status.name == name), None)


def startup_failure(pod: Any, environment: Environment) -> BackendError | None:
    """Return why a pod that waits will never start, or None while it may."""
    statuses = [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]
    for status in statuses:
        waiting = status.state.waiting if status.state else None
        if waiting is None:
            continue
        message = waiting.message or ""
        if waiting.reason in _IMAGE_REASONS and not any(word in message.lower() for word in _PASSING):
            return _image_missing(environment, status.image, message)
        if waiting.reason in _CONTAINER_REASONS:
            return BackendError(
                environment.name,
                f"the container {status.name!r} cannot be started ({waiting.reason}): {message}.",
            )
    return None


def startup_timeout(pod: Any, environment: Environment, seconds: float) -> BackendError:
    """Return why a pod did not start in time."""
    conditions = {condition.type: condition for condition in (pod.status.conditions or [])}
    scheduled = conditions.get("PodScheduled")
    if scheduled is not None and scheduled.status != "True":
        problem = f"no node could take its pod within {seconds:.0f} s: {scheduled.message or scheduled.reason}."
        return BackendError(
            environment.name,
            f"{problem} Ask for less in `container_resources`, or raise `schedule_timeout_seconds`.",
        )
    state = container_state(pod)
    waiting = state.waiting if state else None
    reason = f"{waiting.reason}: {waiting.message}" if waiting and waiting.message else "the node is still preparing it"
    return BackendError(
        environment.name,
        f"its pod did not start within {seconds:.0f} s ({reason}). Raise `startup_timeout_seconds` if it needs longer.",
    )


def death(pod: Any, environment: Environment, function: str) -> BackendError:
    """Return why a pod ended without a result."""
    name = environment.name
    if pod.status.reason == "Evicted":
        return BackendError(name, f"{function}() was evicted from its node: {pod.status.message}")
    if pod.status.reason == "DeadlineExceeded":
        return BackendError(name, f"{function}() ran longer than the pod's `active_deadline_seconds` allows.")
    if pod.metadata.deletion_timestamp is not None:
        return BackendError(name, f"{function}() ended without a result: its pod was deleted from outside.")
    for status in pod.status.init_container_statuses or []:
        failed = status.state.terminated if status.state else None
        if failed is not None and failed.exit_code:
            return BackendError(
                name, f"the init container {status.name!r} left with exit code {failed.exit_code}: see its log."
            )
    state = container_state(pod)
    ended = state.terminated if state else None
    if ended is None:
        reason = pod.status.reason or pod.status.phase
        return BackendError(
            name, f"{function}() ended without a result: its pod is {reason}. {pod.status.message or ''}"
        )
    if ended.reason == "OOMKilled":
        limit = _memory_limit(pod)
        return BackendError(
            name,
            f"{function}() used more memory than its container may ({limit}) and was killed. Raise it with "
            "`container_resources`, on the task or in the environment's `pod` options.",
        )
    if ended.reason in ("StartError", "ContainerCannotRun"):
        return BackendError(
            name,
            f"its image cannot run `python`: {ended.message or ended.reason}. An image needs `python` on its PATH.",
        )
    return BackendError(name, f"{function}() ended without a result: {_exit(ended.exit_code)}.")


def refused(error: Any, environment: Environment, what: str, namespace: str) -> BackendError:
    """Return what the API server's refusal to create something means.

    Args:
        error: the client's exception.
        environment: whose call it was.
        what: the kind of object.
        namespace: where it was to be.
    """
    reason = _message(error)
    if error.status == 403 and "violates PodSecurity" in reason:
        hint = "The namespace's Pod Security level does not admit the pod's options."
    elif error.status == 403 and "exceeded quota" in reason:
        hint = "The namespace's quota is used up."
    elif error.status == 403:
        hint = "Airflow's account needs more rights in that namespace: ask whoever runs the cluster."
    elif error.status == 404:
        hint = f"Does the namespace {namespace!r} exist?"
    else:
        hint = "Check the pod's options."
    return BackendError(environment.name, f"Kubernetes refused the {what} in namespace {namespace!r}: {reason} {hint}")


def _image_missing(environment: Environment, image: str, message: str) -> BackendError:
    remedy = (
        f"Is it built? Run `k8s-venv build-images {environment.name}`."
        if environment.image is None
        else "Is `image` right, and may the cluster pull it (`image_pull_secrets`)?"
    )
    return BackendError(environment.name, f"its image {image} cannot be pulled. {remedy} The node says: {message}")


def _message(error: Any) -> str:
    import json

    try:
        text = str(json.loads(error.body)["message"])
    except (ValueError, KeyError, TypeError):
        text = str(error.reason)
    return text if text.endswith(".") else f"{text}."


def _memory_limit(pod: Any) -> str:
    for container in pod.spec.containers:
        if container.name == BASE and container.resources and container.resources.limits:
            return f"limit {container.resources.limits.get('memory', 'of the namespace')}"
    return "no limit of its own: the node ran out"


def _exit(code: int) -> str:
    if code > 128:
        try:
            name = signal.Signals(code - 128).name
        except ValueError:
            return f"its process left with exit code {code}"
        hints = {
            "SIGSEGV": " (a crash in compiled code)",
            "SIGKILL": " (killed from outside, or out of memory)",
        }
        return f"its process was ended by {name}{hints.get(name, '')}"
    return f"its process left with exit code {code} (os._exit?)"
