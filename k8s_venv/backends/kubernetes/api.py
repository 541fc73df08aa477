"""What is asked of the API server about one call's pods: patiently, and never without an end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from k8s_venv.backends.kubernetes import refusals, render, takeover
from k8s_venv.backends.kubernetes.logs import printed_lines
from k8s_venv.backends.kubernetes.patience import is_conflict, patiently
from k8s_venv.backends.kubernetes.watch import pod_events
from k8s_venv.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from k8s_venv.config.environment import Environment

# Seconds to connect and to wait for an answer: admission webhooks may take 30 of them.
_TIMEOUT = (10, 60)
_LAST_LINES = 50
_AWAY = (ApiException, HTTPError, OSError)


class ExistsError(Exception):
    """Something of that name is there already."""


class PodApi:
    """Asks for one environment's pods in one namespace.

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
            ExistsError: there is one of that name.
            BackendError: Kubernetes refused it.
        """

        def create(**options: Any) -> Any:
            try:
                return self._client.create_namespaced_pod(self._namespace, pod, **options)
            except ApiException as error:
                # A LimitRange may forbid containers as small as the one beside the call: then it says how large.
                if not (refusals.is_limited(error) and render.leave_sidecar_to_namespace(pod)):
                    raise
                return self._client.create_namespaced_pod(self._namespace, pod, **options)

        return self._ask("pod", create)

    def create_secret(self, secret: k8s.V1Secret) -> None:
        """Create a Secret.

        Raises:
            ExistsError: there is one of that name.
            BackendError: Kubernetes refused it.
        """
        self._ask("secret", self._client.create_namespaced_secret, self._namespace, secret)

    def pod(self, name: str) -> k8s.V1Pod | None:
        """Return a pod as it is now, or None where it is not there.

        Raises:
            BackendError: Kubernetes refused that.
        """
        try:
            return self._patiently(self._client.read_namespaced_pod, name, self._namespace)
        except ApiException as error:
            if error.status == 404:
                return None
            raise self.refused(error, "look at the pod") from None

    def events(self, pod: k8s.V1Pod, patience: Callable[[], float]) -> Iterator[tuple[str, Any]]:
        """Yield a pod's states; see ``watch.pod_events``."""
        return pod_events(self._client, pod, patience, self._say)

    def delete(self, name: str, uid: str | None) -> None:
        """Delete a pod, or say that it could not be done.

        Args:
            name: the pod's name.
            uid: its uid, where it is known: a later try's pod has the same name.
        """
        try:
            self.remove(name, uid)
        except BackendError as error:
            self._say(str(error))

    def remove(self, name: str, uid: str | None, grace: int | None = None) -> None:
        """Delete a pod.

        Args:
            name: the pod's name.
            uid: its uid, where it is known: a later try's pod has the same name.
            grace: the seconds that it may take to end, where that is not its own affair.

        Raises:
            BackendError: Kubernetes refused that, or did not answer.
        """
        only = k8s.V1Preconditions(uid=uid) if uid else None
        body = k8s.V1DeleteOptions(preconditions=only, grace_period_seconds=grace)

        def delete(**options: Any) -> None:
            try:
                self._client.delete_namespaced_pod(name, self._namespace, body=body, **options)
            except ApiException as error:
                if error.status not in (404, 409):  # it is gone, or another one has its name
                    raise

        try:
            self._patiently(delete)
        except ApiException as error:
            raise BackendError(
                self._environment.name,
                f"the pod {self._namespace}/{name} could not be deleted and is still there. {refusals.why(error)}",
            ) from None

    def mark_checked(self, name: str) -> None:
        """Mark a kept pod as read, so that no later try takes it over."""
        body = {"metadata": {"labels": {takeover.CHECKED: "True"}}}
        try:
            self._patiently(self._client.patch_namespaced_pod, name, self._namespace, body)
        except (ApiException, BackendError) as error:
            if getattr(error, "status", None) != 404:
                self._say(
                    f"The pod {name} is kept but could not be marked as read. {refusals.why(error)} A later try of "
                    "the same call would take its result."
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
                _request_timeout=_TIMEOUT,
            )
            return printed_lines(log.data)
        except _AWAY as error:
            if getattr(error, "status", None) not in (400, 404):  # it never ran, or is gone
                self._say(f"The log of pod {name} could not be read. {refusals.why(error)}")
            return []

    def last_warning(self, name: str) -> str:
        """Return what Kubernetes last complained about of a pod, if it may be asked."""
        try:
            events = self._client.list_namespaced_event(
                self._namespace,
                field_selector=f"involvedObject.name={name},type=Warning",
                _request_timeout=_TIMEOUT,
            ).items
        except _AWAY as error:
            self._say(f"What Kubernetes complained about of pod {name} is not known. {refusals.why(error)}")
            return ""
        return f"{events[-1].reason}: {events[-1].message}" if events else ""

    def refused(self, error: ApiException, what: str) -> BackendError:
        """Return what a refusal means.

        Args:
            error: the client's exception.
            what: what was asked for.
        """
        return refusals.refused(error, self._environment, what, self._namespace, self._origin)

    def _ask(self, what: str, create: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return self._patiently(create, *arguments)
        except ApiException as error:
            if error.status == 409 and not is_conflict(error):
                raise ExistsError from None
            raise self.refused(error, what) from None

    def _patiently(self, ask: Callable[..., Any], *arguments: Any) -> Any:
        return patiently(lambda: ask(*arguments, _request_timeout=_TIMEOUT), self._environment)
