"""The chart's keeper on a real cluster: pools fill, follow what is declared, and outlive whatever happens to it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("kubernetes", reason="the kubernetes client is not installed")

import kubernetes
from warm_pods import SLOT

from k8s_venv.backends.kubernetes.pool import pool_key, pool_pod
from k8s_venv.config.environment import Environment
from k8s_venv.config.warm import WarmPool
from tests.chart import NAME, helm
from tests.cluster.keepers import IMAGE, KEEPER, Warm, pool, warm_release
from tests.waiting import eventually


@pytest.fixture
def warm(client: Any) -> Iterator[Warm]:
    with warm_release(client, {"etl": pool()}) as release:
        release.until_ready(1)
        yield release


def uids(pods: list[Any]) -> set[str]:
    return {pod.metadata.uid for pod in pods}


def test_claims_are_refilled_and_a_burst_grows_the_pool(warm: Warm) -> None:
    (first,) = warm.ready()
    assert warm.claim(first)

    second, third = warm.until_ready(2)  # the claim took the last one
    assert warm.claim(second)
    assert warm.claim(third)

    waiting = warm.until_ready(4)
    assert not uids(waiting) & uids([first, second, third])
    assert uids(warm.pods()) == uids([first, second, third, *waiting])
    assert "etl: 4 pods wait from now on, since calls took all of 2." in warm.log()


def test_a_pool_shrinks_when_no_call_comes(client: Any) -> None:
    with warm_release(client, {"etl": pool(idleSeconds=10)}) as warm:
        (first,) = warm.until_ready(1)
        warm.claim(first)

        eventually(lambda: "2 pods wait from now on" in warm.log())
        eventually(lambda: "1 pods wait from now on, since no call came for a while" in warm.log())

        eventually(lambda: len(warm.waiting()) == 1)
        assert first.metadata.uid in uids(warm.pods())


def test_an_upgrade_replaces_what_waits_and_leaves_what_runs(warm: Warm) -> None:
    (claimed,) = warm.ready()
    warm.claim(claimed)
    old = warm.until_ready(2)

    warm.apply({"etl": pool("second")})

    warm.until_ready(2, key="second")
    eventually(lambda: not uids(warm.pods()) & uids(old))
    assert claimed.metadata.uid in uids(warm.pods())


def test_pods_of_an_environment_that_left_go(client: Any) -> None:
    with warm_release(client, {"etl": pool(), "ml_gpu": pool("other")}) as warm:
        warm.until_ready(1)
        (other,) = warm.until_ready(1, "ml_gpu")
        assert other.metadata.name.startswith("warm-ml-gpu-")

        warm.apply({"etl": pool(), "ml_gpu": None})

        eventually(lambda: not warm.pods("ml_gpu"))
        assert len(warm.ready()) == 1


@pytest.mark.parametrize("how", ["uninstalled", "switched off"])
def test_nothing_waits_without_a_keeper(warm: Warm, how: str) -> None:
    (claimed,) = warm.ready()
    warm.claim(claimed)
    warm.until_ready(2)

    if how == "uninstalled":
        helm("uninstall", NAME, "--namespace", warm.namespace)
    else:
        warm.apply({"etl": pool()}, "--set=warm.enabled=false")

    eventually(lambda: not warm.waiting())
    eventually(lambda: not warm.keepers())
    assert uids(warm.pods()) == {claimed.metadata.uid}


def test_pods_that_end_or_go_are_replaced(warm: Warm) -> None:
    (first,) = warm.ready()
    warm.client.delete_namespaced_pod(first.metadata.name, warm.namespace)  # as a drained node does
    (second,) = eventually(lambda: [pod for pod in warm.ready() if pod.metadata.uid != first.metadata.uid])

    warm.end(second)

    eventually(lambda: [pod for pod in warm.ready() if pod.metadata.uid != second.metadata.uid])
    eventually(lambda: second.metadata.uid not in uids(warm.pods()))


# --- the keeper itself ----------------------------------------------------------------------------------------


def test_a_keeper_that_is_killed_while_claims_run_loses_nothing(warm: Warm) -> None:
    claimed: set[str] = set()

    for number in range(12):
        if number % 4 == 1:
            warm.kill_keepers()
        pod = next(iter(eventually(warm.ready)))
        if warm.claim(pod):
            claimed.add(pod.metadata.uid)
        waiting = len(warm.waiting())
        assert waiting <= 4

    eventually(warm.ready)  # how many grow depends on the claims that a living keeper saw
    assert len(claimed) > 3
    assert claimed <= uids(warm.pods())


def at_most(warm: Warm, count: int) -> bool:
    """Return whether so many pods can take a call; more must never wait."""
    assert len(warm.waiting()) <= count
    return len(warm.ready()) == count


def test_of_two_keepers_one_makes_pods(warm: Warm) -> None:
    warm.apps.patch_namespaced_deployment_scale(KEEPER, warm.namespace, {"spec": {"replicas": 2}})
    eventually(lambda: "Another keeper leads" in warm.log())
    first = warm.leader()

    for expected in (2, 4, 4):
        for pod in warm.ready():
            assert warm.claim(pod)
        eventually(partial(at_most, warm, expected))

    assert warm.leader() == first
    warm.client.delete_namespaced_pod(first, warm.namespace)
    eventually(lambda: warm.leader() not in ("", first))
    (pod, *_) = warm.ready()
    assert warm.claim(pod)
    warm.until_ready(4)


def test_a_killed_container_of_the_keeper_leads_again(warm: Warm) -> None:
    (keeper,) = warm.keepers()
    kubernetes.stream.stream(
        kubernetes.client.CoreV1Api(kubernetes.config.new_client_from_config()).connect_get_namespaced_pod_exec,
        keeper.metadata.name,
        warm.namespace,
        command=["python", "-c", "import os, signal; os.kill(1, signal.SIGTERM)"],
        stdout=True,
    )
    eventually(lambda: warm.keepers()[0].status.container_statuses[0].restart_count == 1)
    (first,) = warm.ready()

    assert warm.claim(first)

    warm.until_ready(2)
    assert warm.leader() == keeper.metadata.name


# --- what keeps pods from waiting -----------------------------------------------------------------------------


def reported(warm: Warm, sentence: str) -> str:
    """Return the event with a sentence; the log has it once."""
    message = eventually(lambda: next((each for each in warm.events() if sentence in each), None))
    assert message.startswith("Warm pods of the environment 'etl' do not start: ")
    assert eventually(lambda: warm.log().count(sentence)) == 1
    return message


def test_a_preload_that_fails_is_shown_and_not_tried_without_pause(client: Any) -> None:
    code = "import sys; open('/dev/termination-log', 'w').write('ModuleNotFoundError: no pandas'); sys.exit(1)"

    with warm_release(client, {"etl": pool(code=code, min=3), "fine": pool("fine")}) as warm:
        message = reported(warm, "ended with exit code 1 before a call came: ModuleNotFoundError: no pandas. If")

        assert "preload" in message
        warm.until_ready(1, "fine")
        eventually(lambda: not warm.pods())
        eventually(lambda: len(warm.pods()) == 1)  # one tries again
        warm.apply({"etl": pool("better", min=3), "fine": pool("fine")})
        warm.until_ready(3)


def test_the_traceback_of_a_preload_is_shown(client: Any) -> None:
    environment = Environment(name="etl", root=Path(), python="3.12", warm=WarmPool(preload=("nonesuch",)))
    pod = pool_pod(environment, {"image": IMAGE, "security_context": {"runAsUser": 50000}})
    manifest = client.api_client.sanitize_for_serialization(pod)

    with warm_release(client, {"etl": {**pool(pool_key(pod)), "pod": manifest}}) as warm:
        message = reported(warm, "the preload 'nonesuch' cannot be imported: ModuleNotFoundError")

        assert "\nModuleNotFoundError" in message  # the end of the traceback
        assert message.endswith("take it out of `preload`.")
        eventually(lambda: not warm.pods())


def test_an_image_that_is_missing_is_named(client: Any) -> None:
    missing = f"{pool()['pod']['spec']['containers'][0]['image'].split('/')[0]}/nowhere/missing:1"

    with warm_release(client, {"etl": pool(image=missing)}) as warm:
        reported(warm, f"the image {missing} cannot be pulled (ErrImagePull)")

        eventually(lambda: not warm.pods())


def test_a_pod_that_the_namespace_does_not_admit_is_named(client: Any) -> None:
    open_one = pool()
    del open_one["pod"]["spec"]["containers"][0]["securityContext"]

    with warm_release(client, {"etl": open_one}) as warm:
        message = reported(warm, 'violates PodSecurity "restricted')

        assert "allowPrivilegeEscalation" in message
        assert "`k8s-venv helm-values`" in message


def test_a_pod_that_no_node_takes_waits_and_is_named(client: Any) -> None:
    large = pool(min=2)
    large["pod"]["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "900"}}

    with warm_release(client, {"etl": large}) as warm:
        reported(warm, "no node takes them: 0/")

        assert 1 <= len(warm.pods()) <= 2


def test_a_quota_keeps_room_for_tasks(client: Any) -> None:
    quota = "--set-json=resourceQuota.hard={}"

    with warm_release(client, {"etl": pool(min=4)}, quota.format('{"pods": "5"}')) as warm:
        reported(warm, f"the quota '{NAME}' has no room for more, since 4 of 5 pods are used")
        assert len(warm.until_ready(3)) == 3  # beside the keeper

        warm.apply({"etl": pool(min=4)}, quota.format('{"pods": "50"}'))

        warm.until_ready(4)


def test_defaults_of_the_namespace_count_for_its_quota(client: Any) -> None:
    hard = '--set-json=resourceQuota.hard={"requests.memory": "512Mi", "limits.memory": "10Gi"}'

    silent = pool(min=4)
    del silent["pod"]["spec"]["containers"][0]["resources"]

    with warm_release(client, {"etl": silent}, hard) as warm:
        # No limit by default, which this quota asks for.
        reported(warm, "must specify limits.memory")

        defaults = '--set-json=limitRange.limits=[{"type": "Container", "default": {"memory": "100Mi"}}]'
        warm.apply({"etl": silent}, hard, defaults)

        reported(warm, "requests.memory are used")
        assert len(warm.until_ready(3)) == 3


def test_the_keeper_touches_no_pod_but_its_own(warm: Warm) -> None:
    waiting = pool()["pod"]
    waiting["metadata"] = {"name": "foreign", "labels": {SLOT: "first"}}
    warm.client.create_namespaced_pod(warm.namespace, waiting)

    warm.apply({"etl": pool("second")})

    warm.until_ready(1, key="second")
    assert warm.client.read_namespaced_pod("foreign", warm.namespace).metadata.deletion_timestamp is None
