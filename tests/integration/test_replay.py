"""Calls that are kept, and `k8s-venv replay`."""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import Command

pytestmark = pytest.mark.usefixtures("no_settings")
HERE = "{}.{}".format(*sys.version_info)
SECRET = "planted-secret"
DAG = """
from airflow.sdk import dag, task

RATE = 2

@task.isolated("etl", connections=["db"], keep={keep!r})
def divide(amounts, by=1):
    from k8s_venv import runtime

    assert runtime.get_connection("db").password
    print("dividing", amounts)
    return [RATE * amount / by for amount in amounts]

@dag(schedule=None)
def sales():
    divide([1, 2, 3], by={by})

sales()
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, cli: Command, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "kept").mkdir()
    text = f'[values]\nlocation = "{tmp_path / "kept"}"\n[environments.etl]\npython = "{HERE}"\n'
    (tmp_path / "k8s-venv.toml").write_text(text, "utf-8")
    monkeypatch.setenv("AIRFLOW_CONN_DB", f"postgres://user:{SECRET}@host/db")
    cli("lock")
    return tmp_path


def run_dag(project: Path, cli: Command, *, keep: str | None = None, by: int = 0) -> str:
    """Run the DAG once, and return what was printed."""
    (project / "sales.py").write_text(DAG.format(keep=keep, by=by), "utf-8")
    ran = cli("test", "--backend", "local", "sales.py")
    return ran.stdout + ran.stderr


def kept_calls(project: Path) -> list[Path]:
    return sorted((project / "kept").iterdir())


def test_a_failed_call_is_run_again_with_its_arguments(project: Path, cli: Command) -> None:
    output = run_dag(project, cli, keep="failed")
    (kept,) = kept_calls(project)
    advised = re.search(r"k8s-venv replay (\S+)", output)

    assert advised is not None, output
    assert advised[1] == str(kept)
    ran = cli("replay", str(kept))

    assert ran.returncode == 1
    assert "dividing [1, 2, 3]" in ran.stdout
    assert "ZeroDivisionError: division by zero" in ran.stderr
    assert "return [RATE * amount / by for amount in amounts]" in ran.stderr
    assert "sales.divide" in ran.stderr


def test_no_secret_is_kept(project: Path, cli: Command) -> None:
    run_dag(project, cli, keep="failed")
    (kept,) = kept_calls(project)

    with zipfile.ZipFile(kept) as outer, zipfile.ZipFile(outer.open("call.pyz")) as inner:
        contents = [archive.read(name) for archive in (outer, inner) for name in archive.namelist()]

    assert not [content for content in contents if SECRET.encode() in content]


def test_connections_are_those_of_who_replays(project: Path, cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dag(project, cli, keep="failed")
    monkeypatch.delenv("AIRFLOW_CONN_DB")

    ran = cli("replay", str(kept_calls(project)[0]))

    assert ran.returncode == 1
    assert "asks for the connection 'db', which is not defined in Airflow" in ran.stderr


def test_what_is_kept_is_a_choice(project: Path, cli: Command) -> None:
    run_dag(project, cli)
    never = kept_calls(project)
    config = project / "k8s-venv.toml"
    config.write_text('calls = { keep = "failed" }\n' + config.read_text(), "utf-8")
    run_dag(project, cli, by=1)
    succeeded = kept_calls(project)
    run_dag(project, cli, keep="all", by=1)
    everything = kept_calls(project)

    assert (never, succeeded, len(everything)) == ([], [], 1)
    assert "returned [2.0, 4.0, 6.0]" in cli("replay", str(everything[0])).stdout


def test_a_kept_call_is_shown_and_not_run(project: Path, cli: Command) -> None:
    run_dag(project, cli, keep="failed")

    ran = cli("replay", "--show", str(kept_calls(project)[0]))

    assert ran.returncode == 0
    assert "environment  etl, Python" in ran.stdout
    assert "connections  db" in ran.stdout
    assert "arguments    [1, 2, 3], by=0" in ran.stdout
    assert "def divide(amounts, by=1):" in ran.stdout
    assert "dividing [1, 2, 3]" not in ran.stdout


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "There is no "),
        (b"", "is not a kept call, or it is damaged"),
        (b"PK\x03\x04 garbled", "is not a kept call, or it is damaged"),
    ],
    ids=["missing", "empty", "garbled"],
)
def test_what_is_no_kept_call_is_refused(project: Path, cli: Command, content: bytes | None, problem: str) -> None:
    place = project / "kept" / "x.call"
    if content is not None:
        place.write_bytes(content)

    ran = cli("replay", str(place))

    assert ran.returncode == 1
    assert problem in ran.stderr
    assert "Traceback" not in ran.stderr


def test_an_environment_that_is_gone_or_has_another_python_is_named(project: Path, cli: Command) -> None:
    run_dag(project, cli, keep="failed")
    (kept,) = kept_calls(project)
    config = project / "k8s-venv.toml"
    declared = config.read_text()
    config.write_text(declared.replace("environments.etl", "environments.elt"), "utf-8")
    gone = cli("replay", str(kept))
    config.write_text(declared.replace(f'"{HERE}"', '"3.8"'), "utf-8")
    other = cli("replay", str(kept))

    assert "etl" in gone.stderr
    assert "elt" in gone.stderr
    assert f"The call was made for Python {HERE}, and environment 'etl' has 3.8 now" in other.stderr


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        (
            'calls = { keep = "failed" }',
            'keep = "failed" needs a place for the calls: name a `location` under [values]',
        ),
        ('calls = { keep = "some" }', "Unknown keep 'some'. Known: never, failed, all."),
        ('calls = { kept = "all" }', "Did you mean 'keep'?"),
        ("calls = 1", "must be a table, such as calls"),
        ('calls = { defer_after = "5s" }', "must be a number of seconds from 0 to 3600, not '5s'"),
        ("calls = { defer_after = -1 }", "must be a number of seconds from 0 to 3600, not -1"),
    ],
)
def test_a_setting_that_keeps_nothing_is_refused(project: Path, cli: Command, setting: str, problem: str) -> None:
    text = f'{setting}\n[environments.etl]\npython = "{HERE}"\n'
    (project / "k8s-venv.toml").write_text(text, "utf-8")

    ran = cli("list")

    assert ran.returncode == 1
    assert problem in ran.stderr
