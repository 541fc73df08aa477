"""Data files that travel with a call: which ones a pattern means, and which are refused."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k8s_venv.calls import pack
from k8s_venv.calls.call_digest import call_digest
from k8s_venv.calls.capturing import capture
from k8s_venv.calls.files import data_files
from k8s_venv.check.data_files import files_left_behind
from k8s_venv.config.environment import Environment, file_patterns
from k8s_venv.errors import CallError
from tests.calls import load_dag_file

NAMES = st.text(st.characters(categories=["L", "N", "Zs"]), min_size=1, max_size=8).map(lambda name: f"{name}.x")


def _module(folder: Path, text: str) -> ModuleType:
    (folder / "jobs.py").write_text(text)
    return load_dag_file(folder / "jobs.py")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.dictionaries(NAMES.filter(str.isprintable), st.binary(max_size=50), min_size=1, max_size=4))
def test_files_keep_their_names_and_content(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("project")
    for name, content in files.items():
        (root / name).write_bytes(content)

    found = data_files(["**"], root)

    assert {str(name): content for name, _, content in found} == files
    assert [name for name, _, _ in found] == sorted(files)


def test_a_program_stays_one(tmp_path: Path) -> None:
    (tmp_path / "run.sh").write_text("#!/bin/sh\n")
    (tmp_path / "run.sh").chmod(0o755)

    assert data_files(["run.sh"], tmp_path) == [["run.sh", True, b"#!/bin/sh\n"]]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("nothing/*.sql", "matches no file in the project's folder"),
        ("sql", "sql is a folder. Write sql/** for the files in it."),
        ("out.sql", "out.sql is a link that leads out of the project"),
        ("**", "looks like a secret"),
    ],
)
def test_what_cannot_travel_is_refused(tmp_path: Path, pattern: str, message: str) -> None:
    project = tmp_path / "project"
    (project / "sql").mkdir(parents=True)
    (project / "sql" / ".env").write_text("TOKEN=1")
    (tmp_path / "outside").write_text("x")
    (project / "out.sql").symlink_to(tmp_path / "outside")
    if pattern == "**":
        (project / "out.sql").unlink()

    with pytest.raises(CallError, match=re.escape(message)):
        data_files([pattern], project)


@pytest.mark.parametrize("wrong", ["sql/*.sql", ["/etc/passwd"], ["../x"], [""], ["dbt**"], [1], 5])
def test_patterns_stay_inside_the_project(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"files = |folder of the project file|alone between slashes"):
        file_patterns(wrong)


def test_another_content_is_another_call(tmp_path: Path) -> None:
    module = _module(tmp_path, "def work():\n    return 1\n")
    environment = Environment(name="x", root=tmp_path, python="3.8", files=("q.sql",))
    digests = []
    for text in ("select 1", "select 1", "select 2"):
        (tmp_path / "q.sql").write_text(text)
        digests.append(call_digest(pack(module.work, (), {}, environment=environment)))

    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("use", "sentence"),
    [
        ("Path(__file__).with_name('q.sql').read_text()", 'Give the task files=["q.sql"].'),
        ("(Path(__file__).parent / 'q.sql').read_text()", 'Give the task files=["q.sql"].'),
        ("os.path.join(os.path.dirname(__file__), 'q.sql')", 'Give the task files=["q.sql"].'),
        ("open('q.sql').read()", 'Give the task files=["q.sql"], and open it by its path from Path(__file__)'),
        ("open('q.sql', 'w')", ""),
        ("open('other.sql')", ""),
    ],
)
def test_check_names_the_files_that_stay_behind(tmp_path: Path, use: str, sentence: str) -> None:
    (tmp_path / "q.sql").write_text("select 1")
    module = _module(tmp_path, f"import os\nfrom pathlib import Path\n\ndef work():\n    return {use}\n")
    environment = Environment(name="x", root=tmp_path, python="3.8")

    found = list(files_left_behind(capture(module.work, environment)))

    assert [line for _, line, _ in found] == ([5] if sentence else [])
    assert all(sentence in message for _, _, message in found)
