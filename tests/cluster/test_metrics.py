"""What Airflow's metrics show of tasks in pods."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.airflow_home import airflow_home
from tests.cluster.conftest import RunFile
from tests.metrics import Metrics


def test_a_deferred_call_is_counted_once_and_its_phases_are_timed(
    project: Path, run_file: RunFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    airflow_home()
    metrics = Metrics.kept(monkeypatch)

    run_file(project / "waiting.py", "deferring")

    success = {"environment": "current", "backend": "kubernetes", "outcome": "success"}
    assert metrics.of("k8s_venv.calls") == [success] * 2
    assert not metrics.of("k8s_venv.warm.miss")  # no pod waits for calls of this environment
    phases = {name for name, _, tags in metrics.timed if tags == {"environment": "current", "start": "cold"}}
    parts = ("scheduled", "start", "image", "imports", "run", "result")
    assert phases == {f"k8s_venv.phase.{part}" for part in parts}
    assert all(0 <= seconds < 300 for _, seconds, _ in metrics.timed)
