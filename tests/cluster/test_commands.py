"""`@task.isolated_cmd` and `files` in pods."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.conftest import RunFile


def test_a_project_of_queries_runs_in_pods(project: Path, run_file: RunFile, capfd: pytest.CaptureFixture[str]) -> None:
    state, tasks = run_file(project / "commands.py", "commands")

    printed = capfd.readouterr().out
    text = (project / "models" / "staging" / "orders.sql").read_text("utf-8")
    assert {name: task.state for name, task in tasks.items()} == {
        "models": "success",
        "fails": "failed",
        "deferred": "success",
        "length": "success",
    }, printed
    assert state == "failed"
    assert tasks["models"].value == tasks["deferred"].value == {"rows": [2, 3], "day": "monday"}
    assert tasks["length"].value == len(text)
    assert "orders.sql [2, 3]" in printed
    assert "Task 'fails': the command ended with exit code 3" in printed
