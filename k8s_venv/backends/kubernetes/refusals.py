"""What it means when the API server refuses a request, or does not answer."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from k8s_venv.errors import BackendError

if TYPE_CHECKING:
    from k8s_venv.config.environment import Environment

# What the API server's refusals mean, by words that it, or one of its admission plugins, uses.
_HINTS = {
    "violates PodSecurity": "The namespace's Pod Security level does not admit the pod's options.",
    "exceeded quota": "The namespace's quota is used up.",
    "failed quota": "The namespace's quota needs an amount for it: add it to `container_resources`.",
    " per Container is ": "The namespace's LimitRange says so: change `container_resources`.",
    " per Pod is ": "The namespace's LimitRange says so: change `container_resources`.",
    "being terminated": "The namespace is being deleted.",
    "denied the request": "It is a policy of the cluster: change the pod's options, or ask whoever runs the cluster.",
    "denied request": "It is a policy of the cluster: change the pod's options, or ask whoever runs the cluster.",
    "failed calling webhook": "One of the cluster's admission webhooks does not answer: ask whoever runs the cluster.",
    "quantities must match": "Amounts in `container_resources` are written such as 500m or 2Gi.",
    " in API group ": "Airflow's account needs more rights in that namespace: ask whoever runs the cluster.",
    "Unauthorized": "The cluster does not know the account: is its token or certificate still valid?",
}
# How the API server (RBAC) refuses what an account has no right to.
_LACKS = re.compile(r'User "([^"]+)" cannot (\w+) resource "([\w/]+)"')


def missing_right(error: Any) -> str:
    """Return which right the account lacks, as a sentence, or nothing where that is not why it was refused.

    Args:
        error: a client's exception, with its ``status`` and ``body``.
    """
    lacks = _LACKS.search(status_field(error, "message")) if getattr(error, "status", None) == 403 else None
    if lacks is None:
        return ""
    return (
        f"The account {lacks[1]} needs the right to `{lacks[2]}` `{lacks[3]}` in that namespace: ask whoever runs the "
        "cluster."
    )


def why(error: Any) -> str:
    """Return why a request was refused, or had no answer: as a sentence, with the right that is missing.

    Args:
        error: a client's exception.
    """
    return missing_right(error) or sentence(str(getattr(error, "reason", None) or error))


def is_limited(error: Any) -> bool:
    """Return whether a namespace's LimitRange does not take the resources that a pod asks for."""
    return bool(error.status == 403 and " per Container is " in _message(error))


def refused(error: Any, environment: Environment, what: str, namespace: str, origin: str = "") -> BackendError:
    """Return what the API server's refusal means.

    Args:
        error: the client's exception.
        environment: whose call it was.
        what: what was asked for.
        namespace: where.
        origin: where the namespace comes from, if that is known.
    """
    reason = _message(error)
    hint = next((hint for sign, hint in _HINTS.items() if sign in reason), "Check the pod's options.")
    hint = missing_right(error) or hint
    if error.status == 404:
        hint = f"Does the namespace {namespace!r} exist?"
    place = f"namespace {namespace!r} ({origin})" if origin else f"namespace {namespace!r}"
    return BackendError(environment.name, f"Kubernetes refused the {what} in {place}: {reason} {hint}")


def unreachable(error: Exception, environment: Environment, seconds: float) -> BackendError:
    """Return that the API server did not answer.

    Args:
        error: what the client said last.
        environment: whose call it was.
        seconds: for how long it was tried.
    """
    cause = getattr(error, "reason", None) or error
    return BackendError(
        environment.name, f"the Kubernetes API server did not answer for {seconds:.0f} s: {sentence(str(cause))}"
    )


def sentence(text: str | None) -> str:
    """Return a text, such as a message of Kubernetes, with a full stop at its end."""
    text = (text or "no reason is given").strip()
    return text if text.endswith(".") else f"{text}."


def status_field(error: Any, field: str) -> str:
    """Return a field of the ``Status`` with which the API server refused something, or nothing.

    Args:
        error: the client's exception.
        field: ``message`` or ``reason``.
    """
    try:
        return str(json.loads(error.body)[field])
    except (ValueError, KeyError, TypeError):
        return ""


def _message(error: Any) -> str:
    return sentence(status_field(error, "message") or str(error.reason))
