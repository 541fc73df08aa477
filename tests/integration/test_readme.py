"""The README shows real files, and a real run's output."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.airflow_home import require_airflow
from tests.readme import ROOT, blocks, commands, without_numbers

README = ROOT / "README.md"


@pytest.mark.parametrize(
    ("language", "file"),
    [("toml", "k8s-venv.toml"), ("text", "requests-new.txt"), ("python", "dags/conflicting_requests.py")],
)
def test_the_first_screen_shows_the_examples_files(language: str, file: str) -> None:
    shown = next(block.text for block in blocks(README) if block.language == language)

    assert shown in (ROOT / "examples" / file).read_text("utf-8")


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    folder = tmp_path / "examples"
    shutil.copytree(ROOT / "examples", folder, ignore=shutil.ignore_patterns("pylock.*", "__pycache__"))
    return folder


def _run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    require_airflow()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    return subprocess.run(
        ["bash", "-euc", command], cwd=folder, env=environ, capture_output=True, text=True, check=False
    )


def test_the_shown_output_is_what_the_command_prints(examples: Path) -> None:
    shown = next(block.text for block in blocks(README) if block.language == "console")
    command, _, output = shown.partition("\n")

    run = _run(command.removeprefix("$ "), examples.parent)

    assert run.returncode == 0, run.stderr
    assert sorted(without_numbers(run.stdout)) == sorted(without_numbers(output))


@pytest.mark.parametrize("command", commands(ROOT / "examples" / "README.md"))
def test_the_commands_of_the_examples_readme_work(examples: Path, command: str) -> None:
    run = _run(command, examples)

    assert run.returncode == 0, run.stderr + run.stdout


def test_the_commands_about_locks_work(examples: Path) -> None:
    run = _run(" && ".join(commands(README, "Locks")), examples)

    assert run.returncode == 0, run.stderr
    listed = {line.split()[0]: line.split() for line in run.stdout.splitlines()}
    assert listed["requests-old"][2] == "fresh"
    assert listed["requests-old"][-1] == "conflicting_requests.old"


def test_the_commands_that_run_programs_work(examples: Path) -> None:
    locked = _run("k8s-venv lock requests-new", examples)
    assert locked.returncode == 0, locked.stderr
    run = _run(" && ".join(commands(README, "Inside an environment")), examples)

    assert run.returncode == 0, run.stderr
    assert "pytest " in run.stdout
    assert (examples / ".k8s-venv" / "requests-new" / "bin" / "python").exists()
