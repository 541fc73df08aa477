"""What a call adds to a pod, as pure functions.

The pod has two containers of the environment's own image: ``base`` runs the call; ``result`` ends at once
when the result fits into the pod's status, else keeps it until the worker has read it, in a volume that they
share. Another one is mounted as ``/tmp``. The archive and the secrets come from a Secret that the pod owns.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from typing import TYPE_CHECKING, Any

from kubernetes.client import models as k8s

from k8s_venv.backends.kubernetes.client_types import typed, variables
from k8s_venv.backends.kubernetes.security import container_security, pod_security
from k8s_venv.backends.pod_options import amount, amounts
from k8s_venv.backends.process import runner_command
from k8s_venv.wire import protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

BASE = "base"
SIDECAR = "result"
CALL_FOLDER = "/k8s-venv/call"
SCRATCH_FOLDER = "/tmp"  # noqa: S108 -- a volume of the pod's own
RESULT_FOLDER = "/k8s-venv/result"
MESSAGE_FILE = "/dev/termination-log"
# What the API server takes in one Secret, in bytes.
SECRET_LIMIT = 1024 * 1024
# How many Secrets of that size a call may take.
SECRETS = 8
NAME_LIMIT = 63
# By which pods are watched, and the chart's network policy finds them.
LABELS = {"app.kubernetes.io/managed-by": "k8s-venv"}

CALL_VOLUME = "k8s-venv-call"
_ARCHIVE = f"{CALL_FOLDER}/{protocol.ARCHIVE}"


def pod_name(label: str, identity: str) -> str:
    """Return a pod's name that is the same for the same identity.

    Args:
        label: what a reader should recognize, such as the DAG's and the task's names.
        identity: tells this run of the task from every other.
    """
    digest = hashlib.sha256(identity.encode()).hexdigest()[:10]
    readable = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")[: NAME_LIMIT - len(digest) - 1]
    return f"{readable.strip('-')}-{digest}" if readable else f"call-{digest}"


def labels(environment: str) -> dict[str, str]:
    """Return the labels that Kubernetes recommends, for a call's pod.

    Source: https://kubernetes.io/docs/concepts/overview/working-with-objects/common-labels/

    Args:
        environment: the environment's name, which is a label's value as it is.
    """
    return {
        "app.kubernetes.io/name": environment,
        "app.kubernetes.io/component": "task",
        "app.kubernetes.io/part-of": "k8s-venv",
        **LABELS,
    }


def command() -> list[str]:
    """Return the command that runs the call."""
    return runner_command("python", _ARCHIVE, "--result", RESULT_FOLDER, "--message", MESSAGE_FILE)


def message_limit(pod: k8s.V1Pod) -> int:
    """Return how long a termination message may be: the kubelet divides its limit between a pod's containers.

    Args:
        pod: the created pod, with what the cluster injected; one more container may come (``kubectl debug``).
    """
    containers = len(pod.spec.containers) + len(pod.spec.init_containers or ())
    return min(protocol.MESSAGE_LIMIT, protocol.POD_MESSAGE_LIMIT // (containers + 1))


def read_command(start: int) -> list[str]:
    """Return the command that writes a large result to standard output, inside the sidecar.

    Args:
        start: the first byte that is wanted.
    """
    return runner_command("python", _ARCHIVE, "--read", RESULT_FOLDER, "--from", str(start))


def release_command() -> list[str]:
    """Return the command that lets the sidecar end."""
    return runner_command("python", _ARCHIVE, "--release", RESULT_FOLDER)


def volumes(secret: str) -> list[k8s.V1Volume]:
    """Return the volumes of a call.

    Args:
        secret: the name of the Secret with the archive.
    """
    return [
        k8s.V1Volume(name=CALL_VOLUME, secret=k8s.V1SecretVolumeSource(secret_name=secret)),
        k8s.V1Volume(name="k8s-venv-scratch", empty_dir=k8s.V1EmptyDirVolumeSource()),
        k8s.V1Volume(name="k8s-venv-result", empty_dir=k8s.V1EmptyDirVolumeSource()),
    ]


def mounts() -> list[k8s.V1VolumeMount]:
    """Return where the container that runs the call sees the call's volumes."""
    return [*_shared_mounts(), k8s.V1VolumeMount(name="k8s-venv-scratch", mount_path=SCRATCH_FOLDER)]


def _shared_mounts() -> list[k8s.V1VolumeMount]:
    return [
        k8s.V1VolumeMount(name=CALL_VOLUME, mount_path=CALL_FOLDER, read_only=True),
        k8s.V1VolumeMount(name="k8s-venv-result", mount_path=RESULT_FOLDER),
    ]


def environment_variables(given: Any = None) -> list[k8s.V1EnvVar]:
    """Return the variables of the container that runs the call: our own, and over them the option's.

    Args:
        given: the option ``env_vars``, in any of the ways to write it.
    """
    settings = {"HOME": SCRATCH_FOLDER, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
    return list({variable.name: variable for variable in (*variables(settings), *variables(given or {}))}.values())


def pod(name: str, namespace: str, deadline: int, options: Mapping[str, Any], secret: str | None = None) -> k8s.V1Pod:
    """Return a whole pod for a call, as it is made outside Airflow.

    Args:
        name: the pod's name.
        namespace: where it runs.
        deadline: the seconds after which the cluster ends it.
        options: the image, and those of ``KubernetesPodOperator``'s options that ``KubernetesBackend`` takes.
        secret: its Secret's name; by default the pod's.
    """
    options = typed(options)
    security = container_security(options.get("container_security_context"))
    base = k8s.V1Container(
        name=BASE,
        image=options["image"],
        image_pull_policy=options.get("image_pull_policy"),
        command=command(),
        env=environment_variables(options.get("env_vars")),
        volume_mounts=[*options.get("volume_mounts", ()), *mounts()],
        resources=options.get("container_resources"),
        security_context=security,
    )
    beside = sidecar(options["image"], options.get("image_pull_policy"), security, options.get("container_resources"))
    return k8s.V1Pod(
        metadata=k8s.V1ObjectMeta(
            name=name,
            namespace=namespace,
            labels={**LABELS, **options.get("labels", {})},
            annotations=options.get("annotations"),
        ),
        spec=k8s.V1PodSpec(
            containers=[base, beside],
            volumes=[*options.get("volumes", ()), *volumes(secret or name)],
            restart_policy="Never",
            active_deadline_seconds=deadline,
            automount_service_account_token=False,
            security_context=pod_security(options.get("security_context")),
            service_account_name=options.get("service_account_name"),
            image_pull_secrets=options.get("image_pull_secrets"),
            node_selector=options.get("node_selector"),
            tolerations=options.get("tolerations"),
        ),
    )


def sidecar(image: str, pull_policy: str | None, security: Any, resources: Any) -> k8s.V1Container:
    """Return the container that keeps a large result until it was read.

    Args:
        image: the environment's image, which is on the node already.
        pull_policy: that of the base container.
        security: the base container's security context.
        resources: the base container's resources.
    """
    return k8s.V1Container(
        name=SIDECAR,
        image=image,
        image_pull_policy=pull_policy,
        command=runner_command("python", _ARCHIVE, "--hand-over", RESULT_FOLDER),
        volume_mounts=_shared_mounts(),
        security_context=security,
        resources=_sidecar_resources(resources),
    )


def _sidecar_resources(base: Any) -> k8s.V1ResourceRequirements:
    """Return what the sidecar needs, with limits of what the base container limits: a quota on it wants both."""
    limits = amounts(base, "limits")
    most = {"cpu": "1", "ephemeral-storage": "16Mi"}
    few = {name: min(str(limits[name]), size, key=amount) for name, size in most.items() if name in limits}
    return k8s.V1ResourceRequirements(requests={"cpu": "1m", "memory": "16Mi"}, limits={"memory": "128Mi", **few})


def leave_sidecar_to_namespace(pod: k8s.V1Pod) -> bool:
    """Let the namespace's defaults say what the sidecar may use; return whether that changes the pod.

    Args:
        pod: the pod, before it is created.
    """
    beside = next(container for container in pod.spec.containers if container.name == SIDECAR)
    said, beside.resources = beside.resources, None
    return said is not None


def fresh_secret_name(name: str) -> str:
    """Return a Secret's name that is used once: what is left of an earlier pod must never meet a new one.

    Args:
        name: the pod's name.
    """
    return f"{name}-{secrets.token_hex(4)}"


def split_call(pod: k8s.V1Pod, count: int) -> None:
    """Let a pod wait for several Secrets, which appear in one folder.

    Args:
        pod: the pod, before it is created.
        count: how many.
    """
    volume = next(volume for volume in pod.spec.volumes if volume.name == CALL_VOLUME)
    first = secret_names(pod)[0]
    names = [first, *(f"{first}-{number}" for number in range(1, count))]
    sources = [k8s.V1VolumeProjection(secret=k8s.V1SecretProjection(name=name)) for name in names]
    volume.secret, volume.projected = None, k8s.V1ProjectedVolumeSource(sources=sources)


def secret_names(pod: k8s.V1Pod) -> list[str]:
    """Return the names of the Secrets that a pod waits for; none of a pod that is not a call's."""
    volume = next((volume for volume in pod.spec.volumes or () if volume.name == CALL_VOLUME), None)
    if volume is None:
        return []
    if volume.secret is not None:
        return [volume.secret.secret_name]
    return [source.secret.name for source in volume.projected.sources]


def call_secret(pod: k8s.V1Pod, name: str, files: Mapping[str, bytes]) -> k8s.V1Secret:
    """Return a Secret with files of a call.

    The pod owns it, so the cluster removes it with the pod.

    Args:
        pod: the created pod.
        name: the Secret's name.
        files: their contents by their names.
    """
    owner = k8s.V1OwnerReference(api_version="v1", kind="Pod", name=pod.metadata.name, uid=pod.metadata.uid)
    return k8s.V1Secret(
        metadata=k8s.V1ObjectMeta(name=name, namespace=pod.metadata.namespace, owner_references=[owner], labels=LABELS),
        immutable=True,
        data={file: base64.b64encode(data).decode("ascii") for file, data in files.items()},
    )


def is_mounted(pod: k8s.V1Pod, path: str) -> bool:
    """Return whether the container that runs the call has a volume of the pod at a path, or above it."""
    container = next(container for container in pod.spec.containers if container.name == BASE)
    ours = {volume.name for volume in volumes("")}
    places = [mount.mount_path.rstrip("/") for mount in container.volume_mounts or () if mount.name not in ours]
    return any(f"{path}/".startswith(f"{place}/") for place in places)
