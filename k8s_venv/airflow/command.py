"""``@task.isolated_cmd("environment")``: a command in an environment, which a function on the worker returns."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from k8s_venv.airflow.context import context_parameters, resolve_secrets, travelling_context
from k8s_venv.airflow.decorator import IsolatedDecoratedOperator, isolated_decorator
from k8s_venv.calls import pack
from k8s_venv.capture.functions import DECORATOR_MARK
from k8s_venv.errors import CallError, K8sVenvError, RemoteError
from k8s_venv.wire.command import run_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from k8s_venv.airflow.compat import Context, TaskDecorator
    from k8s_venv.calls import PackedCall
    from k8s_venv.config.project import Project


class _CommandDecoratedOperator(IsolatedDecoratedOperator):
    """The operator behind ``@task.isolated_cmd``."""

    custom_operator_name = "@task.isolated_cmd"
    returns_command = True
    template_fields: Sequence[str] = (*IsolatedDecoratedOperator.template_fields, "env", "cwd")

    def __init__(self, *, env: Mapping[str, str] | None = None, cwd: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.env = env
        self.cwd = cwd

    def execute(self, context: Context) -> Any:
        with self._explained():
            return super().execute(context)

    def trigger_reentry(self, context: Context, event: dict[str, Any], sent: dict[str, Any] | None = None) -> Any:
        with self._explained():
            return super().trigger_reentry(context, event, sent)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Raise the end of the command in words of its own."""
        try:
            yield
        except RemoteError as error:
            if error.kind != "SystemExit":
                raise
            code = (error.arguments or (1,))[0]
            raise CallError(f"Task {self.task_id!r}: the command ended with exit code {code}.") from None

    def _pack(self, context: Context, project: Project) -> PackedCall:
        self._add_arguments(context)
        task = f"Task {self.task_id!r}"
        return pack(
            run_command,
            (self._command(context, task), self._variables(task), self.cwd),
            {},
            environment=self._environment(project, task),
            context=travelling_context(context, ()),
            secrets=resolve_secrets(self.secret_names, self.task_id),
            discard_value=not self.do_xcom_push,
        )

    def _command(self, context: Context, task: str) -> list[str]:
        """Return the command that the function gives, rendered."""
        asked = context_parameters(self.python_callable, self.op_args, self.op_kwargs)
        known: Mapping[str, Any] = {**context}
        given = {name: known[name] for name in asked if name in known}
        command = self.python_callable(*self.op_args, **{**given, **self.op_kwargs})
        is_list = isinstance(command, list | tuple) and all(isinstance(each, str) for each in command)
        if not command or not (is_list or (isinstance(command, str) and command.strip())):
            raise K8sVenvError(
                f"{task}: {self.python_callable.__name__}() must return a command, as a list of texts such as "
                f'["dbt", "run"] or as one text for bash; this is empty, or of another type ({type(command).__name__}).'
            )
        rendered = self.render_template(command, context)
        return ["bash", "-c", rendered] if isinstance(rendered, str) else [str(each) for each in rendered]

    def _variables(self, task: str) -> dict[str, str]:
        variables = dict(self.env or {})
        for name, value in variables.items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise K8sVenvError(f"{task}: env takes names and texts; {name!r} has a {type(value).__name__}.")
        return variables


def isolated_cmd_task(environment: str | Callable[..., Any] | None = None, /, **options: Any) -> TaskDecorator:
    """Run the command that the decorated function returns in an environment; the function runs on the worker.

    Args:
        environment: the environment's name; see ``isolated_task``.
        options: as for ``IsolatedOperator``, and ``env``, variables for the command (templated), and ``cwd``, its
            working folder, from the folder of the data files (templated).
    """
    return isolated_decorator(_CommandDecoratedOperator, environment, **options)


setattr(isolated_cmd_task, DECORATOR_MARK, True)
