"""Namespaces of a test's own, and who may do what in them."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.waiting import eventually

# The API groups of resources that are not in the core one.
GROUPS = {"leases": "coordination.k8s.io"}


@contextlib.contextmanager
def own_namespace(client: Any, **labels: str) -> Iterator[str]:
    """Make a namespace that takes pods, and remove it afterwards.

    Args:
        client: a `CoreV1Api` of the cluster's administrator.
        labels: what the namespace enforces of Pod Security, as `enforce="restricted"`.
    """
    from kubernetes.client.exceptions import ApiException

    name = f"k8s-venv-test-{uuid.uuid4().hex[:8]}"
    security = {f"pod-security.kubernetes.io/{mode}": level for mode, level in labels.items()}
    client.create_namespace({"metadata": {"name": name, "labels": security}})
    try:
        # Without its account, which a controller makes, it takes no pods.
        eventually(lambda: client.list_namespaced_service_account(name).items)
        yield name
    finally:
        try:
            client.delete_namespace(name)
        except ApiException as error:
            if error.status != 404:  # the test did so
                raise


def client_of(config: Path) -> Any:
    """Return what reaches the cluster as a kubeconfig says."""
    import kubernetes

    return kubernetes.client.CoreV1Api(kubernetes.config.new_client_from_config(str(config)))


def may(client: Any, namespace: str, verb: str, resource: str) -> bool:
    """Return whether whom a client stands for has a right; the API server takes a moment to notice new ones."""
    import kubernetes

    name, _, subresource = resource.partition("/")
    attributes = {"namespace": namespace, "verb": verb, "group": GROUPS.get(name, ""), "resource": name}
    attributes["subresource"] = subresource
    api = kubernetes.client.AuthorizationV1Api(client.api_client)
    review = api.create_self_subject_access_review({"spec": {"resourceAttributes": attributes}})
    return bool(review.status.allowed)


def make_quota(client: Any, namespace: str, **hard: str) -> None:
    """Give a namespace a quota; it refuses everything until a controller has counted what is there."""
    spec = {"hard": {name.replace("_", "."): size for name, size in hard.items()}}
    client.create_namespaced_resource_quota(namespace, {"metadata": {"name": "quota"}, "spec": spec})
    eventually(lambda: client.read_namespaced_resource_quota("quota", namespace).status.hard)
