"""The watch on one pod: it hears of what happened before it was opened."""

from __future__ import annotations

import time
import uuid
from typing import Any

import pytest

from k8s_venv.backends.kubernetes.api import pod_events
from k8s_venv.backends.kubernetes.pod_state import DELETED
from tests.cluster.direct import Cluster

SOON = 2.0  # seconds


def created(cluster: Cluster) -> Any:
    """Create a pod that no node takes."""
    pod = cluster.pod(f"watched-{uuid.uuid4().hex[:8]}")
    pod.spec.node_selector = {"not": "there"}
    return cluster.client.create_namespaced_pod(cluster.namespace, pod)


def kinds(cluster: Cluster, pod: Any, last: str, *, patience: float = 60) -> list[str]:
    """Return what a watch tells until it has told something."""
    found = []
    for kind, _ in pod_events(cluster.client, pod, lambda: patience, print):
        found.append(kind)
        if kind == last:
            break
    return found


# A version that the API server has long forgotten, as of a pod that nobody touched for hours; or none.
@pytest.mark.parametrize("version", ["its own", "1", None])
def test_a_pod_that_is_gone_before_the_watch_is_opened_is_told_to_be_gone(
    cluster: Cluster, version: str | None
) -> None:
    pod = created(cluster)
    cluster.delete(pod, grace_period_seconds=0)
    cluster.await_gone(pod.metadata.name)
    if version != "its own":
        pod.metadata.resource_version = version

    began = time.monotonic()
    assert kinds(cluster, pod, DELETED)[-1] == DELETED

    assert time.monotonic() - began < SOON


def test_a_pod_that_is_gone_between_two_watches_is_told_to_be_gone(cluster: Cluster) -> None:
    pod = created(cluster)
    events = pod_events(cluster.client, pod, lambda: 1, print)
    assert next(events)[0] == "ADDED"
    while next(events)[0] != "MODIFIED":  # the first watch is over, the next one not yet opened
        pass

    cluster.delete(pod, grace_period_seconds=0)
    cluster.await_gone(pod.metadata.name)

    began = time.monotonic()
    assert DELETED in (kind for kind, _ in events)
    assert time.monotonic() - began < SOON


def test_a_pod_that_does_not_change_is_told_again_so_that_its_watcher_can_look_at_the_clock(cluster: Cluster) -> None:
    pod = created(cluster)

    assert kinds(cluster, pod, "MODIFIED", patience=1)

    cluster.delete(pod, grace_period_seconds=0)
