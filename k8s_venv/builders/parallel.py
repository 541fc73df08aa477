"""Call a function for several things at once, and end soon at an interrupt."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from k8s_venv import cache
from k8s_venv.locks import uv
from k8s_venv.registry import stop_registries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Thing = TypeVar("Thing")
Outcome = TypeVar("Outcome")


def in_parallel(
    function: Callable[[Thing], Outcome],
    things: Iterable[Thing],
    jobs: int,
    stop: Callable[[], None] | None = None,
) -> list[Outcome]:
    """Call a function for each thing, in threads, and return the outcomes in order.

    The first failure is raised after the calls that run have ended. An interrupt ends these calls, too.

    Args:
        function: what to call.
        things: its arguments.
        jobs: how many calls may run at once.
        stop: ends the calls that run.
    """
    with ThreadPoolExecutor(jobs) as pool:
        try:
            return list(pool.map(function, things))
        except BaseException as error:
            if not isinstance(error, Exception):
                cache.stop_waiting()
                stop_registries()
                uv.stop()
            if stop is not None:
                stop()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
