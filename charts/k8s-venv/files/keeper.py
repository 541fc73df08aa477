"""Keep pods waiting for calls of isolated tasks, as many as each environment declares (Python 3.8+, standard library).

A keeper lists the pods that it made, watches them, and makes and removes waiting ones. A claimed pod is its task's: it
is never touched. Of several keepers the one leads that holds the Lease.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import queue
import signal
import sys
import threading
import time
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Optional, Set, Tuple

from api import FAILURES, Api, ApiError
from lease import DURATION, RENEWAL, Leadership
from pools import Plan, Pool, lost_early
from quota import Amounts, Room, needs
from warm_pods import ENVIRONMENT, KEEPER, POOL, SLOT, Failure, WarmPod, refused, vanished, waiting_pod

if TYPE_CHECKING:
    from api import Watch

_PAGE = 10  # a pod takes tens of kilobytes
_FOLLOWING = 5.0  # seconds between looks at a Lease that another keeper holds
_QUOTA_PAUSE = 15.0  # seconds until quotas are looked at again
_UNCOUNTED_PAUSE = 1.0
_LONGEST_PAUSE = 30.0  # seconds between tries while the API server does not answer
_AT_ONCE = 20  # pods to make or to delete before what happened meanwhile is looked at
_BREATH = 0.01  # seconds
# What waits has nothing to save.
_GRACE_SECONDS = 1
# What the API server says of a pod that it will never take; anything else has nothing to do with the pool.
_REFUSED = (400, 403, 422)


def main() -> None:
    """Keep the pools until the process is told to end.

    ``K8S_VENV_RELEASE`` is the release's name in objects, ``K8S_VENV_POOLS`` a folder with a JSON file for each pool.
    """
    files = sorted(Path(os.environ["K8S_VENV_POOLS"]).glob("*.json"))
    declared = [json.loads(file.read_text("utf-8")) for file in files]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    _say("Pools of warm pods: {}.".format(", ".join(each["environment"] for each in declared)))
    keeper = Keeper(Api(), os.environ["K8S_VENV_RELEASE"], declared)
    pause, complaint = 1.0, ""
    while True:
        try:
            for _ in keeper.turns():
                pause, complaint = 1.0, ""
        except FAILURES as error:
            if str(error) != complaint:
                complaint = str(error)
                _say(f"Warm pods are not kept for now: {complaint}{_remedy(error)}")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


class Keeper:
    """The pools of one release, and what is known of their pods.

    Args:
        api: the cluster.
        name: the release's name in objects.
        declared: the pools, as the chart's values say.
    """

    def __init__(self, api: Api, name: str, declared: List[Dict[str, Any]]) -> None:
        self._api = api
        self._name = name
        self._pods_path = f"/api/v1/namespaces/{api.namespace}/pods"
        self._identity = api.identity()
        self._leadership = Leadership(api, f"{name}-keeper", self._identity.pod)
        self._pools = {each["environment"]: Pool(each, time.time()) for each in declared}
        self._pods: Dict[str, WarmPod] = {}  # those that wait or start, by their uid
        self._said: Dict[str, Set[str]] = {}  # the kinds of failures, until the pool is full again
        self._adopted = False

    def turns(self) -> Iterator[None]:
        """Keep the pools while this keeper leads; yield after each turn that succeeded.

        Raises:
            ApiError: the API server refused what has nothing to do with one pool.
            OSError: it does not answer.
        """
        self._lead()
        version = self._list()
        with _Events(self._api, self._pods_path, {**self._selector(), "resourceVersion": version}) as events:
            try:
                while self._leadership.leads():
                    self._keep()
                    yield
                    for kind, uid, pod in events.until(self._pause()):
                        self._see(kind, uid, pod)
            finally:
                with contextlib.suppress(*FAILURES):
                    self._leadership.release()

    def _lead(self) -> None:
        told = False
        while not self._leadership.leads():
            if not told:
                _say("Another keeper leads; this one waits.")
                told = True
            time.sleep(_FOLLOWING)

    def _selector(self) -> Dict[str, str]:
        return {"labelSelector": f"{KEEPER}={self._name}"}

    def _list(self) -> str:
        """Look at all pods; return the version to watch from."""
        found: Dict[str, Optional[WarmPod]] = {}
        query = {**self._selector(), "limit": str(_PAGE)}
        while True:
            page = self._api.request("GET", f"{self._pods_path}?{urllib.parse.urlencode(query)}")
            found.update((each["metadata"]["uid"], waiting_pod(each)) for each in page["items"])
            if not page["metadata"].get("continue"):
                break
            query["continue"] = page["metadata"]["continue"]
        for uid in [uid for uid in self._pods if uid not in found]:
            self._see("DELETED", uid, None)
        for uid, pod in found.items():
            self._see("MODIFIED", uid, pod)
        if not self._adopted:
            for pool in self._pools.values():
                pool.adopt(sum(pod.environment == pool.environment for pod in self._pods.values()), time.time())
            self._adopted = True
        return str(page["metadata"]["resourceVersion"])

    def _see(self, kind: str, uid: str, pod: Optional[WarmPod]) -> None:
        """Take note of a pod's state; without one it was claimed."""
        now, before = time.time(), self._pods.pop(uid, None)
        pool = self._pools.get(before.environment) if before else None
        if kind == "DELETED":
            if before and pool and lost_early(before, now):
                pool.failed(now)
                self._report(pool.environment, vanished())
        elif pod is not None:
            waited = now - before.ready if before and before.ready else 0.0
            self._pods[uid] = pod._replace(waited=max(waited, before.waited if before else 0.0))
        elif before and pool:
            self._claimed(pool, before, now)

    def _claimed(self, pool: Pool, pod: WarmPod, now: float) -> None:
        target = pool.target
        left = [each for each in self._pods.values() if each.key == pool.key and each.ready is not None]
        pool.claimed(pod, len(left), now)
        if pool.target > target:
            _say(f"{pool.environment}: {pool.target} pods wait from now on, since calls took all of {target}.")

    def _groups(self) -> List[Tuple[Pool, List[WarmPod]]]:
        """Return each pool with its pods."""
        groups: Dict[Tuple[str, str], List[WarmPod]] = {}
        for pod in self._pods.values():
            groups.setdefault((pod.environment, pod.key), []).append(pod)
        return [(pool, groups.get((pool.environment, pool.key), [])) for pool in self._pools.values()]

    def _keep(self) -> None:
        """Bring the pods nearer to what is declared."""
        now = time.time()
        for pod in self._stale()[:_AT_ONCE]:
            self._delete(pod)
        missing: List[Tuple[int, Pool, Amounts]] = []
        for pool, pods in self._groups():
            target = pool.target
            pool.observe(pods, now)
            if pool.target < target:
                _say(f"{pool.environment}: {pool.target} pods wait from now on, since no call came for a while.")
            plan = pool.plan(pods, now)
            self._carry_out(pool, plan, pods)
            # A namespace's defaults are seen only in pods that were made.
            wanted = pods[0].needs if pods else needs(pool.manifest["spec"])
            missing += [(len(pods) + number, pool, wanted) for number in range(plan.create)]
        # The emptiest pools first.
        self._create([(pool, wanted) for _, pool, wanted in sorted(missing, key=lambda each: each[0])[:_AT_ONCE]])

    def _stale(self) -> List[WarmPod]:
        """Return the pods of earlier keys, and of environments that left."""
        current = {(pool.environment, pool.key) for pool in self._pools.values()}
        return [p for p in self._pods.values() if (p.environment, p.key) not in current and not p.leaving]

    def _carry_out(self, pool: Pool, plan: Plan, pods: List[WarmPod]) -> None:
        for failure in plan.failures:
            self._report(pool.environment, failure)
        if pool.environment in self._said and not plan.failures and pool.full(pods):
            del self._said[pool.environment]
            _say(f"{pool.environment}: its warm pods start again.")
        for pod in plan.delete:
            self._delete(pod)

    def _delete(self, pod: WarmPod) -> None:
        """Delete a pod as it was seen; one that changed meanwhile, by a claim for instance, is left alone."""
        seen = {"uid": pod.uid, "resourceVersion": pod.version}
        try:
            body = {"preconditions": seen, "gracePeriodSeconds": _GRACE_SECONDS}
            self._api.request("DELETE", f"{self._pods_path}/{pod.name}", body)
        except ApiError as error:
            if error.status not in (404, 409):
                raise
            return
        self._pods[pod.uid] = pod._replace(leaving=True)

    def _create(self, missing: List[Tuple[Pool, Amounts]]) -> None:
        """Make a pod for each entry, a pool with what one takes, while quotas have room and this keeper leads."""
        if not missing:
            return
        quotas = self._api.request("GET", f"/api/v1/namespaces/{self._api.namespace}/resourcequotas")["items"]
        room = Room(quotas)
        for pool, wanted in missing:
            now = time.time()
            if pool.pause(now) or self._leadership.seconds_left() < DURATION - 2 * RENEWAL:
                continue
            full = room.take(wanted, pool.manifest["spec"].get("priorityClassName", ""))
            if full:
                pool.hold(_QUOTA_PAUSE, now)
                remedy = "Raise the quota, or lower `max` of the environment; a tenth of it stays free for tasks."
                self._report(pool.environment, Failure("quota", full, remedy))
                continue
            try:
                made = self._api.request("POST", self._pods_path, self._manifest(pool))
            except ApiError as error:
                if error.status not in _REFUSED:
                    raise
                if "status unknown for quota" in str(error):  # a new one, which is not counted yet
                    pool.hold(_UNCOUNTED_PAUSE, time.time())
                    continue
                pool.failed(time.time())
                self._report(pool.environment, refused(str(error), error.status == 403))
                continue
            self._see("ADDED", made["metadata"]["uid"], waiting_pod(made))

    def _manifest(self, pool: Pool) -> Dict[str, Any]:
        given = pool.manifest.get("metadata", {})
        owner = {"apiVersion": "v1", "kind": "ServiceAccount"}
        owner.update(name=self._identity.account, uid=self._identity.account_uid)
        metadata = {
            "generateName": "warm-{}-".format(pool.environment.replace("_", "-")),
            **given,
            "labels": {**given.get("labels", {}), SLOT: pool.key, KEEPER: self._name},
            "annotations": {**given.get("annotations", {}), POOL: pool.key, ENVIRONMENT: pool.environment},
            # The cluster removes it with the release; a claim takes the pod out of this.
            "ownerReferences": [owner],
        }
        return {**pool.manifest, "metadata": metadata}

    def _report(self, environment: str, failure: Failure) -> None:
        """Log a failure and make an event of it, each kind once until the pool is full again."""
        said = self._said.setdefault(environment, set())
        if failure.kind in said:
            return
        said.add(failure.kind)
        reason = failure.reason.rstrip(". \n")
        message = f"Warm pods of the environment {environment!r} do not start: {reason}. {failure.remedy}"
        _say(message)
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        pod = {"apiVersion": "v1", "kind": "Pod", "namespace": self._api.namespace}
        event = {
            "metadata": {"generateName": f"{self._name}-keeper-"},
            "involvedObject": {**pod, "name": self._identity.pod, "uid": self._identity.pod_uid},
            "type": "Warning",
            "reason": "WarmPodFailed",
            "message": message[:1024],
            "source": {"component": "k8s-venv-keeper"},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            self._api.request("POST", f"/api/v1/namespaces/{self._api.namespace}/events", event)
        except ApiError as error:
            _say(f"The event of this could not be made: {error}")

    def _pause(self) -> float:
        """Return for how long nothing is to be done unless something happens."""
        now = time.time()
        if self._stale() or any(pool.plan(pods, now).create for pool, pods in self._groups()):
            return _BREATH
        return min([RENEWAL, *(pool.pause(now) for pool in self._pools.values() if pool.pause(now))])


class _Events:
    """The events of the watched pods, read by a thread: a watch blocks, and pools want attention in between.

    Args:
        api: the cluster.
        path: the pods' path.
        query: the query that selects them, with the version to begin at.
    """

    def __init__(self, api: Api, path: str, query: Dict[str, str]) -> None:
        self._api = api
        self._path = path
        self._query = {**query, "watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": "600"}
        # What happened: an event, or why there are no more.
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._closed = False
        self._watch = self._open()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> _Events:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self._watch.close()

    def until(self, seconds: float) -> Iterator[Tuple[str, str, Optional[WarmPod]]]:
        """Yield what happened, waiting for the first of it.

        Args:
            seconds: for how long to wait.

        Raises:
            ApiError: the pods have to be listed again.
        """
        with contextlib.suppress(queue.Empty):
            happened = self._inbox.get(timeout=seconds)
            while True:
                if isinstance(happened, Exception):
                    raise happened
                yield happened
                happened = self._inbox.get_nowait()

    def _open(self) -> Watch:
        return self._api.watch(f"{self._path}?{urllib.parse.urlencode(self._query)}")

    def _follow(self) -> None:
        try:
            while not self._closed:
                for kind, manifest in self._watch:
                    self._query["resourceVersion"] = manifest["metadata"]["resourceVersion"]
                    if kind != "BOOKMARK":
                        # The whole manifest would take memory while it waits here.
                        self._inbox.put((kind, manifest["metadata"]["uid"], waiting_pod(manifest)))
                self._watch = self._open()
        except Exception as error:  # noqa: BLE001 -- raised again where the events are read
            self._inbox.put(error)


def _remedy(error: Exception) -> str:
    if isinstance(error, ApiError) and error.status in (403, 404):
        return ". Give the keeper its Role and its Lease again, by `helm upgrade`."
    return ""


def _say(sentence: str) -> None:
    print(sentence, flush=True)


if __name__ == "__main__":
    main()
