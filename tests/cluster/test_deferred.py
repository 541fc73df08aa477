"""Tasks that hand their waiting to the triggerer: the same values, failures, logs and clean-up."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import RunFile


def nothing_is_left(client: Any, namespace: str, dag: str) -> bool:
    """Wait until a DAG's pods and their Secrets are gone."""
    for _ in range(60):
        things = [*client.list_namespaced_pod(namespace).items, *client.list_namespaced_secret(namespace).items]
        if not [thing for thing in things if thing.metadata.name.startswith(f"{dag}-")]:
            return True
        time.sleep(1)
    return False


def test_values_come_back_whatever_their_size(
    project: Path, run_file: RunFile, client: Any, namespace: str, capfd: pytest.CaptureFixture[str]
) -> None:
    state, tasks = run_file(project / "waiting.py", "deferring")

    assert state == "success"
    assert tasks["small"].value == "x" * 10
    assert tasks["large"].value == "x" * 200_000
    printed = capfd.readouterr().out
    assert printed.count("said while deferred") == 2
    assert printed.count("Phases: scheduled") == 2
    assert nothing_is_left(client, namespace, "deferring")


def test_failures_come_back_as_themselves(project: Path, run_file: RunFile, capfd: pytest.CaptureFixture[str]) -> None:
    state, tasks = run_file(project / "waiting.py", "deferring_failures")

    assert state == "failed"
    assert tasks["skips"].state == "skipped"
    printed = capfd.readouterr().out
    assert "ValueError: said when it failed" in printed
    assert "dies() ended without a result: its process left with exit code 7" in printed
