"""What Airflow's metrics show of isolated tasks: calls and their outcomes, claims of waiting pods, phases.

They are sent once for a call, when its outcome is known, by the worker that saw it; never does one fail a task.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
from typing import TYPE_CHECKING, Any

from k8s_venv.airflow.compat import AirflowSkipException, AirflowTaskTimeout, TaskDeferred, stats
from k8s_venv.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from k8s_venv.backends.kubernetes.pod_runner import PodRunner

PREFIX = "k8s_venv"

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def measured(environment: str, backend: str, runner: Callable[[], PodRunner | None]) -> Iterator[None]:
    """Send a call's metrics when the block ends, unless the call goes on in the triggerer.

    Args:
        environment: the environment's name.
        backend: where the call runs.
        runner: returns what ran the call in a pod, if something did.
    """
    try:
        yield
    except TaskDeferred:
        raise
    except BaseException as error:
        _send(environment, backend, _outcome(error), runner())
        raise
    _send(environment, backend, "success", runner())


def _outcome(error: BaseException) -> str:
    if isinstance(error, AirflowSkipException):
        return "skipped"
    if isinstance(error, AirflowTaskTimeout):
        return "timeout"
    return "lost" if isinstance(error, BackendError) else "failed"


def _send(environment: str, backend: str, outcome: str, runner: PodRunner | None) -> None:
    try:
        tags = {"environment": environment}
        sink = stats()
        sink.incr(f"{PREFIX}.calls", tags={**tags, "backend": backend, "outcome": outcome})
        if runner is not None:
            _send_start(sink, tags, runner)
    except Exception:  # noqa: BLE001 -- what observes a task must not decide about it
        _log.debug("Metrics could not be sent.", exc_info=True)


def _send_start(sink: Any, tags: dict[str, str], runner: PodRunner) -> None:
    start = runner.start
    if start.kind == "warm" and not runner.taken_over:
        sink.incr(f"{PREFIX}.warm.hit", tags=tags)
    elif start.missed is not None:
        sink.incr(f"{PREFIX}.warm.miss", tags={**tags, "reason": start.missed})
    for phase, seconds in runner.phases.items():
        # Of numbers Airflow's senders think as seconds or as milliseconds, by version and setting.
        duration = datetime.timedelta(seconds=seconds)
        sink.timing(f"{PREFIX}.phase.{phase}", duration, tags={**tags, "start": start.kind})
