"""What the states of warm pods mean, as pure functions (Python 3.8+, standard library)."""

from __future__ import annotations

import calendar
import re
import time
from typing import Any, Dict, Iterator, NamedTuple, Optional

from quota import Amounts, needs

# The pool's key while a pod waits; the task's identity when it is claimed.
SLOT = "k8s-venv/slot"
# The pool's key, also of a claimed pod.
POOL = "k8s-venv/pool"
ENVIRONMENT = "k8s-venv/environment"
# Which release of the chart made a pod.
KEEPER = "k8s-venv/keeper"

# Seconds within which a pod starts, its image pulled, unless no node takes it.
STARTUP = 900.0
_BASE = "base"
_IMAGE = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
_CONTAINER = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
# What an event takes is 1,024 bytes; the end of a traceback says the most.
_MESSAGE = 600


class Failure(NamedTuple):
    """Why warm pods do not start.

    Args:
        kind: what is said once, until it changes.
        reason: a clause that goes on from "do not start: ".
        remedy: a sentence.
    """

    kind: str
    reason: str
    remedy: str


class WarmPod(NamedTuple):
    """A pod that waits for a call, or will.

    Args:
        name: its name.
        uid: its uid.
        version: its resource version.
        environment: the environment's name.
        key: the key of its pool.
        created: when it was made, in seconds since the epoch.
        scheduled: when a node took it.
        ready: since when it can take a call.
        waited: how long it could, if it failed since then.
        running: whether its program was started.
        leaving: whether it is being deleted.
        failure: why it will never take a call.
        unschedulable: why no node takes it.
        needs: what it takes of quotas.
    """

    name: str
    uid: str
    version: str
    environment: str
    key: str
    created: float
    scheduled: Optional[float]
    ready: Optional[float]
    waited: float
    running: bool
    leaving: bool
    failure: Optional[Failure]
    unschedulable: Optional[Failure]
    needs: Amounts


def waiting_pod(manifest: Dict[str, Any]) -> Optional[WarmPod]:
    """Return a pod that a keeper made, or None for one that was claimed.

    Args:
        manifest: the pod, as the API server describes it.
    """
    metadata, status = manifest["metadata"], manifest.get("status") or {}
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    key = annotations.get(POOL, "")
    if labels.get(SLOT) != key:
        return None
    conditions = {each["type"]: each for each in status.get("conditions") or ()}
    containers = {each["name"]: each.get("state") or {} for each in status.get("containerStatuses") or ()}
    failure = _failure(manifest, status, containers)
    return WarmPod(
        name=metadata["name"],
        uid=metadata["uid"],
        version=metadata["resourceVersion"],
        environment=annotations.get(ENVIRONMENT, ""),
        key=key,
        created=seconds(metadata["creationTimestamp"]),
        scheduled=_since(conditions.get("PodScheduled", {})),
        ready=None if failure else _since(conditions.get("Ready", {})),
        waited=0.0,
        running="running" in containers.get(_BASE, {}),
        leaving="deletionTimestamp" in metadata,
        failure=failure,
        unschedulable=_unschedulable(conditions.get("PodScheduled", {})),
        needs=needs(manifest["spec"]),
    )


def late(pod: WarmPod) -> Failure:
    """Return what to say of a pod that did not start in time.

    Args:
        pod: the pod.
    """
    remedy = f"`kubectl describe pod` of the next one says why; this one was {pod.name}."
    return Failure("late", f"a pod did not start within {STARTUP / 60:.0f} minutes", remedy)


def vanished() -> Failure:
    """Return what to say of a new pod that somebody else deleted."""
    reason = "somebody else deletes them soon after they are made"
    return Failure("deleted", reason, "The events and audit log of the namespace say who it is.")


def refused(message: str, forbidden: bool) -> Failure:
    """Return what to say of a pod that the API server does not take.

    Args:
        message: the server's own sentence.
        forbidden: whether it has the status 403.
    """
    if forbidden and "exceeded quota" in message:
        return Failure("quota", f"a quota is full: {message}", "Raise the quota, or lower `max` of the environment.")
    if forbidden and "cannot create resource" in message:
        return Failure("right", message, "Give the keeper's account its Role again, by `helm upgrade`.")
    remedy = "Change the environment's `pod` options, then run `k8s-venv helm-values` and `helm upgrade`."
    return Failure(f"refused {_unnumbered(message)}", f"Kubernetes does not take the pod: {message}", remedy)


def seconds(moment: str) -> float:
    """Return a moment, as the API server writes it, in seconds since the epoch.

    Args:
        moment: such as ``2026-01-01T12:00:00Z``.
    """
    return float(calendar.timegm(time.strptime(moment, "%Y-%m-%dT%H:%M:%SZ")))


def _since(condition: Dict[str, Any]) -> Optional[float]:
    return seconds(condition["lastTransitionTime"]) if condition.get("status") == "True" else None


def _unschedulable(condition: Dict[str, Any]) -> Optional[Failure]:
    if condition.get("status") != "False" or condition.get("reason") != "Unschedulable":
        return None
    remedy = "Lower what the environment requests, add nodes, or lower `max`; the pods start when there is room."
    return Failure("unschedulable", f"no node takes them: {condition.get('message', '')}", remedy)


def _failure(manifest: Dict[str, Any], status: Dict[str, Any], containers: Dict[str, Any]) -> Optional[Failure]:
    """Return why a pod will never take a call; its sidecar may run on when its program has ended."""
    ours = {each["name"] for each in manifest["spec"]["containers"]} & {_BASE, "result"}
    ended = {name: containers[name]["terminated"] for name in ours if "terminated" in containers.get(name, {})}
    if status.get("reason") == "Evicted" or status.get("reason") == "NodeShutdown":
        reason = f"the node removed one ({status['reason']}): {status.get('message', '')}"
        return Failure("evicted", reason, "Give the environment requests that are what it really uses.")
    if ended:
        return _end(ended[_BASE] if _BASE in ended else next(iter(ended.values())))
    if status.get("phase") in ("Failed", "Succeeded"):
        reason = f"one ended as {status['phase']}: {status.get('message') or status.get('reason') or 'no reason given'}"
        return Failure("ended", reason, "The events of its node may say more.")
    return next(_obstacles(manifest, containers), None)


def _end(state: Dict[str, Any]) -> Failure:
    if state.get("reason") == "OOMKilled":
        remedy = "Raise the memory limit in the environment's `container_resources`, or preload less."
        return Failure("memory", "one needed more memory than its limit (OOMKilled)", remedy)
    message = (state.get("message") or "").strip()
    if len(message) > _MESSAGE:
        message = "…" + message[-_MESSAGE:]
    code = state.get("exitCode")
    reason = f"its program ended with exit code {code} before a call came: {message or 'it left no message'}"
    last_line = message.rpartition("\n")[2]
    remedy = "If a module of `preload` fails to import, correct the lock or take it out of `preload`."
    return Failure(f"exit {code} {_unnumbered(last_line)}", reason, remedy)


def _obstacles(manifest: Dict[str, Any], containers: Dict[str, Any]) -> Iterator[Failure]:
    images = {each["name"]: each.get("image") for each in manifest["spec"]["containers"]}
    for name, state in containers.items():
        waiting = state.get("waiting") or {}
        reason, message = waiting.get("reason"), waiting.get("message") or ""
        if reason in _IMAGE:
            remedy = (
                "Run `k8s-venv build-images`, then `k8s-venv helm-values` and `helm upgrade`; or see its pull secrets."
            )
            yield Failure("image", f"the image {images.get(name)} cannot be pulled ({reason}): {message}", remedy)
        elif reason in _CONTAINER:
            remedy = "Make what it names, or correct the environment's `pod` options."
            yield Failure(f"container {reason}", f"{reason}: {message}", remedy)


def _unnumbered(message: str) -> str:
    """Return a message without what differs from pod to pod."""
    return re.sub(r"warm-[-a-z0-9]+|[0-9]+", "", message)
