"""``@task.isolated("environment")``, and its kin that branch and short-circuit."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any, cast

from k8s_venv.airflow.compat import DecoratedOperator, TaskDecorator, task_decorator_factory
from k8s_venv.airflow.declaring import check_declared, project_of, require_function
from k8s_venv.airflow.operators import IsolatedOperator
from k8s_venv.airflow.options import check_options, parameters_of
from k8s_venv.calls.source.decorators import DECORATOR_MARK
from k8s_venv.calls.source.modulefile import remember
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
    _refuse_virtualenv_options(environment, options)
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


def _refuse_virtualenv_options(environment: object, options: Mapping[str, Any]) -> None:
    """Refuse what ``@task.virtualenv`` is told of its environment, which the project file says here."""
    given = {name: options[name] for name in ("requirements", "python_version") if name in options}
    if not given:
        return
    spelled = {"requirements": "requirements=[…]", "python_version": "python_version=…"}
    what = " and ".join(spelled[name] for name in given)
    belong = "belong" if len(given) > 1 else "belongs"
    name = environment if isinstance(environment, str) else "NAME"
    wanted = given.get("requirements", ())
    requirements = wanted if isinstance(wanted, str) else list(wanted)
    lines = f'    [environments.{name}]\n    python = "{given.get("python_version") or "3.12"}"\n'
    if requirements:
        lines += f"    requirements = {json.dumps(requirements)}\n"
    raise K8sVenvError(
        f"{what} {belong} into k8s-venv.toml, so that all of it can be locked and built before the task runs:\n\n"
        f'{lines}\nand the task is @task.isolated("{name}").'
    )


def _check_now(
    operator: type[IsolatedDecoratedOperator], function: Callable[..., Any], options: Mapping[str, Any]
) -> None:
    """Refuse while a DAG file is loaded what a mapped task's operator would refuse, which is made only at run time."""
    if not getattr(function, "__module__", "").startswith("unusual_prefix_"):
        return  # not of a DAG file that Airflow loads: only the operator knows which project is meant
    task = f"Task {options.get('task_id', function.__name__)!r}"
    require_function(function, task)
    known = parameters_of(operator)
    check_options(set(options) - known, task, known)
    if "environment" in options:
        project = project_of(function, None)
        check_declared(project, options["environment"], options.get("backend"), options.get("serializer"), task)


setattr(isolated_task, DECORATOR_MARK, True)
