"""``k8s-venv init`` and what can be done at once with what it wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.airflow_home import require_airflow


@pytest.fixture(autouse=True)
def airflow() -> None:
    require_airflow()


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "K8S_VENV_PROJ"))}
    command = [sys.executable, "-c", "from k8s_venv.cli import main; main(prog_name='k8s-venv')", *arguments]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)


@pytest.mark.usefixtures("package_index")
def test_the_starter_dag_runs_at_once_passes_the_checks_and_is_listed(tmp_path: Path) -> None:
    made = run(tmp_path, "init")
    command = made.stderr.strip().splitlines()[-1].split()

    ran = run(tmp_path, *command[1:])

    assert command == ["k8s-venv", "test", "--backend", "local", "dags/hello_isolated.py"]
    assert ran.returncode == 0, ran.stderr
    assert "'a day on Python {}.{}.".format(*sys.version_info) in ran.stdout
    assert run(tmp_path, "lock", "--check").returncode == 0
    checked = run(tmp_path, "check", "dags")
    assert (checked.returncode, checked.stdout) == (0, ""), checked.stderr
    (tmp_path / "dags" / "broken.py").write_text("from airflow.sdk import dag\nimport nothing_like_it\n")
    listed = run(tmp_path, "list", "--json", "--tasks", "dags")
    (found,) = json.loads(listed.stdout)
    assert (found["environment"], found["lock"], found["tasks"]) == ("hello", "fresh", ["hello_isolated.in_words"])
    assert "broken.py:2: ModuleNotFoundError: No module named 'nothing_like_it'" in listed.stderr
