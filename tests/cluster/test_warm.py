"""Calls at pods that wait for them: as at pods of their own, sooner, and never twice at once."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("kubernetes", reason="the kubernetes client is not installed")

import kubernetes

from k8s_venv.backends.kubernetes import backend as kubernetes_backend
from k8s_venv.backends.kubernetes import pool
from k8s_venv.backends.kubernetes.backend import KubernetesBackend
from k8s_venv.backends.kubernetes.options import Namespace
from k8s_venv.calls import open_result, pack
from k8s_venv.config.project import load_project
from k8s_venv.config.warm import WarmPool
from k8s_venv.errors import BackendError
from tests.cluster.direct import Cluster, Outcome, add_one, sleep
from tests.cluster.pools import WarmCluster, is_ready
from tests.cluster.test_absence import behind
from tests.cluster.test_large_values import bucket, names_in
from tests.cluster.test_rights import WARM_RIGHTS, Without, account_without, without
from tests.contract import SECRET, BackendContract, Runner, look_for
from tests.gate import Gate
from tests.waiting import eventually

__all__ = ["account_without", "bucket", "without"]

MEGABYTE = 1024 * 1024


@pytest.fixture
def warm(cluster: Cluster) -> Iterator[WarmCluster]:
    """Pods of a project's image that wait for its calls."""
    made = WarmCluster(cluster.client, cluster.namespace, cluster.image, cluster.folder)
    made.fill()
    yield made
    made.client.delete_collection_namespaced_pod(made.namespace, label_selector="app.kubernetes.io/name=x")


def fresh() -> str:
    return f"warm-task-{uuid.uuid4().hex[:8]}"


def raise_error() -> None:
    raise ValueError("this try failed")


def noise(size: int) -> bytes:
    import os

    return os.urandom(size)


def length(data: bytes) -> int:
    return len(data)


class TestWarmPods(BackendContract):
    @pytest.fixture
    def run(self, warm: WarmCluster) -> Runner:
        return Runner(lambda: _Backend(warm), warm.environment)


class _Backend:
    def __init__(self, warm: WarmCluster) -> None:
        self._warm = warm

    def run(self, call: Any, log: Callable[[str], None]) -> Any:
        self._warm.fill()
        run = self._warm.runner(self._warm.pod(fresh()), call, Outcome(), log=log)
        try:
            run.create()
            assert pool.is_pool_pod(run.pod)
            return run.wait()
        finally:
            run.finish("delete_pod")


# --- what is asked of the API server --------------------------------------------------------------------------


class Remembering(kubernetes.client.ApiClient):  # type: ignore[misc]  # the client has no types
    """The part of a client that makes requests, and remembers them."""

    def __init__(self, configuration: Any) -> None:
        super().__init__(configuration)
        self.asked: list[str] = []

    def call_api(self, path: str, method: str, parameters: Any = None, *args: Any, **options: Any) -> Any:
        self.asked.append(f"{method} {path.format(**dict(parameters or {})).partition('/namespaces/')[2]}")
        return super().call_api(path, method, parameters, *args, **options)


class Counting:
    """A client that remembers what was asked."""

    def __init__(self, client: Any) -> None:
        api = Remembering(client.api_client.configuration)
        self.client = kubernetes.client.CoreV1Api(api)
        self.asked = api.asked


def test_a_call_takes_five_requests_and_one_exec(warm: WarmCluster) -> None:
    counting, name = Counting(warm.client), fresh()

    outcome = warm.run(warm.pod(name), warm.call(add_one, 1), client=counting.client)

    assert outcome.value == 2, outcome
    taken = outcome.pod.metadata.name
    place = f"{warm.namespace}/pods/{taken}"
    assert sorted(counting.asked) == sorted(
        [
            f"GET {warm.namespace}/pods",
            f"PATCH {place}",
            f"POST {warm.namespace}/leases",
            f"GET {place}/exec",
            f"GET {place}/log",
            f"DELETE {place}",
        ]
    )


def test_an_environment_without_waiting_pods_takes_no_request_more(cluster: Cluster) -> None:
    counting = Counting(cluster.client)

    outcome = cluster.run(cluster.pod(), cluster.call(add_one, 1), client=counting.client)

    assert outcome.value == 2, outcome
    assert [asked.partition("/")[2].partition("/")[0] for asked in counting.asked].count("leases") == 0
    assert len([asked for asked in counting.asked if "/log" not in asked]) == 4  # pod, Secret, watch, delete


# --- the pod --------------------------------------------------------------------------------------------------


def test_a_claimed_pod_has_what_the_call_s_own_would_have(warm: WarmCluster) -> None:
    name = fresh()
    pod = warm.pod(name, deadline=1000, labels={"dag_id": "etl", "team": "data"}, annotations={"cost": "low"})

    outcome = warm.run(pod, warm.call(add_one, 1), action="keep_pod")

    kept = warm.client.read_namespaced_pod(outcome.pod.metadata.name, warm.namespace)
    assert kept.metadata.labels.items() >= {**pod.metadata.labels, "already_checked": "True"}.items()
    assert kept.metadata.annotations.items() >= {"cost": "low"}.items()
    assert kept.metadata.annotations["k8s-venv/call"]
    assert 1000 <= kept.spec.active_deadline_seconds <= 2000  # and the time that it waited
    assert not warm.waiting()


def test_a_secret_is_in_no_object_and_no_log(warm: WarmCluster) -> None:
    connections = {"db": {"conn_type": "postgres", "password": SECRET}}
    call = warm.call(look_for, SECRET, secrets={"connections": connections, "variables": {}, "masked": [SECRET]})
    seen: list[str] = []

    def look() -> None:
        lists = (
            warm.client.list_namespaced_pod,
            warm.client.list_namespaced_secret,
            warm.client.list_namespaced_event,
            warm.client.list_namespaced_config_map,
        )
        seen.extend(str(each(warm.namespace)) for each in lists)

    name = fresh()
    outcome = warm.run(warm.pod(name), call, while_running=look, action="keep_pod")
    look()

    assert outcome.value == (SECRET, []), outcome
    log = warm.client.read_namespaced_pod_log(outcome.pod.metadata.name, warm.namespace, container="base")
    assert not any(SECRET in text for text in (*seen, log, *outcome.lines, *outcome.said))


# --- why a call gets a pod of its own -------------------------------------------------------------------------


def test_no_waiting_pod_is_one_line_and_a_pod_of_its_own(cluster: Cluster) -> None:
    empty = WarmCluster(cluster.client, cluster.namespace, cluster.image, cluster.folder, preload=("json",))

    outcome = empty.run(empty.pod(fresh()), empty.call(add_one, 1))

    assert (outcome.value, outcome.start.missed) == (2, "none"), outcome
    assert outcome.said[0] == (
        "No waiting pod takes the call, which gets a pod of its own: no pod of environment 'x' waits."
    )


def test_options_that_differ_are_named(warm: WarmCluster) -> None:
    outcome = warm.run(warm.pod(fresh(), node_selector={"kubernetes.io/os": "linux"}), warm.call(add_one, 1))

    assert (outcome.value, outcome.start.missed) == (2, "options"), outcome
    assert "differs from the environment's waiting pods in `nodeSelector`" in outcome.said[0]
    assert len(warm.waiting()) == 1


class OthersAreFaster:
    """A client that always finds pods which others have changed by the time that it claims one."""

    def __init__(self, warm: WarmCluster) -> None:
        self._warm = warm

    def __getattr__(self, name: str) -> Any:
        ask = getattr(self._warm.client, name)
        return self._followed(ask) if name == "list_namespaced_pod" else ask

    def _followed(self, ask: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(ask)  # a watch reads there what it returns
        def list_pods(*args: Any, **options: Any) -> Any:
            listed = ask(*args, **options)
            for pod in self._warm.waiting():
                self._warm.annotate(pod, changed=uuid.uuid4().hex)
            return listed

        return list_pods


def test_a_claim_that_is_lost_three_times_is_one_line_and_a_pod_of_its_own(warm: WarmCluster) -> None:
    outcome = warm.run(warm.pod(fresh()), warm.call(add_one, 1), client=OthersAreFaster(warm))

    assert (outcome.value, outcome.start.missed) == (2, "lost"), outcome
    assert "other calls were faster 3 times" in outcome.said[0]
    (left,) = warm.waiting()  # it takes the next call, though connections to it were opened and closed
    assert warm.run(warm.pod(fresh()), warm.call(add_one, 1)).pod.metadata.uid == left.metadata.uid


@pytest.mark.parametrize(
    ("verb", "resource", "missed"),
    [
        ("list", "pods", "rights"),
        ("patch", "pods", "rights"),
        ("create", "leases", "rights"),
        ("get", "pods/exec", "exec"),
    ],
)
def test_a_right_that_is_missing_is_one_line_and_a_pod_of_its_own(
    warm: WarmCluster, without: Without, verb: str, resource: str, missed: str
) -> None:
    client = without(verb, resource, WARM_RIGHTS)

    outcome = warm.run(warm.pod(fresh()), warm.call(add_one, 1), client=client)

    assert (outcome.value, outcome.start.missed) == (2, missed), outcome
    told = [line for line in outcome.said if "right" in line]
    assert len(told) == 1, outcome.said
    assert "No waiting pod takes the call, which gets a pod of its own" in told[0]
    assert resource in told[0]


@pytest.mark.parametrize("verb", ["get", "delete"])
def test_a_right_that_only_a_later_try_needs_is_named_then(warm: WarmCluster, without: Without, verb: str) -> None:
    warm.fill(2)
    name = fresh()
    warm.run(warm.pod(name), warm.call(add_one, 1), action="keep_pod")
    client = without(verb, "leases", WARM_RIGHTS)

    outcome = warm.run(warm.pod(name, attempt="2"), warm.call(add_one, 1), client=client)

    assert (outcome.value, outcome.start.missed) == (2, "rights"), outcome
    assert f"needs the right to `{verb}` `leases`" in outcome.said[0]


# --- how a call ends ------------------------------------------------------------------------------------------


def test_a_failure_says_what_ended_the_pod(warm: WarmCluster) -> None:
    name = fresh()

    def delete() -> None:
        (pod,) = warm.of_task(name)
        warm.delete(pod)

    outcome = warm.run(warm.pod(name), warm.call(sleep, 100), while_running=delete)

    assert "its pod was deleted from outside" in str(outcome.error)


def test_a_deadline_counts_from_the_claim(warm: WarmCluster) -> None:
    eventually(lambda: all(time.time() - pod.status.start_time.timestamp() > 3 for pod in warm.waiting()))

    outcome = warm.run(warm.pod(fresh(), deadline=6), warm.call(sleep, 100))

    assert "active_deadline_seconds" in str(outcome.error)
    assert len(outcome.lines) >= 4


def test_a_call_that_takes_longer_is_watched(warm: WarmCluster) -> None:
    counting = Counting(warm.client)

    outcome = warm.run(warm.pod(fresh()), warm.call(sleep, 8), client=counting.client)

    assert outcome.value == "slept"
    assert outcome.lines == [f"second {number}" for number in range(8)]
    assert counting.asked.count(f"GET {warm.namespace}/pods") == 2  # the list and the watch


def test_large_values_and_arguments_travel_over_the_same_connection(warm: WarmCluster) -> None:
    counting = Counting(warm.client)

    outcome = warm.run(warm.pod(fresh()), warm.call(noise, 200 * MEGABYTE), client=counting.client)

    assert len(outcome.value) == 200 * MEGABYTE, outcome
    assert len([asked for asked in counting.asked if asked.endswith("/exec")]) == 1
    warm.fill()
    assert warm.run(warm.pod(fresh()), warm.call(length, os.urandom(6 * MEGABYTE))).value == 6 * MEGABYTE


def mirror(data: bytes) -> bytes:
    return data[::-1]


def test_large_values_go_through_the_location_for_them(warm: WarmCluster, bucket: str) -> None:
    environment = warm.environment.with_values({"location": bucket, "above": 100_000})
    data = os.urandom(3 * MEGABYTE)
    call = pack(mirror, (data,), {}, environment=environment)

    outcome = warm.run(warm.pod(fresh()), call)

    assert outcome.value == data[::-1], outcome
    assert outcome.start.kind == "warm"
    assert names_in(bucket) == []


# --- never twice at once --------------------------------------------------------------------------------------


def append_to(path: str, seconds: float) -> str:
    """Leave a mark in the pod's log at the begin and the end."""
    import time

    print("begin", path)
    time.sleep(seconds)
    print("end", path)
    return path


@pytest.mark.parametrize("waiting", [1, 2], ids=["one pod waits", "two pods wait"])
@pytest.mark.parametrize("action", ["keep_pod", "delete_pod"])
def test_two_workers_at_the_same_instant_run_the_task_once(warm: WarmCluster, waiting: int, action: str) -> None:
    warm.fill(waiting)
    name = fresh()
    outcomes: list[Outcome] = []
    barrier = threading.Barrier(2)

    def work() -> None:
        api = kubernetes.client.ApiClient(warm.client.api_client.configuration)
        client = kubernetes.client.CoreV1Api(api)
        call = warm.call(sleep, 6)
        barrier.wait()
        outcomes.append(warm.run(warm.pod(name), call, client=client, action=action))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [outcome.value for outcome in outcomes] == ["slept", "slept"], outcomes
    assert len({outcome.pod.metadata.uid for outcome in outcomes}) == 1
    eventually(lambda: len(warm.of_task(name)) == (1 if action == "keep_pod" else 0))


MOMENTS = {
    "between the claim and the lock": ("k8s_venv.backends.kubernetes.lock.TaskLock", "take"),
    "between the lock and the delivery": ("k8s_venv.backends.kubernetes.warm.WarmPods", "_deliver"),
    "in the delivery": ("k8s_venv.backends.kubernetes.attached._Output", "line"),
    "while it runs": ("", ""),
    "when the result is there": ("k8s_venv.backends.kubernetes.pod_runner.PodRunner", "collect"),
}
WORKER = """
import importlib
import os
import signal
import sys
from pathlib import Path
import kubernetes
from tests.cluster import direct, pools

kubernetes.config.load_kube_config()
namespace, image, folder, name, seconds, place, method = sys.argv[1:]
warm = pools.WarmCluster(kubernetes.client.CoreV1Api(), namespace, image, Path(folder))
kill = lambda *ignored, **options: os.kill(os.getpid(), signal.SIGKILL)
if place:
    module, _, kind = place.rpartition(".")
    setattr(getattr(importlib.import_module(module), kind), method, kill)
warm.run(warm.pod(name), warm.call(direct.sleep, int(seconds)), while_running=bool if place else kill)
"""


def run_and_kill_worker(warm: WarmCluster, name: str, moment: str, seconds: int) -> None:
    arguments = [warm.namespace, warm.image, str(warm.folder), name, str(seconds), *MOMENTS[moment]]
    worker = subprocess.run([sys.executable, "-c", WORKER, *arguments], check=False)
    assert worker.returncode == -signal.SIGKILL


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_try_after_a_workers_death_takes_over_the_claimed_pod(warm: WarmCluster, moment: str) -> None:
    name = fresh()
    run_and_kill_worker(warm, name, moment, 4)
    (before,) = warm.of_task(name)

    outcome = warm.run(warm.pod(name, attempt="2"), warm.call(sleep, 4))

    assert outcome.value == "slept", outcome
    assert outcome.pod.metadata.uid == before.metadata.uid
    assert any("Taking over pod" in line for line in outcome.said)
    assert outcome.lines == [f"second {number}" for number in range(4)]


def test_a_cold_try_takes_over_no_other_pod_than_the_claimed_one(warm: WarmCluster) -> None:
    name = fresh()
    run_and_kill_worker(warm, name, "while it runs", 10)
    (before,) = warm.of_task(name)
    assert not warm.waiting()

    outcome = warm.run(warm.pod(name, attempt="2"), warm.call(sleep, 10))

    assert outcome.value == "slept", outcome
    assert outcome.pod.metadata.uid == before.metadata.uid


def test_a_warm_try_takes_over_the_cold_pod_of_the_one_before(warm: WarmCluster) -> None:
    name = fresh()
    cold = warm.runner(warm.pod(name), warm.call(sleep, 6), Outcome())
    (waiting,) = warm.waiting()
    warm.delete(waiting, grace_period_seconds=0)
    eventually(lambda: not warm.waiting())
    before = cold.create()
    warm.fill()

    outcome = warm.run(warm.pod(name, attempt="2"), warm.call(sleep, 6))

    assert outcome.value == "slept", outcome
    assert outcome.pod.metadata.uid == before.metadata.uid
    assert len(warm.waiting()) == 1


def test_a_claimed_pod_of_another_call_is_ended_first(warm: WarmCluster) -> None:
    warm.fill(2)
    name = fresh()
    run_and_kill_worker(warm, name, "while it runs", 100)
    (before,) = warm.of_task(name)

    outcome = warm.run(warm.pod(name, attempt="2"), warm.call(add_one, 1))

    assert outcome.value == 2, outcome
    assert outcome.pod.metadata.uid != before.metadata.uid
    assert any("it runs another call" in line for line in outcome.said)


def test_a_try_after_a_failure_starts_again(warm: WarmCluster) -> None:
    warm.fill(2)
    name = fresh()
    first = warm.run(warm.pod(name), warm.call(raise_error), action="delete_active_pod")
    second = warm.run(warm.pod(name, attempt="2"), warm.call(raise_error))

    assert "this try failed" in str(first.error)
    assert "this try failed" in str(second.error)
    assert first.pod.metadata.uid != second.pod.metadata.uid


def test_a_kept_pod_is_never_taken_for_the_next_try(warm: WarmCluster) -> None:
    warm.fill(2)
    name = fresh()
    first = warm.run(warm.pod(name), warm.call(add_one, 1), action="keep_pod")
    second = warm.run(warm.pod(name, attempt="2"), warm.call(add_one, 1))

    assert (first.value, second.value) == (2, 2), second
    assert first.pod.metadata.uid != second.pod.metadata.uid


# --- what another process waits for ---------------------------------------------------------------------------


def test_a_call_goes_on_whose_worker_leaves_it_to_another_process(warm: WarmCluster) -> None:
    outcome = Outcome()
    run = warm.runner(warm.pod(fresh()), warm.call(sleep, 3), outcome)
    run.create()

    run.hand_off()

    try:
        assert open_result(run.wait(), warm.call(sleep, 3)) == "slept"
        assert outcome.lines == ["second 0", "second 1", "second 2"]
    finally:
        run.finish("delete_pod")


def test_a_script_s_calls_run_at_waiting_pods(
    project: Path, warm: WarmCluster, registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("K8S_VENV_REGISTRY", registry)
    monkeypatch.setattr(kubernetes_backend, "connect", lambda environment: (warm.client, Namespace(warm.namespace, "")))
    loaded = load_project(project / "k8s-venv.toml")
    environment = loaded.environment("current").model_copy(update={"warm": WarmPool()})
    warm.client.create_namespaced_pod(warm.namespace, pool.declared_pod(environment, loaded))
    eventually(lambda: all(map(is_ready, warm.listed("app.kubernetes.io/name=current"))))
    call = pack(hostname, (), {}, environment=environment)

    result = KubernetesBackend(loaded, uuid.uuid4().hex).run(call, print)

    assert open_result(result, call).startswith("warm-current-")


def hostname() -> str:
    import os

    return os.environ["HOSTNAME"]


# --- a connection that breaks ---------------------------------------------------------------------------------


@pytest.fixture
def gate(client: Any) -> Gate:
    address = urlsplit(client.api_client.configuration.host)
    return Gate(address.hostname or "", address.port or 443)


def test_arguments_whose_connection_breaks_are_sent_again(warm: WarmCluster, gate: Gate) -> None:
    data = os.urandom(6 * MEGABYTE)
    gate.cut_after(4 * MEGABYTE)

    outcome = warm.run(warm.pod(fresh()), warm.call(length, data), client=behind(gate, warm.client))

    assert outcome.value == 6 * MEGABYTE, outcome
    assert outcome.start.kind == "warm"


def test_a_value_whose_connection_breaks_is_read_from_the_pod(warm: WarmCluster, gate: Gate) -> None:
    gate.cut_after(90 * MEGABYTE)

    outcome = warm.run(
        warm.pod(fresh()), warm.call(noise, 200 * MEGABYTE), client=behind(gate, warm.client), action="keep_pod"
    )

    assert len(outcome.value) == 200 * MEGABYTE, outcome
    eventually(lambda: pod_phase(warm, outcome.pod) == "Succeeded")  # nothing keeps the second container


def test_a_call_goes_on_while_the_api_server_is_away(warm: WarmCluster, gate: Gate) -> None:
    def leave() -> None:
        gate.shut()
        time.sleep(4)
        gate.open()

    outcome = warm.run(
        warm.pod(fresh()),
        warm.call(sleep, 8),
        client=behind(gate, warm.client),
        while_running=threading.Thread(target=leave).start,
    )

    assert outcome.value == "slept", outcome
    assert outcome.lines == [f"second {number}" for number in range(8)]


def pod_phase(warm: WarmCluster, pod: Any) -> str:
    phase: str = warm.client.read_namespaced_pod(pod.metadata.name, warm.namespace).status.phase
    return phase


# --- what ends a call -----------------------------------------------------------------------------------------


def take_memory() -> None:
    import time

    print("begun")
    held = []
    for _ in range(400):
        held.append(b"x" * 1_000_000)
    time.sleep(60)


def test_a_call_that_uses_too_much_memory_says_so(cluster: Cluster) -> None:
    warm = WarmCluster(cluster.client, cluster.namespace, cluster.image, cluster.folder, memory="64Mi")
    warm.fill()

    outcome = warm.run(warm.pod(fresh()), warm.call(take_memory))

    assert "used more memory than its container may (limit 64Mi)" in str(outcome.error), outcome
    assert outcome.start.kind == "warm"


def test_an_eviction_is_the_reason(warm: WarmCluster) -> None:
    name = fresh()

    def evict() -> None:
        (pod,) = warm.of_task(name)
        metadata = {"name": pod.metadata.name, "namespace": warm.namespace}
        warm.client.create_namespaced_pod_eviction(pod.metadata.name, warm.namespace, {"metadata": metadata})

    outcome = warm.run(warm.pod(name), warm.call(sleep, 200), while_running=evict)

    assert "was evicted from its node (EvictionByEvictionAPI)" in str(outcome.error), outcome


def test_a_task_that_is_killed_ends_its_pod(warm: WarmCluster) -> None:
    name, killed = fresh(), list[bool]()
    outcome, run = Outcome(), None

    def kill(line: str) -> None:
        if not killed:
            killed.append(True)
            (pod,) = warm.of_task(name)
            warm.delete(pod)

    run = warm.runner(warm.pod(name), warm.call(sleep, 200), outcome, log=kill, killed=lambda: bool(killed))
    run.create()

    with pytest.raises(BackendError, match="was ended, since its task was killed"):
        run.wait()
    run.leave()


def finish_late() -> int:
    import atexit
    import threading
    import time

    def later() -> None:
        time.sleep(2)
        print("said by a thread that goes on")

    atexit.register(print, "said by an exit handler")
    threading.Thread(target=later).start()
    return 5


def test_what_a_function_leaves_running_is_finished_first(warm: WarmCluster) -> None:
    outcome = warm.run(warm.pod(fresh()), warm.call(finish_late))

    assert outcome.value == 5
    assert outcome.lines == ["said by a thread that goes on", "said by an exit handler"]
