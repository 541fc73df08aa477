"""The command line as a user meets it: what it prints, where, and how it ends."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from k8s_venv.cli import main
from tests.conftest import Command
from tests.faults import BASE

COMMANDS = [
    "build-images",
    "check",
    "doctor",
    "explain",
    "helm-values",
    "init",
    "list",
    "lock",
    "prune",
    "replay",
    "run",
    "shell",
    "sync",
    "test",
]
LONG = "an-environment-whose-name-is-rather-long-and-must-not-be-cut"


README = Path(__file__).parents[2] / "k8s_venv/README.md"


@pytest.fixture
def project_file(tmp_path: Path) -> Path:
    path = tmp_path / "k8s-venv.toml"
    base = f'base = "{BASE}"\n'
    path.write_text(f'[environments.bare]\npython = "3.12"\n{base}[environments.{LONG}]\npython = "3.11"\n{base}')
    return path


def test_help_teaches_the_way_from_nothing_to_a_run(cli: Command) -> None:
    shown = cli("--help").stdout

    lines = [line.strip() for line in shown.splitlines()]
    assert {"[environments.snowpark]", 'python = "3.8"'} <= set(lines)
    assert 'A task names one: @task.isolated("snowpark").' in lines
    steps = [line.partition("  ")[0] for line in lines if line.startswith("k8s-venv ")]
    assert steps == [
        "k8s-venv init",
        "k8s-venv lock",
        "k8s-venv test --backend local DAG_FILE",
        "k8s-venv build-images",
        "k8s-venv test DAG_FILE",
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself_without_a_project(in_process: Command, command: str) -> None:
    shown = in_process(command, "--help")

    assert shown.returncode == 0
    assert len(shown.stdout.splitlines()) > 6
    assert re.search(rf"\n  Examples?:\n      k8s-venv {command}", shown.stdout)


def test_help_lists_each_command_with_the_first_sentence_of_its_own_help() -> None:
    context = click.Context(main)

    shown = main.get_help(context).partition("Commands:")[2].partition("First steps:")[0]
    listed = dict(re.findall(r"^  ([a-z-]+) +(\S.*)$", shown, re.MULTILINE))

    commands = {name: main.get_command(context, name) for name in main.list_commands(context)}
    assert listed == {name: command.get_short_help_str(100) for name, command in commands.items() if command}
    assert sorted(listed) == COMMANDS


# Libraries that take their time to be imported, and none of which a help text needs.
HEAVY = {"airflow", "docker", "kubernetes", "numpy", "pydantic", "requests", "rich", "tomli_w", "uv", "yaml"}
IMPORTED_BY = """
import sys
from click.testing import CliRunner
from k8s_venv.cli import main

for command in sys.argv[1:]:
    before = set(sys.modules)
    assert CliRunner().invoke(main, command.split()).exit_code == 0, command
    print(command, *sorted({name for name in set(sys.modules) - before if "." not in name}), sep=",")
"""


def test_help_and_version_import_no_library_that_they_do_without() -> None:
    commands = ["--version", "--help", *(f"{command} --help" for command in COMMANDS)]

    ran = subprocess.run([sys.executable, "-c", IMPORTED_BY, *commands], capture_output=True, text=True, check=True)

    imported = {command: set(modules) for command, *modules in (line.split(",") for line in ran.stdout.splitlines())}
    assert {command: modules & HEAVY for command, modules in imported.items()} == {each: set() for each in commands}
    assert "packaging" not in imported["--version"] | imported["--help"]


def test_lock_writes_locks_and_shows_progress_apart_from_results(in_process: Command, project_file: Path) -> None:
    ran = in_process("lock")

    assert ran.returncode == 0
    assert ran.stdout == ""
    assert f"{LONG}  locked 0 packages in pylock.{LONG}.toml" in ran.stderr
    assert sorted(path.name for path in project_file.parent.glob("pylock.*")) == [
        f"pylock.{LONG}.toml",
        "pylock.bare.toml",
    ]


def test_lock_takes_names(in_process: Command, project_file: Path) -> None:
    ran = in_process("lock", "bare", "bare")

    assert ran.returncode == 0
    assert ran.stderr.count("locked 0 packages") == 1
    assert [path.name for path in project_file.parent.glob("pylock.*")] == ["pylock.bare.toml"]


def test_one_failure_does_not_keep_other_environments_from_their_lock(in_process: Command, project_file: Path) -> None:
    with project_file.open("a") as stream:
        stream.write('[environments.a]\npython = "3.99"\n[environments.b]\npython = "3.98"\n')

    ran = in_process("lock", "a", "b", "bare")

    assert ran.returncode == 1
    assert (project_file.parent / "pylock.bare.toml").exists()
    assert "Error: Environment 'a': there is no Python 3.99" in ran.stderr
    assert "Error: Environment 'b': there is no Python 3.98" in ran.stderr


def test_the_project_option_wins_over_the_variable(in_process: Command, project_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "k8s-venv.toml").write_text('[environments.other]\npython = "3.12"\n')

    ran = in_process("--project", "other", "lock", K8S_VENV_PROJECT=str(project_file))

    assert ran.returncode == 0
    assert (other / "pylock.other.toml").exists()


def error_of(ran: subprocess.CompletedProcess[str]) -> str:
    """Return the one error that a command ended with; never a traceback."""
    assert ran.returncode in (1, 2)
    assert ran.stdout == ""
    assert "Traceback" not in ran.stderr
    errors = [line for line in ran.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    return errors[0]


# Project files that are wrong, and what each command that reads them says.
WRONG = {
    "unknown environment": ('[environments.snowpark]\npython = "3.8"', "Did you mean 'snowpark'? Declared: snowpark."),
    "unknown key": ("[environments.snowprak]\npyton = '3.8'", "k8s-venv.toml:2: Unknown key 'pyton' in"),
    "a number": (
        "[environments.snowprak]\npython = 3.10",
        "k8s-venv.toml:2: `python` of [environments.snowprak]: must",
    ),
    "not TOML": ("[environments.snowprak", "k8s-venv.toml: This file is not valid TOML: "),
    "no file": (
        '[environments.snowprak]\npython = "3.8"\nrequirements = "r.txt"',
        "The requirements file 'r.txt' of environment 'snowprak' does not exist",
    ),
}


@pytest.mark.parametrize("command", ["lock", "build-images"])
@pytest.mark.parametrize(("text", "sentence"), WRONG.values(), ids=WRONG)
def test_a_wrong_project_file_gets_one_sentence(
    in_process: Command, tmp_path: Path, command: str, text: str, sentence: str
) -> None:
    (tmp_path / "k8s-venv.toml").write_text(text)

    assert sentence in error_of(in_process(command, "snowprak"))


def test_no_project_file_gets_one_sentence(in_process: Command) -> None:
    assert "`k8s-venv init` writes one" in error_of(in_process("lock"))


def test_a_project_without_environments_gets_one_sentence(in_process: Command, tmp_path: Path) -> None:
    (tmp_path / "k8s-venv.toml").write_text("")

    assert "No environment is declared." in error_of(in_process("lock"))


def test_names_are_shown_as_they_are(in_process: Command, project_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "[red]" / ":key:"
    folder.mkdir(parents=True)
    (folder / "Dockerfile").write_text("PYENV 3.12 etl\n")
    (folder / "packages.txt").write_text("jq\n")

    ran = in_process("init", "new", "--from-dockerfile", str(folder / "Dockerfile"))

    assert f"the Debian packages of {folder / 'packages.txt'}: remove" in ran.stderr


@pytest.mark.parametrize("place", ["nowhere", "."])
def test_a_project_that_is_nowhere_gets_one_sentence(in_process: Command, place: str) -> None:
    assert "--project" in error_of(in_process("--project", place, "lock"))
    assert "K8S_VENV_PROJECT" in error_of(in_process("lock", K8S_VENV_PROJECT=place))


def test_a_cache_that_cannot_be_written_to_gets_one_sentence(in_process: Command, project_file: Path) -> None:
    assert "Set K8S_VENV_CACHE to a folder that can" in error_of(
        in_process("lock", "bare", K8S_VENV_CACHE="/dev/null/cache")
    )


# What `build-images` needs and may not find.


def test_building_without_a_registry_gets_one_sentence(in_process: Command, project_file: Path) -> None:
    said = error_of(in_process("build-images"))

    assert "No registry is configured. Add registry = " in said
    assert not list(project_file.parent.glob("pylock.*"))


# What is misspelt, and the hint.
MISSPELT = {
    "a command": (["lokc"], "There is no command 'lokc'. Did you mean 'lock'?"),
    "an option": (["lock", "--chek"], "'--check'"),
    "the place of an option": (
        ["lock", "--project", "."],
        "--project stands before the command: k8s-venv --project PATH",
    ),
    "a backend": (
        ["test", "--backend", "dokcer", "k8s-venv.toml"],
        "'dokcer' is not one of 'kubernetes', 'docker', 'local'",
    ),
}


@pytest.mark.parametrize(("arguments", "hint"), MISSPELT.values(), ids=MISSPELT)
def test_a_misspelt_command_line_gets_a_hint_and_exit_code_2(
    in_process: Command, project_file: Path, arguments: list[str], hint: str
) -> None:
    ran = in_process(*arguments)

    assert ran.returncode == 2
    assert hint in error_of(ran)


def test_the_keys_of_json_are_those_that_are_documented(in_process: Command, project_file: Path) -> None:
    plan = ("--dry-run", "--output", "images.tar", "bare")
    commands = {
        "list --json": in_process("list", "--json"),
        "build-images --json": in_process("build-images", "--json", *plan, K8S_VENV_REGISTRY="registry.example.com"),
    }

    for command, ran in commands.items():
        row = re.search(rf"^\| `{command}` \| (.+) \|$", README.read_text("utf-8"), re.MULTILINE)
        assert row is not None
        assert set(re.findall(r"`(\w+)`", row[1])) == set(json.loads(ran.stdout)[0])
