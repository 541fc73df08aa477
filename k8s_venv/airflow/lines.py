"""The lines that a task prints, in the task's own log."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

# How the runner prints the records of `logging`.
_RECORD = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL) - ")


def line_logger(logger: Any) -> Callable[[str], None]:
    """Return a function that logs a line: records of `logging` at their own level, what is printed as INFO.

    Args:
        logger: the task's logger.
    """

    def log(line: str) -> None:
        record = _RECORD.match(line)
        if record is None:
            logger.info("%s", line)
        else:
            logger.log(logging.getLevelName(record[1]), "%s", line[record.end() :])

    return log
