"""Why a pod did not bring a result, from what Kubernetes knows about it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from k8s_venv.backends.kubernetes import pod_status
from k8s_venv.backends.kubernetes.refusals import sentence
from k8s_venv.backends.kubernetes.render import BASE
from k8s_venv.backends.process import exit_reason
from k8s_venv.errors import BackendError

if TYPE_CHECKING:
    from k8s_venv.config.environment import Environment

# How a node reports a registry that it will not find, or not trust, the next time either.
_OTHER_REGISTRY = ("no such host", "x509", "certificate", "http response to https client")
_SHOWN = 500  # characters of a message that is no result
_OTHER_MACHINE = re.compile(r"exec \S*: exec format error")  # what runc says in the container's place


def startup_failure(pod: Any, environment: Environment) -> BackendError:
    """Return why a pod that waits will never start."""
    status = pod_status.cannot_start(pod)
    waiting = status.state.waiting
    if waiting.reason in pod_status.IMAGE_REASONS:
        return _image_missing(environment, status.image, waiting.message or "")
    return BackendError(
        environment.name,
        f"the container {status.name!r} cannot be started ({waiting.reason}): {waiting.message or ''}.",
    )


def startup_timeout(pod: Any, environment: Environment, seconds: float, warning: str = "") -> BackendError:
    """Return why a pod did not start in time.

    Args:
        pod: its last state.
        environment: whose call it was.
        seconds: the time that it had.
        warning: the last warning among its events.
    """
    conditions = {condition.type: condition for condition in (pod.status.conditions or [])}
    scheduled = conditions.get("PodScheduled")
    if scheduled is None or scheduled.status != "True":
        reason = (scheduled.message or scheduled.reason) if scheduled else "the scheduler has not looked at it"
        return BackendError(
            environment.name,
            f"no node could take its pod within {seconds:.0f} s: {sentence(reason)} Ask for less in "
            "`container_resources`, or raise `schedule_timeout_seconds`.",
        )
    state = pod_status.container_state(pod)
    waiting = state.waiting if state else None
    reason = f"{waiting.reason}: {waiting.message}" if waiting and waiting.message else "the node is still preparing it"
    remedy = ""
    if waiting and waiting.reason in pod_status.IMAGE_REASONS:
        remedy = "Its node cannot pull the image now: is the registry there, and does the node reach it? "
        if not pod_status.is_backing_off(waiting.message, pod.spec.containers[0].image or ""):
            warning = ""  # the container's own message says more
    return BackendError(
        environment.name,
        f"its pod did not start within {seconds:.0f} s ({warning or reason}). {remedy}Raise `startup_timeout_seconds` "
        "if it needs longer.",
    )


def killed(environment: Environment, function: str) -> BackendError:
    """Return that a call was ended with its task.

    Args:
        environment: whose call it was.
        function: the function's name.
    """
    return BackendError(
        environment.name,
        f"{function}() was ended, since its task was killed: somebody cleared or marked it, its time was over, or its "
        "worker was stopped.",
    )


def gone(environment: Environment, function: str, cause: str = "") -> BackendError:
    """Return that a pod was removed before its call had left a result.

    Args:
        environment: whose call it was.
        function: the function's name.
        cause: why, as a sentence.
    """
    return BackendError(
        environment.name, f"{function}() ended without a result: its pod was deleted from outside. {cause}".rstrip()
    )


def death(pod: Any, environment: Environment, function: str, last_line: str = "", left: str = "") -> BackendError:
    """Return why a pod ended without a result.

    Args:
        pod: its last state.
        environment: whose call it was.
        function: the function's name.
        last_line: the last line of its log, if it was read.
        left: its termination message, where that is no result.
    """
    name = environment.name
    if pod.status.reason == "Evicted":
        return BackendError(name, f"{function}() was evicted from its node: {sentence(pod.status.message)}")
    if pod.status.reason == "DeadlineExceeded":
        return BackendError(
            name,
            f"{function}() ran longer than its pod's `active_deadline_seconds` allows "
            f"({pod.spec.active_deadline_seconds} s). Raise it on the task or in the environment's `pod` options.",
        )
    disrupted = pod_status.disruption(pod)
    if disrupted is not None:
        return BackendError(name, f"{function}() was evicted from its node ({disrupted.reason}): {disrupted.message}.")
    if pod_status.was_ended(pod) and not pod.status.reason:
        return gone(environment, function)
    failed = pod_status.failed_init_container(pod)
    if failed is not None:
        return BackendError(
            name,
            f"the init container {failed.name!r} left with exit code {failed.state.terminated.exit_code}; the log "
            "above ends with its last lines.",
        )
    state = pod_status.container_state(pod)
    if state and state.terminated:
        problem = _container_death(pod, state.terminated, function, last_line, left)
        return BackendError(name, problem, state.terminated.exit_code)
    reason = pod.status.reason or pod.status.phase
    return BackendError(
        name, f"{function}() ended without a result: its pod is {reason}. {pod.status.message or ''}".rstrip()
    )


def _container_death(pod: Any, ended: Any, function: str, last_line: str, left: str) -> str:
    if ended.reason == "OOMKilled":
        return (
            f"{function}() used more memory than its container may ({_memory_limit(pod)}) and was killed. Raise it "
            "with `container_resources`, on the task or in the environment's `pod` options."
        )
    if ended.reason in ("StartError", "ContainerCannotRun"):
        return f"its image cannot run `python`: {ended.message or ended.reason}. An image needs `python` on its PATH."
    if _OTHER_MACHINE.fullmatch(last_line):
        return (
            f"its image cannot run on its node, which is another kind of machine ({last_line}). Build it for that "
            "platform (`platforms` of the environment), or choose nodes with `node_selector`."
        )
    reason = f"{function}() ended without a result: {exit_reason(ended.exit_code)}."
    if not left:
        return reason
    shown = left if len(left) <= _SHOWN else f"{left[:_SHOWN]}[…]"
    return f"{reason} Another program wrote the container's termination message: {shown!r}."


def _image_missing(environment: Environment, image: str, message: str) -> BackendError:
    # What `build-images` pushes is named so; a task, its environment, `pod` or an init container name any other.
    built = environment.image is None and re.search(rf"/{re.escape(environment.name)}:[0-9a-f]{{20}}$", image)
    if any(sign in message.lower() for sign in _OTHER_REGISTRY):
        remedy = "Its node cannot speak to that registry: is its name right, and does the node trust it?"
    elif built:
        remedy = f"Is it built? Run `k8s-venv build-images {environment.name}`."
    else:
        remedy = (
            "It is named by the task's or the environment's `image`: is that right, and may the cluster pull it "
            "(`image_pull_secrets`)?"
        )
    return BackendError(environment.name, f"its image {image} cannot be pulled. {remedy} The node says: {message}")


def _memory_limit(pod: Any) -> str:
    for container in pod.spec.containers:
        if container.name == BASE and container.resources and container.resources.limits:
            return f"limit {container.resources.limits.get('memory', 'of the namespace')}"
    return "no limit of its own: the node ran out"
