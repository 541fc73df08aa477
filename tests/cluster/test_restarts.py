"""Tasks outlive the cluster's own processes. Each test stops one, so they are for a cluster of one's own."""

from __future__ import annotations

import os
import subprocess
import threading
import time

import pytest

from tests.cluster.direct import Cluster, Outcome, add_one, sleep
from tests.waiting import PATIENCE


def interrupted(cluster: Cluster, process: str, seconds: float) -> Outcome:
    """Run a task during which a process of the cluster is away for a while.

    How a test reaches it is the cluster's own affair: shell commands from K8S_VENV_TEST_STOP_… and …_START_….
    """
    stop, start = (os.environ.get(f"K8S_VENV_TEST_{verb}_{process}") for verb in ("STOP", "START"))
    if not stop or not start:
        pytest.skip(
            f"needs K8S_VENV_TEST_STOP_{process} and K8S_VENV_TEST_START_{process}: commands of a private cluster"
        )
    running = threading.Event()

    def interrupt() -> None:
        assert running.wait(PATIENCE)
        subprocess.run(["sh", "-c", stop], check=True)
        time.sleep(seconds)
        subprocess.run(["sh", "-c", start], check=True, stdout=subprocess.DEVNULL)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        return cluster.run(cluster.pod(), cluster.call(sleep, seconds + 10), while_running=running.set)
    finally:
        thread.join()
        await_recovery(cluster)


def await_recovery(cluster: Cluster) -> None:
    """Wait until the cluster runs pods again: its scheduler may take a minute to find the API server."""
    assert cluster.run(cluster.pod(), cluster.call(add_one, 1)).value == 2


@pytest.mark.parametrize(("process", "seconds"), [("KUBELET", 8), ("API_SERVER", 15)])
def test_a_task_outlives_the_clusters_processes(cluster: Cluster, process: str, seconds: float) -> None:
    outcome = interrupted(cluster, process, seconds)

    assert outcome.value == "slept"
    assert outcome.lines == [f"second {number}" for number in range(int(seconds) + 10)]
    assert process != "API_SERVER" or "The Kubernetes API server answers again." in outcome.said
