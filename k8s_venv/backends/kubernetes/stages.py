"""What the states of a pod mean for the call in it: pure, so that a worker and a triggerer judge alike."""

from __future__ import annotations

import dataclasses
import json
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

from kubernetes.client import ApiClient

from k8s_venv.backends.kubernetes import pod_status
from k8s_venv.backends.kubernetes.render import CALL_VOLUME
from k8s_venv.backends.kubernetes.watch import DELETED

if TYPE_CHECKING:
    from collections.abc import Mapping

# Why waiting for a pod is over: its call ended, it is gone, it can never start, it did not start in time.
Why = Literal["ended", "deleted", "stuck", "late"]

# What of a pod tells how its call ended; nothing of it names a value that somebody gave.
_METADATA = ("name", "namespace", "uid", "labels", "deletionTimestamp", "deletionGracePeriodSeconds")
_CONTAINER = ("name", "image", "resources")


@dataclasses.dataclass(frozen=True)
class Timeouts:
    """How long a pod may take to start.

    Args:
        schedule: seconds until a node takes it.
        startup: seconds from then until it runs.
    """

    schedule: float = 120.0
    startup: float = 120.0


@dataclasses.dataclass(frozen=True)
class End:
    """How waiting for a pod ended.

    Args:
        why: what ended it.
        pod: the pod's last known state, or None where none was seen.
        seen: when each phase was seen, in seconds since the epoch.
        allowed: the seconds that were not enough, where it came late.
    """

    why: Why
    pod: Any
    seen: Mapping[str, float]
    allowed: float = 0.0


class Judge:
    """Decides, state by state, whether waiting for a pod is over.

    Args:
        timeouts: how long it may take to start.
        seen: when it was ``created``, in seconds since the epoch; other phases are added.
    """

    def __init__(self, timeouts: Timeouts, seen: dict[str, float]) -> None:
        self._timeouts = timeouts
        self._seen = seen
        self._pod: Any = None

    def see(self, kind: str, pod: Any) -> End | None:
        """Take note of a state.

        Args:
            kind: ``ADDED``, ``MODIFIED`` or ``DELETED``.
            pod: the pod, or None where it is not there any more.

        Returns:
            How waiting ended, or None while it goes on.
        """
        self._pod = pod or self._pod
        if pod is not None:
            self._note(pod)
        if kind == DELETED:
            return self._end("deleted")
        if pod_status.has_ended(pod):
            return self._end("ended")
        if "running" in self._seen:
            return None
        if pod_status.cannot_start(pod):
            return self._end("stuck")
        return self._end("late") if self._left() <= 0 else None

    def patience(self) -> float:
        """Return the seconds after which the pod must be looked at again, whether or not it changes."""
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

    def _note(self, pod: Any) -> None:
        now = time.time()
        true = {condition.type for condition in pod.status.conditions or () if condition.status == "True"}
        for phase, reached in (
            ("scheduled", "PodScheduled" in true),
            ("ready", "PodReadyToStartContainers" in true),
            ("running", pod_status.has_started(pod)),
        ):
            if reached:
                self._seen.setdefault(phase, now)

    def _end(self, why: Why) -> End:
        self._seen["ended"] = time.time()
        return End(why, self._pod, dict(self._seen), self._allowed()[1])


def to_json(end: End, pod: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return an end as plain data, for the event of a trigger.

    Args:
        end: the end.
        pod: its pod as ``summary`` gives it.
    """
    return {"why": end.why, "pod": pod, "seen": dict(end.seen), "allowed": end.allowed}


def from_json(fields: Mapping[str, Any]) -> End:
    """Return the end that ``to_json`` wrote."""
    pod = to_pod(fields["pod"]) if fields["pod"] else None
    return End(fields["why"], pod, dict(fields["seen"]), fields["allowed"])


def summary(pod: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a pod, as the API gives it, tells how its call ended.

    Args:
        pod: the pod's JSON object.
    """
    spec = pod["spec"]
    containers = [{key: each[key] for key in _CONTAINER if key in each} for each in spec["containers"]]
    volumes = [volume for volume in spec.get("volumes", ()) if volume["name"] == CALL_VOLUME]
    kept = {
        "containers": containers,
        "volumes": volumes,
        "activeDeadlineSeconds": spec.get("activeDeadlineSeconds"),
    }
    metadata = {key: pod["metadata"][key] for key in _METADATA if key in pod["metadata"]}
    return {"metadata": metadata, "spec": kept, "status": pod.get("status", {})}


def to_pod(pod: Mapping[str, Any]) -> Any:
    """Return the client's object for a pod's JSON object."""
    return ApiClient().deserialize(SimpleNamespace(data=json.dumps(pod)), "V1Pod")


def phases(seen: Mapping[str, float], timings: Mapping[str, float]) -> str:
    """Return how long each phase of a call took, as a sentence.

    Args:
        seen: when each phase was seen, in seconds since the epoch.
        timings: what the runner measured, in seconds; ``clock`` is its own time at the end, since the epoch.
    """
    scheduled = seen.get("scheduled", seen["created"])
    left = seen["ended"] - scheduled
    imports, run = timings.get("imports", timings.get("open", 0.0)), timings.get("run", 0.0)
    # The node's clock may be off: what cannot be is not shown.
    result = min(max(seen["ended"] - timings.get("clock", seen["ended"]), 0.0), max(left - imports - run, 0.0))
    starting = max(left - imports - run - result, 0.0)
    start = min(max(seen.get("ready", scheduled) - scheduled, 0.0), starting)
    parts = {
        "scheduled": scheduled - seen["created"],
        "start": start,
        "image": starting - start,
        "imports": imports,
        "run": run,
        "result": result,
    }
    shown = ", ".join(f"{name} {max(seconds, 0.0):.2f} s" for name, seconds in parts.items())
    return f"Phases: {shown}; together {seen['ended'] - seen['created']:.2f} s."
