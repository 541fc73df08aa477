"""What to do with a pod that an earlier try of the same task left."""

from __future__ import annotations

import enum
from typing import Any

from k8s_venv.backends.kubernetes import diagnose
from k8s_venv.runner import protocol

# `KubernetesPodOperator`'s label for pods that were dealt with.
CHECKED = "already_checked"
TRY = "try_number"


class Fate(enum.Enum):
    """What becomes of a pod that is there already."""

    LEAVING = "it is being removed: wait until it is gone"
    CHECKED = "its result was read, and it is kept: make another beside it"
    TAKEN = "it runs, or holds a result that nobody has read: take it over"
    FAILED = "it failed in an earlier try: remove it and start anew"


def fate(pod: Any, attempt: str | None) -> Fate:
    """Decide what becomes of a pod.

    Args:
        pod: the pod that is there.
        attempt: the number of the present try.
    """
    labels = pod.metadata.labels or {}
    if pod.metadata.deletion_timestamp is not None:
        return Fate.LEAVING
    if labels.get(CHECKED) == "True":
        return Fate.CHECKED
    if not diagnose.has_ended(pod) or labels.get(TRY) == attempt:
        return Fate.TAKEN
    return Fate.TAKEN if _outcome(pod) in (protocol.VALUE, protocol.SKIP, protocol.FAIL) else Fate.FAILED


def _outcome(pod: Any) -> str | None:
    from k8s_venv.calls import parse_document
    from k8s_venv.errors import BackendError

    message = diagnose.message(pod)
    if not message:
        return None
    try:
        return parse_document(message, "").outcome
    except BackendError:
        return None
