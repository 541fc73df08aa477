"""The lock of a task instance: a Lease that belongs to the one pod that may run it.

Only an environment with waiting pods needs it: there, a task's pod has no name by which the API server arbitrates.
Who delivers a call to a pod, by ``exec`` or by Secrets, first makes that pod the owner of the Lease; the cluster
removes the Lease with the pod.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kubernetes.client import CoordinationV1Api
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException

from k8s_venv.backends.kubernetes import diagnose, render, takeover

if TYPE_CHECKING:
    from collections.abc import Callable

    from k8s_venv.backends.kubernetes.api import PodApi


class HeldError(Exception):
    """Another pod holds a task's lock.

    Args:
        pod: that pod.
    """

    def __init__(self, pod: k8s.V1Pod) -> None:
        super().__init__(pod.metadata.name)
        self.pod = pod


class LockRefusedError(Exception):
    """The account lacks a right to Leases; the text is a sentence."""


class TaskLock:
    """The lock of one task instance.

    Args:
        client: a ``CoreV1Api``.
        api: the requests about pods.
        namespace: where the pods are.
        identity: the task instance's, which is the Lease's name.
        say: is called if there can be no lock.
    """

    def __init__(self, client: Any, api: PodApi, namespace: str, identity: str, say: Callable[[str], None]) -> None:
        self._leases = CoordinationV1Api(client.api_client)
        self._api = api
        self._namespace = namespace
        self._identity = identity
        self._say = say
        self._refused = False

    def take(self, pod: k8s.V1Pod) -> None:
        """Make a pod the holder.

        Raises:
            HeldError: another pod is, which may still run the task or holds a result of it.
            LockRefusedError: the account lacks a right to Leases.
        """
        try:
            while not self._is_created(pod):
                lease = self._lease()
                if lease is None:
                    continue  # it went meanwhile
                for owner in lease.metadata.owner_references or ():
                    if owner.uid == pod.metadata.uid:
                        return  # by a request whose answer was lost, or by another worker that takes this pod over
                    holder = self._api.pod(owner.name)
                    if holder is not None and holder.metadata.uid == owner.uid and not takeover.is_over(holder):
                        raise HeldError(holder)
                self._remove(lease)
        except ApiException as error:
            self._refused = True
            raise LockRefusedError(diagnose.request_problem(error)) from None

    def take_or_warn(self, pod: k8s.V1Pod) -> None:
        """Make a pod the holder, or say once that there can be no lock: then no call can be at a waiting pod either.

        Raises:
            HeldError: another pod is the holder.
        """
        if self._refused:
            return
        try:
            self.take(pod)
        except LockRefusedError as error:
            self._say(f"The task has no lock. {error}")

    def release(self, pod: k8s.V1Pod) -> None:
        """Take the lock away from a pod that cannot be removed, and to which nothing was delivered."""
        try:
            lease = self._lease()
            if lease is not None and any(owner.uid == pod.metadata.uid for owner in lease.metadata.owner_references):
                self._remove(lease)
        except ApiException as error:
            self._say(f"The lease {self._identity} could not be deleted. {diagnose.request_problem(error)}")

    def _is_created(self, pod: k8s.V1Pod) -> bool:
        owner = {"apiVersion": "v1", "kind": "Pod", "name": pod.metadata.name, "uid": pod.metadata.uid}
        metadata = {"name": self._identity, "labels": render.LABELS, "ownerReferences": [owner]}
        lease = {"metadata": metadata, "spec": {"holderIdentity": pod.metadata.name}}
        try:
            self._api.retried(self._leases.create_namespaced_lease, self._namespace, lease)
        except ApiException as error:
            if error.status != 409:
                raise
            return False
        return True

    def _lease(self) -> Any:
        try:
            return self._api.retried(self._leases.read_namespaced_lease, self._identity, self._namespace)
        except ApiException as error:
            if error.status == 404:
                return None
            raise

    def _remove(self, lease: Any) -> None:
        only = k8s.V1DeleteOptions(preconditions=k8s.V1Preconditions(uid=lease.metadata.uid))
        self._api.delete_object(self._leases.delete_namespaced_lease, self._identity, only)
