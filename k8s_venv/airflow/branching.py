"""Isolated tasks whose value chooses what runs after them, as operators and as decorators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from k8s_venv.airflow.compat import BranchMixIn, Context, SkipMixin, TaskDecorator, skip_tasks
from k8s_venv.airflow.decorator import IsolatedDecoratedOperator, isolated_decorator
from k8s_venv.airflow.operators import IsolatedOperator
from k8s_venv.capture.decorators import DECORATOR_MARK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class IsolatedBranchOperator(IsolatedOperator, BranchMixIn):
    """Call a function in one of the project's environments; it returns the ids of the tasks that run next.

    It is to ``IsolatedOperator``, whose options it takes, what ``BranchPythonOperator`` is to ``PythonOperator``.
    """

    inherits_from_skipmixin = True
    uses_value = True

    def execute(self, context: Context) -> Any:
        """Run the call, and skip every task after this one that it does not name."""
        return self.do_branch(context, super().execute(context))

    def trigger_reentry(self, context: Context, event: dict[str, Any], sent: dict[str, Any] | None = None) -> Any:
        """Go on after a deferred call; see ``execute``."""
        return self.do_branch(context, super().trigger_reentry(context, event, sent))


class IsolatedShortCircuitOperator(IsolatedOperator, SkipMixin):
    """Call a function in one of the project's environments, and skip what comes after it if it returns a false value.

    It is to ``IsolatedOperator``, whose options it takes, what ``ShortCircuitOperator`` is to ``PythonOperator``.

    Args:
        ignore_downstream_trigger_rules: skip all tasks after this one, else those directly after it.
    """

    inherits_from_skipmixin = True
    uses_value = True

    def __init__(self, *, ignore_downstream_trigger_rules: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ignore_downstream_trigger_rules = ignore_downstream_trigger_rules

    def execute(self, context: Context) -> Any:
        """Run the call, and skip what comes after it where its value is false."""
        return self._gate(context, super().execute(context))

    def trigger_reentry(self, context: Context, event: dict[str, Any], sent: dict[str, Any] | None = None) -> Any:
        """Go on after a deferred call; see ``execute``."""
        return self._gate(context, super().trigger_reentry(context, event, sent))

    def _gate(self, context: Context, value: Any) -> Any:
        if not value:
            self.log.info("The value is %r: skipping the tasks after this one.", value)
            skip_tasks(self, context, list(self._after(context)))
        return value

    def _after(self, context: Context) -> Iterator[Any]:
        task: Any = context["task"]
        relatives = task.get_flat_relatives if self.ignore_downstream_trigger_rules else task.get_direct_relatives
        return (each for each in relatives(upstream=False) if not each.is_teardown)


class _BranchDecoratedOperator(IsolatedDecoratedOperator, IsolatedBranchOperator):
    """The operator behind ``@task.branch_isolated``."""

    custom_operator_name = "@task.branch_isolated"


class _ShortCircuitDecoratedOperator(IsolatedDecoratedOperator, IsolatedShortCircuitOperator):
    """The operator behind ``@task.short_circuit_isolated``."""

    custom_operator_name = "@task.short_circuit_isolated"


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
    """Run the decorated function in an environment; what comes after it is skipped where it returns something false.

    Args:
        environment: the environment's name; see ``isolated_task``.
        options: as for ``IsolatedOperator``, and ``ignore_downstream_trigger_rules``.
    """
    return isolated_decorator(_ShortCircuitDecoratedOperator, environment, **options)


setattr(branch_isolated_task, DECORATOR_MARK, True)
setattr(short_circuit_isolated_task, DECORATOR_MARK, True)
