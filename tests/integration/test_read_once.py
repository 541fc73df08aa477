"""A command reads each requirements file and each lock of a project once."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.airflow_home import AIRFLOW, require_airflow
from tests.wheels import make_wheel

HERE = "{}.{}".format(*sys.version_info)
READ_ONCE = {f"{name}.txt": 1 for name in ("one", "two")} | {f"pylock.{name}.toml": 1 for name in ("one", "two")}
DAG = f"""
from {AIRFLOW} import dag, task

@dag(schedule=None)
def both():
    @task.isolated("one")
    def first():
        import own_lib
        return own_lib.VERSION

    @task.isolated("two")
    def second(value):
        import own_lib
        return value

    second(first())

both()
"""
# Runs the command, and writes the name of each file that it reads.
PROGRAM = """
import os, sys

log = os.open("reads", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def note(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, os.PathLike)) and "w" not in str(arguments[1]):
        os.write(log, os.fsencode(os.path.basename(os.fspath(arguments[0])) + "\\n"))

sys.addaudithook(note)

from k8s_venv.cli import main

main()
"""
Reads = Callable[..., dict[str, int]]


@pytest.fixture
def reads(tmp_path: Path, no_settings: None) -> Reads:
    """Return a function that runs a command on two locked environments, and counts what it reads of their files."""
    project = 'registry = "registry.example.com/airflow"\n'
    for name in ("one", "two"):
        project += f'[environments.{name}]\npython = "{HERE}"\nrequirements = "{name}.txt"\n'
        (tmp_path / f"{name}.txt").write_text("--no-index\n--find-links ./wheels\nown-lib\n")
    (tmp_path / "k8s-venv.toml").write_text(project)
    make_wheel(tmp_path / "wheels", "own-lib")
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "both.py").write_text(DAG)

    def run(*arguments: str) -> dict[str, int]:
        (tmp_path / "reads").unlink(missing_ok=True)
        ran = subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
        return {
            name: count
            for name, count in Counter((tmp_path / "reads").read_text().split("\n")).items()
            if name in READ_ONCE
        }

    run("lock")
    return run


@pytest.mark.parametrize(
    "command",
    [
        "lock",
        "lock -P own-lib",
        "lock --check",
        "list",
        "helm-values",
        "check dags",
        "test --backend local dags/both.py",
    ],
)
def test_a_command_reads_requirements_and_locks_once(reads: Reads, command: str) -> None:
    if command.startswith(("check", "test")):
        require_airflow()

    assert reads(*command.split()) == READ_ONCE


@pytest.mark.cluster
@pytest.mark.parametrize("command", ["build-images --dry-run", "build-images --output images.tar"])
def test_a_build_reads_requirements_and_locks_once(
    reads: Reads, command: str, test_registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("K8S_VENV_REGISTRY", f"{test_registry}/read-once")

    assert reads(*command.split()) == READ_ONCE
