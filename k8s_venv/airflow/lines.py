"""The lines that a task prints, in the task's own log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from k8s_venv.backends.process import STDERR, parse_line

if TYPE_CHECKING:
    from collections.abc import Callable


def line_logger(logger: Any, mask: Callable[[str], str] = str) -> Callable[[str], None]:
    """Return a function that logs a line: records of ``logging`` at their own level, what is printed as INFO.

    What goes to standard error is logged as a warning, which tells it apart.

    Args:
        logger: the task's logger.
        mask: hides secrets that the runner did not see, since another process printed them.
    """
    levels = {"": logging.INFO, STDERR: logging.WARNING, "NOTSET": logging.INFO}

    def log(line: str) -> None:
        for kind, text in parse_line(mask(line)):
            level = levels.get(kind) or logging.getLevelName(kind)
            if isinstance(level, int):
                logger.log(level, "%s", text)
            else:  # a level of the user's own
                logger.info("%s", f"{kind} - {text}")

    return log
