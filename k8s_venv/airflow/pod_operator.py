"""The pod of a call as a ``KubernetesPodOperator``.

The provider gives the pod's options, templates and mutation hook, the connection to the cluster and the clean-up
of a killed task. Creating, watching and reading is the engine's: the provider polls, needs an image from a public
hub for its sidecar, and knows only JSON results.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from kubernetes.client import models as k8s
from kubernetes.config import ConfigException

from k8s_venv.airflow.compat import AirflowTaskTimeout, deployment
from k8s_venv.backends import image_of
from k8s_venv.backends.kubernetes import diagnose, pool, render
from k8s_venv.backends.kubernetes.api import PodApi
from k8s_venv.backends.kubernetes.options import context_namespace, own_namespace, typed
from k8s_venv.backends.kubernetes.phases import PodStart
from k8s_venv.backends.kubernetes.pod_runner import Keep, PodRunner
from k8s_venv.backends.kubernetes.pod_state import PodOutcome, Timeouts
from k8s_venv.backends.limits import POD_DEADLINE_SLACK
from k8s_venv.backends.process import line_logger
from k8s_venv.calls import remove_arguments
from k8s_venv.errors import BackendError, CallError, K8sVenvError

if TYPE_CHECKING:
    from collections.abc import Callable

    from k8s_venv.airflow.compat import BaseOperator, Context
    from k8s_venv.airflow.trigger import IsolatedPodTrigger
    from k8s_venv.calls import Result, SentCall
    from k8s_venv.config.project import Project


class IsolatedPodOperator(KubernetesPodOperator):
    """Run one packed call in a pod.

    Args:
        call: the call; to create its pod, packed.
        name: the pod's name; every try of the same task has the same.
        declared: returns the pod that the call's environment has waiting.
        options: the options of ``KubernetesPodOperator``.
    """

    def __init__(
        self, *, call: SentCall, name: str, declared: Callable[[], k8s.V1Pod] | None = None, **options: Any
    ) -> None:
        options = typed(options)
        on_kill_action = _on_kill_action(options.pop("on_kill_action", None))
        template = _template(options)
        secret = render.fresh_secret_name(name)
        pod = render.pod(name, call.environment.name, options, secret=secret, template=template)
        super().__init__(
            name=name,
            base_container_name=render.BASE,
            random_name_suffix=False,
            do_xcom_push=False,
            deferrable=False,
            log_pod_spec_on_failure=False,
            # The provider merges the other options into this, and the cluster's mutation hook sees the whole.
            full_pod_spec=pod,
            **{name: value for name, value in options.items() if name not in render.OPTIONS},
        )
        self.call = call
        self._declared = declared
        self._rendered = pod
        self._runner: PodRunner | None = None
        self._waits = False
        self._origin = ""  # of the namespace
        self._on_kill_action = on_kill_action

    @classmethod
    def for_call(
        cls, call: SentCall, project: Project, options: dict[str, Any], outer: BaseOperator, context: Context
    ) -> IsolatedPodOperator:
        """Make the operator for one execution of a task.

        Args:
            call: the call.
            project: the project, for the image's reference.
            options: the task's own pod options, rendered.
            outer: the task's operator.
            context: Airflow's context.

        Raises:
            LockError: the environment was never locked, or its lock is stale.
            ProjectError: no registry is configured.
        """
        merged = {**call.environment.pod, **options}
        if outer.execution_timeout is not None:
            seconds = int(outer.execution_timeout.total_seconds()) + POD_DEADLINE_SLACK
            merged.setdefault("active_deadline_seconds", seconds)
        if not merged.get("image"):
            merged["image"] = image_of(call.environment, project)
        ti = context["ti"]
        # The same for every try, so that no two of them run at once.
        identity = (deployment(), ti.dag_id, ti.task_id, ti.run_id, ti.map_index)
        name = render.pod_name(merged.pop("name", f"{ti.dag_id}-{ti.task_id}"), repr(identity))
        return cls(
            call=call,
            name=name,
            declared=functools.partial(pool.declared_pod, call.environment, project),
            task_id=outer.task_id,
            dag=None,
            execution_timeout=outer.execution_timeout,
            **merged,
        )

    @property
    def runner(self) -> PodRunner | None:
        """Return what runs the call, once it was started or resumed."""
        return self._runner

    def execute_sync(self, context: Context) -> Result:
        """Run the pod and return the call's result.

        Raises:
            BackendError: the pod could not be run, or ended without a result.
        """
        runner = self._start(context)
        self._waits = True
        try:
            return runner.wait()
        finally:
            self._waits = False
            self._finish(runner)

    def begin(self, context: Context) -> IsolatedPodTrigger | Result:
        """Run the pod; return the result of a call that ends soon, else what waits for it in the triggerer.

        Raises:
            BackendError: the pod could not be run, or ended soon without a result.
        """
        self.convert_config_file_to_dict()  # before there is a pod that an unreadable file would leave behind
        runner = self._start(context)
        self._waits, goes_on = True, False
        try:
            result = runner.wait_for(self.call.environment.calls.defer_after)
            goes_on = result is None
        finally:
            self._waits = False
            if not goes_on:
                self._finish(runner)
        if result is not None:
            return result
        runner.hand_off()
        return self._trigger(runner, context)

    def _trigger(self, runner: PodRunner, context: Context) -> IsolatedPodTrigger:
        from k8s_venv.airflow.trigger import IsolatedPodTrigger

        self.pod = runner.pod  # another one, if that of an earlier try was removed meanwhile
        assert self.pod is not None  # noqa: S101 -- it was just made
        deadline = None
        if self.execution_timeout is not None and context["ti"].start_date is not None:
            deadline = (context["ti"].start_date + self.execution_timeout).timestamp()
        return IsolatedPodTrigger(
            uid=self.pod.metadata.uid,
            seen=runner.seen,
            arguments=runner.stored_arguments,
            secrets={kind: list(self.call.secrets.get(kind, ())) for kind in ("connections", "variables")},
            deadline=deadline,
            taken_over=runner.taken_over,
            start=runner.start.to_json(),
            pod_name=self.pod.metadata.name,
            pod_namespace=self.pod.metadata.namespace,
            trigger_start_time=datetime.datetime.now(datetime.UTC),
            base_container_name=render.BASE,
            kubernetes_conn_id=self.kubernetes_conn_id,
            cluster_context=self.cluster_context,
            config_dict=self._config_dict,
            in_cluster=self.in_cluster,
            get_logs=self.get_logs,
            startup_timeout=self.startup_timeout_seconds,
            schedule_timeout=self.schedule_timeout_seconds,
            on_finish_action=self.on_finish_action.value,
            on_kill_action=self._on_kill_action,
            termination_grace_period=self.termination_grace_period,
        )

    def resume(self, event: dict[str, Any]) -> Result | None:
        """Return the result of a pod that the triggerer waited for.

        Args:
            event: what the trigger fired.

        Returns:
            The result; or None if the pod was one of an earlier try that has been removed: the call starts again.

        Raises:
            BackendError: the pod could not be run, or ended without a result.
            AirflowTaskTimeout: the task's time was over.
        """
        metadata = k8s.V1ObjectMeta(name=event["name"], namespace=event["namespace"], uid=event["uid"])
        self.pod = k8s.V1Pod(metadata=metadata)
        runner = self._new_runner(self.pod)
        runner.taken_over = event["taken_over"]
        if event.get("start"):  # a task that an earlier version of k8s-venv deferred has none
            runner.start = PodStart.from_json(event["start"])
        if not event.get("why"):
            self._end(runner, event)
            raise self._given_up(event)
        outcome = PodOutcome.from_json(event)
        if runner.must_start_again(outcome):
            return None
        try:
            return runner.collect(outcome)
        finally:
            self._finish(runner)

    def on_kill(self) -> None:
        """Delete the pod of a task that was ended, unless the task keeps such pods.

        Raises:
            BackendError: the pod could not be deleted, while the task waits for it.
        """
        if self.pod is None or self._on_kill_action == "keep_pod":
            self._killed = True
            return
        pod = self._runner.pod if self._runner is not None else self.pod
        environment, metadata = self.call.environment, pod.metadata
        api = PodApi(self.client, metadata.namespace, environment, self.log.info)
        self._killed = True  # before anybody sees that the pod ends
        try:
            api.remove(metadata.name, metadata.uid, self.termination_grace_period)
        except BackendError as error:
            self.log.error("Killing %s() failed, and its pod goes on: %s", self.call.function, error)
            if self._waits:  # nothing else ends that
                self._killed = False
                raise

    def convert_config_file_to_dict(self) -> None:
        """Read the kubeconfig that the task names, for the triggerer; its own it finds by itself."""
        self._config_dict = None
        if self.config_file:
            self._config_dict = yaml.safe_load(Path(self.config_file).read_text("utf-8"))

    def build_pod_request_obj(self, context: Context | None = None, **options: Any) -> k8s.V1Pod:
        """Return the pod as the provider and the mutation hook complete it; the rendered one does not change."""
        self.full_pod_spec = copy.deepcopy(self._rendered)
        pod = super().build_pod_request_obj(context, **options)
        # The triggerer and the next try find pods by these labels, so the hook cannot take them away.
        ours = {**render.LABELS, render.SLOT: self._rendered.metadata.name}
        return render.with_metadata(pod, labels={**pod.metadata.labels, **ours})

    def _start(self, context: Context) -> PodRunner:
        """Create the pod, or take over the one that an earlier try left."""
        self._origin = self._find_namespace()
        self.pod_request_obj = self.build_pod_request_obj(context)
        runner = self._new_runner(self.pod_request_obj)
        self.pod = self.pod_request_obj  # `on_kill` deletes it, also while it is being created
        self.pod = runner.create()
        if self._killed:
            runner.finish("delete_pod")
            raise diagnose.killed(self.call.environment, self.call.function)
        self.log.info("Running in pod %s/%s.", self.pod.metadata.namespace, self.pod.metadata.name)
        try:
            context["ti"].xcom_push(key="pod_name", value=self.pod.metadata.name)
            context["ti"].xcom_push(key="pod_namespace", value=self.pod.metadata.namespace)
        except BaseException:
            runner.finish("delete_pod")
            raise
        return runner

    def _find_namespace(self) -> str:
        """Take the namespace of the kubeconfig's context where nothing else names one; return where it comes from.

        The provider takes ``default`` then, as no other tool does.
        """
        hook: Any = self.hook
        template, field = self.full_pod_spec, hook._get_field  # which knows older names of the fields
        if self.namespace:
            return "by the pod option `namespace`"
        if template and template.metadata and template.metadata.namespace:
            return "from the pod template"
        if hook.get_namespace():
            return f"from Airflow's connection {self.kubernetes_conn_id!r}"
        own = own_namespace()
        if own is not None:
            return own.origin
        config: Any = self.config_file or field("kube_config_path") or field("kube_config")
        if isinstance(config, str) and config == field("kube_config"):
            config = yaml.safe_load(config)
        with contextlib.suppress(ConfigException):  # of which the hook tells
            found = context_namespace(config, self.cluster_context or field("cluster_context"))
            self.namespace = found.name
            return found.origin
        return ""

    def _new_runner(self, pod: k8s.V1Pod) -> PodRunner:
        self._runner = PodRunner(
            self.client,
            pod,
            self.call,
            line_logger(self.log, self.call.mask),
            self.log.info,
            Timeouts(schedule=self.schedule_timeout_seconds, startup=self.startup_timeout_seconds),
            follow_logs=self.get_logs,
            killed=lambda: self._killed,
            origin=self._origin,
            declared=self._declared,
        )
        return self._runner

    def _end(self, runner: PodRunner, event: dict[str, Any]) -> None:
        """End a call that its trigger gave up; it may have done so itself."""
        runner.finish("delete_pod")
        if event.get("arguments"):
            try:
                remove_arguments(event["arguments"])
            except CallError as error:
                self.log.warning("%s", error)

    def _given_up(self, event: dict[str, Any]) -> BaseException:
        """Return the error for a trigger that stopped waiting for a pod that had not ended."""
        if event.get("timeout"):
            return AirflowTaskTimeout(f"{self.call.function}() took longer than its execution_timeout.")
        if event.get("refused"):
            place = f"namespace {event['namespace']!r}"
            problem = f"Airflow's triggerer could not watch the pods of {place}. {event['refused']}"
        else:
            problem = (
                f"Airflow's triggerer could not wait for the pod of {self.call.function}() ({event.get('broken')}); "
                "its own log says more."
            )
        return BackendError(self.call.environment.name, problem)

    def _finish(self, runner: PodRunner) -> None:
        if not self._killed:
            action: Keep = self.on_finish_action.value
            runner.finish(action)
        elif self._on_kill_action == "delete_pod":
            runner.leave()


def _template(options: dict[str, Any]) -> k8s.V1Pod | None:
    """Take the pod's template out of the options: the file or dictionary, and the specification over it.

    Args:
        options: those of ``KubernetesPodOperator``; the three that make the template are removed.
    """
    file, content = options.pop("pod_template_file", None), options.pop("pod_template_dict", None)
    given: k8s.V1Pod | None = options.pop("full_pod_spec", None)
    if file:
        template = PodGenerator.deserialize_model_file(file)
    elif content:
        template = PodGenerator.deserialize_model_dict(content)
    else:
        return given
    return PodGenerator.reconcile_pods(template, given)


def _on_kill_action(given: Any) -> str:
    """Return what happens to the pod of a killed task; providers before 10.15 do not take this option.

    Args:
        given: the option, as text or as the provider's enumeration.

    Raises:
        K8sVenvError: it is neither of the two.
    """
    action = str(getattr(given, "value", given) or "delete_pod")
    if action not in ("delete_pod", "keep_pod"):
        raise K8sVenvError(f"on_kill_action is 'delete_pod' or 'keep_pod', not {action!r}.")
    return action
