"""``IsolatedOperator``: call a Python function in a named environment; and its kin that choose what runs next."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Any, Literal

from k8s_venv.airflow.compat import (
    XCOM_BACKEND,
    AirflowFailException,
    AirflowSkipException,
    BaseOperator,
    BranchMixIn,
    Context,
    SkipMixin,
    conf,
    skip_tasks,
)
from k8s_venv.airflow.context import SecretNames, context_parameters, resolve_secrets, travelling_context
from k8s_venv.airflow.keeping import keep_deferred, keeping, keeping_deferred
from k8s_venv.airflow.metrics import measured
from k8s_venv.airflow.options import (
    OPTIONS,
    PLAIN,
    RENDERED_FIELDS,
    TEMPLATED,
    UNSET,
    check_options,
    parameters_of,
    with_pod_options,
)
from k8s_venv.airflow.validation import check_declared, check_files, named_environment, project_of, require_function
from k8s_venv.airflow.xcom import check_storable
from k8s_venv.backends import choose_backend
from k8s_venv.backends.pod_options import HONOURED, check_own, check_resources
from k8s_venv.backends.process import line_logger
from k8s_venv.calls import PackedCall, Result, SentCall, open_result, pack, refer, sent_call
from k8s_venv.calls.exceptions import RemoteTraceback
from k8s_venv.capture.module_source import remember
from k8s_venv.capture.origins import code_folders
from k8s_venv.errors import BackendError, K8sVenvError, RemoteError
from k8s_venv.runtime import FailTask, SkipTask

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from contextlib import AbstractContextManager

    import jinja2

    from k8s_venv.airflow.pod_operator import IsolatedPodOperator
    from k8s_venv.backends.docker.backend import DockerBackend
    from k8s_venv.backends.local.backend import LocalBackend
    from k8s_venv.calls.packed import Serializer, Transport
    from k8s_venv.config.environment import Environment
    from k8s_venv.config.project import Project
    from k8s_venv.config.value_settings import Keep

_BASE_OPTIONS = {*inspect.signature(BaseOperator.__init__).parameters, "default_args", "multiple_outputs", "doc"}

# Airflow puts it on the `sys.path` of each of its processes.
code_folders.add(conf.get("core", "plugins_folder"))


class IsolatedOperator(BaseOperator):
    """Call a Python function in one of the project's environments and return its value.

    It also takes every option of ``KubernetesPodOperator`` that describes the pod; this wins over the environment's.

    Args:
        environment: the environment's name in ``k8s-venv.toml``; ``default_args`` of the DAG or task group may give it.
        python_callable: the function.
        op_args: its positional arguments (templated).
        op_kwargs: its keyword arguments (templated). Airflow's context fills parameters with the names of its keys.
        templates_dict: the argument for its parameter ``templates_dict`` (templated).
        templates_exts: file extensions, such as ``.sql``: an argument that names such a file becomes its rendered text.
        backend: ``kubernetes``, ``docker`` or ``local``; by default that of ``K8S_VENV_BACKEND``, airflow.cfg or the
            project file, else ``kubernetes``.
        transport: ``source`` or ``cloudpickle``; by default that of the environment or the project, else source, and
            cloudpickle for what source cannot express where both sides have the same minor version of Python.
        connections: ids of the connections that the function may use; they must be defined.
        optional_connections: ids of those that need not be defined.
        variables: keys of the Airflow variables that the function may use; they must be defined.
        optional_variables: keys of those that need not be defined.
        result: ``reference`` stores the value still encoded; the next isolated task takes it as the value itself,
            and ``k8s_venv.load`` opens it elsewhere, so Airflow does without the value's libraries.
        serializer: ``cloudpickle`` pickles the parts of the value that no codec carries, between equal minor versions
            of Python. Reading a pickle runs code that the environment chose: on the worker, or with
            ``result="reference"`` in the next task, which must ask for it as well.
        deferrable: let Airflow's triggerer wait for the pod, so that the worker is free meanwhile; by default
            ``[operators] default_deferrable`` of airflow.cfg.
        defer_after: the seconds that the worker itself waits before that, so that a short call never leaves it; by
            default as ``[calls]`` in the project file says, else 5.
        skip_on_exit_code: the exit codes of the function's process that skip the task, such as those of
            ``sys.exit(10)`` and ``os._exit(10)``; an exception ends the process with 1.
        files: data files that travel with the call, as patterns from the folder of the project file, such as
            ``sql/*.sql`` and ``dbt/**``; the function finds them by the same path from its ``__file__``.
        keep: whether the call is kept at the location for large values, arguments included, so that `k8s-venv replay`
            can run it again: ``failed``, ``all`` or ``never``; by default as ``[calls]`` in the project file says.
        values: how arguments and results travel, as ``[values]`` in the project file: ``location``, ``above``,
            ``exec``, ``status``.

    Raises:
        K8sVenvError: the environment or an option is unknown, or the function asks for something that cannot travel.
    """

    template_fields: Sequence[str] = ("templates_dict", "op_args", "op_kwargs", *TEMPLATED)
    template_fields_renderers = {"templates_dict": "json", "op_args": "py", "op_kwargs": "py", "env_vars": "py"}  # noqa: RUF012
    shallow_copy_attrs: Sequence[str] = ("python_callable",)
    ui_color = "#e8f1fb"
    uses_value = False  # whether the operator itself reads what the function returned
    returns_command = False  # whether the function runs here, and what it returns runs there
    _running: DockerBackend | LocalBackend | IsolatedPodOperator | None = None

    @with_pod_options
    def __init__(
        self,
        *,
        environment: str | None = None,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        templates_dict: dict[str, Any] | None = None,
        templates_exts: Sequence[str] | None = None,
        backend: str | None = None,
        transport: Transport | None = None,
        connections: Sequence[str] = (),
        optional_connections: Sequence[str] = (),
        variables: Sequence[str] = (),
        optional_variables: Sequence[str] = (),
        result: Literal["value", "reference"] = "value",
        serializer: Serializer | None = None,
        deferrable: bool | None = None,
        skip_on_exit_code: int | Container[int] | None = None,
        keep: Keep | None = None,
        files: Sequence[str] = (),
        defer_after: float | None = None,
        values: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        task = f"Task {kwargs.get('task_id')!r}"
        pod_options = self._taken_pod_options(kwargs, environment, task)
        super().__init__(**kwargs)
        self.environment = named_environment(environment, task)
        require_function(python_callable, task)
        self.python_callable = python_callable
        self.op_args, self.op_kwargs, self.templates_dict = op_args or (), op_kwargs or {}, templates_dict
        self.template_ext = templates_exts or self.template_ext
        self.backend, self.transport, self.serializer = backend, transport, serializer
        self.secret_names = SecretNames.of(task, connections, optional_connections, variables, optional_variables)
        self.result, self.values, self.keep, self.files = result, dict(values or {}), keep, check_files(files, task)
        self.deferrable = deferrable if deferrable is not None else conf.getboolean("operators", "default_deferrable")
        self.skip_on_exit_code, self.defer_after = exit_codes(skip_on_exit_code, task), defer_after
        vars(self).update(pod_options)
        self._check_declaration(task)

    def _taken_pod_options(self, given: dict[str, Any], environment: str | None, task: str) -> dict[str, Any]:
        """Take the pod options out of those that were given, and return them; refuse unknown ones."""
        pod_options = {name: given.pop(name) for name in OPTIONS & set(given)}
        unknown = {k: v for k, v in given.items() if k not in _BASE_OPTIONS and not k.startswith("_")}
        if unknown:
            check_options({**unknown, "environment": environment}, task, parameters_of(type(self)))
        check_resources(pod_options.get("container_resources"), task)
        return pod_options

    def execute(self, context: Context) -> Any:
        """Run the call and return its value.

        Raises:
            AirflowSkipException: the function skipped its task.
            AirflowFailException: the function failed its task for good.
        """
        project = self.project()
        backend = choose_backend(self.backend, project, conf.get("k8s_venv", "backend", fallback=None))
        with contextlib.closing(self._pack(context, project)) as call:
            self.log.info(
                "Calling %s() in environment %r (Python %s) on the %s backend; it travels as %s, %s bytes.",
                call.function,
                self.environment,
                call.environment.python,
                backend,
                call.transport,
                f"{call.own_size + (call.arguments.size if call.arguments else 0):,}",
            )
            for note in call.notes:
                self.log.warning(call.mask(note))
            with self._measured(backend), keeping(call, context, self.log), skipping_on(self.skip_on_exit_code):
                if backend != "kubernetes":
                    return self._opened(self._run_without_pod(call, project, backend), call)
                pod = self._pod_operator(call, project, context)
                if self.deferrable:
                    return self._defer(pod, context)
                return self._opened(pod.execute_sync(context), call)

    def trigger_reentry(self, context: Context, event: dict[str, Any], sent: dict[str, Any] | None = None) -> Any:
        """Resume a deferred task whose pod has ended, and return the call's value; see ``execute``.

        Args:
            context: Airflow's.
            event: the trigger's event.
            sent: the facts of the call that was sent; a task that an earlier version of k8s-venv deferred has none.
        """
        project = self.project()
        call = self._pack(context, project) if sent is None else self._sent(context, project, sent)
        kept = keeping_deferred(call, context, self.log)
        skipping = skipping_on(self.skip_on_exit_code)
        with contextlib.closing(call), self._measured("kubernetes"), kept, skipping:
            result = self._pod_operator(call, project, context).resume(event)
            if result is not None:
                return self._opened(result, call)
            with contextlib.closing(self._pack(context, project)) as again:
                return self._defer(self._pod_operator(again, project, context), context)

    def _defer(self, pod: IsolatedPodOperator, context: Context) -> Any:
        """Start a call's pod, and leave the waiting to the triggerer unless the call ends soon; see ``execute``."""
        trigger = pod.begin(context)
        if isinstance(trigger, Result):
            return self._opened(trigger, pod.call)
        assert isinstance(pod.call, PackedCall)  # noqa: S101 -- it was just packed
        keep_deferred(pod.call, context, self.log)
        return self.defer(trigger=trigger, method_name="trigger_reentry", kwargs={"sent": pod.call.facts()})

    def _opened(self, result: Result, call: SentCall) -> Any:
        """Return a result's value as Airflow is to store it, or raise its failure."""
        try:
            if self.result == "reference":
                return refer(result, call)
            value = open_result(result, call)
        except SkipTask as skipped:
            raise AirflowSkipException(str(skipped)) from None
        except FailTask as failed:
            raise AirflowFailException(str(failed)) from failed.__cause__
        # Other XCom backends may store anything.
        if self.do_xcom_push and conf.get("core", "xcom_backend", fallback=XCOM_BACKEND) == XCOM_BACKEND:
            for sentence in check_storable(value, self.task_id):
                self.log.warning(sentence)
        return value

    def _measured(self, backend: str) -> AbstractContextManager[None]:
        return measured(self.environment, backend, lambda: getattr(self._running, "runner", None))

    def on_kill(self) -> None:
        """End the call that is running."""
        if self._running is not None:
            self._running.on_kill()

    def pod_options(self) -> dict[str, Any]:
        """Return the pod options that this task was given, by name."""
        templated = {name: value for name in TEMPLATED if (value := getattr(self, name)) is not None}
        plain = {name: value for name in PLAIN if (value := getattr(self, name)) is not UNSET}
        return {**templated, **plain}

    def _render_nested_template_fields(
        self, value: Any, context: Context, jinja_env: jinja2.Environment, seen_oids: set[int]
    ) -> None:
        # Kubernetes' own types have no `template_fields`; the provider chooses which of their fields are rendered.
        fields = RENDERED_FIELDS.get(type(value).__name__)
        if not fields or not type(value).__module__.startswith("kubernetes.client."):
            super()._render_nested_template_fields(value, context, jinja_env, seen_oids)
        elif id(value) not in seen_oids:
            seen_oids.add(id(value))
            self._do_render_template_fields(value, fields, context, jinja_env, seen_oids)

    def project(self) -> Project:
        """Return the project that declares this task's environment."""
        return project_of(self.python_callable, self.dag.fileloc if self.has_dag() else None)  # type: ignore[no-untyped-call]

    def _check_declaration(self, task: str) -> None:
        remember(self.python_callable)
        if self.result not in ("value", "reference"):
            raise K8sVenvError(f'{task}: result is "value" or "reference", not {self.result!r}.')
        if self.result == "reference":
            self.multiple_outputs = False  # Airflow infers it from annotations; a document is one value
        if self.uses_value and self.result == "reference":
            raise K8sVenvError(f'{task}: its value chooses what runs next, so it cannot be result="reference".')
        project = self.project()
        self._environment(project, task)
        if self.backend is not None and self.backend in HONOURED:
            check_own(self.backend, self.pod_options(), task)
        check_declared(project, self.environment, task, self.backend, self.transport, self.serializer)
        if isinstance(self.op_args, list | tuple) and isinstance(self.op_kwargs, dict):  # else another task's value
            context_parameters(self.python_callable, self.op_args, self.op_kwargs)

    def _environment(self, project: Project, task: str) -> Environment:
        environment = project.environment(self.environment)
        try:
            environment = environment.with_values(self.values) if self.values else environment
            environment = environment.with_files(self.files) if self.files else environment
            own = {name: value for name in ("defer_after", "keep") if (value := getattr(self, name)) is not None}
            return environment.with_calls(own) if own else environment
        except K8sVenvError as error:
            raise K8sVenvError(f"{task}: {error}") from None

    def _sent(self, context: Context, project: Project, facts: Mapping[str, Any]) -> SentCall:
        """Return a call that was sent already; from now on its connections are masked in logs."""
        self._add_arguments(context)
        return sent_call(
            self.python_callable,
            facts,
            environment=self._environment(project, f"Task {self.task_id!r}"),
            secrets=resolve_secrets(self.secret_names, self.task_id),
            serializer=self.serializer,
        )

    def _pack(self, context: Context, project: Project) -> PackedCall:
        asked = context_parameters(self.python_callable, self.op_args, self.op_kwargs)
        self._add_arguments(context)
        return pack(
            self.python_callable,
            tuple(_resolved(value) for value in self.op_args),
            {name: _resolved(value) for name, value in self.op_kwargs.items()},
            environment=self._environment(project, f"Task {self.task_id!r}"),
            transport=self.transport,
            context=travelling_context(context, asked),
            secrets=resolve_secrets(self.secret_names, self.task_id),
            discard_value=not (self.do_xcom_push or self.uses_value),
            serializer=self.serializer,
        )

    def _add_arguments(self, context: Context) -> None:
        """Add the arguments to Airflow's context as `@task` does, where `map_index_template` may name them."""
        added = {name: value for name, value in self.op_kwargs.items() if name not in context}
        context.update({**added, "templates_dict": self.templates_dict})  # type: ignore[typeddict-item]

    def _run_without_pod(self, call: PackedCall, project: Project, backend: str) -> Result:
        if backend == "docker":
            from k8s_venv.backends.docker.backend import DockerBackend

            self._running = DockerBackend(project, self.pod_options(), self.log.info)
        else:
            from k8s_venv.backends.local.backend import LocalBackend

            self._running = LocalBackend(self.log.info, project, self.pod_options())
        return self._running.run(call, line_logger(self.log, call.mask))

    def _pod_operator(self, call: SentCall, project: Project, context: Context) -> IsolatedPodOperator:
        from k8s_venv.airflow.pod_operator import IsolatedPodOperator

        self._running = IsolatedPodOperator.for_call(call, project, self.pod_options(), self, context)
        return self._running


# Attributes of the class, since setting them on each task takes a good part of a DAG's parsing.
for _name in TEMPLATED:
    setattr(IsolatedOperator, _name, None)
for _name in PLAIN:
    setattr(IsolatedOperator, _name, UNSET)


class IsolatedBranchOperator(IsolatedOperator, BranchMixIn):
    """Call a function in one of the project's environments; it returns the ids of the tasks that run next.

    It takes the options of ``IsolatedOperator``, and corresponds to ``BranchPythonOperator``.
    """

    inherits_from_skipmixin = True
    uses_value = True

    def execute(self, context: Context) -> Any:
        """Run the call, and skip every task after this one that it does not name."""
        return self.do_branch(context, super().execute(context))

    def trigger_reentry(self, context: Context, event: dict[str, Any], sent: dict[str, Any] | None = None) -> Any:
        """Resume after a deferred call; see ``execute``."""
        return self.do_branch(context, super().trigger_reentry(context, event, sent))


class IsolatedShortCircuitOperator(IsolatedOperator, SkipMixin):
    """Call a function in one of the project's environments, and skip the tasks after it if it returns a false value.

    It takes the options of ``IsolatedOperator``, and corresponds to ``ShortCircuitOperator``.

    Args:
        ignore_downstream_trigger_rules: skip all tasks after this one, else only those directly after it.
    """

    inherits_from_skipmixin = True
    uses_value = True

    def __init__(self, *, ignore_downstream_trigger_rules: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ignore_downstream_trigger_rules = ignore_downstream_trigger_rules

    def execute(self, context: Context) -> Any:
        """Run the call, and skip the tasks after it if its value is false."""
        return self._gate(context, super().execute(context))

    def trigger_reentry(self, context: Context, event: dict[str, Any], sent: dict[str, Any] | None = None) -> Any:
        """Resume after a deferred call; see ``execute``."""
        return self._gate(context, super().trigger_reentry(context, event, sent))

    def _gate(self, context: Context, value: Any) -> Any:
        if not value:
            self.log.info("The value is %r: skipping the tasks after this one.", value)
            task: Any = context["task"]
            relatives = task.get_flat_relatives if self.ignore_downstream_trigger_rules else task.get_direct_relatives
            skip_tasks(self, context, [each for each in relatives(upstream=False) if not each.is_teardown])
        return value


def _resolved(value: Any) -> Any:
    """Return a mapped task's results, which Airflow reads one by one, as a list."""
    lazy = type(value).__module__.partition(".")[0] == "airflow" and isinstance(value, Sequence)
    return list(value) if lazy else value


def exit_codes(given: int | Container[int] | None, task: str) -> Container[int]:
    """Return the exit codes that ``skip_on_exit_code`` gives: one or several.

    Args:
        given: the option's value.
        task: the task, for messages.

    Raises:
        K8sVenvError: it gives no exit codes.
    """
    if given is None:
        return ()
    if isinstance(given, int) and not isinstance(given, bool):
        return (given,)
    if not isinstance(given, Container) or isinstance(given, str | bytes):
        raise K8sVenvError(f"{task}: skip_on_exit_code is an exit code or a list of them, not {given!r}.")
    return given


@contextlib.contextmanager
def skipping_on(codes: Container[int]) -> Iterator[None]:
    """Skip the task if the function's process ends with one of these exit codes.

    Args:
        codes: the exit codes.

    Raises:
        AirflowSkipException: it ended with one of them.
    """
    try:
        yield
    except (AirflowSkipException, AirflowFailException):  # the function's own choice
        raise
    except Exception as error:
        code = _exit_code(error)
        if code is None or code not in codes:
            raise
        raise AirflowSkipException(f"The function's process ended with exit code {code}: skipping.") from None
    if 0 in codes:
        raise AirflowSkipException("The function's process ended with exit code 0: skipping.")


def _exit_code(error: Exception) -> int | None:
    """Return the exit code of the process that an exception ended, or None if the function did not raise it."""
    if isinstance(error, BackendError):
        return error.exit_code
    if not isinstance(error.__cause__, RemoteTraceback):
        return None
    if isinstance(error, RemoteError) and error.kind == "SystemExit":
        code = (error.arguments or (1,))[0]
        return code & 0xFF if isinstance(code, int) else 1  # as Python does: a text is printed, and the code is 1
    return 1
