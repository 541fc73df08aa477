"""What an isolated task's pod is made of beside the options of the task and its environment."""

from __future__ import annotations

import copy
from typing import Any

from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from kubernetes.client import models as k8s

from k8s_venv.backends.kubernetes import render
from k8s_venv.backends.kubernetes.security import container_security, pod_security

# A worker that dies between creating the pod and its Secret leaves a pod that waits: never longer than this.
DEADLINE = 7 * 24 * 3600


def template(options: dict[str, Any]) -> k8s.V1Pod:
    """Take the pod's template out of the options: the file or dictionary, and the specification over it.

    Args:
        options: those of ``KubernetesPodOperator``; the three that make the template are removed.
    """
    file, content = options.pop("pod_template_file", None), options.pop("pod_template_dict", None)
    given = copy.deepcopy(options.pop("full_pod_spec", None))
    template = None
    if file:
        template = PodGenerator.deserialize_model_file(file)
    elif content:
        template = PodGenerator.deserialize_model_dict(content)
    if template is not None:
        given = PodGenerator.reconcile_pods(template, given) if given is not None else template
    pod = given or k8s.V1Pod()
    pod.metadata = pod.metadata or k8s.V1ObjectMeta()
    pod.spec = pod.spec or k8s.V1PodSpec(containers=[])
    pod.spec.containers = pod.spec.containers or [k8s.V1Container(name=render.BASE)]
    return pod


def defaults(template: k8s.V1Pod) -> dict[str, Any]:
    """Return our own defaults, for what the template leaves open.

    Args:
        template: as ``template`` returns it.
    """
    spec = template.spec
    defaults = {
        "automount_service_account_token": (spec.automount_service_account_token, False),
        "active_deadline_seconds": (spec.active_deadline_seconds, DEADLINE),
    }
    return {name: default for name, (given, default) in defaults.items() if given is None}


def security(template: k8s.V1Pod, options: dict[str, Any]) -> dict[str, Any]:
    """Return the security contexts: our own, over them the template's, over them the options'.

    Args:
        template: as ``template`` returns it.
        options: those of ``KubernetesPodOperator``.
    """
    pod, base = template.spec.security_context, template.spec.containers[0].security_context
    return {
        "security_context": pod_security(pod, options.get("security_context")),
        "container_security_context": container_security(base, options.get("container_security_context")),
    }


def with_runtime_class(template: k8s.V1Pod, options: dict[str, Any]) -> k8s.V1Pod:
    """Return the template with the option ``runtime_class_name``, which older providers do not take.

    Args:
        template: as ``template`` returns it.
        options: those of ``KubernetesPodOperator``; this one is removed.
    """
    template.spec.runtime_class_name = options.pop("runtime_class_name", None) or template.spec.runtime_class_name
    return template


def with_sidecar(template: k8s.V1Pod, options: dict[str, Any]) -> k8s.V1Pod:
    """Return the template with the container that hands large results over, as its last.

    Args:
        template: as ``template`` returns it.
        options: those of ``KubernetesPodOperator``, with the image and the container's security context.
    """
    sidecar = render.sidecar(
        options["image"],
        options.get("image_pull_policy"),
        options["container_security_context"],
        options.get("container_resources") or template.spec.containers[0].resources,
    )
    template.spec.containers = [*template.spec.containers, sidecar]
    return template
