"""Examine what isolated tasks need of this machine, the registry and the cluster, without changing any of them."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import platform
import uuid
from typing import TYPE_CHECKING, Any, Literal

from packaging.requirements import Requirement

from k8s_venv.errors import K8sVenvError, LockError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from k8s_venv.config import BackendName
    from k8s_venv.config.environment import Environment
    from k8s_venv.config.project import Project

State = Literal["ok", "warning", "failed", "skipped"]

_TIMEOUT = (5, 10)  # seconds to connect to the API server, and to wait for an answer
# What a sender does in the namespace of its pods: verb, resource, and what lacks without it.
_RIGHTS = (
    ("create", "pods", "no task can start"),
    ("get", "pods", "a retry cannot take over what an earlier try left"),
    ("list", "pods", "no task can be followed"),
    ("watch", "pods", "no task can be followed"),
    ("patch", "pods", "a kept pod cannot be marked as read"),
    ("delete", "pods", "pods stay after their tasks"),
    ("get", "pods/log", "tasks have no log"),
    ("create", "secrets", "no task gets its code"),
    ("list", "events", "a pod that cannot start does not say why"),
)
_EXEC_RIGHTS = (("create", "pods/exec", "no result beyond the pod's status can be read"),)
_WARM_RIGHTS = tuple(
    (verb, "leases.coordination.k8s.io", "calls of environments with `warm` get pods of their own")
    for verb in ("create", "get", "delete")
)


@dataclasses.dataclass(frozen=True)
class Examined:
    """One thing that was examined.

    Args:
        subject: what it is, such as ``lock etl``.
        state: ``ok``; ``warning`` if tasks run nonetheless; ``failed``; or ``skipped`` if it is not needed, or cannot
            be examined.
        text: what was found, as a clause or sentences.
        remedy: what to do about it; empty for what is right.
    """

    subject: str
    state: State
    text: str
    remedy: str = ""


def examine_project(project: Project) -> Iterator[Examined]:
    """Yield what is found of the project file and its locks.

    Args:
        project: the project.
    """
    from k8s_venv.locks.locking import check_lock

    names = ", ".join(project.environments)
    yield Examined("project", "ok", f"{project.path}: {names}")
    for environment in project.environments.values():
        subject = f"lock {environment.name}"
        if environment.made_elsewhere and not environment.lock_path.exists():
            yield Examined(subject, "skipped", f"it runs in {environment.image or environment.interpreter}")
            continue
        try:
            lock = check_lock(environment)
        except LockError as error:
            yield Examined(subject, "failed", error.problem)
        else:
            yield Examined(subject, "ok", f"fresh, {len(lock.packages)} packages")


def examine_machine(project: Project, backend: BackendName) -> Iterator[Examined]:
    """Yield what is found of the programs on this machine: uv, interpreters, Docker Engine, buildx.

    Args:
        project: the project.
        backend: where tasks run.
    """
    environments = tuple(project.environments.values())
    yield from _uv()
    if backend == "local":
        yield from _interpreters(environments)
    for_buildx = [each for each in environments if each.image is None and each.image_builder == "buildkit"]
    if for_buildx and backend != "local":
        yield _buildx(for_buildx)
    if backend == "docker":
        yield _engine()
    elif not for_buildx or backend == "local":
        yield Examined("Docker", "skipped", "not needed: no task runs in it, and no image is built by it")


def _uv() -> Iterator[Examined]:
    from k8s_venv.locks import uv

    try:
        version = uv.run(["--version"]).strip()
    except (K8sVenvError, uv.UvError) as error:
        yield Examined("uv", "failed", str(error), "pip install 'k8s-venv[local]'")
    else:
        yield Examined("uv", "ok", version)


def _interpreters(environments: Iterable[Environment]) -> Iterator[Examined]:
    from k8s_venv.locks import uv

    for version in sorted({each.python for each in environments if each.interpreter is None}):
        found = uv.find_interpreter(version)
        if found:
            yield Examined(f"Python {version}", "ok", found)
        else:
            yield Examined(
                f"Python {version}",
                "warning",
                "not on this machine: uv downloads it for the first call",
                f"uv python install {version}, where that download is not possible",
            )


def _engine() -> Examined:
    from k8s_venv.builders.engine import EngineError, connect, engine_platform

    try:
        with contextlib.closing(connect()) as client:
            return Examined("Docker", "ok", f"an engine for {engine_platform(client)} answers")
    except EngineError as error:
        return _failed("Docker", error)


def _buildx(environments: Sequence[Environment]) -> Examined:
    from k8s_venv.builders.engine import EngineError, find_buildx

    names = ", ".join(each.name for each in environments)
    platforms = sorted({platform for each in environments for platform in each.image_platforms})
    try:
        builder = find_buildx()
    except EngineError as error:
        return _failed("buildx", error, f" It builds {names} ({environments[0].buildkit_reason or 'builder'}).")
    problem = builder.problem(platforms)
    if problem:
        return Examined("buildx", "failed", f"needed for {names}", problem)
    return Examined("buildx", "ok", f"the builder {builder.name!r}, for {names}")


def examine_registry(project: Project) -> Iterator[Examined]:
    """Yield what is found of the registry: whether it answers, may be read and written, and has the images.

    To learn whether it may be written, an upload is begun and withdrawn: nothing is left there.

    Args:
        project: the project.
    """
    from k8s_venv.registry import Reference, registry_at

    built = [each for each in project.environments.values() if each.image is None]
    if not built:
        yield Examined("registry", "skipped", "not needed: every environment names an image")
        return
    try:
        prefix = project.require_registry()
        wanted = Reference.parse(f"{prefix.rstrip('/')}/{built[0].name}")
        registry = registry_at(wanted.host)
        registry.head(f"{wanted.repository}/manifests/k8s-venv-doctor", wanted.repository)
        yield Examined("registry pull", "ok", f"{wanted.host} answers, and {wanted.repository} may be read")
    except K8sVenvError as error:
        yield _failed("registry pull", error)
        return
    yield _push(registry, wanted.repository)
    for environment in built:
        yield from _image(project, environment)


def _push(registry: Any, repository: str) -> Examined:
    begun = (202,)
    try:
        answer = registry.request("POST", f"{repository}/blobs/uploads/", push=repository, expect=begun)
        place = answer.headers.get("Location")
        if place:
            with contextlib.suppress(K8sVenvError):  # registries that do not support it forget an upload by themselves
                registry.request("DELETE", place, push=repository, expect=(200, 202, 204, 404, 405), retry=False)
    except K8sVenvError as error:
        return Examined(
            "registry push", "warning", str(error), "Only the machine that runs `k8s-venv build-images` needs it."
        )
    return Examined("registry push", "ok", f"{repository} may be written")


def _image(project: Project, environment: Environment) -> Iterator[Examined]:
    from k8s_venv.locks.locking import read_lock
    from k8s_venv.registry import image_exists

    subject = f"image {environment.name}"
    try:
        reference = environment.image_reference(project.require_registry(), read_lock(environment).digest)
    except LockError:
        yield Examined(subject, "skipped", "not known before the environment is locked")
        return
    try:
        exists = image_exists(reference)
    except K8sVenvError as error:
        yield _failed(subject, error)
        return
    if exists:
        yield Examined(subject, "ok", reference)
    else:
        yield Examined(
            subject, "failed", f"the registry does not have {reference}", f"k8s-venv build-images {environment.name}"
        )


def examine_clusters(project: Project) -> Iterator[Examined]:
    """Yield what is found of each cluster and namespace that the project's environments name.

    Args:
        project: the project.
    """
    places: dict[tuple[str, ...], list[Environment]] = {}
    for environment in project.environments.values():
        named = (str(environment.pod.get(option, "")) for option in ("config_file", "cluster_context", "namespace"))
        places.setdefault(tuple(named), []).append(environment)
    for environments in places.values():
        yield from _examine_cluster(environments)


def _examine_cluster(environments: list[Environment]) -> Iterator[Examined]:
    """Yield what is found of the cluster that environments name alike, as the account of this machine sees it."""
    from kubernetes import client as api
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    from k8s_venv.backends.kubernetes.api import without_retries
    from k8s_venv.backends.kubernetes.backend import connect
    from k8s_venv.registry.errors import reason

    try:
        client, namespace = connect(environments[0])
        without_retries(client)
        review = api.AuthenticationV1Api(client.api_client).create_self_subject_review(
            api.V1SelfSubjectReview(), _request_timeout=_TIMEOUT
        )
    except K8sVenvError as error:
        yield _failed("cluster", error)
        return
    except ApiException as error:
        remedy = "Is the account's token or certificate still valid?"
        yield Examined("cluster", "failed", f"it refuses this account: {error.status} {error.reason}", remedy)
        return
    except (HTTPError, OSError) as error:
        remedy = "Is the address in the kubeconfig right, and the network open?"
        yield Examined("cluster", "failed", f"its API server does not answer: {reason(error)}", remedy)
        return
    address = client.api_client.configuration.host
    yield Examined("cluster", "ok", f"{address} knows this account as {review.status.user_info.username}")
    yield _namespace(client, namespace)
    yield from _rights(client, namespace.name, environments)


def _namespace(client: Any, namespace: Any) -> Examined:
    from kubernetes.client.exceptions import ApiException

    subject = f"namespace {namespace.name}"
    try:
        found = client.read_namespace(namespace.name, _request_timeout=_TIMEOUT)
    except ApiException as error:
        if error.status == 404:
            remedy = f"kubectl create namespace {namespace.name}, or name another by the pod option `namespace`"
            return Examined(subject, "failed", f"does not exist ({namespace.origin})", remedy)
        return Examined(subject, "skipped", f"{namespace.origin}; this account may not look at it")
    level = (found.metadata.labels or {}).get("pod-security.kubernetes.io/enforce")
    if found.metadata.deletion_timestamp is not None:
        return Examined(subject, "failed", "it is being deleted", "Name another by the pod option `namespace`.")
    return Examined(subject, "ok", f"{namespace.origin}; Pod Security {level or 'not enforced'}")


def _rights(client: Any, namespace: str, environments: list[Environment]) -> Iterator[Examined]:
    needed = (*_RIGHTS, *(_EXEC_RIGHTS if any(each.values.exec for each in environments) else ()))
    useful = _WARM_RIGHTS if any(each.warm for each in environments) else ()
    lacking = [right for right in (*needed, *useful) if not _may(client, namespace, right[0], right[1])]
    if not lacking:
        number = len(needed) + len(useful)
        yield Examined("rights", "ok", f"this account may do all {number} things that a task needs in {namespace}")
    for right in lacking:
        verb, what, effect = right
        remedy = "The chart's Role gives it to Airflow's accounts; `helm test` checks theirs."
        state: State = "warning" if right in useful else "failed"
        yield Examined(f"right {verb} {what}", state, f"this account lacks it in {namespace}: {effect}", remedy)


def _may(client: Any, namespace: str, verb: str, what: str) -> bool:
    from kubernetes import client as api

    named, _, subresource = what.partition("/")
    resource, _, group = named.partition(".")
    attributes = api.V1ResourceAttributes(
        namespace=namespace, verb=verb, group=group, resource=resource, subresource=subresource or None
    )
    review = api.V1SelfSubjectAccessReview(spec=api.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes))
    answer = api.AuthorizationV1Api(client.api_client).create_self_subject_access_review(
        review, _request_timeout=_TIMEOUT
    )
    return bool(answer.status.allowed)


def examine_pod(project: Project, environment: Environment) -> Examined:
    """Run a call that returns its Python's version in a pod of an environment: all that a task needs takes part.

    Args:
        project: the project, for the image's reference.
        environment: the environment.
    """
    from k8s_venv.backends.kubernetes.backend import KubernetesBackend
    from k8s_venv.calls import open_result, pack

    subject = f"pod {environment.name}"
    try:
        call = pack(platform.python_version, (), {}, environment=environment)
        version = open_result(KubernetesBackend(project, f"doctor-{uuid.uuid4().hex}").run(call, _ignore), call)
    except K8sVenvError as error:
        return _failed(subject, error)
    return Examined(subject, "ok", f"its image was pulled and ran a call in Python {version}")


def _ignore(line: str) -> None:
    """Drop a line of the pod's log."""


def examine_versions() -> Iterator[Examined]:
    """Yield what is found of the installed packages: Airflow and its Kubernetes provider in versions that fit."""
    wanted = {
        requirement.name: requirement
        for requirement in map(Requirement, importlib.metadata.requires("k8s-venv") or ())
        if requirement.marker is None or requirement.marker.evaluate({"extra": "airflow"})
    }
    for name in ("apache-airflow", "apache-airflow-providers-cncf-kubernetes", "kubernetes"):
        specifier = wanted[name].specifier
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Examined(name, "warning", "not installed here", "DAG files need it: pip install 'k8s-venv[airflow]'")
            continue
        if specifier.contains(version, prereleases=True):
            yield Examined(name, "ok", version)
        else:
            yield Examined(name, "failed", f"{version} does not fit", f"pip install '{name}{specifier}'")


def _failed(subject: str, error: K8sVenvError, more: str = "") -> Examined:
    return Examined(subject, "failed", f"{error}{more}")
