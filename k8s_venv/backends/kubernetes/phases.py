"""How a call got its pod, and how long each part of the call took: for the task's log and for metrics."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

# Why a call of an environment with waiting pods got a pod of its own, as metrics name it.
Miss = Literal["none", "starting", "options", "lost", "rights", "exec", "values", "refused"]


@dataclasses.dataclass(frozen=True)
class PodStart:
    """How a call got its pod: one of its own is a cold start, one that waited is a warm start.

    Args:
        kind: which of the two.
        missed: why it is cold where its environment keeps pods that wait: there was ``none``, they were still
            ``starting``, the task's own ``options`` differ, other calls claimed each first (``lost``), an account lacks
            ``rights``, ``exec`` failed, the task's ``values`` never use it, or the pod ``refused`` the call.
        saved: the seconds that a waiting pod's own start took, if they are known.
    """

    kind: Literal["cold", "warm"] = "cold"
    missed: Miss | None = None
    saved: float | None = None

    @classmethod
    def of_waiting(cls, pod: Any) -> PodStart:
        """Return the start with a pod that waited; the seconds are whole ones, as Kubernetes gives them.

        Args:
            pod: the pod as it was claimed.
        """
        conditions = (pod.status.conditions or ()) if pod.status else ()
        ready = [each.last_transition_time for each in conditions if each.type == "Ready" and each.status == "True"]
        since = pod.metadata.creation_timestamp
        saved = (ready[0] - since).total_seconds() if ready and ready[0] and since else None
        return cls("warm", saved=saved)

    def to_json(self) -> dict[str, Any]:
        """Return this as plain data, for what a deferred task keeps."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> PodStart:
        """Return what ``to_json`` wrote."""
        return cls(**fields)


COLD = PodStart()


def phase_seconds(seen: Mapping[str, float], timings: Mapping[str, float], start: PodStart = COLD) -> dict[str, float]:
    """Return how long each phase of a call took, in seconds, in their order.

    Args:
        seen: when each phase was seen, in seconds since the epoch; a warm start is ``created`` when its claim begins,
            and ``claimed`` when its pod has the call.
        timings: what the runner measured, in seconds; ``clock`` is its own time at the end, since the epoch.
        start: how the call got its pod.
    """
    begun = seen.get("claimed" if start.kind == "warm" else "scheduled", seen["created"])
    left = seen["ended"] - begun
    imports, run = timings.get("imports", timings.get("open", 0.0)), timings.get("run", 0.0)
    # The node's clock may be off: what cannot be is not shown.
    result = min(max(seen["ended"] - timings.get("clock", seen["ended"]), 0.0), max(left - imports - run, 0.0))
    starting = max(left - imports - run - result, 0.0)
    if start.kind == "warm":
        phases = {"claim": begun - seen["created"], "start": starting}
    else:
        own = min(max(seen.get("ready", begun) - begun, 0.0), starting)
        phases = {"scheduled": begun - seen["created"], "start": own, "image": starting - own}
    phases |= {"imports": imports, "run": run, "result": result}
    return {name: max(seconds, 0.0) for name, seconds in phases.items()}


def describe(seen: Mapping[str, float], timings: Mapping[str, float], start: PodStart = COLD) -> str:
    """Return how long each phase of a call took, as a sentence; see ``phase_seconds``."""
    phases = phase_seconds(seen, timings, start)
    shown = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in phases.items())
    saved = f" that saved about {start.saved:.0f} s" if start.saved else ""
    return f"Phases of a {start.kind} start{saved}: {shown}; together {seen['ended'] - seen['created']:.2f} s."
