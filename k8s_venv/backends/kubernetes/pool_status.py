"""How many pods of each environment wait, start or run a call, as the cluster says."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from k8s_venv.backends.kubernetes import diagnose
from k8s_venv.backends.kubernetes.backend import connect
from k8s_venv.backends.kubernetes.pool import ENVIRONMENT, POOL, declared_pod, is_ready
from k8s_venv.backends.kubernetes.render import LABELS, SLOT
from k8s_venv.backends.limits import REQUEST_TIMEOUT
from k8s_venv.backends.pod_options import is_template
from k8s_venv.errors import BackendError, K8sVenvError, visible

if TYPE_CHECKING:
    from collections.abc import Iterable

    from k8s_venv.backends.kubernetes.options import Namespace
    from k8s_venv.config.environment import Environment
    from k8s_venv.config.project import Project

_SELECTOR = ",".join([SLOT, *(f"{name}={value}" for name, value in LABELS.items())])
_ENDED = ("Succeeded", "Failed")
# The reason of the events in which the chart's keeper says why pods do not wait.
_FAILED = "WarmPodFailed"
# Why containers wait in any pod that starts.
_ON_THE_WAY = ("ContainerCreating", "PodInitializing")


@dataclasses.dataclass(frozen=True)
class PoolStatus:
    """The pods of one environment that were made to wait for calls.

    Args:
        namespace: where they are.
        waiting: how many can take a call now.
        starting: how many start, or import the modules of ``preload``.
        claimed: how many run a call.
        stale: how many wait or start that no call takes: their image, pod options or ``preload`` are earlier ones.
        problem: why a pod does not start, or None if all do.
    """

    namespace: str
    waiting: int
    starting: int
    claimed: int
    stale: int
    problem: str | None


class Pools:
    """The waiting pods of a project's environments; each namespace is asked for once.

    Args:
        project: the project.
    """

    def __init__(self, project: Project) -> None:
        self._project = project
        self._pods: dict[tuple[object, ...], list[dict[str, Any]]] = {}

    def status(self, environment: Environment) -> PoolStatus:
        """Return how many pods of an environment wait, start and run a call.

        Args:
            environment: the environment.

        Raises:
            BackendError: no cluster is configured, it does not answer, or it does not list the pods.
        """
        client, namespace, pods = self._listed(environment)
        status = pool_status(pods, namespace.name, environment, self._key(environment))
        if environment.warm is None or status.waiting or status.starting or status.problem:
            return status
        return dataclasses.replace(status, problem=_reported(client, namespace.name, environment))

    def _key(self, environment: Environment) -> str | None:
        """Return the key of the pool that calls take pods from, or None if it cannot be known."""
        try:
            pod = declared_pod(environment, self._project)
        except K8sVenvError:  # such as a stale lock, which the list says beside
            return None
        key: str = pod.metadata.annotations[POOL]
        return key

    def _listed(self, environment: Environment) -> tuple[Any, Namespace, list[dict[str, Any]]]:
        """Return a client, the namespace of an environment's pods, and the pods of calls in it."""
        cluster = {name: environment.pod.get(name) for name in ("config_file", "cluster_context", "in_cluster")}
        client, namespace = connect(environment)
        for option, value in {**cluster, "namespace": namespace.name}.items():
            if is_template(value):
                problem = f"its pod option {option!r} is a template, {value!r}, which only a running task can fill in"
                raise BackendError(environment.name, f"where its pods are is not known here: {problem}.")
        place = (*cluster.values(), namespace.name)
        if place not in self._pods:
            self._pods[place] = _list(client, namespace, environment)
        return client, namespace, self._pods[place]


def _list(client: Any, namespace: Namespace, environment: Environment) -> list[dict[str, Any]]:
    try:
        listed = client.list_namespaced_pod(
            namespace.name, label_selector=_SELECTOR, _preload_content=False, _request_timeout=REQUEST_TIMEOUT
        )
    except (ApiException, HTTPError, OSError) as error:
        problem = f"the pods of namespace {namespace.name!r} ({namespace.origin}) cannot be listed"
        raise BackendError(environment.name, f"{problem}: {diagnose.request_problem(error)}") from None
    items: list[dict[str, Any]] = json.loads(listed.data)["items"]
    return items


def _reported(client: Any, namespace: str, environment: Environment) -> str | None:
    """Return why the chart's keeper makes no pods for an environment now, if it says so in an event."""
    try:
        events = client.list_namespaced_event(
            namespace, field_selector=f"reason={_FAILED}", _request_timeout=REQUEST_TIMEOUT
        ).items
    except (ApiException, HTTPError, OSError):
        return None  # then its log says so
    about = [each for each in events if repr(environment.name) in each.message.partition(":")[0]]
    newest = max(about, key=lambda each: each.metadata.creation_timestamp, default=None)
    return visible(" ".join(newest.message.partition(": ")[2].split())) if newest is not None else None


def pool_status(
    pods: Iterable[dict[str, Any]], namespace: str, environment: Environment, key: str | None
) -> PoolStatus:
    """Return how many of a namespace's pods wait, start and run a call of an environment.

    Args:
        pods: the pods of calls, and those that wait, as JSON objects.
        namespace: where they are.
        environment: the environment.
        key: that of the pool which its calls take pods from, or None if it is not known.
    """
    present = [pod for pod in pods if _is_of(pod, environment) and "deletionTimestamp" not in pod["metadata"]]
    unclaimed = [pod for pod in present if pod["metadata"]["labels"][SLOT] == _pool(pod)]
    current = [pod for pod in unclaimed if environment.warm is not None and key in (None, _pool(pod))]
    alive = [pod for pod in current if not _has_ended(pod)]
    waiting = sum(map(is_ready, alive))
    return PoolStatus(
        namespace,
        waiting=waiting,
        starting=len(alive) - waiting,
        claimed=sum(pod not in unclaimed and not _has_ended(pod) for pod in present),
        stale=sum(pod not in current and not _has_ended(pod) for pod in unclaimed),
        problem=next(filter(None, map(_problem, current)), None),
    )


def _is_of(pod: dict[str, Any], environment: Environment) -> bool:
    return _pool(pod) is not None and pod["metadata"]["annotations"].get(ENVIRONMENT) == environment.name


def _pool(pod: dict[str, Any]) -> str | None:
    key: str | None = pod["metadata"].get("annotations", {}).get(POOL)
    return key


def _has_ended(pod: dict[str, Any]) -> bool:
    return pod["status"].get("phase") in _ENDED


def _problem(pod: dict[str, Any]) -> str:
    """Return why a pod cannot wait, as a clause, or nothing."""
    status = pod["status"]
    reasons = [each for each in status.get("conditions", ()) if each.get("reason") == "Unschedulable"]
    for container in status.get("containerStatuses", ()):
        state = container.get("state", {})
        reasons += [each for each in [state.get("waiting")] if each and each.get("reason") not in _ON_THE_WAY]
        reasons += [each for each in [state.get("terminated")] if each]
    if not reasons and _has_ended(pod):
        reasons = [status]
    if not reasons:
        return ""
    lines = str(reasons[0].get("message") or "").strip().splitlines()
    text = ": ".join(filter(None, [str(reasons[0].get("reason") or "ended"), *lines[-1:]]))
    return f"pod {pod['metadata']['name']}: {visible(text)}"
