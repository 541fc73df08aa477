"""Calls of pods that are kept at a bucket, and run again on this machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from tests.cluster.conftest import RunFile
from tests.cluster.test_large_values import bucket, names_in

__all__ = ["bucket"]
PROGRAM = [sys.executable, "-c", "from k8s_venv.cli import main; main(prog_name='k8s-venv')"]


def test_calls_that_failed_in_pods_are_run_again_here(
    project: Path, run_file: RunFile, bucket: str, capfd: pytest.CaptureFixture[str]
) -> None:
    state, tasks = run_file(project / "kept.py", "keeping", KEPT_AT=bucket)

    printed = capfd.readouterr().out
    places = sorted(set(re.findall(r"k8s-venv replay (s3://\S+)", printed)))
    assert (state, tasks["succeeds"].value) == ("failed", 0.5)
    assert re.findall(r"keeping\.(\w+)-of-run", " ".join(places)) == ["divide", "fails"], printed
    assert len([name for name in names_in(bucket) if name.endswith(".call")]) == 2  # that of the success is removed
    variables = {**os.environ, "FSSPEC_S3": json.dumps(fsspec.config.conf["s3"])}
    for place in places:
        replayed = subprocess.run(
            [*PROGRAM, "replay", place], cwd=project, env=variables, capture_output=True, text=True, check=False
        )
        assert replayed.returncode == 1
        assert "ZeroDivisionError: division by zero" in replayed.stderr
