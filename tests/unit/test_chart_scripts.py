"""The scripts that the chart brings to the cluster, by themselves; the cluster tests run them there."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
from typing import Any

import janitor
import pytest

from tests.chart import CHART
from tests.interpreters import environment

NOW = datetime.datetime(2026, 1, 2, 12, tzinfo=datetime.UTC)


def pod(phase: str, *, created: str = "2026-01-01T12:00:00Z", **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "x", "creationTimestamp": created}, "status": {"phase": phase, **status}}


def containers(**states: str) -> dict[str, Any]:
    """Return statuses of containers by their state and when it ended."""
    found = [{"state": {state: {"finishedAt": end} if end else {}}} for state, end in states.items()]
    return {"containerStatuses": found}


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (pod("Succeeded", **containers(terminated="2026-01-02T09:00:00Z")), "succeeded 3.0 h ago"),
        (pod("Failed", **containers(terminated="2026-01-02T09:00:00Z")), "failed 3.0 h ago"),
        (pod("Succeeded", **containers(terminated="2026-01-02T11:00:00Z")), None),
        (pod("Failed", conditions=[{"lastTransitionTime": "2026-01-02T11:00:00Z"}]), None),
        (pod("Failed"), "failed 24.0 h ago"),
        (pod("Running", **containers(running="")), None),
        (pod("Running", **containers(terminated="2026-01-01T13:00:00Z", running="")), None),
        (pod("Unknown", **containers(terminated="2026-01-01T13:00:00Z")), None),
        (pod("Pending", **containers(waiting="")), "has not started for 24.0 h"),
        (pod("Pending", **containers(waiting="", running="")), None),
        (pod("Pending", initContainerStatuses=[{"state": {"running": {}}}]), None),
        (pod("Pending", created="2026-01-02T09:00:00Z"), None),
    ],
)
def test_the_janitor_takes_what_ended_or_never_started_long_ago(state: dict[str, Any], reason: str | None) -> None:
    assert janitor.reason_to_delete(state, NOW, finished_hours=2, pending_hours=10) == reason


def test_the_janitor_leaves_what_is_being_deleted() -> None:
    leaving = pod("Succeeded")
    leaving["metadata"]["deletionTimestamp"] = "2026-01-02T11:59:00Z"

    assert janitor.reason_to_delete(leaving, NOW, finished_hours=0, pending_hours=0) is None


@pytest.mark.parametrize("python", ["3.8", "3.12"])
def test_the_self_check_compares_python_and_packages_as_pip_does(package_index: None, python: str) -> None:
    packages = {"zope-interface": "6.4", "Zope_Interface": "6.04", "zope.interface": "6.5", "numpy": "1.24.4"}
    expected = json.dumps({"python": "3.7", "packages": packages})
    command = [environment(python, "zope.interface==6.4"), str(CHART / "files" / "self_check.py")]

    ran = subprocess.run(
        command, env={**os.environ, "K8S_VENV_EXPECTED": expected}, capture_output=True, text=True, check=False
    )

    assert (ran.returncode, ran.stderr) == (1, "")
    # What it says of the pod depends on who runs the tests.
    of_the_image = [line for line in ran.stdout.splitlines() if line.startswith(("The image", "The package"))]
    said, *packages_said = of_the_image
    assert said.startswith(f"The image's `python` is {python} (")
    assert packages_said == [
        "The package zope.interface is locked at 6.5, but the image has 6.4.",
        "The package numpy is locked at 1.24.4, but is not in the image.",
    ]
