"""The Kubernetes backend by itself, for calls outside Airflow."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes
from kubernetes.config.kube_config import KUBE_CONFIG_DEFAULT_LOCATION

from k8s_venv.backends import image_of
from k8s_venv.backends.kubernetes import pool, render
from k8s_venv.backends.kubernetes.options import Namespace, context_namespace, own_namespace
from k8s_venv.backends.kubernetes.pod_runner import PodRunner
from k8s_venv.errors import BackendError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubernetes.client import models as k8s

    from k8s_venv.calls import PackedCall, Result
    from k8s_venv.config.environment import Environment
    from k8s_venv.config.project import Project

# The pod options that name the cluster and the namespace.
_CONNECTION = frozenset(("cluster_context", "config_file", "in_cluster", "namespace"))
_OPTIONS = sorted(render.OPTIONS | _CONNECTION)


class KubernetesBackend:
    """Runs calls as pods, in the cluster that the pod options name, else the current context of the kubeconfig.

    Args:
        project: the project, for the images' references.
        identity: tells this caller's pods from everybody else's.
        progress: is called with lines about what happens.
    """

    def __init__(self, project: Project, identity: str, progress: Callable[[str], None] | None = None) -> None:
        self._project = project
        self._identity = identity
        self._progress = progress or (lambda line: None)

    def run(self, call: PackedCall, log: Callable[[str], None]) -> Result:
        """Run a call as a pod; see ``Backend.run``."""
        client, namespace = connect(call.environment)
        pod = self._pod(call, namespace.name)
        declared = functools.partial(pool.declared_pod, call.environment, self._project)
        run = PodRunner(client, pod, call, log, lambda _: None, origin=namespace.origin, declared=declared)
        try:
            run.create()
            return run.wait()
        finally:
            run.finish("delete_pod")

    def _pod(self, call: PackedCall, namespace: str) -> k8s.V1Pod:
        name = render.pod_name(f"{call.environment.name}-{call.function}", self._identity)
        return self.pod(call.environment, namespace, name)

    def pod(self, environment: Environment, namespace: str, name: str) -> k8s.V1Pod:
        """Return the pod of a call, or of another program, in an environment."""
        options = self._options(environment)
        if "image" not in options:
            options["image"] = image_of(environment, self._project)
        secret = render.fresh_secret_name(name)
        return render.pod(name, environment.name, options, secret=secret, namespace=namespace)

    def _options(self, environment: Environment) -> dict[str, Any]:
        """Return the pod options, of which Airflow's operator knows more than this backend.

        What the project says for all environments may be meant for Airflow alone; what the environment says is not.
        """
        unknown = [name for name in environment.pod if name not in _OPTIONS]
        for name in unknown:
            if name not in self._project.pod or environment.pod[name] != self._project.pod[name]:
                raise BackendError(
                    environment.name,
                    f"its pod option {name!r} cannot be used outside Airflow.{did_you_mean(name, _OPTIONS)} "
                    f"Here it takes {', '.join(_OPTIONS)}.",
                )
        if unknown:
            self._progress(f"Of [pod] in {self._project.path}, only Airflow uses {', '.join(unknown)}.")
        return {name: value for name, value in environment.pod.items() if name in _OPTIONS}


def connect(environment: Environment) -> tuple[Any, Namespace]:
    """Return a client, and the namespace of the pods: what names it first is what is closest to them."""
    file, context, inside = (environment.pod.get(name) for name in ("config_file", "cluster_context", "in_cluster"))
    elsewhere = file or context or inside is False
    try:
        if inside:
            kubernetes.config.load_incluster_config()
        elif elsewhere or _has_kubeconfig():
            kubernetes.config.load_kube_config(file, context)
        else:
            kubernetes.config.load_incluster_config()
        client = kubernetes.client.CoreV1Api()
        if "namespace" in environment.pod:
            return client, Namespace(environment.pod["namespace"], "by the pod option `namespace`")
        own = None if elsewhere else own_namespace()
        return client, own or context_namespace(file, context)
    except kubernetes.config.ConfigException as error:
        remedy = "Set KUBECONFIG, or have calls run on this machine: K8S_VENV_BACKEND=local."
        raise BackendError(environment.name, f"no cluster is configured ({error}). {remedy}") from None


def _has_kubeconfig() -> bool:
    """Return whether there is a kubeconfig where every tool looks for it; the client's own function prints if not."""
    return any(Path(place).expanduser().exists() for place in KUBE_CONFIG_DEFAULT_LOCATION.split(os.pathsep) if place)
