"""Create the pod of one call with its Secrets, or take over the pod that an earlier try left."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from k8s_venv.backends.kubernetes import pod_state, render, takeover
from k8s_venv.backends.kubernetes.api import ExistsError, PodApi
from k8s_venv.backends.kubernetes.payload import CallSecrets, withdraw_arguments
from k8s_venv.backends.kubernetes.pod_state import DELETED
from k8s_venv.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubernetes.client import models as k8s

    from k8s_venv.backends.kubernetes.lock import TaskLock
    from k8s_venv.calls import PackedCall

# How long a pod that is being removed may take for it, beyond its own grace period, in seconds.
_REMOVAL = 90.0
# The seconds that a living worker takes between its pod and the Secrets: another one may be at it right now.
_MOMENT = 1.0


class Creation:
    """Creates the pod of one call with its Secrets, or takes over the pod of a worker that died.

    The pod's name gets a number if pods of the name are kept.

    Args:
        api: the requests.
        pod: the whole pod to create.
        call: the call that it runs, packed.
        say: is called with what happens to the pod.
        lock: the task's lock, if another pod than one of that name may run it.
    """

    def __init__(
        self, api: PodApi, pod: k8s.V1Pod, call: PackedCall, say: Callable[[str], None], lock: TaskLock | None = None
    ) -> None:
        self._api = api
        self._lock = lock
        self._pod = pod
        self._call = call
        self._say = say
        self.request = pod  # what is asked for now

    def create_or_adopt(self) -> tuple[k8s.V1Pod, bool]:
        """Create the pod, then the Secrets that it waits for; or take over one that exists.

        Returns:
            The pod, and whether an earlier worker made it.

        Raises:
            BackendError: Kubernetes refused the pod or a Secret; then neither is left.
            CallError: the call is larger than its Secrets may be.
            HeldError: another pod may run the task.
        """
        identity = takeover.CallIdentity(self._call, self._pod)
        annotations = {**(self._pod.metadata.annotations or {}), takeover.CALL: identity.seal()}
        pod = render.with_metadata(self._pod, annotations=annotations)
        while True:
            secrets = CallSecrets(self._call, pod)
            try:
                created, taken_over = self._create_or_find(secrets.pod, identity)
                if not taken_over:
                    self._deliver(secrets, created)
                    return created, False
            except BaseException:
                withdraw_arguments(self._call, secrets.pod)
                raise
            withdraw_arguments(self._call, secrets.pod)  # the pod that exists has its own, or never had
            if pod_state.has_started(created):
                return created, True
            time.sleep(_MOMENT)
            if self._has_secrets(created):
                return created, True
            self._say(
                f"Pod {render.full_name(self.request)} lacks its Secrets, since the worker before died: starting again."
            )
            remove(self._api, created, self._call)

    def _deliver(self, secrets: CallSecrets, pod: k8s.V1Pod) -> None:
        try:
            if self._lock is not None:
                self._lock.take_or_warn(pod)
            for secret in secrets.for_pod(pod):
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

    def _create_or_find(self, pod: k8s.V1Pod, identity: takeover.CallIdentity) -> tuple[k8s.V1Pod, bool]:
        attempt = (pod.metadata.labels or {}).get(render.TRY)
        number = 1
        while True:
            name = pod.metadata.name + (f"-{number}" if number > 1 else "")
            self.request = render.with_metadata(pod, name=name)
            try:
                return self._api.create_pod(self.request), False
            except ExistsError:
                found = self._api.pod(name)
            if found is None:
                continue
            if self._is_own(found):
                return found, False
            decision = takeover.decide(found, attempt, identity)
            if decision is takeover.ExistingPod.TAKEN:
                self._say(takeover.announcement(found))
                return found, True
            if decision is takeover.ExistingPod.CHECKED:
                number += 1
                continue
            self._say(f"Pod {render.full_name(self.request)} of an earlier try is there: {decision.value}.")
            if decision is takeover.ExistingPod.LEAVING:
                await_removal(self._api, found, self._call)
            else:
                remove(self._api, found, self._call)

    def _is_own(self, found: k8s.V1Pod) -> bool:
        """Return whether this very worker made a pod, by a request whose answer was lost: each has its own salt."""
        own, its = (pod.metadata.annotations or {} for pod in (self.request, found))
        return found.metadata.deletion_timestamp is None and own[takeover.CALL] == its.get(takeover.CALL)


def remove(api: PodApi, pod: k8s.V1Pod, call: PackedCall) -> None:
    """End and remove a pod of an earlier try, with the arguments that its worker left at the location.

    Args:
        api: the requests.
        pod: the pod.
        call: the call that this try makes.

    Raises:
        BackendError: it cannot be removed.
    """
    api.remove(pod.metadata.name, pod.metadata.uid)
    await_removal(api, pod, call)
    withdraw_arguments(call, pod)


def await_removal(api: PodApi, pod: k8s.V1Pod, call: PackedCall) -> None:
    """Wait until a pod of an earlier try is gone; see ``remove``."""
    seconds = (pod.metadata.deletion_grace_period_seconds or 30) + _REMOVAL
    if not is_removed(api, pod, seconds):
        raise BackendError(
            call.environment.name,
            f"the pod {pod.metadata.name} of an earlier try is still being removed, and a task never runs "
            "twice at once. Is its node gone?",
        )


def is_removed(api: PodApi, pod: k8s.V1Pod, seconds: float) -> bool:
    """Return whether a pod that is being removed is gone within some seconds."""
    deadline = time.monotonic() + seconds
    for kind, state in api.events(pod, lambda: deadline - time.monotonic()):
        if kind == DELETED or state.metadata.uid != pod.metadata.uid:
            return True
        if time.monotonic() > deadline:
            return False
    raise AssertionError("a watch never ends by itself")
