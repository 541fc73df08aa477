"""Which of several keepers leads: the one that holds a Lease (Python 3.8+, standard library)."""

from __future__ import annotations

import datetime
import time
from typing import TYPE_CHECKING, Any, Dict, Optional, Tuple

from api import ApiError

if TYPE_CHECKING:
    from api import Api

DURATION = 30.0  # seconds that a Lease is valid without being renewed
RENEWAL = 10.0  # seconds after which its holder renews it


class Leadership:
    """A claim on a Lease that exists already.

    Args:
        api: the cluster.
        name: the Lease's name.
        holder: the name of the pod that wants it: after a restart of its container the same.
    """

    def __init__(self, api: Api, name: str, holder: str) -> None:
        self._api = api
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{api.namespace}/leases/{name}"
        self._holder = holder
        self._until = 0.0
        self._seen: Tuple[str, float] = ("", 0.0)

    def leads(self) -> bool:
        """Return whether the Lease is held, renewing it when that is due; take it when it is free.

        Raises:
            ApiError: the server refused it.
        """
        now = time.monotonic()
        if now < self._until - DURATION + RENEWAL:
            return True
        lease = self._api.request("GET", self._path)
        holder = (lease.get("spec") or {}).get("holderIdentity")
        if holder and holder != self._holder and not self._expired(lease, now):
            self._until = 0.0
            return False
        self._until = now + DURATION if self._write(lease, self._holder) else 0.0
        return now < self._until

    def seconds_left(self) -> float:
        """Return how long this pod leads for sure."""
        return self._until - time.monotonic()

    def release(self) -> None:
        """Let the next keeper lead at once."""
        if self.seconds_left() > 0:
            self._until = 0.0
            self._write(self._api.request("GET", self._path), "")

    def _expired(self, lease: Dict[str, Any], now: float) -> bool:
        """Return whether a Lease was not renewed for its duration, by this machine's clock alone."""
        version = lease["metadata"]["resourceVersion"]
        if version != self._seen[0]:
            self._seen = (version, now)
        return now - self._seen[1] >= DURATION

    def _write(self, lease: Dict[str, Any], holder: str) -> bool:
        spec: Dict[str, Optional[object]] = {"holderIdentity": holder, "leaseDurationSeconds": int(DURATION)}
        spec["renewTime"] = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        try:
            self._api.request("PUT", self._path, {**lease, "spec": spec})
        except ApiError as error:
            if error.status != 409:
                raise
            return False
        return True
