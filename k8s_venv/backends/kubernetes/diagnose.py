"""Say why a pod did not bring a result, from what Kubernetes knows about it."""

from __future__ import annotations

import datetime
import json
import re
from typing import TYPE_CHECKING, Any

from k8s_venv.backends.exits import exit_reason
from k8s_venv.backends.kubernetes.render import BASE, SIDECAR
from k8s_venv.errors import BackendError

if TYPE_CHECKING:
    from k8s_venv.environment import Environment

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
# What a node says of a registry that it will not find, or not trust, the next time either.
_OTHER_REGISTRY = ("no such host", "x509", "certificate", "http response to https client")
# How kubelets before Kubernetes 1.32 wait for the next attempt, without the reason of the last one.
_BACKING_OFF = re.compile(r'back-off pulling image "\s*"')
_IMAGE_REASONS = {
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
}
# What the API server's refusals mean, by words in which it, or one of its admission plugins, puts them.
_HINTS = {
    "violates PodSecurity": "The namespace's Pod Security level does not admit the pod's options.",
    "exceeded quota": "The namespace's quota is used up.",
    "failed quota": "The namespace's quota wants it said: add it to `container_resources`.",
    " per Container is ": "The namespace's LimitRange says so: change `container_resources`.",
    " per Pod is ": "The namespace's LimitRange says so: change `container_resources`.",
    "being terminated": "The namespace is being deleted.",
    "denied the request": "It is a policy of the cluster: change the pod's options, or ask whoever runs the cluster.",
    "denied request": "It is a policy of the cluster: change the pod's options, or ask whoever runs the cluster.",
    "failed calling webhook": "One of the cluster's admission webhooks does not answer: ask whoever runs the cluster.",
    "quantities must match": "Amounts in `container_resources` are written such as 500m or 2Gi.",
    " in API group ": "Airflow's account needs more rights in that namespace: ask whoever runs the cluster.",
    "Unauthorized": "The cluster does not know the account: is its token or certificate still valid?",
}
# How the API server (RBAC) refuses what an account has no right to.
_LACKS = re.compile(r'User "([^"]+)" cannot (\w+) resource "([\w/]+)"')
# Seconds within which a container ends whose program cannot be started.
_FAILS_WITHIN = 5.0
_SHOWN = 500  # characters of a message that is no result
_OTHER_MACHINE = re.compile(r"exec \S*: exec format error")  # what runc says in the container's place
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


def missing_right(error: Any) -> str:
    """Return which right the account lacks, as a sentence, or nothing where that is not why it was refused.

    Args:
        error: a client's exception, with its ``status`` and ``body``.
    """
    lacks = _LACKS.search(status_field(error, "message")) if getattr(error, "status", None) == 403 else None
    if lacks is None:
        return ""
    return (
        f"The account {lacks[1]} needs the right to `{lacks[2]}` `{lacks[3]}` in that namespace: ask whoever runs the "
        "cluster."
    )


def why(error: Any) -> str:
    """Return why a request was refused, or had no answer: as a sentence, with the right that is missing.

    Args:
        error: a client's exception.
    """
    return missing_right(error) or _sentence(str(getattr(error, "reason", None) or error))


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
        if waiting.reason in (_IMAGE_REASONS | _CONTAINER_REASONS) and not _may_pass(waiting.message, status.image):
            return status
    return None


def _may_pass(message: str | None, image: str) -> bool:
    """Return whether the kubelet's next attempt may succeed, by what it says of the last one."""
    text = _without_image(message, image)
    if _BACKING_OFF.fullmatch(text):  # nothing of the last attempt, which was seen before if it was final
        return True
    return any(re.search(rf"\b{word}", text) for word in _PASSING)


def _without_image(message: str | None, image: str) -> str:
    """Return a message in small letters without the image's name, which may contain any word."""
    text = (message or "").lower()
    for name in (image, image.partition("@")[0], image.rpartition(":")[0]):
        text = text.replace(name.lower() or " ", " ")
    return text.strip()


def startup_failure(pod: Any, environment: Environment) -> BackendError:
    """Return why a pod that waits will never start."""
    status = cannot_start(pod)
    waiting = status.state.waiting
    if waiting.reason in _IMAGE_REASONS:
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
            f"no node could take its pod within {seconds:.0f} s: {_sentence(reason)} Ask for less in "
            "`container_resources`, or raise `schedule_timeout_seconds`.",
        )
    state = container_state(pod)
    waiting = state.waiting if state else None
    reason = f"{waiting.reason}: {waiting.message}" if waiting and waiting.message else "the node is still preparing it"
    remedy = ""
    if waiting and waiting.reason in _IMAGE_REASONS:
        remedy = "Its node cannot pull the image now: is the registry there, and does the node reach it? "
        warning = (
            warning
            if _BACKING_OFF.fullmatch(_without_image(waiting.message, pod.spec.containers[0].image or ""))
            else ""
        )
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
        cause: what Kubernetes says of it, as a sentence.
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
        return BackendError(name, f"{function}() was evicted from its node: {_sentence(pod.status.message)}")
    if pod.status.reason == "DeadlineExceeded":
        return BackendError(
            name,
            f"{function}() ran longer than its pod's `active_deadline_seconds` allows "
            f"({pod.spec.active_deadline_seconds} s). Raise it on the task or in the environment's `pod` options.",
        )
    disrupted = disruption(pod)
    if disrupted is not None:
        return BackendError(name, f"{function}() was evicted from its node ({disrupted.reason}): {disrupted.message}.")
    if was_ended(pod) and not pod.status.reason:
        return gone(environment, function)
    failed = failed_init_container(pod)
    if failed is not None:
        return BackendError(
            name,
            f"the init container {failed.name!r} left with exit code {failed.state.terminated.exit_code}; the log "
            "above ends with its last lines.",
        )
    state = container_state(pod)
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


def is_limited(error: Any) -> bool:
    """Return whether a namespace's LimitRange does not take the resources that a pod asks for."""
    return bool(error.status == 403 and " per Container is " in _message(error))


def refused(error: Any, environment: Environment, what: str, namespace: str, origin: str = "") -> BackendError:
    """Return what the API server's refusal means.

    Args:
        error: the client's exception.
        environment: whose call it was.
        what: what was asked for.
        namespace: where.
        origin: where the namespace comes from, if that is known.
    """
    reason = _message(error)
    hint = next((hint for sign, hint in _HINTS.items() if sign in reason), "Check the pod's options.")
    hint = missing_right(error) or hint
    if error.status == 404:
        hint = f"Does the namespace {namespace!r} exist?"
    place = f"namespace {namespace!r} ({origin})" if origin else f"namespace {namespace!r}"
    return BackendError(environment.name, f"Kubernetes refused the {what} in {place}: {reason} {hint}")


def unreachable(error: Exception, environment: Environment, seconds: float) -> BackendError:
    """Return that the API server did not answer.

    Args:
        error: what the client said last.
        environment: whose call it was.
        seconds: for how long it was tried.
    """
    cause = getattr(error, "reason", None) or error
    return BackendError(
        environment.name, f"the Kubernetes API server did not answer for {seconds:.0f} s: {_sentence(str(cause))}"
    )


def disruption(pod: Any) -> Any:
    """Return the condition with which Kubernetes says that it ended a pod itself, or None."""
    for condition in (pod.status.conditions or ()) if pod is not None else ():
        if condition.type == "DisruptionTarget" and condition.status == "True":
            return condition
    return None


def _sentence(text: str | None) -> str:
    text = (text or "no reason is given").strip()
    return text if text.endswith(".") else f"{text}."


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


def status_field(error: Any, field: str) -> str:
    """Return a field of the ``Status`` with which the API server refused something, or nothing.

    Args:
        error: the client's exception.
        field: ``message`` or ``reason``.
    """
    try:
        return str(json.loads(error.body)[field])
    except (ValueError, KeyError, TypeError):
        return ""


def _message(error: Any) -> str:
    return _sentence(status_field(error, "message") or str(error.reason))


def _memory_limit(pod: Any) -> str:
    for container in pod.spec.containers:
        if container.name == BASE and container.resources and container.resources.limits:
            return f"limit {container.resources.limits.get('memory', 'of the namespace')}"
    return "no limit of its own: the node ran out"
