"""Create a call's pod and its Secrets, or take over the pod that a worker left which died."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import TYPE_CHECKING, Any

from k8s_venv.backends.kubernetes import pod_status, render, takeover, watch
from k8s_venv.backends.kubernetes.api import ExistsError, PodApi
from k8s_venv.backends.kubernetes.payload import Parcels, withdraw_arguments
from k8s_venv.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubernetes.client import models as k8s

    from k8s_venv.calls import PackedCall

# How long a pod that is being removed may take for it, beyond its own grace period, in seconds.
_LEAVING = 90.0

# What a worker that lives takes between its pod and the Secrets, in seconds: another one may be at it right now.
_MOMENT = 1.0


@dataclasses.dataclass(frozen=True)
class Made:
    """A call's pod.

    Args:
        pod: the pod.
        taken_over: whether an earlier worker made it.
    """

    pod: Any
    taken_over: bool = False


class Creation:
    """Creates the pod of one call.

    Args:
        api: the namespace's.
        request: the pod, rendered whole; its name gets a number where pods of the name are kept.
        call: the call that it runs.
        say: is called with what happens.
    """

    def __init__(self, api: PodApi, request: k8s.V1Pod, call: PackedCall, say: Callable[[str], None]) -> None:
        self._api = api
        self._request = request
        self._call = call
        self._say = say
        self._name: str = request.metadata.name
        self._attempt = (request.metadata.labels or {}).get(takeover.TRY)

    def run(self) -> Made:
        """Create the pod, then the Secrets that it waits for; or take over one that is there.

        Raises:
            BackendError: Kubernetes refused one of them; then none is left.
            CallError: the call is larger than its Secrets may be.
        """
        what = takeover.CallIdentity(self._call, self._request)
        metadata = self._request.metadata
        metadata.annotations = {**(metadata.annotations or {}), takeover.CALL: what.seal()}
        while True:
            parcels = Parcels(self._call, self._request)
            try:
                made = self._pod(what)
                if not made.taken_over:
                    self._deliver(parcels, made.pod)
                    return made
            except BaseException:
                parcels.withdraw()
                raise
            parcels.withdraw()  # it has its own, or never had
            if pod_status.has_started(made.pod):
                return made
            time.sleep(_MOMENT)
            if self._has_secrets(made.pod):
                return made
            self._say(f"Pod {self._shown} lacks its Secrets, since the worker before died: starting again.")
            self._remove(made.pod)

    def _deliver(self, parcels: Parcels, pod: k8s.V1Pod) -> None:
        try:
            for secret in parcels.secrets(pod):
                with contextlib.suppress(ExistsError):  # by a request whose answer was lost: its name is used once
                    self._api.create_secret(secret)
        except BaseException:
            self._api.delete(pod.metadata.name, pod.metadata.uid)
            raise

    def _has_secrets(self, pod: k8s.V1Pod) -> bool:
        """Return whether the worker before made all Secrets of its pod, of which it makes the last one last.

        Creating is all that Airflow's account may do with Secrets. What this creates goes with the pod.
        """
        try:
            self._api.create_secret(render.call_secret(pod, render.secret_names(pod)[-1], {}))
        except ExistsError:
            return True
        return False

    def _pod(self, what: takeover.CallIdentity) -> Made:
        number = 1
        while True:
            self._request.metadata.name = self._name + (f"-{number}" if number > 1 else "")
            try:
                return Made(self._api.create_pod(self._request))
            except ExistsError:
                found = self._api.pod(self._request.metadata.name)
            if found is None:
                continue
            if self._is_own(found):
                return Made(found)
            fate = takeover.fate(found, self._attempt, what)
            if fate is takeover.Fate.TAKEN:
                earlier = (found.metadata.labels or {}).get(takeover.TRY, "an earlier one")
                self._say(f"Taking over pod {self._shown} of try {earlier}: it is still there.")
                return Made(found, taken_over=True)
            if fate is takeover.Fate.CHECKED:
                number += 1
                continue
            self._say(f"Pod {self._shown} of an earlier try is there: {fate.value}.")
            if fate is takeover.Fate.LEAVING:
                self._await_removal(found)
            else:
                self._remove(found)

    def _is_own(self, found: k8s.V1Pod) -> bool:
        """Return whether this very worker made a pod, by a request whose answer was lost: each has its own salt."""
        own, its = (pod.metadata.annotations or {} for pod in (self._request, found))
        return found.metadata.deletion_timestamp is None and own[takeover.CALL] == its.get(takeover.CALL)

    @property
    def _shown(self) -> str:
        return f"{self._request.metadata.namespace}/{self._request.metadata.name}"

    def _remove(self, pod: k8s.V1Pod) -> None:
        """End and remove a pod, with the arguments that its worker left at the location for large values."""
        self._api.remove(pod.metadata.name, pod.metadata.uid)
        self._await_removal(pod)
        withdraw_arguments(self._call, pod)

    def _await_removal(self, pod: k8s.V1Pod) -> None:
        deadline = time.monotonic() + (pod.metadata.deletion_grace_period_seconds or 30) + _LEAVING
        for kind, state in self._api.events(pod, lambda: deadline - time.monotonic()):
            if kind == watch.DELETED or state.metadata.uid != pod.metadata.uid:
                return
            if time.monotonic() > deadline:
                raise BackendError(
                    self._call.environment.name,
                    f"the pod {pod.metadata.name} of an earlier try is still being removed, and a task never runs "
                    "twice at once. Is its node gone?",
                )
