"""Wait for what happens in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 180.0  # seconds; a loaded machine takes many times as long as a quiet one


def eventually(ask: Callable[[], T | None], seconds: float = PATIENCE) -> T:
    """Return what a question is answered with, as soon as that is true."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"still {answer!r} after {seconds:.0f} s"
        time.sleep(0.1)
    return answer
