"""What a keeper does about its pools of warm pods, decided without a request (Python 3.8+, standard library)."""

from __future__ import annotations

from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Tuple

from warm_pods import STARTUP, Failure, WarmPod, late

# Seconds until the next try after a failure, doubled with each further one.
_FIRST_PAUSE = 5.0
_LONGEST_PAUSE = 300.0
# Seconds for which a pod may wait for a node without a word: others may just be leaving.
_CROWDED = 30.0
# What ends after so many seconds of waiting is replaced at once.
_STABLE = 60.0


class Plan(NamedTuple):
    """What is to be done about one pool now.

    Args:
        create: how many pods to make.
        delete: those to remove.
        failures: what keeps pods of the pool from waiting, one at most.
    """

    create: int
    delete: List[WarmPod]
    failures: List[Failure]


class Pool:
    """One environment's waiting pods: how many there should be, and since when they fail.

    Args:
        declared: ``environment``, ``key``, ``min``, ``max``, ``idleSeconds`` and ``pod``, as the chart's values say.
        now: the present time, in seconds since the epoch.
    """

    def __init__(self, declared: Dict[str, Any], now: float) -> None:
        self.environment: str = declared["environment"]
        self.key: str = declared["key"]
        self.manifest: Dict[str, Any] = declared["pod"]
        self.target = self.minimum = int(declared["min"])
        self.maximum = int(declared["max"])
        self._idle = float(declared["idleSeconds"])
        self._last_claim = now
        self._failures = 0
        self._failed_at = 0.0
        self._retry_at = 0.0

    def adopt(self, waiting: int, now: float) -> None:
        """Begin with the pods that another keeper left, as if the last claim were just now.

        Args:
            waiting: how many pods of the environment wait.
            now: the present time.
        """
        self.target = min(max(self.target, waiting), self.maximum)
        self._last_claim = now

    def claimed(self, pod: WarmPod, left: int, now: float) -> None:
        """Take note of a claim: one that takes the last pod doubles how many wait from now on.

        Args:
            pod: its last state before.
            left: how many pods can take the next call.
            now: the present time.
        """
        self._last_claim = now
        if pod.created >= self._failed_at:
            self._failures = 0
        if left == 0:
            self.target = min(2 * self.target, self.maximum)

    def failed(self, now: float) -> None:
        """Take note that a pod did not start: the next one waits, longer after each failure in turn.

        Args:
            now: the present time.
        """
        if now < self._retry_at:  # one of several that failed together
            return
        self._failed_at = now
        self._retry_at = now + min(_FIRST_PAUSE * 2**self._failures, _LONGEST_PAUSE)
        self._failures += 1

    def hold(self, seconds: float, now: float) -> None:
        """Make no pod for some time, without counting a failure.

        Args:
            seconds: how long.
            now: the present time.
        """
        self._retry_at = max(self._retry_at, now + seconds)

    def pause(self, now: float) -> float:
        """Return in how many seconds a pod may be made again; 0 if one may be made now.

        Args:
            now: the present time.
        """
        return max(self._retry_at - now, 0.0)

    def observe(self, pods: Iterable[WarmPod], now: float) -> None:
        """Take note of how the pods do, before a plan is made.

        Args:
            pods: the pods that wait or start with this pool's environment and key.
            now: the present time.
        """
        for pod in pods:
            if _failure(pod, now):
                # One that waited well, such as on a node that is drained, says nothing about the next one.
                if pod.waited < _STABLE and not pod.leaving:
                    self.failed(now)
            elif pod.ready is not None and pod.created >= self._failed_at and now - pod.ready >= _STABLE:
                self._failures = 0
        if now - self._last_claim >= self._idle:
            self.target = self.minimum

    def plan(self, pods: Iterable[WarmPod], now: float) -> Plan:
        """Decide what to do now; nothing changes by it.

        Args:
            pods: as for ``observe``.
            now: the present time.
        """
        present = [(pod, _failure(pod, now)) for pod in pods if not pod.leaving]
        failures = [failure for _, failure in present if failure]
        broken = [pod for pod, failure in present if failure]
        alive = sorted((pod for pod, failure in present if not failure), key=_worth)
        stuck = [pod for pod in alive if pod.unschedulable]
        failures += [pod.unschedulable for pod in stuck if pod.unschedulable and now - pod.created >= _CROWDED]
        create = 0 if stuck else self._missing(alive, now)
        return Plan(create, [*broken, *alive[self.target :]], failures[:1])

    def full(self, pods: Iterable[WarmPod]) -> bool:
        """Return whether as many pods can take a call as should.

        Args:
            pods: as for ``observe``.
        """
        return sum(pod.ready is not None for pod in pods) >= self.target

    def _missing(self, alive: List[WarmPod], now: float) -> int:
        missing = max(self.target - len(alive), 0)
        if now < self._retry_at:
            return 0
        if self._failures:  # one pod tries whether the fault has gone
            return min(missing, 0 if any(pod.ready is None for pod in alive) else 1)
        return missing


def lost_early(pod: WarmPod, now: float) -> bool:
    """Return whether a pod that somebody else deleted was too new to be on a node that is drained.

    Args:
        pod: its last state.
        now: the present time.
    """
    return not pod.leaving and pod.failure is None and now - pod.created < _STABLE


def _failure(pod: WarmPod, now: float) -> Optional[Failure]:
    starting = not (pod.running or pod.ready or pod.unschedulable)
    begun = pod.created if pod.scheduled is None else pod.scheduled
    return pod.failure or (late(pod) if starting and now - begun >= STARTUP else None)


def _worth(pod: WarmPod) -> Tuple[bool, bool, bool, float, str]:
    """Return by what pods are sorted, those to keep first."""
    return pod.ready is None, not pod.running, pod.unschedulable is not None, pod.created, pod.uid
