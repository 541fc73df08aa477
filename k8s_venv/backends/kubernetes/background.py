"""Work that goes on in a thread while something else is waited for."""

from __future__ import annotations

import contextvars
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def in_background(work: Callable[[], T]) -> Callable[[], T]:
    """Begin some work in a thread, and return a function that waits for its result, or raises what it raised.

    Args:
        work: the work.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 -- raised where the result is asked for
            future.set_exception(error)

    start_thread(run, "k8s-venv-work")
    return future.result


def start_thread(work: Callable[[], None], name: str) -> threading.Thread:
    """Start a thread that ends with the process, and knows what the task's logger knows about the task.

    Args:
        work: what it does.
        name: its name.
    """
    run = contextvars.copy_context().run
    thread = threading.Thread(target=run, args=(work,), daemon=True, name=name)
    thread.start()
    return thread
