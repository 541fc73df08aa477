"""Tasks that hand their waiting to the triggerer: the same values, failures, logs and clean-up."""

from __future__ import annotations

import asyncio
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks._cluster import make_context
from tests.cluster.conftest import RunFile, worker_environment
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
    assert printed.count("Phases of a cold start: scheduled") == 2
    cluster.await_gone("deferring-")


def test_only_a_call_that_takes_longer_leaves_its_worker(
    project: Path, run_file: RunFile, cluster: Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    state, tasks = run_file(project / "waiting.py", "deferring_late")

    printed = capfd.readouterr().out
    assert (state, tasks["short"].value, tasks["long"].value) == ("failed", 1, 2)
    assert "ValueError: said when it failed soon" in printed
    assert [printed.count(f"said by a {kind} call") for kind in ("short", "long")] == [1, 1]
    assert printed.count("Pausing task as DEFERRED") == 1
    cluster.await_gone("deferring-late-")


def test_failures_come_back_as_themselves(project: Path, run_file: RunFile, capfd: pytest.CaptureFixture[str]) -> None:
    state, tasks = run_file(project / "waiting.py", "deferring_failures")

    assert state == "failed"
    assert tasks["skips"].state == "skipped"
    printed = capfd.readouterr().out
    assert "ValueError: said when it failed" in printed
    assert "dies() ended without a result: its process left with exit code 7" in printed


def test_a_call_whose_worker_goes_on_is_not_packed_again(
    project: Path, worker: Path, namespace: str, registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with worker_environment(project, worker, namespace, K8S_VENV_REGISTRY=registry):
        from k8s_venv.airflow import operators
        from k8s_venv.airflow.compat import AIRFLOW_3
        from k8s_venv.airflow.loading import load_dag

        deferral_type = importlib.import_module(f"airflow.{'sdk.' if AIRFLOW_3 else ''}exceptions").TaskDeferred
        task: Any = load_dag(project / "waiting.py", "deferring_own_error").get_task("stops")
        context = make_context(task)
        with pytest.raises(deferral_type) as deferral:
            task.prepare_for_execution().execute(context)
        deferred: Any = deferral.value
        event = asyncio.run(first_event(deferred.trigger))
        kept = json.loads(json.dumps(deferred.kwargs))  # as Airflow's database keeps it
        monkeypatch.setattr(operators, "pack", lambda *_, **__: pytest.fail("it was packed again"))

        own_type = task.python_callable.__globals__["StoppedError"]
        with pytest.raises(own_type, match="stopped by itself"):
            task.prepare_for_execution().trigger_reentry(context, event, **kept)


async def first_event(trigger: Any) -> Any:
    async for event in trigger.run():
        return event.payload
    raise AssertionError("it never fired")


def test_exit_codes_skip_and_branches_are_chosen_on_pods(project: Path, run_file: RunFile) -> None:
    _, tasks = run_file(project / "waiting.py", "exit_codes")

    for kind in ("watched", "deferred"):
        assert tasks[f"leaves_{kind}"].state == "skipped"
        assert tasks[f"dies_{kind}"].state == "skipped"
        assert tasks[f"right_{kind}"].state == "skipped"
        assert tasks[f"left_{kind}"].value == "prod"
