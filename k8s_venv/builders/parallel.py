"""Do the same for several things at once, one after another where they share something, and stop soon when told to."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from filelock import FileLock, Timeout

from k8s_venv.errors import K8sVenvError
from k8s_venv.locks import uv
from k8s_venv.registry import stop_registries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

Thing = TypeVar("Thing")
Outcome = TypeVar("Outcome")

_stopping = threading.Event()
_POLL = 0.2  # seconds


def in_parallel(
    function: Callable[[Thing], Outcome],
    things: Iterable[Thing],
    jobs: int,
    stop: Callable[[], None] | None = None,
) -> list[Outcome]:
    """Call a function for each thing, in threads, and return the outcomes in order.

    The first failure is raised, after what was begun has ended; an interrupt ends that, too.

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
                _stopping.set()
                stop_registries()
                uv.stop()
            if stop is not None:
                stop()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


@contextlib.contextmanager
def one_at_a_time(lock: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a lock that no other thread or process holds meanwhile.

    Args:
        lock: its file.
        waiting: is called when somebody else has it.

    Raises:
        K8sVenvError: the process was told to end before it was free.
    """
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        if waiting is not None:
            waiting()
        while not held.is_locked:
            if _stopping.is_set():
                raise K8sVenvError("The build was interrupted.") from None
            with contextlib.suppress(Timeout):
                held.acquire(timeout=_POLL)
    try:
        yield
    finally:
        held.release()
