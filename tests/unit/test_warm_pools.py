"""What the chart's keeper decides about pools of warm pods: how many wait, which go, what is said of failures."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pools import Plan, Pool, lost_early
from quota import Room, needs, thousandths
from warm_pods import ENVIRONMENT, KEEPER, POOL, SLOT, STARTUP, Failure, WarmPod, refused, seconds, waiting_pod

NOW = 1_800_000_000.0
BROKEN = Failure("broken", "it is broken", "Repair it.")


def pool(minimum: int = 1, maximum: int = 8, idle: float = 600) -> Pool:
    declared = {"environment": "etl", "key": "k", "min": minimum, "max": maximum, "idleSeconds": idle, "pod": {}}
    return Pool(declared, NOW)


def warm_pod(name: str = "warm-etl-1", **fields: Any) -> WarmPod:
    """Return a pod that has waited for a while."""
    known = {"created": NOW - 100, "scheduled": NOW - 100, "ready": NOW - 99, "running": True, "waited": 0.0}
    given = {"failure": None, "unschedulable": None, "leaving": False, "needs": {}, **known, **fields}
    return WarmPod(name=name, uid=name, version="1", environment="etl", key="k", **given)


def starting(name: str = "warm-etl-2", **fields: Any) -> WarmPod:
    return warm_pod(name, **{"created": NOW, "scheduled": NOW, "ready": None, "running": False, **fields})


def planned(pool: Pool, *pods: WarmPod, after: float = 0.0) -> Plan:
    pool.observe(pods, NOW + after)
    return pool.plan(pods, NOW + after)


# --- how many wait --------------------------------------------------------------------------------------------


def test_an_empty_pool_is_filled_to_its_minimum() -> None:
    assert planned(pool(3)) == Plan(create=3, delete=[], failures=[])


def test_a_claimed_pod_is_replaced_at_once() -> None:
    two = pool(2)
    two.claimed(warm_pod("a"), left=1, now=NOW)

    assert planned(two, warm_pod("b")).create == 1


def test_claims_that_empty_a_pool_double_it_up_to_its_maximum() -> None:
    grown = pool(1, 3)
    targets = []

    for _ in range(3):
        grown.claimed(warm_pod(), left=0, now=NOW)
        targets.append(grown.target)

    assert targets == [2, 3, 3]


def test_a_claim_that_leaves_others_does_not_grow_a_pool() -> None:
    steady = pool(2)

    steady.claimed(warm_pod(), left=1, now=NOW)

    assert steady.target == 2


def test_a_pool_shrinks_to_its_minimum_when_no_call_came() -> None:
    grown = pool(1, 8, idle=60)
    grown.claimed(warm_pod(), left=0, now=NOW)
    first, second = warm_pod("first", created=NOW - 9), warm_pod("second", created=NOW - 8)

    assert planned(grown, first, second, after=59).delete == []
    assert planned(grown, first, second, after=60).delete == [second]


def test_what_still_starts_goes_first_when_a_pool_shrinks() -> None:
    late, early = starting("late"), warm_pod("early")

    assert planned(pool(1), late, early).delete == [late]


def test_a_keeper_that_starts_again_keeps_what_a_burst_left() -> None:
    again = pool(1, 4, idle=60)

    again.adopt(6, NOW)

    assert again.target == 4
    pods = [warm_pod(str(number)) for number in range(4)]
    assert planned(again, *pods).delete == []
    assert len(planned(again, *pods, after=60).delete) == 3


def test_a_pod_that_is_being_deleted_does_not_count() -> None:
    leaving = warm_pod(leaving=True)

    assert planned(pool(1), leaving) == Plan(create=1, delete=[], failures=[])


# --- pods that do not start -----------------------------------------------------------------------------------


def test_a_failed_pod_is_removed_and_the_next_one_waits_longer_each_time() -> None:
    failing = pool(1)
    pauses, now = [], NOW

    for number in range(8):
        broken = [starting(str(number), failure=BROKEN, created=now)]
        failing.observe(broken, now)
        assert failing.plan(broken, now) == Plan(create=0, delete=broken, failures=[BROKEN])
        pauses.append(failing.pause(now))
        now += failing.pause(now)
        assert failing.plan([], now).create == 1

    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300]


def test_pods_that_fail_together_count_once_and_one_tries_again() -> None:
    failing = pool(5)
    broken = [starting(str(number), failure=BROKEN) for number in range(5)]

    assert planned(failing, *broken).create == 0
    assert planned(failing, after=5).create == 1
    assert planned(failing, starting("next", created=NOW + 5), after=6).create == 0
    assert planned(failing, warm_pod("next", created=NOW + 5, ready=NOW + 6), after=7).create == 1
    assert planned(failing, warm_pod("next", created=NOW + 5, ready=NOW + 6), after=70).create == 4


def test_a_pod_that_waited_well_is_replaced_at_once() -> None:
    ended = warm_pod(failure=BROKEN, ready=None, waited=61.0)

    assert planned(pool(1), ended) == Plan(create=1, delete=[ended], failures=[BROKEN])


def test_older_pods_that_wait_do_not_hide_that_new_ones_fail() -> None:
    failing, old = pool(2), warm_pod("old")

    for after in (0, 5):
        planned(failing, old, starting("new", failure=BROKEN), after=after)

    assert failing.pause(NOW + 5) == 10


def test_a_pod_without_a_node_stays_and_no_other_is_made() -> None:
    stuck = starting(unschedulable=BROKEN, scheduled=None)

    assert planned(pool(3), stuck, after=29) == Plan(create=0, delete=[], failures=[])
    assert planned(pool(3), stuck, after=10_000) == Plan(create=0, delete=[], failures=[BROKEN])


def test_a_pod_that_does_not_start_in_time_is_removed() -> None:
    slow = starting(scheduled=NOW - STARTUP)

    plan = planned(pool(1), slow)

    assert plan.delete == [slow]
    assert plan.failures[0].reason == "a pod did not start within 15 minutes"


def test_a_pod_that_still_imports_is_left_to_its_probe() -> None:
    importing = starting(scheduled=NOW - 2 * STARTUP, running=True)

    assert planned(pool(1), importing) == Plan(create=0, delete=[], failures=[])


def test_who_deletes_new_pods_gets_no_new_ones_without_a_pause() -> None:
    assert lost_early(starting(), NOW + 1)
    assert not lost_early(warm_pod(), NOW)  # its node is drained
    assert not lost_early(starting(leaving=True), NOW + 1)  # the keeper did it


# --- whatever happens -----------------------------------------------------------------------------------------


@dataclasses.dataclass
class World:
    """One pool with pods that start, fail, go and are claimed as a test likes."""

    pool: Pool
    now: float = NOW
    pods: dict[str, WarmPod] = dataclasses.field(default_factory=dict)
    claimed: set[str] = dataclasses.field(default_factory=set)
    made: int = 0

    def keep(self) -> None:
        pods = list(self.pods.values())
        self.pool.observe(pods, self.now)
        plan = self.pool.plan(pods, self.now)
        for pod in plan.delete:
            assert pod.uid not in self.claimed
            del self.pods[pod.uid]
        for _ in range(plan.create):
            self.made += 1
            name = f"warm-etl-{self.made}"
            self.pods[name] = starting(name, created=self.now, scheduled=self.now)

    def happen(self, what: str, which: int) -> None:
        name, pod = sorted(self.pods.items())[which % len(self.pods)] if self.pods else ("", starting())
        if what == "time":
            self.now += which
        elif what == "ready" and self.pods and pod.ready is None:
            self.pods[name] = pod._replace(ready=self.now, running=True)
        elif what == "claim" and pod.ready is not None:
            del self.pods[name]
            self.claimed.add(name)
            self.pool.claimed(pod, sum(each.ready is not None for each in self.pods.values()), self.now)
        elif what == "fail" and self.pods:
            waited = self.now - pod.ready if pod.ready else 0.0
            self.pods[name] = pod._replace(failure=BROKEN, ready=None, waited=waited)
        elif what == "gone" and self.pods:
            del self.pods[name]

    def calm(self, seconds: float) -> None:
        """Let time pass in which every pod starts."""
        end = self.now + seconds
        while self.now < end:
            self.keep()
            self.pods = {n: p if p.ready else p._replace(ready=self.now, running=True) for n, p in self.pods.items()}
            self.now += 5


HAPPENINGS = st.lists(
    st.tuples(st.sampled_from(["time", "ready", "claim", "fail", "gone"]), st.integers(0, 400)), max_size=60
)


@given(minimum=st.integers(1, 5), more=st.integers(0, 5), happenings=HAPPENINGS)
def test_no_more_wait_than_the_maximum_and_it_converges(
    minimum: int, more: int, happenings: list[tuple[str, int]]
) -> None:
    world = World(pool(minimum, minimum + more))

    for what, which in happenings:
        world.happen(what, which)
        world.keep()
        assert sum(pod.failure is None for pod in world.pods.values()) <= minimum + more

    world.calm(400)
    assert minimum <= world.pool.target <= minimum + more
    assert len(world.pods) == world.pool.target
    world.calm(700)
    assert len(world.pods) == minimum
    before = world.made
    world.calm(700)
    assert world.made == before  # a pool that is full stays as it is


# --- what the state of a pod means ----------------------------------------------------------------------------


def manifest(status: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "warm-etl-x7z",
            "uid": "u",
            "resourceVersion": "7",
            "creationTimestamp": "2026-01-01T12:00:00Z",
            "labels": {SLOT: "k", KEEPER: "release"},
            "annotations": {POOL: "k", ENVIRONMENT: "etl"},
            **metadata,
        },
        "spec": {"containers": [{"name": "base", "image": "a:1"}, {"name": "result", "image": "a:1"}]},
        "status": status,
    }


def read(status: dict[str, Any], **metadata: Any) -> WarmPod:
    found = waiting_pod(manifest(status, **metadata))
    assert found is not None
    return found


def container(name: str, **state: Any) -> dict[str, Any]:
    return {"name": name, "state": state}


def condition(kind: str, status: str, **more: str) -> dict[str, str]:
    return {"type": kind, "status": status, "lastTransitionTime": "2026-01-01T12:00:09Z", **more}


def test_a_claimed_pod_is_nothing_to_the_keeper() -> None:
    assert waiting_pod(manifest({}, labels={SLOT: "dag-task-0123", KEEPER: "release"})) is None


def test_a_ready_pod_says_since_when() -> None:
    ready = read({"conditions": [condition("Ready", "True")], "containerStatuses": [container("base", running={})]})

    assert (ready.ready, ready.running, ready.environment) == (seconds("2026-01-01T12:00:09Z"), True, "etl")
    assert ready.failure is ready.unschedulable is None


FAILURES: dict[str, tuple[dict[str, Any], str, str]] = {
    "image": (
        {"containerStatuses": [container("base", waiting={"reason": "ErrImagePull", "message": "not found"})]},
        "the image a:1 cannot be pulled (ErrImagePull): not found",
        "k8s-venv build-images",
    ),
    "configuration": (
        {
            "containerStatuses": [
                container(
                    "base", waiting={"reason": "CreateContainerConfigError", "message": 'configmap "x" not found'}
                )
            ]
        },
        'CreateContainerConfigError: configmap "x" not found',
        "Make what it names, or correct",
    ),
    "preload": (
        {
            "phase": "Running",  # the sidecar still waits
            "containerStatuses": [
                container("result", running={}),
                container("base", terminated={"exitCode": 1, "message": "the preload 'x' cannot be imported: no x"}),
            ],
        },
        "its program ended with exit code 1 before a call came: the preload 'x' cannot be imported: no x",
        "`preload`",
    ),
    "memory": (
        {"containerStatuses": [container("base", terminated={"exitCode": 137, "reason": "OOMKilled"})]},
        "more memory than its limit",
        "Raise the memory limit",
    ),
    "eviction": (
        {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."},
        "the node removed one (Evicted): The node was low on resource: memory.",
        "requests",
    ),
    "anything else": ({"phase": "Failed", "message": "strange"}, "one ended as Failed: strange", "its node"),
}


@pytest.mark.parametrize(("status", "reason", "remedy"), FAILURES.values(), ids=FAILURES)
def test_a_pod_that_cannot_take_a_call_says_why_and_what_to_do(
    status: dict[str, Any], reason: str, remedy: str
) -> None:
    failure = read(status).failure

    assert failure is not None
    assert reason in failure.reason
    assert remedy in failure.remedy


def test_a_container_that_a_mesh_injected_may_end() -> None:
    assert read({"containerStatuses": [container("istio-validation", terminated={"exitCode": 0})]}).failure is None


def test_of_a_long_message_the_end_is_shown() -> None:
    ended = container("base", terminated={"exitCode": 1, "message": "x" * 5000 + "\nImportError: no x"})

    failure = read({"containerStatuses": [ended]}).failure

    assert failure is not None
    assert failure.reason.endswith("ImportError: no x")
    assert len(failure.reason) < 700


def test_a_pod_without_a_node_says_why() -> None:
    said = "0/3 nodes are available: 3 Insufficient memory."

    pod = read({"conditions": [condition("PodScheduled", "False", reason="Unschedulable", message=said)]})

    assert pod.failure is None
    assert pod.unschedulable is not None
    assert said in pod.unschedulable.reason


def test_the_same_fault_of_another_pod_is_the_same_failure() -> None:
    said = 'pods "warm-etl-{}" is forbidden: violates PodSecurity "restricted:latest"'

    assert refused(said.format("a1b2c"), True).kind == refused(said.format("z9y8x"), True).kind
    assert refused("exceeded quota: q, used: pods=3", True).kind == "quota"
    assert refused(said.format("a1b2c"), True).kind != refused("spec.containers[0].image: Required value", False).kind


# --- quotas ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantity", "expected"),
    [
        ("100m", 100),
        (2, 2000),
        ("1.5", 1500),
        ("1Ki", 1024 * 1000),
        ("2G", 2 * 10**12),
        ("1e3", 10**6),
        ("5E", 5 * 10**21),
    ],
)
def test_quantities_are_read_as_kubernetes_does(quantity: object, expected: int) -> None:
    assert thousandths(quantity) == expected


def test_what_is_no_quantity_is_refused() -> None:
    with pytest.raises(ValueError, match="'lots' is not a quantity"):
        thousandths("lots")


def test_limits_count_as_requests_where_there_are_none() -> None:
    limited = {"limits": {"memory": "1Gi", "cpu": "1"}, "requests": {"cpu": "100m"}}
    spec = {"containers": [{"name": "base", "resources": limited}, {"name": "result"}]}

    found = needs(spec)

    assert found["pods"] == 1000
    assert (found["requests.cpu"], found["cpu"], found["limits.cpu"]) == (100, 100, 1000)
    assert found["requests.memory"] == found["memory"] == found["limits.memory"] == 1024**3 * 1000


def quota(used: str, hard: str, **spec: Any) -> dict[str, Any]:
    status = {"hard": {"pods": hard}, "used": {"pods": used}}
    return {"metadata": {"name": "tasks"}, "spec": {"hard": status["hard"], **spec}, "status": status}


@pytest.mark.parametrize(
    ("used", "hard", "taken"), [("0", "100", 90), ("85", "100", 5), ("95", "100", 0), ("0", "3", 2), ("0", "1", 0)]
)
def test_a_tenth_of_a_quota_and_one_pod_stay_free(used: str, hard: str, taken: int) -> None:
    room = Room([quota(used, hard)])
    wanted = {"pods": 1000}

    assert [room.take(wanted) is None for _ in range(100)].count(True) == taken


def test_a_full_quota_is_named() -> None:
    said = Room([quota("9", "10")]).take({"pods": 1000})

    assert said == "the quota 'tasks' has no room for more, since 9 of 10 pods are used"


@pytest.mark.parametrize(
    ("spec", "counted"),
    [
        ({"scopes": ["Terminating"]}, False),
        ({"scopes": ["BestEffort"]}, False),
        ({"scopes": ["NotTerminating"]}, True),
        ({"scopeSelector": {"matchExpressions": [{"scopeName": "Terminating", "operator": "Exists"}]}}, False),
        (
            {
                "scopeSelector": {
                    "matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["x"]}]
                }
            },
            False,
        ),
        (
            {
                "scopeSelector": {
                    "matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["low"]}]
                }
            },
            True,
        ),
    ],
)
def test_a_quota_for_other_pods_does_not_count(spec: dict[str, Any], counted: bool) -> None:
    assert (Room([quota("10", "10", **spec)]).take({"pods": 1000}, "low") is not None) == counted


def test_room_is_taken_by_each_pod_that_is_made() -> None:
    room = Room([quota("0", "4")])

    assert [room.take({"pods": 1000}) is None for _ in range(5)] == [True, True, True, False, False]
