"""Keep the calls of tasks, so that ``k8s-venv replay`` can run them again."""

from __future__ import annotations

import contextlib
import datetime
from typing import TYPE_CHECKING, Any

from k8s_venv.airflow.compat import AirflowSkipException, AirflowTaskTimeout
from k8s_venv.errors import K8sVenvError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k8s_venv.airflow.compat import Context
    from k8s_venv.calls import PackedCall, SentCall


@contextlib.contextmanager
def keeping(call: PackedCall, context: Context, log: Any) -> Iterator[None]:
    """Keep a call when it is over, if it is one of those to keep.

    Args:
        call: the call, which runs in the ``with`` block.
        context: Airflow's context.
        log: the task's logger.
    """
    which = call.environment.calls.keep
    try:
        yield
    except AirflowSkipException:
        if which == "all":
            _advise(_keep(call, context, log, "skipped its task"), log)
        raise
    except (Exception, AirflowTaskTimeout) as error:
        if which != "never":
            _advise(_keep(call, context, log, f"failed with {type(error).__name__}"), log)
        raise
    else:
        if which == "all":
            _advise(_keep(call, context, log, "succeeded"), log)


def keep_deferred(call: PackedCall, context: Context, log: Any) -> None:
    """Keep a call that the triggerer waits for, since the worker that resumes it does not have it.

    Args:
        call: the call.
        context: Airflow's context.
        log: the task's logger.
    """
    if call.environment.calls.keep != "never":
        _keep(call, context, log, "was deferred")


@contextlib.contextmanager
def keeping_deferred(call: SentCall, context: Context, log: Any) -> Iterator[None]:
    """Remove what ``keep_deferred`` has kept of a call that succeeds, unless all are kept; log where it is if it fails.

    Args:
        call: the call, which is resumed in the ``with`` block.
        context: Airflow's context.
        log: the task's logger.
    """
    which = call.environment.calls.keep
    if which == "never":
        yield
        return
    wanted = which == "all"
    try:
        yield
    except AirflowSkipException:
        raise
    except (Exception, AirflowTaskTimeout):
        wanted = True
        raise
    except BaseException:  # it was killed, or starts again and is kept again
        wanted = False
        raise
    finally:
        _settle(call, context, log, wanted=wanted)


def _settle(call: SentCall, context: Context, log: Any, *, wanted: bool) -> None:
    from k8s_venv.calls.kept import forget, is_kept, place_of

    try:
        place = place_of(call.environment, _task(context))
        if not wanted:
            forget(place)
        elif is_kept(place):  # the log said why if it could not be kept
            _advise(place, log)
    except K8sVenvError as error:
        log.warning("The kept call of this task could not be looked after. %s", error)


def _keep(call: PackedCall, context: Context, log: Any, outcome: str) -> str | None:
    """Keep a call and return where; that it cannot be kept must not hide how it ended."""
    from k8s_venv.calls.kept import Facts, keep

    facts = Facts(
        task=_task(context),
        environment=call.environment.name,
        python=call.environment.python,
        lock=_lock_digest(call),
        function=call.function,
        transport=call.transport,
        modules=tuple(sorted(call.modules)),
        connections=tuple(call.secrets.get("connections", ())),
        variables=tuple(call.secrets.get("variables", ())),
        outcome=outcome,
        kept=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    try:
        return keep(call, facts)
    except K8sVenvError as error:
        log.warning("The call could not be kept. %s", error)
        return None


def _task(context: Context) -> str:
    ti = context["ti"]
    mapped = f"[{ti.map_index}]" if ti.map_index is not None and ti.map_index >= 0 else ""
    return f"{ti.dag_id}.{ti.task_id}{mapped} of run {ti.run_id}, try {ti.try_number}"


def _lock_digest(call: PackedCall) -> str:
    from k8s_venv.locks.locking import read_lock

    try:
        return read_lock(call.environment).digest
    except K8sVenvError:  # it needs none, or the failure is just that
        return ""


def _advise(place: str | None, log: Any) -> None:
    if place is not None:
        log.info("The call is kept. To run it again, arguments included: k8s-venv replay %s", place)
