"""Metrics that Airflow would send, kept."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

import pytest


@dataclasses.dataclass
class Metrics:
    """What was sent, in the place of Airflow's sender.

    Args:
        counted: names and tags of counters, in order.
        timed: names, seconds and tags of timings, in order.
    """

    counted: list[tuple[str, dict[str, str]]] = dataclasses.field(default_factory=list)
    timed: list[tuple[str, float, dict[str, str]]] = dataclasses.field(default_factory=list)

    def incr(self, name: str = "", *_: Any, tags: dict[str, str] | None = None, **__: Any) -> None:
        self.counted.append((name, tags or {}))

    def timing(
        self,
        name: str = "",
        duration: datetime.timedelta | float = 0.0,
        *_: Any,
        tags: dict[str, str] | None = None,
        **__: Any,
    ) -> None:
        if isinstance(duration, datetime.timedelta):  # others are Airflow's own
            self.timed.append((name, duration.total_seconds(), tags or {}))

    def of(self, name: str) -> list[dict[str, str]]:
        """Return the tags of a counter's calls."""
        return [tags for counted, tags in self.counted if counted == name]

    @classmethod
    def kept(cls, monkeypatch: pytest.MonkeyPatch) -> Metrics:
        """Take the place of Airflow's sender until the test ends."""
        from k8s_venv.airflow.compat import stats

        metrics = cls()
        monkeypatch.setattr(stats(), "incr", metrics.incr, raising=False)
        monkeypatch.setattr(stats(), "timing", metrics.timing, raising=False)
        return metrics
