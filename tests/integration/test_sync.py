"""`k8s-venv sync`: environments at paths that stay, for editors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Command

pytestmark = pytest.mark.usefixtures("no_settings")
HERE = "{}.{}".format(*sys.version_info)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    declare(tmp_path, "idna==3.10")
    return tmp_path


def declare(folder: Path, requirement: str) -> None:
    text = f'[environments.etl]\npython = "{HERE}"\nrequirements = ["{requirement}"]\n'
    text += f'[environments.bare]\npython = "{HERE}"\nrequirements = []\n'
    (folder / "k8s-venv.toml").write_text(text, "utf-8")


def version_of_idna(python: Path) -> str:
    code = "import idna, sys; print(idna.__version__)"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_each_environment_gets_a_path(project: Path, cli: Command) -> None:
    ran = cli("sync")

    assert ran.returncode == 0, ran.stderr
    assert [line.split() for line in ran.stdout.splitlines()[1:]] == [
        ["etl", HERE, str(project / ".k8s-venv" / "etl" / "bin" / "python")],
        ["bare", HERE, str(project / ".k8s-venv" / "bare" / "bin" / "python")],
    ]
    assert version_of_idna(project / ".k8s-venv" / "etl" / "bin" / "python") == "3.10"


def test_git_sees_none_of_it(project: Path, cli: Command) -> None:
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    cli("sync", "bare")

    status = subprocess.run(["git", "status", "--short"], cwd=project, capture_output=True, text=True, check=True)

    assert status.stdout.split() == ["??", "k8s-venv.toml", "??", "pylock.bare.toml"]


@pytest.mark.parametrize(
    "command", [("sync", "etl"), ("run", "etl", "--backend", "local", "--", "python", "-V")], ids=["sync", "run"]
)
def test_the_path_follows_the_lock(project: Path, cli: Command, command: tuple[str, ...]) -> None:
    cli("sync", "etl")
    declare(project, "idna==3.7")

    ran = cli(*command)

    assert ran.returncode == 0, ran.stderr
    assert "its lock is stale: 'idna==3.7' was added; 'idna==3.10' was removed. Locking it again." in ran.stderr
    assert version_of_idna(project / ".k8s-venv" / "etl" / "bin" / "python") == "3.7"


@pytest.mark.parametrize(
    "command",
    [("sync", "etl", "--locked"), ("run", "etl", "--locked", "--backend", "local", "--", "python", "-V")],
    ids=["sync", "run"],
)
def test_a_stale_lock_is_refused_on_request(project: Path, cli: Command, command: tuple[str, ...]) -> None:
    cli("lock", "etl")
    declare(project, "idna==3.7")

    ran = cli(*command)

    assert ran.returncode == 1
    assert "its lock is stale: 'idna==3.7' was added" in ran.stderr
    assert "Run `k8s-venv lock etl`" in ran.stderr


def test_a_lock_that_was_changed_by_hand_is_left_to_its_owner(project: Path, cli: Command) -> None:
    cli("lock", "etl")
    lock = project / "pylock.etl.toml"
    lock.write_text(lock.read_text("utf-8").replace('version = "3.10"', 'version = "3.9"'), "utf-8")

    ran = cli("sync", "etl")

    assert ran.returncode == 1
    assert "was changed by hand" in ran.stderr
    assert 'version = "3.9"' in lock.read_text("utf-8")


def test_the_settings_of_editors_name_the_interpreter(project: Path, cli: Command) -> None:
    vscode = json.loads(cli("sync", "bare", "--editor", "vscode").stdout)
    pyright = json.loads(cli("sync", "bare", "--editor", "pyright").stdout)
    pycharm = cli("sync", "bare", "--editor", "pycharm").stdout

    interpreter = vscode["python.defaultInterpreterPath"].replace("${workspaceFolder}", str(project))
    assert Path(interpreter).exists()
    assert (project / pyright["venvPath"] / pyright["venv"] / "pyvenv.cfg").exists()
    assert Path(pycharm.splitlines()[-1]).exists()


def test_an_editor_takes_one_environment(project: Path, cli: Command) -> None:
    ran = cli("sync", "--editor", "vscode")

    assert ran.returncode == 1
    assert "Name one environment of etl, bare." in ran.stderr


def test_a_folder_in_its_place_is_left_alone(project: Path, cli: Command) -> None:
    own = project / ".k8s-venv" / "bare"
    own.mkdir(parents=True)
    (own / "notes.txt").touch()

    ran = cli("sync", "bare")

    assert ran.returncode == 1
    assert f"{own} is a folder" in ran.stderr
    assert (own / "notes.txt").exists()
