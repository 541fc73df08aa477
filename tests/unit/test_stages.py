"""How long a pod may take to start."""

from __future__ import annotations

import time

from kubernetes.client import models as k8s

from k8s_venv.backends.kubernetes.pod_state import PodPhaseTracker, Timeouts


def pod(*conditions: str) -> k8s.V1Pod:
    found = [k8s.V1PodCondition(type=condition, status="True") for condition in conditions]
    return k8s.V1Pod(metadata=k8s.V1ObjectMeta(name="pod"), status=k8s.V1PodStatus(phase="Pending", conditions=found))


def test_a_pod_is_looked_at_again_before_its_time_to_start_is_over() -> None:
    tracker = PodPhaseTracker(Timeouts(schedule=120, startup=4), {"created": time.time()})

    tracker.observe("ADDED", pod())

    assert tracker.next_look() <= 4  # it may be scheduled at once, and the watch that shows this goes on


def test_a_pod_that_a_node_took_is_late_after_its_time_to_start() -> None:
    tracker = PodPhaseTracker(Timeouts(schedule=120, startup=0), {"created": time.time()})

    end = tracker.observe("MODIFIED", pod("PodScheduled"))

    assert end is not None
    assert (end.reason, end.allowed) == ("late", 0)


def test_a_pod_that_no_node_takes_is_late_after_its_time_to_be_scheduled() -> None:
    tracker = PodPhaseTracker(Timeouts(schedule=0, startup=120), {"created": time.time()})

    end = tracker.observe("ADDED", pod())

    assert end is not None
    assert (end.reason, end.allowed) == ("late", 0)
