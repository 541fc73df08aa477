"""What to do with a pod that an earlier try of the same task left."""

from __future__ import annotations

import enum
import hashlib
import hmac
import json
import secrets
from typing import TYPE_CHECKING, Any

from kubernetes.client import ApiClient

from k8s_venv.backends.kubernetes import pod_state, render
from k8s_venv.calls import parse_document
from k8s_venv.calls.call_digest import call_digest
from k8s_venv.errors import BackendError
from k8s_venv.wire import protocol

if TYPE_CHECKING:
    from k8s_venv.calls import PackedCall

# The annotation that says which call a pod runs: a salt and a digest, in hexadecimal.
CALL = "k8s-venv/call"

# The annotation of a pod whose result came over a connection, before its end was seen: its call is over.
READ = "k8s-venv/read"

# Everybody who may read pods sees the annotation of the call, and could guess a small argument: each guess takes so
# many rounds, about 10 ms, and nothing that was computed for one pod helps with another.
_ROUNDS = 50_000
_SALT = 16  # bytes
# The fields of a container that change what a call in it does.
_CONTAINER = ("image", "env", "envFrom")


class ExistingPod(enum.Enum):
    """What is done with a pod that exists already."""

    LEAVING = "it is being removed: waiting until it is gone"
    CHECKED = "its result was read, and it is kept: making another beside it"
    OTHER = (
        "it runs another call, since the function, its arguments, the environment or the image have changed: ending "
        "and removing it first"
    )
    UNKNOWN = "it does not say which call it runs, as pods of earlier releases: ending and removing it first"
    TAKEN = "it runs, or holds a result that was not read: taking it over"
    FAILED = "it failed: removing it and starting again"


def decide(pod: Any, attempt: str | None, identity: CallIdentity) -> ExistingPod:
    """Decide what is done with a pod.

    Args:
        pod: the pod that exists.
        attempt: the number of the present try.
        identity: the identity of the call that this try makes.
    """
    labels = pod.metadata.labels or {}
    if pod.metadata.deletion_timestamp is not None:
        return ExistingPod.LEAVING
    if is_over(pod):
        return ExistingPod.CHECKED
    ended = pod_state.has_ended(pod)
    sealed = (pod.metadata.annotations or {}).get(CALL)
    if not sealed:
        return ExistingPod.UNKNOWN
    if not identity.is_sealed_in(sealed):
        return ExistingPod.OTHER
    if not ended or labels.get(render.TRY) == attempt:
        return ExistingPod.TAKEN
    return ExistingPod.TAKEN if _outcome(pod) in (protocol.VALUE, protocol.SKIP, protocol.FAIL) else ExistingPod.FAILED


def is_over(pod: Any) -> bool:
    """Return whether a pod is kept though its call has ended and its result was read; while it ran, it may still run.

    Args:
        pod: the pod.
    """
    if (pod.metadata.labels or {}).get(render.CHECKED) != "True" or pod.metadata.deletion_timestamp is not None:
        return False
    return pod_state.has_ended(pod) or READ in (pod.metadata.annotations or {})


def announcement(pod: Any) -> str:
    """Return the sentence for a pod of an earlier try that is taken over."""
    earlier = (pod.metadata.labels or {}).get(render.TRY, "an earlier one")
    return f"Taking over pod {render.full_name(pod)} of try {earlier}: it is still there."


class CallIdentity:
    """The identity of a call among all that a pod of the same name may run.

    Args:
        call: the call.
        pod: the pod that runs it, before it is created.
    """

    def __init__(self, call: PackedCall, pod: Any) -> None:
        container = next(container for container in pod.spec.containers if container.name == render.BASE)
        fields = ApiClient().sanitize_for_serialization(container)
        parts = [call_digest(call), *(fields.get(name) for name in _CONTAINER)]
        self._text = json.dumps(parts, sort_keys=True).encode()

    def seal(self) -> str:
        """Return the annotation of a pod that runs this call; only a reader who knows the call can check it."""
        return self._sealed(secrets.token_bytes(_SALT))

    def is_sealed_in(self, sealed: str) -> bool:
        """Return whether a pod's annotation says that it runs this call."""
        try:
            salt = bytes.fromhex(sealed.partition(".")[0])
        except ValueError:
            return False
        return hmac.compare_digest(self._sealed(salt).encode(), sealed.encode())

    def _sealed(self, salt: bytes) -> str:
        digest = hashlib.pbkdf2_hmac("sha256", self._text, salt, _ROUNDS)
        return f"{salt.hex()}.{digest.hex()}"


def _outcome(pod: Any) -> str | None:
    message = pod_state.message(pod)
    if not message:
        return None
    try:
        return parse_document(message, "").outcome
    except BackendError:
        return None
