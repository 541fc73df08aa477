"""The Kubernetes backend by itself, for calls outside Airflow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes

from k8s_venv.backends.kubernetes import render
from k8s_venv.backends.kubernetes.engine import PodRun
from k8s_venv.errors import BackendError, did_you_mean
from k8s_venv.locking import read_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kubernetes.client import models as k8s

    from k8s_venv.calls import PackedCall, Result
    from k8s_venv.environment import Environment
    from k8s_venv.project import Project

# A caller that dies between creating the pod and its Secret leaves a pod that waits: never longer than this.
DEADLINE = 24 * 3600
_POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_OPTIONS = (
    *("annotations", "container_resources", "env_vars", "image", "image_pull_policy", "image_pull_secrets"),
    *("labels", "namespace", "node_selector", "service_account_name", "tolerations", "volume_mounts", "volumes"),
)


class KubernetesBackend:
    """Runs calls as pods, with the cluster that the current context of the kubeconfig names.

    Args:
        project: the project, for the images' references.
        identity: tells this caller's pods from everybody else's.
    """

    def __init__(self, project: Project, identity: str) -> None:
        self._project = project
        self._identity = identity

    def run(self, call: PackedCall, log: Callable[[str], None]) -> Result:
        """Run a call as a pod; see ``Backend.run``."""
        client, namespace = _connect(call.environment)
        pod = self._pod(call, namespace)
        run = PodRun(client, pod, call, log, lambda _: None)
        try:
            run.create()
            return run.wait()
        finally:
            run.finish("delete_pod")

    def _pod(self, call: PackedCall, namespace: str) -> k8s.V1Pod:
        options = _options(call.environment)
        options.setdefault("image", call.environment.image or self._built_image(call.environment))
        name = render.pod_name(f"{call.environment.name}-{call.function}", self._identity)
        return render.pod(name, options.pop("namespace", namespace), DEADLINE, options)

    def _built_image(self, environment: Environment) -> str:
        return environment.image_reference(self._project.require_registry(), read_lock(environment).digest)


def _options(environment: Environment) -> dict[str, Any]:
    """Return the environment's pod options, of which Airflow's operator knows more than this backend."""
    for name in environment.pod:
        if name not in _OPTIONS:
            raise BackendError(
                environment.name,
                f"its pod option {name!r} cannot be used outside Airflow.{did_you_mean(name, _OPTIONS)} "
                f"Here it takes {', '.join(_OPTIONS)}.",
            )
    return render.typed(environment.pod)


def _connect(environment: Environment) -> tuple[Any, str]:
    """Return a client and the namespace of the current context."""
    try:
        kubernetes.config.load_config()
        if _POD_NAMESPACE.is_file():
            return kubernetes.client.CoreV1Api(), _POD_NAMESPACE.read_text("utf-8").strip()
        _, active = kubernetes.config.list_kube_config_contexts()
    except kubernetes.config.ConfigException as error:
        raise BackendError(environment.name, f"no cluster is configured ({error}). Set KUBECONFIG.") from None
    context: Mapping[str, Any] = active["context"]
    return kubernetes.client.CoreV1Api(), context.get("namespace", "default")
