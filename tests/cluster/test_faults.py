"""What goes wrong with pods, provoked on the cluster, and the cause that is reported for it."""

from __future__ import annotations

import base64
import concurrent.futures
import dataclasses
import os
import re
import signal
import struct
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from k8s_venv.backends.kubernetes.pod_state import Timeouts
from tests.airflow_home import airflow_home
from tests.cluster.conftest import RunFile
from tests.cluster.direct import Cluster, Outcome, add_one, sleep
from tests.cluster.namespaces import make_quota, own_namespace


def segfault() -> None:
    import ctypes

    print("before the crash")
    ctypes.string_at(0)


def fill_disk() -> None:
    import time
    from pathlib import Path

    Path("/tmp/large").write_bytes(b"0" * 60_000_000)
    time.sleep(250)


def flood(lines: int) -> int:
    for number in range(lines):
        print(f"{number:08} {'x' * 90}")
    return lines


def noise(size: int) -> bytes:
    import os

    return os.urandom(size)


def raise_error() -> None:
    raise ValueError("this try failed")


def as_somebody_without_rights(namespace: str) -> Any:
    from kubernetes import client

    api = client.ApiClient()
    api.set_default_header("Impersonate-User", f"system:serviceaccount:{namespace}:default")
    return client.CoreV1Api(api)


@pytest.fixture(scope="module")
def full_namespace(client: Any) -> Iterator[str]:
    """A namespace whose quota takes no pods."""
    with own_namespace(client) as name:
        make_quota(client, name, pods="0")
        yield name


class LosesSecrets:
    """A client beside which somebody deletes each Secret before a node has looked for it."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def create_namespaced_secret(self, namespace: str, secret: Any, **options: Any) -> Any:
        return self._client.create_namespaced_secret(namespace, secret, dry_run="All", **options)


def deleted(cluster: Cluster, pod: Any) -> Outcome:
    return cluster.run(pod, cluster.call(sleep, 200), while_running=lambda: cluster.delete(pod))


def evicted_by_the_api(cluster: Cluster, pod: Any) -> Outcome:
    def evict() -> None:
        metadata = {"name": pod.metadata.name, "namespace": cluster.namespace}
        cluster.client.create_namespaced_pod_eviction(pod.metadata.name, cluster.namespace, {"metadata": metadata})

    return cluster.run(pod, cluster.call(sleep, 200), while_running=evict)


def in_full_namespace(cluster: Cluster, namespace: str) -> Outcome:
    elsewhere = dataclasses.replace(cluster, namespace=namespace)
    return elsewhere.run(elsewhere.pod(), cluster.call(add_one, 1))


def with_failing_init_container(cluster: Cluster) -> Outcome:
    pod = cluster.pod()
    program = "print('no such table'); raise SystemExit(3)"
    pod.spec.init_containers = [
        {
            "name": "prepare",
            "image": cluster.image,
            "command": ["python", "-c", program],
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
    ]
    return cluster.run(pod, cluster.call(add_one, 1))


def privileged(cluster: Cluster) -> Outcome:
    pod = cluster.pod()
    pod.spec.host_network = True
    return cluster.run(pod, cluster.call(add_one, 1))


def built_for_another_machine(cluster: Cluster) -> Outcome:
    """Run a `python` whose header (elf(5)) names a machine of another kind, an S/390."""
    header = (
        b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, 22, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    )
    program = base64.b64encode(header + bytes(56)).decode()
    name = f"other-{uuid.uuid4().hex[:8]}"
    cluster.client.create_namespaced_config_map(
        cluster.namespace, {"metadata": {"name": name}, "binaryData": {"python": program}}
    )
    pod = cluster.pod(env_vars={"PATH": "/other"})
    pod.spec.volumes.append({"name": "other", "configMap": {"name": name, "defaultMode": 0o755}})
    pod.spec.containers[0].volume_mounts.append({"name": "other", "mountPath": "/other"})
    return cluster.run(pod, cluster.call(add_one, 1))


FAULTS: dict[str, tuple[Callable[[Cluster, str], Outcome], str]] = {
    "deleted from outside": (
        lambda cluster, _: deleted(cluster, cluster.pod()),
        r"sleep\(\) ended without a result: its pod was deleted from outside\.",
    ),
    "evicted by the API": (
        lambda cluster, _: evicted_by_the_api(cluster, cluster.pod()),
        r"sleep\(\) was evicted from its node \(EvictionByEvictionAPI\)",
    ),
    "evicted for its disk": (
        lambda cluster, _: cluster.run(
            cluster.pod(container_resources={"limits": {"ephemeral-storage": "20Mi"}}), cluster.call(fill_disk)
        ),
        r"fill_disk\(\) was evicted from its node: .*ephemeral",
    ),
    "no Python": (
        lambda cluster, _: cluster.run(cluster.pod(env_vars={"PATH": "/nowhere"}), cluster.call(add_one, 1)),
        r"its image cannot run `python`: .*executable file not found",
    ),
    "another machine": (
        lambda cluster, _: built_for_another_machine(cluster),
        r"its image cannot run on its node, which is another kind of machine \(exec .*: exec format error\)",
    ),
    "another Python": (
        lambda cluster, _: cluster.run(cluster.pod(), cluster.call(add_one, 1, python="3.9")),
        r"declared with Python 3\.9, but its `python` is 3\.12",
    ),
    "unschedulable": (
        lambda cluster, _: cluster.run(
            cluster.pod(container_resources={"requests": {"cpu": "1000"}}),
            cluster.call(add_one, 1),
            timeouts=Timeouts(schedule=20, startup=60),  # the scheduler says why only after it has looked
        ),
        r"no node could take its pod within 20 s: .*Insufficient cpu.*`schedule_timeout_seconds`",
    ),
    "quota": (
        lambda cluster, full: in_full_namespace(cluster, full),
        r"Kubernetes refused the pod in namespace .*exceeded quota.*The namespace's quota is used up\.",
    ),
    "no rights": (
        lambda cluster, _: cluster.run(
            cluster.pod(), cluster.call(add_one, 1), client=as_somebody_without_rights(cluster.namespace)
        ),
        r"Kubernetes refused the pod .*cannot create resource \"pods\".*needs the right to `create` `pods`",
    ),
    "an amount": (
        lambda cluster, _: cluster.run(
            cluster.pod(container_resources={"limits": {"memory": "1 GB"}}), cluster.call(add_one, 1)
        ),
        r"Kubernetes refused the pod .*quantities must match.*Amounts in `container_resources` are written such as",
    ),
    "Pod Security": (
        lambda cluster, _: privileged(cluster),
        r"violates PodSecurity.*The namespace's Pod Security level does not admit the pod's options\.",
    ),
    "active_deadline_seconds": (
        lambda cluster, _: cluster.run(cluster.pod(deadline=4), cluster.call(sleep, 200)),
        r"sleep\(\) ran longer than its pod's `active_deadline_seconds` allows \(4 s from its start\)",
    ),
    "segfault": (
        lambda cluster, _: cluster.run(cluster.pod(), cluster.call(segfault)),
        r"segfault\(\) ended without a result: its process was ended by SIGSEGV \(a crash in compiled code\)",
    ),
    "Secret deleted before start": (
        lambda cluster, _: cluster.run(
            cluster.pod(),
            cluster.call(add_one, 1),
            client=LosesSecrets(cluster.client),
            timeouts=Timeouts(schedule=180, startup=20),  # the node says why only after it has looked
        ),
        r"its pod did not start within 20 s \(FailedMount: .*secret \"fault-.*\" not found",
    ),
    "registry away": (
        lambda cluster, _: cluster.run(
            cluster.pod(image="localhost:1/not/listening:1"),  # nothing listens there
            cluster.call(add_one, 1),
            timeouts=Timeouts(schedule=180, startup=20),
        ),
        r"its pod did not start within 20 s \(.*connection refused.*\)\. Its node cannot pull the image now: "
        r"is the registry there, and does the node reach it\?",
    ),
    "init container": (
        lambda cluster, _: with_failing_init_container(cluster),
        r"the init container 'prepare' left with exit code 3",
    ),
}


@pytest.fixture(scope="module")
def outcomes(cluster: Cluster, full_namespace: str) -> dict[str, Outcome]:
    """All faults, a few at a time."""
    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        futures = {name: pool.submit(provoke, cluster, full_namespace) for name, (provoke, _) in FAULTS.items()}
        return {name: future.result() for name, future in futures.items()}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_reported_by_its_cause(outcomes: dict[str, Outcome], fault: str) -> None:
    assert re.search(FAULTS[fault][1], str(outcomes[fault].error), re.DOTALL), outcomes[fault]


def test_evidence_is_read_before_the_pod_is_deleted(outcomes: dict[str, Outcome]) -> None:
    assert "no such table" in outcomes["init container"].lines
    assert "before the crash" in outcomes["segfault"].lines
    assert any("Segmentation fault" in line for line in outcomes["segfault"].lines)
    assert "second 0" in outcomes["deleted from outside"].lines


def test_faults_leave_nothing(outcomes: dict[str, Outcome], cluster: Cluster) -> None:
    cluster.await_gone("fault-")


def test_a_flood_of_lines_comes_whole_and_in_order(cluster: Cluster) -> None:
    outcome = cluster.run(cluster.pod(), cluster.call(flood, 30_000))

    assert outcome.value == 30_000
    assert outcome.lines == [f"{number:08} {'x' * 90}" for number in range(30_000)]
    assert outcome.said[-1].startswith("Phases of a cold start: scheduled ")


# --- through Airflow ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dag", ["timing_out", "timing_out_deferred"])
def test_a_timeout_stays_a_timeout_and_leaves_no_pod(
    project: Path, run_file: RunFile, cluster: Cluster, capfd: pytest.CaptureFixture[str], dag: str
) -> None:
    state, _ = run_file(project / "waiting.py", dag)

    assert state == "failed"
    assert "AirflowTaskTimeout" in capfd.readouterr().out
    cluster.await_gone(dag.replace("_", "-"))


def test_a_task_that_sigterm_ends_was_not_deleted_from_outside(
    project: Path,
    run_file: RunFile,
    cluster: Cluster,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    airflow_home()
    from k8s_venv.airflow.pod_operator import IsolatedPodOperator

    start = IsolatedPodOperator._start

    def start_and_get_killed(operator: IsolatedPodOperator, context: Any) -> Any:
        # As Airflow's task process does it, which `DAG.test` is not.
        signal.signal(signal.SIGTERM, lambda number, frame: operator.on_kill())
        run = start(operator, context)
        threading.Timer(2, os.kill, [os.getpid(), signal.SIGTERM]).start()
        return run

    monkeypatch.setattr(IsolatedPodOperator, "_start", start_and_get_killed)
    before = signal.getsignal(signal.SIGTERM)
    try:
        state, _ = run_file(project / "waiting.py", "sleeping")
    finally:
        signal.signal(signal.SIGTERM, before)

    assert state == "failed"
    printed = capfd.readouterr().out
    assert "sleeps() was ended, since its task was killed" in printed
    assert "from outside" not in printed
    cluster.await_gone("sleeping")
