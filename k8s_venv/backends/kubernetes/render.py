"""The pod of a call and its Secrets, as pure functions.

The pod has two containers of the environment's own image: ``base`` runs the call; ``result`` ends at once if the
result fits into the pod's status, else it keeps the result until the worker has read it, in a volume that they share.
Another volume is mounted as ``/tmp``. The archive and the secrets come from Secrets that the pod owns.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import re
import secrets
from typing import TYPE_CHECKING, Any

from kubernetes.client import models as k8s

from k8s_venv.backends.kubernetes.options import container_security, pod_security, typed, variables
from k8s_venv.backends.limits import POD_DEADLINE
from k8s_venv.backends.pod_options import amount, amounts
from k8s_venv.backends.process import CONTAINER_VARIABLES, SCRATCH_FOLDER, runner_command
from k8s_venv.wire import protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

BASE = "base"
SIDECAR = "result"
RESULT_FOLDER = "/k8s-venv/result"
MESSAGE_FILE = "/dev/termination-log"
# What the API server takes in one Secret, in bytes.
SECRET_LIMIT = 1024 * 1024
# How many Secrets of that size a call may take.
SECRETS = 8
NAME_LIMIT = 63
# By which pods are watched, and the chart's network policy finds them.
LABELS = {"app.kubernetes.io/managed-by": "k8s-venv"}
# `KubernetesPodOperator`'s labels: of a pod whose result was read, and of the try that made it.
CHECKED = "already_checked"
TRY = "try_number"
# The label by which a task's pods are found: its identity, which is the name of a pod of its own. A pod that waits for
# a call has the key of its pool there instead, so that one list gives both.
SLOT = "k8s-venv/slot"

# The options of `KubernetesPodOperator` that are rendered here.
OPTIONS = frozenset(
    (
        *("active_deadline_seconds", "annotations", "automount_service_account_token", "container_resources"),
        *("container_security_context", "env_vars", "image", "image_pull_policy", "image_pull_secrets", "labels"),
        *("node_selector", "runtime_class_name", "security_context", "service_account_name", "tolerations"),
        *("volume_mounts", "volumes"),
    )
)

CALL_VOLUME = "k8s-venv-call"
_SCRATCH_VOLUME = "k8s-venv-scratch"
RESULT_VOLUME = "k8s-venv-result"
CALL_FOLDER = "/k8s-venv/call"
_ARCHIVE = f"{CALL_FOLDER}/{protocol.ARCHIVE}"


def pod(
    name: str,
    environment: str,
    options: Mapping[str, Any],
    *,
    secret: str,
    namespace: str | None = None,
    template: k8s.V1Pod | None = None,
) -> k8s.V1Pod:
    """Return the whole pod of a call.

    Args:
        name: the pod's name.
        environment: the environment's name, for the labels.
        options: the image and any of ``OPTIONS``, written in any of the ways that ``KubernetesPodOperator`` takes.
        secret: the name of the Secret with the archive.
        namespace: where the pod runs; by default where the template says.
        template: a pod of the user's, which the options go over. It does not change.
    """
    options = typed(options)
    made = copy.deepcopy(template) if template is not None else k8s.V1Pod()
    made.metadata = _metadata(made.metadata or k8s.V1ObjectMeta(), environment, options)
    made.metadata.labels[SLOT] = made.metadata.name = name
    made.metadata.namespace = namespace or made.metadata.namespace
    spec = made.spec = made.spec or k8s.V1PodSpec(containers=[])
    first, *others = spec.containers or [k8s.V1Container(name=BASE)]
    base = _base(first, options)
    spec.containers = [base, *others, _sidecar(base)]
    spec.volumes = [*(spec.volumes or ()), *(options.get("volumes") or ()), *_volumes(secret)]
    spec.restart_policy = "Never"
    spec.security_context = pod_security(spec.security_context, options.get("security_context"))
    for field in ("image_pull_secrets", "node_selector", "runtime_class_name", "service_account_name", "tolerations"):
        setattr(spec, field, options.get(field) or getattr(spec, field))
    defaults = {"active_deadline_seconds": POD_DEADLINE, "automount_service_account_token": False}
    for field, default in defaults.items():
        given = [options.get(field), getattr(spec, field)]
        otherwise = None if field in options else default  # an option that is None takes the default away
        setattr(spec, field, next((value for value in given if value is not None), otherwise))
    return made


def _metadata(metadata: k8s.V1ObjectMeta, environment: str, options: Mapping[str, Any]) -> k8s.V1ObjectMeta:
    """Return metadata with the labels that Kubernetes recommends, below those of the template and of the options."""
    labels = {**recommended_labels(environment), **(metadata.labels or {}), **(options.get("labels") or {})}
    metadata.labels = {name: "" if value is None else value for name, value in labels.items()}
    metadata.annotations = {**(metadata.annotations or {}), **(options.get("annotations") or {})} or None
    return metadata


def recommended_labels(environment: str) -> dict[str, str]:
    """Return the labels that Kubernetes recommends, for a pod of an environment.

    Source: https://kubernetes.io/docs/concepts/overview/working-with-objects/common-labels/
    """
    return {
        "app.kubernetes.io/name": environment,
        "app.kubernetes.io/component": "task",
        "app.kubernetes.io/part-of": "k8s-venv",
        **LABELS,
    }


def _base(container: k8s.V1Container, options: Mapping[str, Any]) -> k8s.V1Container:
    """Return the container that runs the call: the template's first one, completed."""
    container.name = BASE
    container.image = options["image"]
    container.image_pull_policy = options.get("image_pull_policy") or container.image_pull_policy
    container.command = command("--result", "--message", MESSAGE_FILE)
    ours = {variable.name: variable for variable in variables(CONTAINER_VARIABLES)}
    given = {variable.name: variable for variable in variables(options.get("env_vars") or {})}
    container.env = [*(container.env or ()), *{**ours, **given}.values()]
    container.volume_mounts = [
        *(container.volume_mounts or ()),
        *(options.get("volume_mounts") or ()),
        *_mounts(),
        k8s.V1VolumeMount(name=_SCRATCH_VOLUME, mount_path=SCRATCH_FOLDER),
    ]
    container.resources = options.get("container_resources") or container.resources
    container.security_context = container_security(
        container.security_context, options.get("container_security_context")
    )
    return container


def _sidecar(base: k8s.V1Container) -> k8s.V1Container:
    """Return the container that keeps a large result until it was read; the image is on the node already."""
    return k8s.V1Container(
        name=SIDECAR,
        image=base.image,
        image_pull_policy=base.image_pull_policy,
        command=command("--hand-over"),
        volume_mounts=_mounts(),
        security_context=copy.deepcopy(base.security_context),
        resources=_sidecar_resources(base.resources),
    )


def _sidecar_resources(base: Any) -> k8s.V1ResourceRequirements:
    """Return what the sidecar needs, with limits of what the base container limits: a quota on it wants both."""
    limits = amounts(base, "limits")
    most = {"cpu": "1", "ephemeral-storage": "16Mi"}
    few = {name: min(str(limits[name]), size, key=amount) for name, size in most.items() if name in limits}
    return k8s.V1ResourceRequirements(requests={"cpu": "1m", "memory": "16Mi"}, limits={"memory": "128Mi", **few})


def _volumes(secret: str) -> list[k8s.V1Volume]:
    return [
        k8s.V1Volume(name=CALL_VOLUME, secret=k8s.V1SecretVolumeSource(secret_name=secret)),
        k8s.V1Volume(name=_SCRATCH_VOLUME, empty_dir=k8s.V1EmptyDirVolumeSource()),
        k8s.V1Volume(name=RESULT_VOLUME, empty_dir=k8s.V1EmptyDirVolumeSource()),
    ]


def _mounts() -> list[k8s.V1VolumeMount]:
    """Return where both containers see the call and its result."""
    return [
        k8s.V1VolumeMount(name=CALL_VOLUME, mount_path=CALL_FOLDER, read_only=True),
        k8s.V1VolumeMount(name=RESULT_VOLUME, mount_path=RESULT_FOLDER),
    ]


def pod_name(label: str, identity: str) -> str:
    """Return a pod's name that is the same for the same identity.

    Args:
        label: what a reader should recognize, such as the DAG's and the task's names.
        identity: tells this run of the task from every other.
    """
    digest = hashlib.sha256(identity.encode()).hexdigest()[:10]
    readable = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")[: NAME_LIMIT - len(digest) - 1]
    return f"{readable.strip('-')}-{digest}" if readable else f"call-{digest}"


def full_name(pod: k8s.V1Pod) -> str:
    """Return a pod's namespace and name, for messages."""
    return f"{pod.metadata.namespace}/{pod.metadata.name}"


def fresh_secret_name(name: str) -> str:
    """Return a Secret's name for a pod's name, used once: what is left of an earlier pod must never meet a new one."""
    return f"{name}-{secrets.token_hex(4)}"


def command(mode: str, *options: str) -> list[str]:
    """Return the command that runs the call's archive in a container of the pod, in a mode of the runner."""
    return runner_command("python", _ARCHIVE, mode, RESULT_FOLDER, *options)


def message_limit(pod: k8s.V1Pod) -> int:
    """Return how long a termination message may be: the kubelet divides its limit between a pod's containers.

    Args:
        pod: the created pod, with what the cluster injected; one more container may come (``kubectl debug``).
    """
    containers = len(pod.spec.containers) + len(pod.spec.init_containers or ())
    return min(protocol.MESSAGE_LIMIT, protocol.POD_MESSAGE_LIMIT // (containers + 1))


def with_metadata(pod: k8s.V1Pod, **fields: Any) -> k8s.V1Pod:
    """Return a copy of a pod in which some fields of the metadata differ."""
    return _copied(pod, metadata=_copied(pod.metadata, **fields))


def with_sidecar_defaults(pod: k8s.V1Pod) -> k8s.V1Pod | None:
    """Return a copy of a pod whose sidecar uses what the namespace's defaults say; None if the pod's own does."""
    sidecar = next(container for container in pod.spec.containers if container.name == SIDECAR)
    if sidecar.resources is None:
        return None
    default = _copied(sidecar, resources=None)
    containers = [default if container is sidecar else container for container in pod.spec.containers]
    return _copied(pod, spec=_copied(pod.spec, containers=containers))


def with_secrets(pod: k8s.V1Pod, count: int) -> k8s.V1Pod:
    """Return a copy of a pod that waits for several Secrets, which appear in one folder, instead of one."""
    (first,) = secret_names(pod)
    names = [first, *(f"{first}-{number}" for number in range(1, count))]
    sources = [k8s.V1VolumeProjection(secret=k8s.V1SecretProjection(name=name)) for name in names]
    projected = k8s.V1Volume(name=CALL_VOLUME, projected=k8s.V1ProjectedVolumeSource(sources=sources))
    volumes = [projected if volume.name == CALL_VOLUME else volume for volume in pod.spec.volumes]
    return _copied(pod, spec=_copied(pod.spec, volumes=volumes))


def _copied(thing: Any, **fields: Any) -> Any:
    made = copy.copy(thing)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def secret_names(pod: k8s.V1Pod) -> list[str]:
    """Return the names of the Secrets that a pod waits for; nothing for a pod whose call comes in another way."""
    volume = next((volume for volume in pod.spec.volumes or () if volume.name == CALL_VOLUME), None)
    if volume is None or volume.empty_dir is not None:
        return []
    if volume.secret is not None:
        return [volume.secret.secret_name]
    return [source.secret.name for source in volume.projected.sources]


def call_name(pod: k8s.V1Pod) -> str:
    """Return the name under which a pod's call stores large values; no other pod has it."""
    names = secret_names(pod)
    return names[0] if names else f"{pod.metadata.name}-{pod.metadata.uid}"


def call_secret(pod: k8s.V1Pod, name: str, files: Mapping[str, bytes]) -> k8s.V1Secret:
    """Return a Secret with files of a call, which the created pod owns: the cluster removes it with the pod."""
    owner = k8s.V1OwnerReference(api_version="v1", kind="Pod", name=pod.metadata.name, uid=pod.metadata.uid)
    return k8s.V1Secret(
        metadata=k8s.V1ObjectMeta(name=name, namespace=pod.metadata.namespace, owner_references=[owner], labels=LABELS),
        immutable=True,
        data={file: base64.b64encode(data).decode("ascii") for file, data in files.items()},
    )


def is_mounted(pod: k8s.V1Pod, path: str) -> bool:
    """Return whether the container that runs the call has a volume of the user's at a path, or above it."""
    container = next(container for container in pod.spec.containers if container.name == BASE)
    ours = {CALL_VOLUME, _SCRATCH_VOLUME, RESULT_VOLUME}
    places = [mount.mount_path.rstrip("/") for mount in container.volume_mounts or () if mount.name not in ours]
    return any(f"{path}/".startswith(f"{place}/") for place in places)
