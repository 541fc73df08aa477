"""``@task.isolated("environment")``, and its kin that branch and short-circuit."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, cast

from k8s_venv.airflow.compat import DecoratedOperator, TaskDecorator, task_decorator_factory
from k8s_venv.airflow.operators import BASE_OPTIONS, IsolatedOperator, check_declared, project_of
from k8s_venv.airflow.options import check_options
from k8s_venv.calls.slicing import DECORATOR_MARK
from k8s_venv.errors import K8sVenvError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class IsolatedDecoratedOperator(DecoratedOperator, IsolatedOperator):
    """The operator behind ``@task.isolated``."""

    custom_operator_name = "@task.isolated"
    template_fields: Sequence[str] = IsolatedOperator.template_fields
    template_fields_renderers = IsolatedOperator.template_fields_renderers

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Any = None,
        op_kwargs: Any = None,
        **kwargs: Any,
    ) -> None:
        upstream = {"python_callable": python_callable, "op_args": op_args, "op_kwargs": op_kwargs}
        super().__init__(
            python_callable=python_callable,
            op_args=op_args,
            op_kwargs=op_kwargs,
            kwargs_to_upstream=upstream,
            **kwargs,
        )


def isolated_task(
    environment: str | Callable[..., Any] | None = None, *, multiple_outputs: bool | None = None, **options: Any
) -> TaskDecorator:
    """Run the decorated function in one of the project's environments.

    Args:
        environment: the environment's name in ``k8s-venv.toml``; by default what ``default_args`` of the task group or
            the DAG say. Without parentheses after the decorator, the function itself.
        multiple_outputs: unroll a returned dictionary into one XCom for each key.
        options: as for ``IsolatedOperator``.

    Raises:
        K8sVenvError: the environment or an option is not what it must be.
    """
    return isolated_decorator(IsolatedDecoratedOperator, environment, multiple_outputs=multiple_outputs, **options)


def isolated_decorator(
    operator: type[IsolatedDecoratedOperator],
    environment: str | Callable[..., Any] | None,
    *,
    multiple_outputs: bool | None = None,
    **options: Any,
) -> TaskDecorator:
    """Return a decorator for isolated tasks, or the task where it was used without parentheses.

    Args:
        operator: makes the tasks.
        environment: see ``isolated_task``, as all that follows.
        multiple_outputs: see there.
        options: see there.
    """
    if "requirements" in options:
        raise K8sVenvError(
            "requirements=[…] belongs into k8s-venv.toml, so that it can be locked and built before the task runs:\n\n"
            f'    [environments.NAME]\n    python = "3.12"\n    requirements = {list(options["requirements"])!r}\n\n'
            'and the task is @task.isolated("NAME").'
        )
    function = environment if callable(environment) else None
    if environment is not None and function is None:
        if not isinstance(environment, str):
            raise K8sVenvError(f"@{operator.custom_operator_name} takes the environment's name, not {environment!r}.")
        options["environment"] = environment
    if multiple_outputs and options.get("result") == "reference":
        raise K8sVenvError('result="reference" hands on one value: leave multiple_outputs out.')
    decorator = task_decorator_factory(
        python_callable=function, multiple_outputs=multiple_outputs, decorated_operator_class=operator, **options
    )

    @functools.wraps(decorator)
    def decorate(function: Callable[..., Any]) -> Any:
        _check_now(function, environment, options)
        return decorator(function)

    setattr(decorate, DECORATOR_MARK, True)
    return cast("TaskDecorator", decorate)


def _check_now(function: Callable[..., Any], environment: str, options: Mapping[str, Any]) -> None:
    """Refuse while a DAG file is loaded what a mapped task's operator would refuse, which is made only at run time."""
    if not function.__module__.startswith("unusual_prefix_"):
        return  # not of a DAG file that Airflow loads: only the operator knows which project is meant
    task = f"Task {options.get('task_id', function.__name__)!r}"
    check_options(options.keys() - inspect.signature(IsolatedOperator.__init__).parameters.keys() - BASE_OPTIONS, task)
    project = project_of(function, None)
    check_declared(project, environment, options.get("backend"), options.get("serializer"), task)


setattr(isolated_task, DECORATOR_MARK, True)
