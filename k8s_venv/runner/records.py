"""Records of ``logging``, marked as ``streams`` marks what is printed."""

from __future__ import annotations

import logging

from k8s_venv.runner.protocol import MARK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def show(stream: Any) -> None:
    """Show records from INFO on, as Airflow does in place.

    Args:
        stream: where they go.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Formatter())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)


class _Formatter(logging.Formatter):
    """Marks each line of a record with its level."""

    def format(self, record: logging.LogRecord) -> str:
        mark = f"{MARK}{record.levelname} - "
        return "\n".join(mark + line for line in super().format(record).split("\n"))
