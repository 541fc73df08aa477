"""``k8s-venv lock`` and ``k8s-venv list`` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Command
from tests.faults import BASE
from tests.wheels import make_wheel

PROJECT = f"""
registry = "registry.example.com/airflow"

[environments.etl]
python = "3.12"
requirements = "etl.txt"
base = "{BASE}"

[environments.training]
python = "3.11"
requirements = ["--no-index", "--find-links ./wheels", "own-ml"]
base = "{BASE}"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "k8s-venv.toml").write_text(PROJECT)
    (tmp_path / "etl.txt").write_text("--no-index\n--find-links wheels\nown-lib\n")
    make_wheel(tmp_path / "wheels", "own-lib", "1.0")
    make_wheel(tmp_path / "wheels", "own-ml", "1.0", requires=["own-lib"])
    return tmp_path


def test_check_names_what_is_stale_and_why_and_writes_nothing(project: Path, in_process: Command) -> None:
    in_process("lock", "etl")
    (project / "etl.txt").write_text("--no-index\n--find-links wheels\nown-lib<2\n")
    before = {path.name: path.read_bytes() for path in project.glob("pylock.*")}

    ran = in_process("lock", "--check")

    assert ran.returncode == 1
    assert ran.stdout.splitlines() == [
        "Environment 'etl': its lock is stale: 'own-lib<2' was added; 'own-lib' was removed. Run `k8s-venv lock etl`.",
        f"Environment 'training': it was never locked: {project / 'pylock.training.toml'} does not exist. "
        "Run `k8s-venv lock training`.",
    ]
    assert {path.name: path.read_bytes() for path in project.glob("pylock.*")} == before


def test_check_can_be_asked_about_some(project: Path, in_process: Command) -> None:
    in_process("lock", "etl")

    assert in_process("lock", "--check", "etl").returncode == 0
    assert in_process("lock", "--check", "training").returncode == 1


def test_upgrade_takes_the_newest_and_says_what_changed(project: Path, in_process: Command) -> None:
    in_process("lock")
    make_wheel(project / "wheels", "own-lib", "2.0")
    make_wheel(project / "wheels", "own-ml", "3.0")

    kept, upgraded = in_process("lock"), in_process("lock", "--upgrade")

    assert "etl       locked 1 package in pylock.etl.toml, the same versions" in kept.stderr
    assert "etl       locked 1 package in pylock.etl.toml: own-lib 1.0 → 2.0 (" in upgraded.stderr
    assert "in pylock.training.toml: own-lib 1.0 → 2.0, own-ml 1.0 → 3.0, " not in upgraded.stderr
    assert "locked 1 package in pylock.training.toml: own-ml 1.0 → 3.0, − own-lib" in upgraded.stderr


def test_upgrade_package_leaves_the_others(project: Path, in_process: Command) -> None:
    in_process("lock")
    make_wheel(project / "wheels", "own-lib", "2.0")
    make_wheel(project / "wheels", "own-ml", "2.0", requires=["own-lib"])

    ran = in_process("lock", "-P", "Own_Lib")

    assert "pylock.etl.toml: own-lib 1.0 → 2.0 (" in ran.stderr
    assert "pylock.training.toml: own-lib 1.0 → 2.0 (" in ran.stderr


def test_upgrading_what_is_not_there_is_refused(project: Path, in_process: Command) -> None:
    in_process("lock")

    ran = in_process("lock", "--upgrade-package", "own-libs")

    assert ran.returncode == 1
    assert "No lock of etl, training has a package 'own-libs'. Did you mean 'own-lib'?" in ran.stderr


def test_check_and_upgrade_exclude_each_other(project: Path, in_process: Command) -> None:
    ran = in_process("lock", "--check", "--upgrade")

    assert ran.returncode == 2
    assert "--check writes nothing, so there is nothing to upgrade." in ran.stderr


def test_list_shows_each_environment_its_lock_and_its_image(project: Path, in_process: Command) -> None:
    in_process("lock", "etl")
    with (project / "k8s-venv.toml").open("a") as stream:
        stream.write('[environments.own-image]\npython = "3.9"\nimage = "registry.example.com/ours:1"\n')

    header, *rows = in_process("list").stdout.splitlines()

    assert header.split() == ["environment", "Python", "lock", "packages", "image"]
    etl, training, own = (row.split() for row in rows)
    assert etl[:4] == ["etl", "3.12", "fresh", "1"]
    assert etl[4].startswith("registry.example.com/airflow/etl:")
    assert training == ["training", "3.11", "missing", "-"]
    assert own == ["own-image", "3.9", "none", "registry.example.com/ours:1"]


def test_list_says_why_a_lock_is_stale(project: Path, in_process: Command) -> None:
    in_process("lock", "etl")
    (project / "etl.txt").write_text("own-lib==1.0\n")

    table, (found,) = in_process("list", "etl"), json.loads(in_process("list", "--json", "etl").stdout)

    assert table.stdout.splitlines()[1].split() == ["etl", "3.12", "stale", "-"]
    assert "etl: its lock is stale: 'own-lib==1.0' was added; " in table.stderr
    assert (found["environment"], found["lock"], found["image"], found["tasks"]) == ("etl", "stale", None, None)
    assert found["why"].startswith("its lock is stale: 'own-lib==1.0' was added; ")
