"""Records of ``logging``, marked as ``streams`` marks what is printed."""

from __future__ import annotations

import logging

from k8s_venv.runner import streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def show(stream: Any) -> None:
    """Show records from INFO on, as Airflow does in place.

    Args:
        stream: standard output, as the function finds it.
    """
    root = logging.getLogger()
    root.addHandler(_Handler(stream))
    root.setLevel(logging.INFO)


_StreamHandler: Any = logging.StreamHandler  # generic to type checkers alone


class _Handler(_StreamHandler):  # type: ignore[misc]
    """Shows records on lines of their own, unless the function gives it another stream.

    Args:
        stream: standard output.
    """

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._own = stream

    def emit(self, record: logging.LogRecord) -> None:
        if self.stream is not self._own:
            super().emit(record)
            return
        try:
            streams.say(record.levelname, self.format(record))
        except Exception:  # noqa: BLE001 -- an argument's own methods
            self.handleError(record)
