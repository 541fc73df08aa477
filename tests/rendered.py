"""Rendered pods as documents that can be compared: without what differs by run and by version of Airflow."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from kubernetes.client import ApiClient

GOLDEN = Path(__file__).parent / "golden" / "pods"
# What Airflow's provider adds: its labels, and empty fields that only some of its versions write.
_LABELS = {"airflow_version", "airflow_kpo_in_cluster"}
_EMPTY = {"affinity", "args", "envFrom", "hostNetwork", "ports", "terminationMessagePolicy"}


def rendered(pod: Any) -> Any:
    """Return a pod's manifest with fixed names where each pod has its own.

    Args:
        pod: the pod, as the Kubernetes client has it.
    """
    text = json.dumps(ApiClient().sanitize_for_serialization(pod))
    manifest = json.loads(re.sub(r"-[0-9a-f]{10}(-[0-9a-f]{8})\"", r'-NAME-SECRET"', text))
    for holder, name in ((manifest["metadata"], "name"), (manifest["metadata"]["labels"], "k8s-venv/slot")):
        if name in holder:
            holder[name] = re.sub(r"-[0-9a-f]{10}$", "-NAME", holder[name])
    for label in _LABELS & manifest["metadata"]["labels"].keys():
        del manifest["metadata"]["labels"][label]
    for part in (manifest["spec"], *manifest["spec"]["containers"]):
        for name in _EMPTY & part.keys():
            if part[name] in ({}, [], False, "File"):
                del part[name]
    return manifest


def golden(name: str) -> Any:
    """Return the manifest that a golden file holds.

    Args:
        name: the file's name without its ending.
    """
    return json.loads((GOLDEN / f"{name}.json").read_text("utf-8"))
