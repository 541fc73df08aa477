"""How many pods of an environment wait, start or run a call, from what the API server lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from k8s_venv.backends.kubernetes.pool_status import PoolStatus, pool_status
from k8s_venv.config.environment import Environment
from k8s_venv.config.warm import WarmPool

ETL = Environment(name="etl", root=Path(), python="3.12", warm=WarmPool())
NOW, BEFORE = "0123456789", "9876543210"


def pod(
    name: str = "warm-etl-x",
    *,
    pool: str = NOW,
    claimed: bool = False,
    ready: bool = False,
    phase: str = "Running",
    environment: str = "etl",
    **status: Any,
) -> dict[str, Any]:
    labels = {"k8s-venv/slot": "sales-load-0123" if claimed else pool}
    annotations = {"k8s-venv/pool": pool, "k8s-venv/environment": environment}
    conditions = [{"type": "Ready", "status": "True"}] if ready else []
    return {
        "metadata": {"name": name, "labels": labels, "annotations": annotations},
        "status": {"phase": phase, "conditions": conditions, **status},
    }


def container(state: str, **facts: Any) -> list[dict[str, Any]]:
    return [{"name": "base", "state": {state: facts}}]


def test_pods_that_wait_start_or_run_a_call_are_counted() -> None:
    pods = [
        pod(ready=True),
        pod(ready=True),
        pod(phase="Pending", containerStatuses=container("waiting", reason="ContainerCreating")),
        pod(),  # it imports the modules of `preload`
        pod(claimed=True, ready=True),
        pod(claimed=True, phase="Succeeded"),  # kept by its task
    ]

    assert pool_status(pods, "tasks", ETL, NOW) == PoolStatus(
        "tasks", waiting=2, starting=2, claimed=1, stale=0, problem=None
    )


def test_pods_of_other_environments_and_of_calls_of_their_own_are_not() -> None:
    own = pod(claimed=True)
    del own["metadata"]["annotations"]

    assert pool_status([pod(environment="other", ready=True), own], "tasks", ETL, NOW) == PoolStatus(
        "tasks", 0, 0, 0, 0, None
    )


def test_pods_of_an_earlier_pool_are_stale_unless_they_run_a_call() -> None:
    pods = [pod(ready=True), pod(pool=BEFORE, ready=True), pod(pool=BEFORE), pod(pool=BEFORE, claimed=True)]

    assert pool_status(pods, "tasks", ETL, NOW) == PoolStatus(
        "tasks", waiting=1, starting=0, claimed=1, stale=2, problem=None
    )


def test_without_warm_all_waiting_pods_are_stale() -> None:
    cold = ETL.model_copy(update={"warm": None})

    assert pool_status([pod(ready=True)], "tasks", cold, None) == PoolStatus("tasks", 0, 0, 0, 1, None)


def test_where_the_present_pool_cannot_be_known_no_pod_is_called_stale() -> None:
    assert pool_status([pod(ready=True), pod(pool=BEFORE, ready=True)], "tasks", ETL, None).waiting == 2


def test_a_pod_that_is_being_deleted_counts_no_more() -> None:
    leaving = pod(ready=True)
    leaving["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"

    assert pool_status([leaving], "tasks", ETL, NOW) == PoolStatus("tasks", 0, 0, 0, 0, None)


@pytest.mark.parametrize(
    ("status", "problem"),
    [
        (
            {"containerStatuses": container("waiting", reason="ImagePullBackOff", message="not found")},
            "pod warm-etl-x: ImagePullBackOff: not found",
        ),
        (
            {
                "conditions": [
                    {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node"}
                ]
            },
            "pod warm-etl-x: Unschedulable: no node",
        ),
        (
            {
                "phase": "Failed",
                "containerStatuses": container(
                    "terminated", reason="Error", message="Traceback\n  File\x1b[2K\nImportError: no \u202e driver\n"
                ),
            },
            "pod warm-etl-x: Error: ImportError: no \\u202e driver",
        ),
        (
            {"phase": "Failed", "reason": "Evicted", "message": "low on memory"},
            "pod warm-etl-x: Evicted: low on memory",
        ),
    ],
)
def test_why_a_pod_cannot_wait_is_shown(status: dict[str, Any], problem: str) -> None:
    assert pool_status([pod(ready=True), pod(**{"phase": "Pending", **status})], "tasks", ETL, NOW).problem == problem
