"""A release whose keeper holds pools of pods that only sleep, and what its tests ask and do."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import uuid
from collections.abc import Iterator
from typing import Any

import kubernetes
from warm_pods import ENVIRONMENT, POOL, SLOT

from tests.chart import CHART, NAME, WARM, helm
from tests.cluster.namespaces import own_namespace
from tests.waiting import eventually

KEEPER = f"{NAME}-keeper"
IMAGE = f"{os.environ.get('K8S_VENV_BASE_REGISTRY', 'docker.io/library')}/python:3.12-slim-bookworm"


def pool(
    key: str = "first", *, code: str = "import signal; signal.signal(15, exit); signal.pause()", **fields: Any
) -> dict[str, Any]:
    """Return a pool whose pods run some code, for the chart's values."""
    made = {**copy.deepcopy(WARM), "key": key, **fields}
    (container,) = made["pod"]["spec"]["containers"]
    container.update(image=fields.pop("image", IMAGE), command=["python", "-c", code])
    made.pop("image", None)
    return made


class Warm:
    """A release with warm pods, in a namespace of its own.

    Args:
        client: reaches the cluster as its administrator.
        namespace: the release's.
    """

    def __init__(self, client: Any, namespace: str) -> None:
        self.client = client
        self.namespace = namespace
        self.apps = kubernetes.client.AppsV1Api(client.api_client)
        self.leases = kubernetes.client.CoordinationV1Api(client.api_client)

    def apply(self, pools: dict[str, Any], *more: str) -> None:
        """Install the chart, or upgrade it, with an environment for each pool."""
        environments = {
            name: {"image": IMAGE, "python": "3.12", **({"warm": warm} if warm else {})} for name, warm in pools.items()
        }
        given = f"--set-json=environments={json.dumps(environments)}"
        fixed = ("--set=airflow.checkServiceAccounts=false", "--namespace", self.namespace)
        helm("upgrade", "--install", NAME, str(CHART), *fixed, given, *more)

    def pods(self, environment: str = "etl") -> list[Any]:
        """Return all pods of an environment's pools that are not being deleted, claimed ones too."""
        found = self.client.list_namespaced_pod(self.namespace, label_selector=SLOT).items
        return [
            pod
            for pod in found
            if (pod.metadata.annotations or {}).get(ENVIRONMENT) == environment
            and pod.metadata.deletion_timestamp is None
        ]

    def waiting(self, environment: str = "etl", key: str | None = None) -> list[Any]:
        """Return those that no call has taken."""
        return [
            pod
            for pod in self.pods(environment)
            if pod.metadata.labels[SLOT] == pod.metadata.annotations[POOL] and key in (None, pod.metadata.labels[SLOT])
        ]

    def ready(self, environment: str = "etl", key: str | None = None) -> list[Any]:
        return [pod for pod in self.waiting(environment, key) if is_ready(pod)]

    def until_ready(self, count: int, environment: str = "etl", key: str | None = None) -> list[Any]:
        """Wait until so many pods can take a call."""
        return eventually(lambda: found if len(found := self.ready(environment, key)) == count else None)

    def claim(self, pod: Any) -> bool:
        """Take a pod as a worker does, or return False if it changed meanwhile."""
        metadata = {
            "resourceVersion": pod.metadata.resource_version,
            "labels": {SLOT: f"task-{uuid.uuid4().hex[:8]}"},
            "ownerReferences": None,
        }
        try:
            self.client.patch_namespaced_pod(pod.metadata.name, self.namespace, {"metadata": metadata})
        except kubernetes.client.ApiException as error:
            if error.status not in (404, 409):
                raise
            return False
        return True

    def end(self, pod: Any) -> None:
        """Let the kubelet end a pod by itself."""
        patch = {"spec": {"activeDeadlineSeconds": 1}}
        with contextlib.suppress(kubernetes.client.ApiException):
            self.client.patch_namespaced_pod(pod.metadata.name, self.namespace, patch)

    def keepers(self) -> list[Any]:
        label = "app.kubernetes.io/component=keeper"
        return list(self.client.list_namespaced_pod(self.namespace, label_selector=label).items)

    def leader(self) -> str:
        return self.leases.read_namespaced_lease(KEEPER, self.namespace).spec.holder_identity or ""

    def kill_keepers(self) -> None:
        """End every keeper without a chance to say goodbye."""
        for pod in self.keepers():
            with contextlib.suppress(kubernetes.client.ApiException):
                self.client.delete_namespaced_pod(pod.metadata.name, self.namespace, grace_period_seconds=0)

    def log(self) -> str:
        """Return what the keepers say that are there now."""
        said = []
        for pod in self.keepers():
            with contextlib.suppress(kubernetes.client.ApiException):
                log = self.client.read_namespaced_pod_log(pod.metadata.name, self.namespace, _preload_content=False)
                said.append(log.data.decode())
        return "".join(said)

    def events(self) -> list[str]:
        """Return the messages of the events that keepers made."""
        found = self.client.list_namespaced_event(self.namespace, field_selector="reason=WarmPodFailed").items
        return [event.message for event in found]


def is_ready(pod: Any) -> bool:
    conditions = pod.status.conditions or ()
    return any(condition.type == "Ready" and condition.status == "True" for condition in conditions)


@contextlib.contextmanager
def warm_release(client: Any, pools: dict[str, Any], *more: str) -> Iterator[Warm]:
    """Install the chart with pools into a namespace that enforces `restricted`."""
    with own_namespace(client, enforce="restricted") as namespace:
        release = Warm(client, namespace)
        release.apply(pools, *more)
        yield release
