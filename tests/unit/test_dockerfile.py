"""Environments from the PYENV lines of a Dockerfile."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from k8s_venv.cli.init import Venv, read_packages, read_venvs
from k8s_venv.config.project import load_project
from k8s_venv.errors import ProjectError
from tests.conftest import Command

DOCKERFILE = """\
# syntax=quay.io/astronomer/airflow-extensions:latest

FROM quay.io/astronomer/astro-runtime:12.1.0-base
# PYENV 3.9 commented-out
PYENV 3.8 snowpark include/snowpark-requirements.txt
pyenv 3.11.4 \\
    # a comment within
    epsilon
RUN <<EOF
PYENV 3.10 not-an-instruction
EOF
   PYENV   3.10\tMy_Ray   requirements.ray.txt
USER astro
"""


@pytest.fixture
def dockerfile(tmp_path: Path) -> Path:
    (tmp_path / "include").mkdir()
    for name in ("include/snowpark-requirements.txt", "requirements.ray.txt"):
        (tmp_path / name).write_text("idna\n")
    path = tmp_path / "Dockerfile"
    path.write_text(DOCKERFILE)
    return path


def test_every_pyenv_line_is_an_environment_and_nothing_else_is(dockerfile: Path) -> None:
    assert read_venvs(dockerfile) == [
        Venv("snowpark", "snowpark", "3.8", "include/snowpark-requirements.txt", 5),
        Venv("epsilon", "epsilon", "3.11", None, 6),
        Venv("my-ray", "My_Ray", "3.10", "requirements.ray.txt", 12),
    ]


def test_windows_line_ends_a_byte_order_mark_and_another_escape_are_read(tmp_path: Path) -> None:
    path = tmp_path / "Dockerfile"
    path.write_bytes(b"\xef\xbb\xbf# escape=`\r\nPYENV `\r\n 3.9 `\r\n etl\r\n")

    assert read_venvs(path) == [Venv("etl", "etl", "3.9", None, 2)]


def test_packages_are_read_with_comments_and_several_on_a_line(tmp_path: Path) -> None:
    path = tmp_path / "packages.txt"
    path.write_text("# for psycopg2\nlibpq5  jq=1.6-2.1\r\n\nlibgomp1 # openmp\nlibpq5\n")

    assert read_packages(path) == ["libpq5", "jq=1.6-2.1", "libgomp1"]


# Wrong lines, and what is said of them.
WRONG = {
    "nothing": ("FROM x\n", None, "has no line PYENV <python-version> <venv-name> [<requirements-file>]"),
    "one word": ("PYENV 3.8", 1, "has 1 argument; write PYENV"),
    "four words": ("FROM x\nPYENV 3.8 a b c", 2, "has 4 arguments"),
    "no version": ("PYENV python3.8 etl", 1, "'python3.8' is not a Python version such as 3.8."),
    "the name first": ("PYENV etl 3.8", 1, "'etl' is not a Python version such as 3.8. The version comes first."),
    "an old version": ("PYENV 3.6 etl", 1, "The Python version must be 3.8 or a newer Python 3"),
    "a variable": ("ARG V=3.8\nPYENV ${V} etl", 2, "A variable in a PYENV line has no value here."),
    "a name of signs": ("PYENV 3.8 ---", 1, "'---' cannot be an environment's name."),
    "a name twice": ("PYENV 3.8 etl\nPYENV 3.9 ETL", 2, "Two venvs are named 'etl', here and on line 1."),
    "a missing file": (
        "PYENV 3.8 etl Dockerfil",
        1,
        "'Dockerfil' does not exist in {folder}. Did you mean 'Dockerfile'?",
    ),
}


@pytest.mark.parametrize(("text", "line", "sentence"), WRONG.values(), ids=WRONG)
def test_a_wrong_line_is_named(tmp_path: Path, text: str, line: int | None, sentence: str) -> None:
    path = tmp_path / "Dockerfile"
    path.write_text(text)

    with pytest.raises(ProjectError) as raised:
        read_venvs(path)

    assert sentence.format(folder=tmp_path) in str(raised.value)
    assert raised.value.line == line


_LINES = st.lists(
    st.text(max_size=20)
    | st.sampled_from(
        ["PYENV", "pyenv 3.8 a", "PYENV 3.9 b \\", "RUN <<E", "E", "# escape=`", "`", "\\", "PYENV 3.8 \0 \0"]
    )
)


@given(content=_LINES.map("\n".join).map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=60))
@example(content=b"PYENV 3.8 a " + b"x" * 5000)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_stands_in_a_dockerfile_it_is_read_or_refused_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "Dockerfile"
    path.write_bytes(content)

    for read in (read_venvs, read_packages):
        try:
            said = f"{len(read(path))}."
        except ProjectError as error:
            said = str(error)
            assert said.startswith(f"{path}:")
        assert said.endswith((".", "?"))


def test_a_project_is_made_from_a_dockerfile_and_locks(dockerfile: Path, in_process: Command, tmp_path: Path) -> None:
    (tmp_path / "packages.txt").write_text("libpq5\n")

    ran = in_process("init", "airflow", "--from-dockerfile", "Dockerfile")

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "airflow/k8s-venv.toml\n"
    assert "My_Ray (line 12) is named my-ray here." in ran.stderr
    project = load_project(tmp_path / "airflow" / "k8s-venv.toml")
    assert {name: (each.python, each.requirements, each.packages) for name, each in project.environments.items()} == {
        "snowpark": ("3.8", "../include/snowpark-requirements.txt", ("libpq5",)),
        "epsilon": ("3.11", None, ("libpq5",)),
        "my-ray": ("3.10", "../requirements.ray.txt", ("libpq5",)),
    }
    assert in_process("--project", "airflow", "lock", "epsilon").returncode == 0


def test_a_wrong_dockerfile_leaves_nothing_behind(in_process: Command, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM x\nPYENV 3.8\n")

    ran = in_process("init", "--from-dockerfile", "Dockerfile")

    assert ran.returncode == 1
    assert "Error: Dockerfile:2: This PYENV line has 1 argument;" in ran.stderr
    assert not (tmp_path / "k8s-venv.toml").exists()


def test_nothing_is_ever_overwritten(in_process: Command, tmp_path: Path) -> None:
    (tmp_path / "hello-requirements.txt").write_text("mine")

    refused = in_process("init")

    assert refused.returncode == 1
    assert "hello-requirements.txt in" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["hello-requirements.txt"]
    (tmp_path / "pyproject.toml").write_text('[tool.k8s-venv.environments.etl]\npython = "3.12"\n')
    assert "has a project already" in in_process("init").stderr
    assert not (tmp_path / "k8s-venv.toml").exists()


def test_what_cannot_be_written_whole_is_not_begun(in_process: Command, tmp_path: Path) -> None:
    (tmp_path / "dags").write_text("a file")

    refused = in_process("init")

    assert refused.returncode == 1
    assert "dags cannot be written: File exists. Nothing was written." in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["dags"]


def test_the_starter_project_is_complete(in_process: Command, tmp_path: Path) -> None:
    made = in_process("init", "new")

    assert made.stdout.splitlines() == ["new/k8s-venv.toml", "new/hello-requirements.txt", "new/dags/hello_isolated.py"]
    content = tomllib.loads((tmp_path / "new" / "k8s-venv.toml").read_text("utf-8"))
    assert content["environments"]["hello"]["requirements"] == "hello-requirements.txt"
    compile((tmp_path / "new" / "dags" / "hello_isolated.py").read_text("utf-8"), "hello_isolated.py", "exec")
