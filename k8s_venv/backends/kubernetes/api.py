"""Requests to the API server about one call's pods: repeated while the server is away, and never without an end."""

from __future__ import annotations

import functools
import json
import time
from typing import TYPE_CHECKING, Any, TypeVar

from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException
from kubernetes.watch import Watch
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed
from urllib3.exceptions import HTTPError, ReadTimeoutError

from k8s_venv.backends.kubernetes import diagnose, render
from k8s_venv.backends.kubernetes.logs import printed_lines
from k8s_venv.backends.kubernetes.pod_state import DELETED
from k8s_venv.backends.limits import REQUEST_TIMEOUT, RETRIED_STATUSES, RETRY_FOR, RETRY_PAUSE
from k8s_venv.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from k8s_venv.config.environment import Environment

K = TypeVar("K", bound=Any)

_LAST_LINES = 50
_AWAY = (ApiException, HTTPError, OSError)
# Seconds without an event after which the connection of a watch may be dead, and the pod is asked for.
_QUIET = 120.0


class ExistsError(Exception):
    """An object of that name exists already."""


class PodApi:
    """The requests about one environment's pods in one namespace.

    Args:
        client: a ``CoreV1Api``.
        namespace: the namespace.
        environment: whose calls they run, for messages.
        say: is called with what happens to a pod.
        origin: where the namespace comes from, for messages.
    """

    def __init__(
        self, client: Any, namespace: str, environment: Environment, say: Callable[[str], None], origin: str = ""
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._origin = origin
        self._environment = environment
        self._say = say

    def create_pod(self, pod: k8s.V1Pod) -> k8s.V1Pod:
        """Create a pod.

        Raises:
            ExistsError: a pod of that name exists.
            BackendError: Kubernetes refused it.
        """

        def create(**options: Any) -> Any:
            try:
                return self._client.create_namespaced_pod(self._namespace, pod, **options)
            except ApiException as error:
                # A LimitRange may forbid containers as small as the sidecar: then it gives the size.
                larger = render.with_sidecar_defaults(pod) if diagnose.is_limited(error) else None
                if larger is None:
                    raise
                return self._client.create_namespaced_pod(self._namespace, larger, **options)

        return self._create("pod", create)

    def create_secret(self, secret: k8s.V1Secret) -> None:
        """Create a Secret.

        Raises:
            ExistsError: a Secret of that name exists.
            BackendError: Kubernetes refused it.
        """
        self._create("secret", self._client.create_namespaced_secret, self._namespace, secret)

    def pod(self, name: str) -> k8s.V1Pod | None:
        """Return a pod as it is now, or None if it does not exist.

        Raises:
            BackendError: Kubernetes refused that.
        """
        try:
            return self.retried(self._client.read_namespaced_pod, name, self._namespace)
        except ApiException as error:
            if error.status == 404:
                return None
            raise self.refused(error, "look at the pod") from None

    def list_pods(self, selector: str) -> list[dict[str, Any]]:
        """Return the pods that labels select, as JSON objects: to make the client's objects takes longer than the rest.

        Raises:
            ApiException: the server refused.
            BackendError: it did not answer.
        """
        listed = self.retried(
            functools.partial(self._client.list_namespaced_pod, label_selector=selector, _preload_content=False),
            self._namespace,
        )
        items: list[dict[str, Any]] = json.loads(listed.data)["items"]
        return items

    def patch_pod(self, name: str, body: dict[str, Any]) -> k8s.V1Pod | None:
        """Change a pod; return None if it is gone, or has changed since the version that the body names.

        Raises:
            ApiException: the server refused.
            BackendError: it did not answer.
        """

        def patch(**options: Any) -> Any:
            try:
                return self._client.patch_namespaced_pod(name, self._namespace, body, **options)
            except ApiException as error:
                if error.status in (404, 409):
                    return None
                raise

        return self.retried(patch)

    def events(self, pod: k8s.V1Pod, timeout: Callable[[], float]) -> Iterator[tuple[str, Any]]:
        """Yield a pod's states; see ``pod_events``."""
        return pod_events(self._client, pod, timeout, self._say)

    def delete(self, name: str, uid: str | None) -> None:
        """Delete a pod as ``remove`` does, or say that it could not be done."""
        try:
            self.remove(name, uid)
        except BackendError as error:
            self._say(str(error))

    def remove(self, name: str, uid: str | None, grace: int | None = None) -> None:
        """Delete a pod.

        Args:
            name: the pod's name.
            uid: its uid, if it is known: a later try's pod has the same name.
            grace: the seconds that it may take to end; by default what its specification says.

        Raises:
            BackendError: Kubernetes refused that, or did not answer.
        """
        only = k8s.V1Preconditions(uid=uid) if uid else None
        body = k8s.V1DeleteOptions(preconditions=only, grace_period_seconds=grace)

        try:
            self.delete_object(self._client.delete_namespaced_pod, name, body)
        except ApiException as error:
            raise BackendError(
                self._environment.name,
                f"the pod {self._namespace}/{name} could not be deleted and is still there. "
                f"{diagnose.request_problem(error)}",
            ) from None

    def delete_object(self, delete: Callable[..., Any], name: str, body: k8s.V1DeleteOptions) -> None:
        """Delete an object of the namespace; that it is gone, or another one has its name, is no fault.

        Args:
            delete: the client's method.
            name: the object's name.
            body: which one it must be.

        Raises:
            ApiException: the server refused.
            BackendError: it did not answer.
        """

        def ask(**options: Any) -> None:
            try:
                delete(name, self._namespace, body=body, **options)
            except ApiException as error:
                if error.status not in (404, 409):
                    raise

        self.retried(ask)

    def mark_checked(self, name: str, annotations: Mapping[str, str]) -> None:
        """Mark a kept pod as read, so that no later try takes it over."""
        body = {"metadata": {"labels": {render.CHECKED: "True"}, "annotations": annotations}}
        try:
            self.retried(self._client.patch_namespaced_pod, name, self._namespace, body)
        except (ApiException, BackendError) as error:
            if getattr(error, "status", None) != 404:
                self._say(
                    f"The pod {name} is kept but could not be marked as read. {diagnose.request_problem(error)} A "
                    "later try of the same call would take its result."
                )

    def last_lines(self, name: str, container: str) -> list[str]:
        """Return the last lines of a container's log, if it may be read."""
        try:
            log = self._client.read_namespaced_pod_log(
                name,
                self._namespace,
                container=container,
                tail_lines=_LAST_LINES,
                timestamps=True,
                _preload_content=False,
                _request_timeout=REQUEST_TIMEOUT,
            )
            return printed_lines(log.data)
        except _AWAY as error:
            if getattr(error, "status", None) not in (400, 404):  # it never ran, or is gone
                self._say(f"The log of pod {name} could not be read. {diagnose.request_problem(error)}")
            return []

    def last_warning(self, name: str) -> str:
        """Return the last warning among a pod's events, if they may be read."""
        try:
            events = self._client.list_namespaced_event(
                self._namespace,
                field_selector=f"involvedObject.name={name},type=Warning",
                _request_timeout=REQUEST_TIMEOUT,
            ).items
        except _AWAY as error:
            problem = diagnose.request_problem(error)
            self._say(f"What Kubernetes complained about of pod {name} is not known. {problem}")
            return ""
        return f"{events[-1].reason}: {events[-1].message}" if events else ""

    def refused(self, error: ApiException, what: str) -> BackendError:
        """Return the error for a refused request for something."""
        return diagnose.refused(error, self._environment, what, self._namespace, self._origin)

    def _create(self, what: str, create: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return self.retried(create, *arguments)
        except ApiException as error:
            if error.status == 409 and not _is_conflict(error):
                raise ExistsError from None
            raise self.refused(error, what) from None

    def retried(self, ask: Callable[..., Any], *arguments: Any) -> Any:
        """Return the API server's answer to a request that is safe to repeat, and is repeated while it is away.

        Raises:
            ApiException: the server refused.
            BackendError: it did not answer.
        """
        attempts = Retrying(
            retry=retry_if_exception(_may_pass),
            wait=wait_fixed(RETRY_PAUSE),
            stop=stop_after_delay(RETRY_FOR),
            reraise=True,
        )
        try:
            return attempts(ask, *arguments, _request_timeout=REQUEST_TIMEOUT)
        except (HTTPError, OSError) as error:
            raise diagnose.unreachable(error, self._environment) from None


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, ApiException):
        return error.status in RETRIED_STATUSES or _is_conflict(error)
    return isinstance(error, HTTPError | OSError)


def _is_conflict(error: ApiException) -> bool:
    """Return whether two requests met, as on a quota; that an object of the name exists is another 409."""
    return error.status == 409 and diagnose.status_field(error, "reason") == "Conflict"


def without_retries(client: K) -> K:
    """Return a client whose requests fail at once: they are retried here, and urllib3 would warn at each attempt."""
    manager = client.api_client.rest_client.pool_manager
    manager.connection_pool_kw["retries"] = False
    manager.clear()  # connections that exist have the setting of their time
    return client


class PermissionGrace:
    """Distinguishes a right that the account lacks from one that the server forgets for a while.

    While an API server starts, or cannot ask who decides about rights, it refuses what it had allowed before. So a
    refusal counts at once if nothing was allowed yet, else when it lasts.
    """

    def __init__(self) -> None:
        self._allowed = False
        self._since: float | None = None

    def allow(self) -> None:
        """Record that the server allowed a request."""
        self._allowed, self._since = True, None

    def refuse(self) -> bool:
        """Record a refusal, and return whether it counts."""
        self._since = self._since or time.monotonic()
        return not self._allowed or time.monotonic() - self._since > RETRY_FOR


def pod_events(
    client: Any, pod: Any, timeout: Callable[[], float], say: Callable[[str], None]
) -> Iterator[tuple[str, Any]]:
    """Yield a pod's states as they change, beginning with the one that is known.

    Each watch begins at the last state that was seen, so that a pod which is gone before it is opened is not missed.
    A broken connection is opened again. If nothing happens for as long as ``timeout`` says, the present state is
    yielded once more, so that the caller can look at the clock.

    Args:
        client: a ``CoreV1Api``.
        pod: the pod, as the API server last gave it.
        timeout: returns the seconds to wait for the next event.
        say: is called when the API server does not answer, and when it answers again.

    Yields:
        ``ADDED``, ``MODIFIED`` or ``DELETED``, and the pod (None if it does not exist any more).

    Raises:
        ApiException: the account may not list or watch pods.
    """
    follower = _Follower(client, pod)
    away, permission = False, PermissionGrace()
    yield "ADDED", pod
    while True:
        problem: object = None
        try:
            for event in follower.events(max(1, int(min(timeout(), _QUIET)))):
                permission.allow()
                if away:
                    say("The Kubernetes API server answers again.")
                    away = False
                yield event
        except ApiException as error:
            if error.status in (401, 403) and permission.refuse():
                raise
            if error.status == 410:  # so long away that the server has forgotten
                follower.forget()
            else:
                problem = error.reason
        except ReadTimeoutError:
            follower.forget()  # a connection that died quietly
        except (HTTPError, OSError) as error:
            problem = error
        if problem is not None:
            if not away:
                say(f"The Kubernetes API server does not answer ({problem}); the pod is not affected. Trying again.")
                away = True
            time.sleep(RETRY_PAUSE)


class _Follower:
    """Knows up to which state of the cluster a pod was followed."""

    def __init__(self, client: Any, pod: Any) -> None:
        self._list = client.list_namespaced_pod
        self._namespace = pod.metadata.namespace
        self._selector = f"metadata.name={pod.metadata.name}"
        self._version: str | None = pod.metadata.resource_version

    def forget(self) -> None:
        """Begin with the present state the next time."""
        self._version = None

    def events(self, seconds: int) -> Iterator[tuple[str, Any]]:
        """Yield what changes in a while, and before that the present state if the last one is not known."""
        if self._version is None:
            found = self._list(self._namespace, field_selector=self._selector, _request_timeout=REQUEST_TIMEOUT)
            self._version = found.metadata.resource_version
            yield ("MODIFIED", found.items[0]) if found.items else (DELETED, None)
        stream = Watch().stream(
            self._list,
            self._namespace,
            field_selector=self._selector,
            resource_version=self._version,
            timeout_seconds=seconds,
            _request_timeout=(REQUEST_TIMEOUT[0], seconds + 10),
        )
        for event in stream:
            self._version = event["object"].metadata.resource_version
            yield event["type"], event["object"]
        self.forget()
