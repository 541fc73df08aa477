"""The pod that waits for a call: a call's own pod, except for what its containers run until the call is there.

Pure functions, from the code that renders a call's pod. Waiting pods are told apart by a key, a digest of the whole
pod: a call takes one only if its own pod would have been the same.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

from kubernetes.client import ApiClient
from kubernetes.client import models as k8s

from k8s_venv.backends import image_of
from k8s_venv.backends.kubernetes import render
from k8s_venv.backends.pod_options import is_template
from k8s_venv.backends.process import WAITING_SOCKET, waiting_command, waiting_sidecar_command

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from k8s_venv.config.environment import Environment
    from k8s_venv.config.project import Project

# The annotation with the pool's key, which stays when the pod is claimed and its label changes.
POOL = "k8s-venv/pool"
# The annotation with the environment's name.
ENVIRONMENT = "k8s-venv/environment"

_KEY_LENGTH = 20  # hexadecimal digits
# How long the modules of `preload` may take to import, in seconds.
_PRELOAD_SECONDS = 600
# A name that the API server completes with five characters.
_NAME_LIMIT = render.NAME_LIMIT - len("warm--12345")
# What a field that is left out means to Kubernetes; the provider writes some of these.
_DEFAULTS: Mapping[str, Any] = {
    "dnsPolicy": "ClusterFirst",
    "hostIPC": False,
    "hostNetwork": False,
    "hostPID": False,
    "schedulerName": "default-scheduler",
    "terminationMessagePolicy": "File",
}
# Of the specification: a pod that waits has no deadline of its own, and the claim gives it one.
_LEFT_OUT = ("activeDeadlineSeconds",)


def pool_pod(environment: Environment, options: Mapping[str, Any]) -> k8s.V1Pod:
    """Return the pod that waits for calls of an environment.

    Args:
        environment: the environment, which has ``warm``.
        options: as for ``render.pod``: the image and the environment's pod options.
    """
    pod = render.pod("waiting", environment.name, options, secret="waiting")  # noqa: S106 -- a name, for no Secret
    made = from_call(pod, environment)
    # Webhooks read these when a pod is made; templates among them are filled in by the claim.
    for field in ("labels", "annotations"):
        given = {name: text for name, text in (getattr(pod.metadata, field) or {}).items() if not is_template(text)}
        setattr(made.metadata, field, {**given, **getattr(made.metadata, field)})
    return made


def declared_pod(environment: Environment, project: Project) -> k8s.V1Pod:
    """Return the pod that waits for calls of an environment as its project declares it.

    Args:
        environment: the environment, which has ``warm``.
        project: the project, for the image's reference.

    Raises:
        LockError: the environment was never locked, or its lock is stale.
        ProjectError: no registry is configured.
    """
    options = {name: value for name, value in environment.pod.items() if name in render.OPTIONS}
    if not options.get("image"):
        options["image"] = image_of(environment, project)
    return pool_pod(environment, options)


def from_call(pod: k8s.V1Pod, environment: Environment) -> k8s.V1Pod:
    """Return the waiting pod that could take a call.

    Args:
        pod: the whole pod that the call would have; it does not change.
        environment: its environment, which has ``warm``.
    """
    made = copy.deepcopy(pod)
    preload = environment.warm.preload if environment.warm is not None else ()
    made.api_version, made.kind, made.status = "v1", "Pod", None
    made.spec.active_deadline_seconds = None
    made.spec.volumes = [_call_volume() if each.name == render.CALL_VOLUME else each for each in made.spec.volumes]
    for container in made.spec.containers:
        if container.name == render.BASE:
            files = (render.CALL_FOLDER, render.RESULT_FOLDER, render.MESSAGE_FILE)
            _let_wait(container, waiting_command("python", *files, preload))
            container.startup_probe = _startup_probe() if preload else container.startup_probe
        elif container.name == render.SIDECAR:
            _let_wait(container, waiting_sidecar_command("python", render.CALL_FOLDER, render.RESULT_FOLDER))
    key = pool_key(made)
    made.metadata = k8s.V1ObjectMeta(
        generate_name=f"warm-{_readable(environment.name)}-",
        labels={**render.recommended_labels(environment.name), render.SLOT: key},
        annotations={POOL: key, ENVIRONMENT: environment.name},
    )
    return made


def is_pool_pod(pod: k8s.V1Pod) -> bool:
    """Return whether a pod was made to wait for a call; it may have been claimed since."""
    return POOL in (pod.metadata.annotations or {})


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Return whether a waiting pod, as a JSON object, can take a call now."""
    conditions = pod.get("status", {}).get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def pool_key(pod: k8s.V1Pod) -> str:
    """Return the key of the pool that a waiting pod belongs to: a digest of its specification.

    Args:
        pod: a waiting pod, as ``pool_pod`` returns it.
    """
    text = json.dumps(_essence(pod), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_LENGTH]


def differences(pod: k8s.V1Pod, other: k8s.V1Pod) -> list[str]:
    """Return the names of the fields in which two waiting pods differ, such as ``tolerations``.

    Args:
        pod: one, as ``pool_pod`` returns it.
        other: the other one.
    """
    return sorted(set(_differing(_essence(pod), _essence(other))))


def _differing(one: Any, other: Any) -> Iterator[str]:
    containers = {each["name"]: each for each in one.get("containers", ())}
    others = {each["name"]: each for each in other.get("containers", ())}
    yield from (name for name in one.keys() | other.keys() if name != "containers" and one.get(name) != other.get(name))
    for container in containers.keys() | others.keys():
        first, second = containers.get(container, {}), others.get(container, {})
        for name in first.keys() | second.keys():
            if first.get(name) != second.get(name):
                if container == render.BASE:
                    yield name
                elif container != render.SIDECAR:  # which follows the other container
                    yield f"container {container!r}"


def _essence(pod: k8s.V1Pod) -> dict[str, Any]:
    """Return what two pods must have in common to run the same calls: their specification, without what is empty."""
    spec = ApiClient().sanitize_for_serialization(pod.spec)
    essence = _pruned({name: value for name, value in spec.items() if name not in _LEFT_OUT})
    return essence if isinstance(essence, dict) else {}


def _pruned(value: Any) -> Any:
    if isinstance(value, list):
        return [_pruned(each) for each in value]
    if not isinstance(value, dict):
        return value
    pruned = {name: _pruned(each) for name, each in value.items()}
    return {name: each for name, each in pruned.items() if not _is_empty(each) and _is_said(name, each)}


def _is_empty(value: Any) -> bool:
    return value is None or value in ("", [], {})


def _is_said(name: str, value: Any) -> bool:
    return name not in _DEFAULTS or value != _DEFAULTS[name]


def _call_volume() -> k8s.V1Volume:
    """Return the volume into which the call is delivered: in memory, since its secrets are among it."""
    return k8s.V1Volume(name=render.CALL_VOLUME, empty_dir=k8s.V1EmptyDirVolumeSource(medium="Memory"))


def _let_wait(container: k8s.V1Container, command: list[str]) -> None:
    container.command = command
    for mount in container.volume_mounts:
        if mount.name == render.CALL_VOLUME:
            mount.read_only = None


def _startup_probe() -> k8s.V1Probe:
    """Return the probe by which only a pod whose imports are done is ready."""
    look = f"import os; os.stat({f'{render.CALL_FOLDER}/{WAITING_SOCKET}'!r})"
    action = k8s.V1ExecAction(command=["python", "-I", "-S", "-c", look])
    return k8s.V1Probe(_exec=action, period_seconds=1, failure_threshold=_PRELOAD_SECONDS)


def _readable(name: str) -> str:
    """Return an environment's name as a part of a pod's name."""
    return re.sub(r"[^a-z0-9]+", "-", name)[:_NAME_LIMIT].strip("-")
