"""What a try makes of the pod that the try before left: never two at once, and never another call's result."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from k8s_venv.backends.kubernetes import render, takeover
from k8s_venv.backends.kubernetes.payload import CallSecrets
from k8s_venv.backends.kubernetes.pod_runner import PodRunner
from k8s_venv.backends.kubernetes.pod_state import Timeouts
from k8s_venv.calls import open_result
from tests.cluster.direct import PATIENCE, Cluster, Outcome, add_one, sleep
from tests.waiting import eventually

WORKER = """
import os
import signal
import sys
from pathlib import Path
import kubernetes
from tests.cluster import direct

kubernetes.config.load_kube_config()
namespace, image, folder, name, seconds = sys.argv[1:]
cluster = direct.Cluster(kubernetes.client.CoreV1Api(), namespace, image, Path(folder))
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
cluster.run(cluster.pod(name), cluster.call(direct.sleep, int(seconds)), while_running=kill)
"""


def fresh(name: str) -> str:
    return f"{name}-{uuid.uuid4().hex[:8]}"


def run_and_kill_worker(cluster: Cluster, name: str, seconds: int) -> None:
    """Run a worker that is killed when its function has printed its first line."""
    arguments = [cluster.namespace, cluster.image, str(cluster.folder), name, str(seconds)]
    # Another worker walks sets in another order.
    environ = {**os.environ, "PYTHONHASHSEED": "7"}
    worker = subprocess.run([sys.executable, "-c", WORKER, *arguments], env=environ, check=False)
    assert worker.returncode == -signal.SIGKILL


def raise_error() -> None:
    raise ValueError("this try failed")


def read(cluster: Cluster, name: str) -> Any:
    return cluster.client.read_namespaced_pod(name, cluster.namespace)


def await_success(cluster: Cluster, name: str) -> None:
    eventually(lambda: read(cluster, name).status.phase == "Succeeded")


# --- the same call --------------------------------------------------------------------------------------------


def test_a_try_after_a_workers_death_takes_over_the_running_pod(cluster: Cluster) -> None:
    name = fresh("taken")
    run_and_kill_worker(cluster, name, 8)

    outcome = cluster.run(cluster.pod(name, attempt="2"), cluster.call(sleep, 8))

    assert outcome.value == "slept"
    assert any("Taking over pod" in line for line in outcome.said)
    assert outcome.lines == [f"second {number}" for number in range(8)]
    cluster.await_gone(name)


def test_a_result_that_nobody_read_is_not_lost(cluster: Cluster) -> None:
    name = fresh("unread")
    run_and_kill_worker(cluster, name, 1)
    await_success(cluster, name)
    uid = read(cluster, name).metadata.uid

    run = PodRunner(cluster.client, cluster.pod(name, attempt="2"), cluster.call(sleep, 1), print, print, PATIENCE)
    try:
        assert run.create().metadata.uid == uid
        assert open_result(run.wait(), cluster.call(sleep, 1)) == "slept"
    finally:
        run.finish("delete_pod")


# --- another call ---------------------------------------------------------------------------------------------


OTHERS: dict[str, tuple[Callable[..., Any], int, dict[str, str]]] = {
    "other code": (add_one, 1, {}),
    "another argument": (sleep, 2, {}),
    "another environment variable": (sleep, 1, {"STAGE": "prod"}),
}


@pytest.mark.parametrize("seconds", [1, 60], ids=["ended", "running"])
@pytest.mark.parametrize("other", OTHERS)
def test_the_pod_of_another_call_is_ended_before_this_one_starts(cluster: Cluster, seconds: int, other: str) -> None:
    name, (function, argument, variables) = fresh("other"), OTHERS[other]
    run_and_kill_worker(cluster, name, seconds)
    if seconds == 1:
        await_success(cluster, name)
    before, call = read(cluster, name).metadata.uid, cluster.call(function, argument)
    said: list[str] = []

    pod = cluster.pod(name, attempt="2", env_vars=variables)
    run = PodRunner(cluster.client, pod, call, print, said.append, PATIENCE)
    try:
        assert run.create().metadata.uid != before
        assert open_result(run.wait(), call) == (2 if function is add_one else "slept")
    finally:
        run.finish("delete_pod")

    assert any("it runs another call, since the function, its arguments" in line for line in said)
    cluster.await_gone(name)


def test_a_pod_of_an_earlier_release_is_ended_before_this_one_starts(cluster: Cluster) -> None:
    name = fresh("earlier")
    run_and_kill_worker(cluster, name, 1)
    await_success(cluster, name)
    cluster.client.patch_namespaced_pod(name, cluster.namespace, {"metadata": {"annotations": {takeover.CALL: None}}})
    before = read(cluster, name).metadata.uid

    run = PodRunner(cluster.client, cluster.pod(name, attempt="2"), cluster.call(sleep, 1), print, print, PATIENCE)
    try:
        assert run.create().metadata.uid != before
        assert open_result(run.wait(), cluster.call(sleep, 1)) == "slept"
    finally:
        run.finish("delete_pod")


def test_no_argument_can_be_read_from_a_pod(cluster: Cluster) -> None:
    name = fresh("secretive")
    run = PodRunner(cluster.client, cluster.pod(name), cluster.call(add_one, 4711), print, print, PATIENCE)
    first = run.create()
    run.finish("delete_pod")
    cluster.await_gone(name)

    run = PodRunner(cluster.client, cluster.pod(name), cluster.call(add_one, 4711), print, print, PATIENCE)
    second = run.create()
    run.finish("delete_pod")

    assert "4711" not in str(first)
    assert first.metadata.annotations[takeover.CALL] != second.metadata.annotations[takeover.CALL]


# --- a failure, and what is kept ------------------------------------------------------------------------------


def failed(cluster: Cluster, name: str) -> None:
    """Leave a pod that has failed, and that nobody has read."""
    run = PodRunner(cluster.client, cluster.pod(name), cluster.call(raise_error), print, print, PATIENCE)
    run.create()
    with pytest.raises(ValueError, match="this try failed"):
        open_result(run.wait(), cluster.call(raise_error))
    run.leave()


def test_a_try_after_a_failure_starts_again_within_two_seconds(cluster: Cluster) -> None:
    name = fresh("again")
    failed(cluster, name)
    eventually(lambda: read(cluster, name).status.phase == "Failed")
    # Less than a pod may take to go, more than it has if its time counts from its own creation.
    timeouts = Timeouts(schedule=60, startup=PATIENCE.startup)
    run = PodRunner(cluster.client, cluster.pod(name, attempt="2"), cluster.call(raise_error), print, print, timeouts)
    began = time.monotonic()

    run.create()

    assert time.monotonic() - began < 2
    with pytest.raises(ValueError, match="this try failed"):
        open_result(run.wait(), cluster.call(raise_error))
    run.finish("delete_pod")


def test_the_time_to_be_scheduled_counts_from_the_new_pods_creation(cluster: Cluster) -> None:
    name = fresh("leaving")
    pod = cluster.pod(name)
    pod.metadata.finalizers = ["k8s-venv.test/held"]  # it goes when this test says so
    cluster.delete(cluster.client.create_namespaced_pod(cluster.namespace, pod))
    timeouts = Timeouts(schedule=5, startup=PATIENCE.startup)

    def let_go() -> None:
        time.sleep(8)
        cluster.client.patch_namespaced_pod(name, cluster.namespace, {"metadata": {"finalizers": None}})

    thread = threading.Thread(target=let_go)
    thread.start()
    outcome = cluster.run(cluster.pod(name, attempt="2"), cluster.call(add_one, 1), timeouts=timeouts)
    thread.join()

    assert outcome.value == 2, outcome


def test_a_kept_pod_is_never_taken_for_the_next_tries(cluster: Cluster) -> None:
    name = fresh("kept")
    call = cluster.call(add_one, 1)
    run = PodRunner(cluster.client, cluster.pod(name), call, print, print, PATIENCE)
    run.create()
    run.wait()
    run.finish("keep_pod")

    same = cluster.run(cluster.pod(name, attempt="2"), call)
    other = cluster.run(cluster.pod(name, attempt="3"), cluster.call(add_one, 2))

    assert (same.value, other.value) == (2, 3)
    kept = read(cluster, name)
    assert kept.metadata.labels["already_checked"] == "True"
    cluster.delete(kept)


def test_a_try_waits_until_the_pod_of_the_killed_one_is_gone(cluster: Cluster) -> None:
    name = fresh("leaving")
    first = cluster.client.create_namespaced_pod(cluster.namespace, cluster.pod(name))
    cluster.delete(first, grace_period_seconds=3)

    outcome = cluster.run(cluster.pod(name, attempt="2"), cluster.call(add_one, 1))

    assert outcome.value == 2


# --- a worker that died between the pod and its Secrets -------------------------------------------------------


def left_without_secrets(cluster: Cluster, name: str, call: Any, made: int, count: int) -> Any:
    """Create a pod that waits for some Secrets, and as many of them as its worker had time for."""
    pod = cluster.pod(name)
    if count > 1:
        pod = render.with_secrets(pod, count)
    pod.metadata.annotations = {takeover.CALL: takeover.CallIdentity(call, pod).seal()}
    created = cluster.client.create_namespaced_pod(cluster.namespace, pod)
    for secret in render.secret_names(created)[:made]:
        cluster.client.create_namespaced_secret(cluster.namespace, render.call_secret(created, secret, {}))
    return created


@pytest.mark.parametrize(("made", "count"), [(0, 1), (0, 3), (1, 3), (2, 3)])
def test_a_pod_without_all_its_secrets_is_started_again(cluster: Cluster, made: int, count: int) -> None:
    name = fresh("bare")
    call = cluster.call(add_one, 1)
    left = left_without_secrets(cluster, name, call, made, count)

    outcome = cluster.run(cluster.pod(name, attempt="2"), call)

    assert outcome.value == 2, outcome
    assert f"Pod {cluster.namespace}/{left.metadata.name} lacks its Secrets" in str(outcome.said)
    cluster.await_gone(name)


def test_larger_arguments_of_the_second_try_start_again(cluster: Cluster) -> None:
    name = fresh("larger")
    left_without_secrets(cluster, name, cluster.call(length, b"x"), 0, 1)

    outcome = cluster.run(cluster.pod(name, attempt="2"), cluster.call(length, os.urandom(3_000_000)))

    assert outcome.value == 3_000_000, outcome
    cluster.await_gone(name)


def length(data: bytes) -> int:
    return len(data)


def test_a_pod_that_waits_with_all_its_secrets_is_taken_over(cluster: Cluster) -> None:
    name = fresh("waiting")
    call, pod = cluster.call(add_one, 1), cluster.pod(name)
    secrets = CallSecrets(call, pod)
    pod.metadata.annotations = {takeover.CALL: takeover.CallIdentity(call, pod).seal()}
    pod.spec.node_selector = {"not": "yet"}
    created = cluster.client.create_namespaced_pod(cluster.namespace, pod)
    for secret in secrets.for_pod(created):
        cluster.client.create_namespaced_secret(cluster.namespace, secret)

    run = PodRunner(cluster.client, cluster.pod(name, attempt="2"), call, print, print, PATIENCE)
    taken = run.create()
    run.finish("delete_pod")

    assert taken.metadata.uid == created.metadata.uid


# --- a task that is killed ------------------------------------------------------------------------------------


def test_a_pod_that_its_own_task_ended_was_not_deleted_from_outside(cluster: Cluster) -> None:
    name, killed, outcome = fresh("killed"), list[str](), Outcome()
    pod, call = cluster.pod(name), cluster.call(sleep, 200)

    def log(line: str) -> None:
        if not killed:
            killed.append(line)
            cluster.delete(pod)

    run = PodRunner(cluster.client, pod, call, log, outcome.said.append, PATIENCE, killed=lambda: bool(killed))
    run.create()
    with pytest.raises(Exception, match=r"sleep\(\) was ended, since its task was killed") as caught:
        run.wait()
    run.finish("delete_pod")

    assert "from outside" not in str(caught.value)
    cluster.await_gone(name)


def test_a_killed_task_that_had_taken_a_pod_over_starts_no_other(cluster: Cluster) -> None:
    name, killed = fresh("killed"), list[str]()
    run_and_kill_worker(cluster, name, 60)
    pod = cluster.pod(name, attempt="2")

    def log(line: str) -> None:
        if not killed:
            killed.append(line)
            cluster.delete(pod, grace_period_seconds=1)

    run = PodRunner(cluster.client, pod, cluster.call(sleep, 60), log, print, PATIENCE, killed=lambda: bool(killed))
    run.create()
    assert run.taken_over
    with pytest.raises(Exception, match=r"since its task was killed"):
        run.wait()

    cluster.await_gone(name)
