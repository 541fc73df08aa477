"""Tasks that hand their waiting to the triggerer: the same values, failures, logs and clean-up."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.conftest import RunFile
from tests.cluster.direct import Cluster


def test_values_come_back_whatever_their_size(
    project: Path, run_file: RunFile, cluster: Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    state, tasks = run_file(project / "waiting.py", "deferring")

    assert state == "success"
    assert tasks["small"].value == "x" * 10
    assert tasks["large"].value == "x" * 200_000
    printed = capfd.readouterr().out
    assert printed.count("said while deferred") == 2
    assert printed.count("Phases: scheduled") == 2
    cluster.await_gone("deferring-")


def test_failures_come_back_as_themselves(project: Path, run_file: RunFile, capfd: pytest.CaptureFixture[str]) -> None:
    state, tasks = run_file(project / "waiting.py", "deferring_failures")

    assert state == "failed"
    assert tasks["skips"].state == "skipped"
    printed = capfd.readouterr().out
    assert "ValueError: said when it failed" in printed
    assert "dies() ended without a result: its process left with exit code 7" in printed


def test_exit_codes_skip_and_branches_are_chosen_on_pods(project: Path, run_file: RunFile) -> None:
    _, tasks = run_file(project / "waiting.py", "exit_codes")

    for kind in ("watched", "deferred"):
        assert tasks[f"leaves_{kind}"].state == "skipped"
        assert tasks[f"dies_{kind}"].state == "skipped"
        assert tasks[f"right_{kind}"].state == "skipped"
        assert tasks[f"left_{kind}"].value == "prod"
