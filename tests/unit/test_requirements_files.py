"""Requirements files are read as pip reads them, and other tools' files are not taken for them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from k8s_venv.config.environment import Environment
from k8s_venv.errors import LockError
from k8s_venv.locks.requirement_files import decoded, joined_lines
from k8s_venv.locks.requirements import UvInput, line_notes, read_requirements, refuse_lines

Declare = Callable[..., Environment]


@pytest.fixture
def declare(tmp_path: Path) -> Declare:
    """Return a function that declares an environment, with the files that its requirements are in."""

    def make(requirements: object = "requirements.txt", constraints: str | None = None, **files: bytes) -> Environment:
        for name, content in files.items():
            path = tmp_path / name.replace("__", "/").replace("_", ".")
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        given = {"requirements": requirements, "constraints": constraints}
        return Environment.model_validate({"name": "etl", "root": tmp_path, "python": "3.12", **given})

    return make


def texts(environment: Environment, *, constraint: bool = False) -> list[str]:
    return [line.text for line in read_requirements(environment).lines if line.constraint is constraint]


def refusal(environment: Environment) -> str:
    with pytest.raises(LockError) as refused:
        refuse_lines(read_requirements(environment))
    return str(refused.value)


def as_uv_reads(environment: Environment) -> str:
    return UvInput.of(read_requirements(environment).lines, constraint=False).text


FILES = st.lists(
    st.sampled_from(
        [
            "idna",
            "six",
            "==1.0",
            " ",
            "\\",
            "\n",
            "\r\n",
            "\r",
            "\f",
            "#",
            " # why",
            "\t",
            "\\\n",
            "\x85",
            "\u2028",
            "é",
        ]
    ),
    max_size=14,
).map("".join)


@given(text=FILES)
@example(text="idna # why \\\nsix\n")
@example(text="idna \\\n # why \\\nsix\n")
@settings(deadline=None)
def test_lines_are_those_that_pip_reads(text: str) -> None:
    req_file = pytest.importorskip("pip._internal.req.req_file", reason="compares with pip")
    assume("\\\\" not in text and not re.search(r"(?m)(^|[\n\r\f\x85\u2028])\\", text))  # pip takes these away in front

    found = [line for _, line, _ in joined_lines(text)]

    assert [line.split() for line in found] == [line.split() for _, line in req_file.preprocess(text)]
    assert all("\n" not in line and "\r" not in line for line in found)


@given(
    text=st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    encoding=st.sampled_from(["utf-8", "utf-16", "utf-32"]),
)
def test_a_byte_order_mark_tells_the_encoding(text: str, encoding: str) -> None:
    data = text.encode("utf-8-sig" if encoding == "utf-8" else encoding)

    assert decoded(data) == text


@given(data=st.binary(max_size=60) | st.binary(max_size=30).map(lambda rest: b"# coding: " + rest))
@example(data=b"# coding: rot13\n")
@example(data=b"# coding: undefined\n")
@example(data=b"# coding: punycode\n\xff")
def test_any_content_is_text_or_refused_in_one_sentence(data: bytes) -> None:
    said = ""
    try:
        decoded(data)
    except ValueError as error:
        said = str(error)

    assert not said or re.match(r"is not \S+ text", said)


def test_lines_are_counted_as_an_editor_counts_them() -> None:
    text = "\fidna\f\n\r\n# why\rsix \\\r\n  ==1.16\r\nattrs"

    assert [(number, line) for number, line, _ in joined_lines(text)] == [(1, "idna"), (4, "six ==1.16"), (6, "attrs")]


def test_included_files_have_encodings_and_folders_of_their_own(declare: Declare) -> None:
    environment = declare(
        requirements_txt="-r lists/more.txt\n--requirement 'lists/with space.txt'\n".encode("utf-16"),
        lists__more_txt="# coding: cp1252\n# größer\n-c limits.txt\nidna\n".encode("cp1252"),
        lists__limits_txt="six<2\n-r needed.txt".encode("utf-32"),
        lists__needed_txt=b"attrs",
        **{"lists__with space_txt": b"certifi"},
    )

    assert texts(environment, constraint=True) == ["six<2", "-r needed.txt"]
    assert as_uv_reads(environment).split() == ["attrs", "idna", "certifi"]  # as in pip, also from a constraints file


def test_variables_are_filled_in_everywhere(declare: Declare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDNA_VERSION", "3.6")
    monkeypatch.setenv("LISTS", "lists")
    environment = declare(
        requirements_txt=b"idna==${IDNA_VERSION}\n-r ${LISTS}/more.txt", lists__more_txt=b"six # ${X}"
    )

    assert as_uv_reads(environment).split() == ["idna==3.6", "six"]
    assert read_requirements(environment).recorded[0] == "idna==${IDNA_VERSION}"


def test_a_variable_without_a_value_is_named(declare: Declare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMPTY", "")

    assert "requirements.txt:1 names the variable EMPTY, which is not set here, or is empty" in refusal(
        declare(requirements_txt=b"idna==${EMPTY}\n")
    )


def test_a_variable_without_a_value_is_named_where_it_is_part_of_a_path(declare: Declare) -> None:
    said = refusal(declare(requirements_txt=b"-r ${NO_SUCH_FOLDER}/more.txt"))

    assert "requirements.txt:1 names the variable NO_SUCH_FOLDER, which is not set here" in said


def test_a_folder_of_wheels_is_looked_for_beside_the_file_that_names_it(declare: Declare, tmp_path: Path) -> None:
    (tmp_path / "lists" / "wheels").mkdir(parents=True)
    environment = declare(requirements_txt=b"-r lists/more.txt", lists__more_txt=b"--find-links=wheels\nown")

    assert as_uv_reads(environment) == f"--find-links {tmp_path}/lists/wheels\nown\n"


def test_a_comment_that_swallows_the_next_line_is_noted(declare: Declare) -> None:
    requirements = read_requirements(declare(requirements_txt=b"six\nidna  # international \\\nattrs\n"))

    assert [line.text for line in requirements.lines] == ["six", "idna"]
    assert line_notes(requirements) == [
        "requirements.txt:2: the comment in line 2 ends with a backslash, so the next line belongs to it."
    ]


PROJECT = b"""
[project]
name = "own"
version = "1"
requires-python = ">=3.9"
dependencies = [
    "idna>=3",
    'six; python_version < "4"',
]

[project.optional-dependencies]
dev = ["pytest"]
"""


def test_the_dependencies_of_a_project_are_read_with_their_lines(declare: Declare) -> None:
    lines = read_requirements(declare("pyproject.toml", pyproject_toml=PROJECT)).lines

    assert [(line.text, line.place) for line in lines] == [
        ("idna>=3", "pyproject.toml:7"),
        ('six; python_version < "4"', "pyproject.toml:8"),
    ]


def test_settings_of_uv_that_do_not_count_are_noted(declare: Declare) -> None:
    environment = declare(
        "pyproject.toml", pyproject_toml=PROJECT + b'[[tool.uv.index]]\nurl = "https://example.com"\n'
    )

    (note,) = line_notes(read_requirements(environment))

    assert note.startswith("pyproject.toml:7: index of [tool.uv] does not count for a lock: name indexes by")


# A project whose dependencies cannot be read, and what is said after the file's name.
UNREADABLE: dict[str, tuple[bytes, str]] = {
    "no TOML": (b"idna==3.6\n", "is not TOML: "),
    "no project": (b"[tool.k8s-venv]\n", "has no table [project], whose `dependencies` would be locked. Write"),
    "a project of Poetry": (
        b'[tool.poetry.dependencies]\npython = "^3.12"\n',
        "Poetry's own table [tool.poetry.dependencies] is not read.",
    ),
    "dynamic dependencies": (
        PROJECT.partition(b"dependencies = [")[0] + b'dynamic = ["dependencies"]\n',
        "says that its dependencies are dynamic, so only its build knows them. Write them into `dependencies` of",
    ),
    "another Python": (
        PROJECT.replace(b">=3.9", b"<3.12"),
        "requires Python <3.12, and the environment runs Python 3.12.",
    ),
    "no version specifier": (
        PROJECT.replace(b">=3.9", b"new"),
        "has a requires-python that is not a version specifier",
    ),
    "no list": (b'[project]\ndependencies = "idna"\n', "has `dependencies` in [project] that are not a list."),
    "no requirement": (
        PROJECT.replace(b"idna>=3", b"-r more.txt"),
        "has '-r more.txt' among its dependencies in line 7, which is not a requirement.",
    ),
    "no text": (b"[project]\ndependencies = [1]\n", "has 1 among its dependencies, which is not a requirement."),
    "a source of uv": (
        PROJECT + b'[tool.uv.sources]\nIDNA = { git = "https://example.com/idna" }\n',
        "takes idna from [tool.uv.sources], which a lock does not read.",
    ),
}


@pytest.mark.parametrize(("content", "sentence"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_project_without_readable_dependencies_is_refused(declare: Declare, content: bytes, sentence: str) -> None:
    said = refusal(declare("pyproject.toml", pyproject_toml=content))

    assert "pyproject.toml " in said
    assert sentence in said


OTHERS: dict[str, str] = {
    "setup.py": "is for setuptools. Write what it names into a requirements file, or into [project]",
    "setup.cfg": "is for setuptools.",
    "Pipfile": "is pipenv's. Name a requirements file instead, which `pipenv requirements > requirements.txt` writes.",
    "Pipfile.lock": "is pipenv's.",
    "poetry.lock": "is Poetry's. Name a requirements file instead, which `poetry export",
    "uv.lock": "is uv's. Name a requirements file instead, which `uv export",
    "pdm.lock": "is PDM's.",
    "pylock.toml": "is a lock already, and `k8s-venv lock` writes its own. Name what it was made from.",
    "pylock.etl.toml": "is a lock already",
    "environment.yml": "is not a requirements file. Of a conda environment,",
    "environment.yaml": "is not a requirements file.",
    "own-1.0-py3-none-any.whl": 'is a package. Write requirements = ["./…/NAME.whl"], a list.',
    "settings.json": "is not a requirements file.",
}


@pytest.mark.parametrize(("name", "sentence"), OTHERS.items(), ids=OTHERS)
@pytest.mark.parametrize("as_constraints", [False, True], ids=["requirements", "constraints"])
def test_a_file_of_another_tool_is_refused_with_the_way_out(
    declare: Declare, tmp_path: Path, name: str, sentence: str, as_constraints: bool
) -> None:
    (tmp_path / name).write_text("[packages]\n")
    given: dict[str, Any] = {"requirements": None, "constraints": name} if as_constraints else {"requirements": name}

    said = refusal(declare(**given))

    assert f"{name} {sentence}" in said


def test_a_project_limits_nothing(declare: Declare) -> None:
    said = refusal(declare(None, "pyproject.toml", pyproject_toml=PROJECT))

    assert "pyproject.toml is not a requirements file." in said


@pytest.mark.parametrize("name", ["requirements.in", "requirements.lock", "requirements", "base.pip"])
def test_a_requirements_file_may_have_any_other_name(declare: Declare, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("idna\n")

    assert texts(declare(name)) == ["idna"]
