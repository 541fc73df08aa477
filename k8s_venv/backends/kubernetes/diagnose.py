"""The messages about a pod that brought no result, and about a request that Kubernetes refused or did not answer."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from k8s_venv.backends.kubernetes import pod_state
from k8s_venv.backends.kubernetes.render import BASE
from k8s_venv.backends.limits import RETRY_FOR
from k8s_venv.backends.process import cannot_run_python, no_result, out_of_memory
from k8s_venv.errors import BackendError

if TYPE_CHECKING:
    from k8s_venv.config.environment import Environment

# How a node reports a registry that it will not find, or not trust, the next time either.
_OTHER_REGISTRY = ("no such host", "x509", "certificate", "http response to https client")
_SHOWN = 500  # characters of a message that is no result
_OTHER_MACHINE = re.compile(r"exec \S*: exec format error")  # what runc says in the container's place
_LIMIT_RANGE = "The namespace's LimitRange says so: change `container_resources`."
_POLICY = "It is a policy of the cluster: change the pod's options, or ask those who run the cluster."
# What the API server's refusals mean, by words that it, or one of its admission plugins, uses.
_HINTS = {
    "violates PodSecurity": "The namespace's Pod Security level does not admit the pod's options.",
    "exceeded quota": "The namespace's quota is used up.",
    "failed quota": "The namespace's quota needs an amount for it: add it to `container_resources`.",
    " per Container is ": _LIMIT_RANGE,
    " per Pod is ": _LIMIT_RANGE,
    "being terminated": "The namespace is being deleted.",
    "denied the request": _POLICY,
    "denied request": _POLICY,
    "failed calling webhook": "One of the cluster's admission webhooks does not answer: ask those who run the cluster.",
    "quantities must match": "Amounts in `container_resources` are written such as 500m or 2Gi.",
    " in API group ": "Airflow's account needs more rights in that namespace: ask those who run the cluster.",
    "Unauthorized": "The cluster does not know the account: is its token or certificate still valid?",
}
# How the API server (RBAC) refuses what an account has no right to.
_LACKS = re.compile(r'User "([^"]+)" cannot (\w+) resource "([\w/]+)"')


def startup_failure(pod: Any, environment: Environment) -> BackendError:
    """Return the error for a pod that waits and will never start."""
    status = pod_state.cannot_start(pod)
    waiting = status.state.waiting
    if waiting.reason in pod_state.IMAGE_REASONS:
        return _image_missing(environment, status.image, waiting.message or "")
    return BackendError(
        environment.name,
        f"the container {status.name!r} cannot be started ({waiting.reason}): {waiting.message or ''}.",
    )


def startup_timeout(pod: Any, environment: Environment, seconds: float, warning: str = "") -> BackendError:
    """Return the error for a pod that did not start within some seconds, with the last warning among its events."""
    conditions = {condition.type: condition for condition in (pod.status.conditions or [])}
    scheduled = conditions.get("PodScheduled")
    if scheduled is None or scheduled.status != "True":
        reason = (scheduled.message or scheduled.reason) if scheduled else "the scheduler has not looked at it"
        return BackendError(
            environment.name,
            f"no node could take its pod within {seconds:.0f} s: {sentence(reason)} Ask for less in "
            "`container_resources`, or raise `schedule_timeout_seconds`.",
        )
    state = pod_state.container_state(pod)
    waiting = state.waiting if state else None
    reason = f"{waiting.reason}: {waiting.message}" if waiting and waiting.message else "the node is still preparing it"
    remedy = ""
    if waiting and waiting.reason in pod_state.IMAGE_REASONS:
        remedy = "Its node cannot pull the image now: is the registry there, and does the node reach it? "
        if not pod_state.is_backing_off(waiting.message, pod.spec.containers[0].image or ""):
            warning = ""  # the container's own message says more
    return BackendError(
        environment.name,
        f"its pod did not start within {seconds:.0f} s ({warning or reason}). {remedy}Raise `startup_timeout_seconds` "
        "if it needs longer.",
    )


def killed(environment: Environment, function: str) -> BackendError:
    """Return the error for a call that was ended with its task."""
    return BackendError(
        environment.name,
        f"{function}() was ended, since its task was killed: somebody cleared or marked it, its time was over, or "
        "its worker was stopped.",
    )


def gone(environment: Environment, function: str, cause: str = "") -> BackendError:
    """Return the error for a pod that was removed before its call had left a result, with the cause as a sentence."""
    problem = f"{function}() ended without a result: its pod was deleted from outside. {cause}".rstrip()
    return BackendError(environment.name, problem)


def death(pod: Any, environment: Environment, function: str, last_line: str = "", left: str = "") -> BackendError:
    """Return the error for a pod that ended without a result.

    Args:
        pod: its last state.
        environment: whose program it ran.
        function: the function's name, or the program's.
        last_line: the last line of its log, if it was read.
        left: its termination message, where that is no result.
    """
    name = environment.name
    if pod.status.reason == "Evicted":
        return BackendError(name, f"{function}() was evicted from its node: {sentence(pod.status.message)}")
    if pod.status.reason == "DeadlineExceeded":
        limit = pod.spec.active_deadline_seconds
        return BackendError(
            name,
            f"{function}() ran longer than its pod's `active_deadline_seconds` allows ({limit} s from its start). "
            "Raise it on the task or in the environment's `pod` options.",
        )
    disrupted = pod_state.disruption(pod)
    if disrupted is not None:
        return BackendError(name, f"{function}() was evicted from its node ({disrupted.reason}): {disrupted.message}.")
    if pod_state.was_ended(pod) and not pod.status.reason:
        return gone(environment, function)
    failed = pod_state.failed_init_container(pod)
    if failed is not None:
        return BackendError(
            name,
            f"the init container {failed.name!r} left with exit code {failed.state.terminated.exit_code}; the log "
            "above ends with its last lines.",
        )
    state = pod_state.container_state(pod)
    if state and state.terminated:
        problem = _container_death(pod, state.terminated, function, last_line, left)
        return BackendError(name, problem, state.terminated.exit_code)
    reason = pod.status.reason or pod.status.phase
    return BackendError(
        name, f"{function}() ended without a result: its pod is {reason}. {pod.status.message or ''}".rstrip()
    )


def _container_death(pod: Any, ended: Any, function: str, last_line: str, left: str) -> str:
    if ended.reason == "OOMKilled":
        return out_of_memory(function, _memory_limit(pod))
    if ended.reason in ("StartError", "ContainerCannotRun"):
        return cannot_run_python(ended.message or ended.reason)
    if _OTHER_MACHINE.fullmatch(last_line):
        return (
            f"its image cannot run on its node, which is another kind of machine ({last_line}). Build it for that "
            "platform (`platforms` of the environment), or choose nodes with `node_selector`."
        )
    reason = no_result(function, ended.exit_code)
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


def refused(error: Any, environment: Environment, what: str, namespace: str, origin: str = "") -> BackendError:
    """Return the error for a request that the API server refused.

    Args:
        error: the client's exception.
        environment: whose call it was.
        what: the object of the request.
        namespace: where it was made.
        origin: where the namespace comes from, if that is known.
    """
    reason = _message(error)
    hint = next((hint for sign, hint in _HINTS.items() if sign in reason), "Check the pod's options.")
    hint = missing_right(error) or hint
    if error.status == 404:
        hint = f"Does the namespace {namespace!r} exist?"
    place = f"namespace {namespace!r} ({origin})" if origin else f"namespace {namespace!r}"
    return BackendError(environment.name, f"Kubernetes refused the {what} in {place}: {reason} {hint}")


def unreachable(error: Exception, environment: Environment) -> BackendError:
    """Return the error for an API server that did not answer, though it was asked again for a while."""
    cause = getattr(error, "reason", None) or error
    return BackendError(
        environment.name, f"the Kubernetes API server did not answer for {RETRY_FOR:.0f} s: {sentence(str(cause))}"
    )


def missing_right(error: Any) -> str:
    """Return which right the account lacks, as a sentence, or nothing if a request was refused for another reason."""
    lacks = _LACKS.search(status_field(error, "message")) if getattr(error, "status", None) == 403 else None
    if lacks is None:
        return ""
    return (
        f"The account {lacks[1]} needs the right to `{lacks[2]}` `{lacks[3]}` in that namespace: ask those who run the "
        "cluster."
    )


def request_problem(error: Any) -> str:
    """Return why a request was refused or had no answer, as a sentence, with the right that is missing."""
    return missing_right(error) or sentence(str(getattr(error, "reason", None) or error))


def is_limited(error: Any) -> bool:
    """Return whether a namespace's LimitRange does not take the resources that a pod asks for."""
    return bool(error.status == 403 and " per Container is " in _message(error))


def sentence(text: str | None) -> str:
    """Return a text, such as a message of Kubernetes, with a full stop at its end."""
    text = (text or "no reason is given").strip()
    return text if text.endswith(".") else f"{text}."


def status_field(error: Any, field: str) -> str:
    """Return a field of the ``Status`` of a refusal, ``message`` or ``reason``, or nothing."""
    try:
        return str(json.loads(error.body)[field])
    except (ValueError, KeyError, TypeError):
        return ""


def _message(error: Any) -> str:
    return sentence(status_field(error, "message") or str(error.reason))
