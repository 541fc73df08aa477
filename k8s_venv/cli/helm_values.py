"""``k8s-venv helm-values``: the environments as values of the Helm chart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from k8s_venv.cli.console import environments_argument, open_project
from k8s_venv.errors import K8sVenvError, ProjectError
from k8s_venv.locks.locking import read_lock

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from k8s_venv.config.environment import Environment
    from k8s_venv.config.project import Project
    from k8s_venv.config.warm import WarmPool
    from k8s_venv.locks.lockfile import Lock

_HEADER = (
    "# Values of the chart k8s-venv, written by `k8s-venv helm-values` from {file} and the locks beside it.\n"
    "# Write them again after a change there; what only the cluster knows goes into a values file of its own.\n"
)
# click leaves the lines after a \b as they are.
_HELP = """Print the environments as values of the Helm chart.

All of the project's environments, or the named ones: for each the image's reference, the locked versions, which
`helm test` compares with the image, and from its pod options the resources, the service account, pull secrets, node
selector and tolerations. Of an environment with `warm` also the whole pod that waits for calls: the chart keeps such
pods ready with `warm.enabled`.

\b
Example:
    k8s-venv helm-values --output environments.yaml
    helm upgrade --install k8s-venv charts/k8s-venv -n airflow-tasks -f environments.yaml

The command uses neither a registry nor a cluster. Each environment needs a fresh lock, unless it has an image of its
own.
"""


@click.command("helm-values", help=_HELP)
@environments_argument
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="Write a file instead.")
@click.pass_obj
def helm_values(given: Path | None, environments: tuple[str, ...], output: Path | None) -> None:
    """Print the environments as values of the Helm chart."""
    import yaml

    project = open_project(given)
    chosen = project.select(environments)
    values = {"environments": {each.name: chart_values(project, each) for each in chosen}}
    text = _HEADER.format(file=project.path.name) + yaml.safe_dump(values, sort_keys=False, width=120)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text, "utf-8")
    except OSError as error:
        raise K8sVenvError(f"{output} cannot be written: {error.strerror}.") from None


def chart_values(project: Project, environment: Environment) -> dict[str, Any]:
    """Return the chart's values for one environment.

    Args:
        project: the project, for its registry.
        environment: the environment.

    Raises:
        K8sVenvError: its lock is missing or stale, no registry is configured, a pod option that the chart needs is a
            template, or a pod that waits cannot have it.
    """
    own = environment.image is not None or "image" in environment.pod
    pod = environment.pod
    image, packages = pod.get("image", environment.image), {}
    if not own:
        registry, lock = project.require_registry(), read_lock(environment)
        image, packages = environment.image_reference(registry, lock.digest), _packages(environment, lock)
    values: dict[str, Any] = {
        "image": image,
        "python": environment.python,
        "packages": packages,
        "resources": {
            key: dict(amounts)
            for key, amounts in _table(environment, "container_resources").items()
            if key in ("requests", "limits")
        },
        "imagePullPolicy": pod.get("image_pull_policy"),
        "imagePullSecrets": [{"name": name} for name in _names(pod.get("image_pull_secrets", ()))],
        "nodeSelector": dict(_table(environment, "node_selector")),
        "tolerations": [_toleration(each) for each in pod.get("tolerations", ())],
        "serviceAccount": _service_account(pod.get("service_account_name")),
    }
    given = {key: value for key, value in values.items() if value}
    _refuse_templates(environment, given)
    return given if environment.warm is None else {**given, "warm": _pool(project, environment, environment.warm)}


def _pool(project: Project, environment: Environment, warm: WarmPool) -> dict[str, Any]:
    """Return the pods that wait for an environment's calls, from the code that renders a call's own pod."""
    from kubernetes.client import ApiClient

    from k8s_venv.backends.kubernetes.pool import POOL, declared_pod
    from k8s_venv.check.pools import option_faults

    for fault in option_faults(project, environment):
        raise ProjectError(fault.message, project.path, fault.line)
    try:
        pod: dict[str, Any] = ApiClient().sanitize_for_serialization(declared_pod(environment, project))
    except K8sVenvError as error:
        raise K8sVenvError(f"Environment {environment.name!r}: {error}") from None
    key = pod["metadata"]["annotations"][POOL]
    return {"min": warm.min, "max": warm.max, "idleSeconds": warm.idle, "key": key, "pod": pod}


def _packages(environment: Environment, lock: Lock) -> dict[str, str]:
    """Return the versions that the image has on each of its platforms, since the chart's test sees only one of them."""
    from k8s_venv.builders.wheels import applies

    return {
        package.name: package.version
        for package in lock.packages
        if package.version
        and all(applies(package, environment.python, platform) for platform in environment.image_platforms)
    }


def _service_account(name: str | None) -> dict[str, Any]:
    # Every namespace has the account `default`; the chart cannot make it.
    return {"create": False, "name": name} if name == "default" else {"name": name} if name else {}


def _table(environment: Environment, option: str) -> Mapping[str, Any]:
    found = environment.pod.get(option, {})
    if not hasattr(found, "items"):
        raise K8sVenvError(f"Environment {environment.name!r}: its pod option {option!r} must be a table.")
    table: Mapping[str, Any] = found
    return table


def _names(secrets: str | Iterable[Any]) -> list[str]:
    """Return the names of pull secrets, in each form that ``KubernetesPodOperator`` takes."""
    if isinstance(secrets, str):
        return [name.strip() for name in secrets.split(",")]
    return [each["name"] if isinstance(each, dict) else str(each) for each in secrets]


def _toleration(option: Mapping[str, Any]) -> dict[str, Any]:
    return {"tolerationSeconds" if key == "toleration_seconds" else key: value for key, value in option.items()}


def _refuse_templates(environment: Environment, values: Any, place: str = "") -> None:
    if isinstance(values, dict):
        for key, value in values.items():
            _refuse_templates(environment, value, place or key)
    elif isinstance(values, list):
        for value in values:
            _refuse_templates(environment, value, place)
    elif isinstance(values, str) and "{{" in values:
        raise K8sVenvError(
            f"Environment {environment.name!r}: the pod option behind the chart's `{place}` is a template, {values!r}, "
            "which only a running task can fill in. Give it on the task instead of in the project file."
        )
