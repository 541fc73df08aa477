"""``@task.isolated("environment")``, and the decorators of tasks that branch and short-circuit."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, cast

from k8s_venv.airflow.compat import AIRFLOW, DecoratedOperator, TaskDecorator, task_decorator_factory
from k8s_venv.airflow.operators import IsolatedBranchOperator, IsolatedOperator, IsolatedShortCircuitOperator
from k8s_venv.airflow.options import check_options, parameters_of
from k8s_venv.airflow.validation import check_declared, check_files, named_environment, project_of, require_function
from k8s_venv.capture.functions import DECORATOR_MARK
from k8s_venv.capture.module_source import remember
from k8s_venv.errors import K8sVenvError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class IsolatedDecoratedOperator(DecoratedOperator, IsolatedOperator):
    """The operator behind ``@task.isolated``."""

    custom_operator_name = "@task.isolated"
    template_fields: Sequence[str] = IsolatedOperator.template_fields
    template_fields_renderers = IsolatedOperator.template_fields_renderers
    if AIRFLOW == (3, 0):
        xcom_push = None  # its decorators name this, and do nothing with it

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


class _BranchDecoratedOperator(IsolatedDecoratedOperator, IsolatedBranchOperator):
    """The operator behind ``@task.branch_isolated``."""

    custom_operator_name = "@task.branch_isolated"


class _ShortCircuitDecoratedOperator(IsolatedDecoratedOperator, IsolatedShortCircuitOperator):
    """The operator behind ``@task.short_circuit_isolated``."""

    custom_operator_name = "@task.short_circuit_isolated"


def isolated_task(
    environment: str | Callable[..., Any] | None = None, /, *, multiple_outputs: bool | None = None, **options: Any
) -> TaskDecorator:
    """Run the decorated function in one of the project's environments.

    Args:
        environment: the environment's name in ``k8s-venv.toml``; by default that of ``default_args`` of the task group
            or the DAG. Without parentheses after the decorator, the function itself.
        multiple_outputs: unroll a returned dictionary into one XCom for each key.
        options: as for ``IsolatedOperator``.

    Raises:
        K8sVenvError: the environment or an option is wrong.
    """
    return isolated_decorator(IsolatedDecoratedOperator, environment, multiple_outputs=multiple_outputs, **options)


def branch_isolated_task(environment: str | Callable[..., Any] | None = None, /, **options: Any) -> TaskDecorator:
    """Run the decorated function in an environment; it returns the ids of the tasks that run next.

    Args:
        environment: the environment's name; see ``isolated_task``.
        options: as for ``IsolatedOperator``.
    """
    return isolated_decorator(_BranchDecoratedOperator, environment, **options)


def short_circuit_isolated_task(
    environment: str | Callable[..., Any] | None = None, /, **options: Any
) -> TaskDecorator:
    """Run the decorated function in an environment; if it returns a false value, the tasks after it are skipped.

    Args:
        environment: the environment's name; see ``isolated_task``.
        options: as for ``IsolatedOperator``, and ``ignore_downstream_trigger_rules``.
    """
    return isolated_decorator(_ShortCircuitDecoratedOperator, environment, **options)


def isolated_decorator(
    operator: type[IsolatedDecoratedOperator],
    environment: str | Callable[..., Any] | None,
    /,
    *,
    multiple_outputs: bool | None = None,
    **options: Any,
) -> TaskDecorator:
    """Return a decorator for isolated tasks, or the task if the decorator has no parentheses.

    Args:
        operator: the tasks' operator.
        environment: see ``isolated_task``.
        multiple_outputs: see ``isolated_task``.
        options: see ``isolated_task``.
    """
    function = environment if callable(environment) else options.pop("python_callable", None)
    if environment is not None and not callable(environment):
        options = {**options, "environment": _one_name(operator, environment, options)}
    if options.get("environment") is not None:
        named_environment(options["environment"], operator.custom_operator_name)
    _check_options(operator, options)
    if multiple_outputs and options.get("result") == "reference":
        raise K8sVenvError('result="reference" passes on one value: leave multiple_outputs out.')
    decorator = task_decorator_factory(
        python_callable=function, multiple_outputs=multiple_outputs, decorated_operator_class=operator, **options
    )

    if function is not None:
        remember(function)
        setattr(decorator, DECORATOR_MARK, True)
        return decorator

    @functools.wraps(decorator)
    def decorate(function: Callable[..., Any]) -> Any:
        _check_now(operator, function, options)
        remember(function)  # a mapped task makes no operator before it runs
        return decorator(function)

    setattr(decorate, DECORATOR_MARK, True)
    return cast("TaskDecorator", decorate)


def _one_name(operator: type[IsolatedDecoratedOperator], given: object, options: Mapping[str, Any]) -> str:
    """Return the environment's name that a decorator was given; it is given once."""
    name = operator.custom_operator_name
    if not isinstance(given, str):
        raise K8sVenvError(f"{name} takes the environment's name, not {given!r}.")
    if "environment" in options:
        named_environment(options["environment"], name)
        raise K8sVenvError(f"{name} names the environment {given!r}, and {options['environment']!r} by keyword.")
    return given


def _check_options(operator: type[IsolatedDecoratedOperator], options: Mapping[str, Any]) -> None:
    """Refuse options that the operator does not take, and those that Airflow itself passes to it."""
    name = operator.custom_operator_name
    for taken in ("op_args", "op_kwargs"):
        if taken in options:
            raise K8sVenvError(f"{name}: leave {taken} out: pass the arguments in the call, such as work(1, b=2).")
    known = parameters_of(operator)
    given = {option: value for option, value in options.items() if option not in known or option == "environment"}
    check_options(given, name, known, f'{name}("NAME")')


def _check_now(
    operator: type[IsolatedDecoratedOperator], function: Callable[..., Any], options: Mapping[str, Any]
) -> None:
    """Refuse wrong options while a DAG file is loaded: a mapped task's operator is made only when it runs."""
    if not str(getattr(function, "__module__", "")).startswith("unusual_prefix_"):
        return  # not from a DAG file that Airflow loads: only the operator knows its project
    task = f"Task {options.get('task_id', function.__name__)!r}"
    require_function(function, task)
    check_files(options.get("files", ()), task)
    if "environment" in options:
        project = project_of(function, None)
        given = (options.get(name) for name in ("backend", "transport", "serializer"))
        check_declared(project, options["environment"], task, *given)


setattr(isolated_task, DECORATOR_MARK, True)
setattr(branch_isolated_task, DECORATOR_MARK, True)
setattr(short_circuit_isolated_task, DECORATOR_MARK, True)
