"""Create a call's pod and its Secrets, or take over the pod that a worker left which died."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

from k8s_venv.backends.kubernetes import diagnose, render, takeover, watch
from k8s_venv.backends.kubernetes.api import ExistsError, PodApi
from k8s_venv.backends.kubernetes.payload import Parcels
from k8s_venv.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubernetes.client import models as k8s

    from k8s_venv.calls import PackedCall

# How long a pod that is being removed may take for it, beyond its own grace period, in seconds.
_LEAVING = 90.0


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
        while True:
            parcels = Parcels(self._call, self._request)
            try:
                made = self._pod()
                if made.taken_over and diagnose.has_started(made.pod):
                    parcels.withdraw()  # it must have had its own
                    return made
                complete = self._deliver(parcels, made)
            except BaseException:
                parcels.withdraw()
                raise
            if complete:
                return made
            self._say(f"The worker before died while it made the Secrets of pod {self._shown}: starting anew.")
            self._remove(made.pod)

    def _deliver(self, parcels: Parcels, made: Made) -> bool:
        """Create the Secrets; return whether all that are there are of one try, since parts of two make no call."""
        try:
            new = [self._create_secret(secret) for secret in parcels.secrets(made.pod)]
        except BaseException:
            self._api.delete(self._request.metadata.name, made.pod.metadata.uid)
            raise
        return not made.taken_over or all(new) or not any(new)

    def _create_secret(self, secret: k8s.V1Secret) -> bool:
        """Create a Secret; one that exists was made by the worker whose pod this is, since its name is used once."""
        try:
            self._api.create_secret(secret)
        except ExistsError:
            return False
        return True

    def _pod(self) -> Made:
        number = 1
        while True:
            self._request.metadata.name = self._name + (f"-{number}" if number > 1 else "")
            try:
                return Made(self._api.create_pod(self._request))
            except ExistsError:
                found = self._api.pod(self._request.metadata.name)
            if found is None:
                continue
            fate = takeover.fate(found, self._attempt)
            if fate is takeover.Fate.TAKEN:
                return self._taken(found)
            if fate is takeover.Fate.CHECKED:
                number += 1
                continue
            self._say(f"Pod {self._shown} of an earlier try is there: {fate.value}.")
            if fate is takeover.Fate.FAILED:
                self._remove(found)
            else:
                self._await_removal(found)

    def _taken(self, found: k8s.V1Pod) -> Made:
        if render.secret_names(found) == render.secret_names(self._request):
            return Made(found)  # made by this very worker, whom the API server's answer did not reach
        earlier = (found.metadata.labels or {}).get(takeover.TRY, "an earlier one")
        self._say(f"Taking over pod {self._shown} of try {earlier}: it is still there.")
        return Made(found, taken_over=True)

    @property
    def _shown(self) -> str:
        return f"{self._request.metadata.namespace}/{self._request.metadata.name}"

    def _remove(self, pod: k8s.V1Pod) -> None:
        self._api.delete(pod.metadata.name, pod.metadata.uid)
        self._await_removal(pod)

    def _await_removal(self, pod: k8s.V1Pod) -> None:
        deadline = time.monotonic() + (pod.metadata.deletion_grace_period_seconds or 30) + _LEAVING
        for kind, state in self._api.events(pod.metadata.name, lambda: deadline - time.monotonic()):
            if kind == watch.DELETED or state.metadata.uid != pod.metadata.uid:
                return
            if time.monotonic() > deadline:
                raise BackendError(
                    self._call.environment.name,
                    f"the pod {pod.metadata.name} of an earlier try is still being removed, and a task never runs "
                    "twice at once. Is its node gone?",
                )
