"""What a task's log says of how its call got a pod, and of how long each part took."""

from __future__ import annotations

import datetime
import json

import pytest
from kubernetes.client import models as k8s

from k8s_venv.backends.kubernetes.phases import PodStart, describe, phase_seconds

NOON = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)


def waiting_pod(ready: str = "True") -> k8s.V1Pod:
    condition = k8s.V1PodCondition(
        type="Ready", status=ready, last_transition_time=NOON + datetime.timedelta(seconds=3)
    )
    metadata = k8s.V1ObjectMeta(name="warm-etl-1", creation_timestamp=NOON)
    return k8s.V1Pod(metadata=metadata, status=k8s.V1PodStatus(conditions=[condition]))


def test_phases_of_a_cold_start_add_up_even_where_clocks_differ() -> None:
    seen = {"created": 100.0, "scheduled": 100.1, "ready": 100.4, "running": 101.0, "ended": 101.5}

    text = describe(seen, {"imports": 0.1, "run": 0.2, "clock": 101.3})

    assert text == (
        "Phases of a cold start: scheduled 0.10 s, start 0.30 s, image 0.60 s, imports 0.10 s, run 0.20 s, "
        "result 0.20 s; together 1.50 s."
    )
    assert "result 0.00 s" in describe(seen, {"imports": 0.1, "run": 0.2, "clock": 999.0})


def test_phases_of_a_warm_start_are_its_claim_and_its_start_and_it_says_what_was_saved() -> None:
    seen = {"created": 100.0, "claimed": 100.05, "scheduled": 100.06, "running": 100.06, "ended": 100.2}

    text = describe(seen, {"imports": 0.01, "run": 0.06, "clock": 100.19}, PodStart.of_waiting(waiting_pod()))

    assert text == (
        "Phases of a warm start that saved about 3 s: claim 0.05 s, start 0.07 s, imports 0.01 s, run 0.06 s, "
        "result 0.01 s; together 0.20 s."
    )


@pytest.mark.parametrize("pod", [waiting_pod("False"), k8s.V1Pod(metadata=k8s.V1ObjectMeta())])
def test_what_is_not_known_to_be_saved_is_not_claimed(pod: k8s.V1Pod) -> None:
    start = PodStart.of_waiting(pod)

    assert start == PodStart("warm")
    assert "saved" not in describe({"created": 1.0, "ended": 2.0}, {}, start)


def test_a_warm_start_whose_claim_was_not_seen_has_phases_too() -> None:
    assert phase_seconds({"created": 1.0, "ended": 3.0}, {"run": 0.5}, PodStart("warm")) == {
        "claim": 0.0,
        "start": 1.5,
        "imports": 0.0,
        "run": 0.5,
        "result": 0.0,
    }


@pytest.mark.parametrize("start", [PodStart(), PodStart("cold", missed="none"), PodStart("warm", saved=2.0)])
def test_a_start_travels_through_a_deferral(start: PodStart) -> None:
    assert PodStart.from_json(json.loads(json.dumps(start.to_json()))) == start
