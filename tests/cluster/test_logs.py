"""The logs of pods, as far as a node gives them."""

from __future__ import annotations

from typing import Any

from k8s_venv.backends.kubernetes.pod_runner import PodRunner
from k8s_venv.calls import open_result
from tests.cluster.direct import PATIENCE, Cluster
from tests.waiting import eventually


def pour(megabytes: int, seconds: float) -> int:
    import time

    lines = megabytes * 10_000
    for number in range(lines):
        print(f"{number:08} {'x' * 90}")
        if number % 1000 == 999:
            time.sleep(seconds * 1000 / lines)
    return lines


def collected_late(cluster: Cluster, call: Any) -> list[str]:
    """Run a call whose log is opened only when it has ended, as that of a deferred task is."""
    lines: list[str] = []
    run = PodRunner(cluster.client, cluster.pod(), call, lines.append, print, PATIENCE)
    pod = run.create()
    try:

        def has_ended() -> bool:
            statuses = cluster.client.read_namespaced_pod(pod.metadata.name, cluster.namespace).status
            return any(s.name == "base" and s.state.terminated for s in statuses.container_statuses or ())

        eventually(has_ended)
        open_result(run.wait(), call)
    finally:
        run.finish("delete_pod")
    return lines


def test_a_beginning_that_the_node_put_aside_is_told(cluster: Cluster) -> None:
    told, *lines = collected_late(cluster, cluster.call(pour, 40, 25))

    assert "Lines are missing here: the node put the log's beginning aside" in told
    assert lines[-1].startswith("00399999 ")
    assert len(lines) < 400_000
    assert [int(line[:8]) for line in lines] == list(range(400_000 - len(lines), 400_000))


def test_a_log_that_is_whole_says_nothing_of_itself(cluster: Cluster) -> None:
    assert len(collected_late(cluster, cluster.call(pour, 1, 0))) == 10_000


def test_a_flood_that_is_followed_loses_nothing_in_silence(cluster: Cluster) -> None:
    outcome = cluster.run(cluster.pod(), cluster.call(pour, 50, 0))

    told = [number for number, line in enumerate(outcome.lines) if "missing" in line]
    numbers = [int(line[:8]) for line in outcome.lines if "missing" not in line]
    assert outcome.value == 500_000
    assert numbers[-1] == 499_999
    assert sorted(set(numbers)) == numbers
    assert numbers[0] == 0 or told[0] == 0
    assert len(numbers) == 500_000 or told
