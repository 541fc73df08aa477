"""What Airflow's metrics show of isolated tasks."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.airflow_home import RunText
from tests.metrics import Metrics

OUTCOMES = """
@dag(schedule=None)
def pipeline():
    @task.isolated("same")
    def works():
        return 1

    @task.isolated("same")
    def skips():
        runtime.skip("nothing to do")

    @task.isolated("same")
    def fails():
        raise ValueError("by design")

    @task.isolated("same")
    def dies():
        import os

        os._exit(3)

    @task.isolated("same", skip_on_exit_code=4)
    def dies_as_agreed():
        import os

        os._exit(4)

    [works(), skips(), fails(), dies(), dies_as_agreed()]

pipeline()
"""


def test_a_call_is_counted_once_with_its_outcome(run_text: RunText, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics.kept(monkeypatch)

    run_text(OUTCOMES)

    calls = metrics.of("k8s_venv.calls")
    assert {(tags["environment"], tags["backend"]) for tags in calls} == {("same", "local")}
    assert Counter(tags["outcome"] for tags in calls) == {"success": 1, "skipped": 2, "failed": 1, "lost": 1}


def test_a_task_does_not_fail_with_its_metrics(run_text: RunText, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics.kept(monkeypatch)
    from k8s_venv.airflow.compat import stats

    def broken(name: str = "", *arguments: object, **options: object) -> None:
        if name.startswith("k8s_venv."):
            raise OSError("no route to the collector of metrics")

    monkeypatch.setattr(stats(), "incr", broken)

    states, values = run_text(
        """
@dag(schedule=None)
def pipeline():
    @task.isolated("same")
    def works():
        return 1
    works()

pipeline()
"""
    )

    assert (states["works"], values["works"]) == ("success", 1)
    assert not metrics.of("k8s_venv.calls")
