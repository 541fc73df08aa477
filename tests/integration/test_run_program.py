"""`k8s-venv run` and `shell` on this machine, in a real terminal where one is needed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from k8s_venv.backends._program import READY
from k8s_venv.backends.program import Program, _archive, starter
from k8s_venv.config.environment import Environment
from k8s_venv.locks.uv import find_interpreter
from tests.conftest import Command
from tests.terminal import at_terminal, resize_interrupt_and_leave

pytestmark = pytest.mark.usefixtures("no_settings")
HERE = "{}.{}".format(*sys.version_info)
LOCAL = ("--backend", "local")
PROGRAM = "import sys; from k8s_venv.cli import main; main(prog_name='k8s-venv')"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    text = f'[environments.etl]\npython = "{HERE}"\nrequirements = ["idna==3.10"]\n'
    (tmp_path / "k8s-venv.toml").write_text(text, "utf-8")
    return tmp_path


def test_a_program_sees_the_locked_packages_and_its_exit_code_is_ours(project: Path, cli: Command) -> None:
    ran = cli("run", "etl", *LOCAL, "--", "python", "-c", "import idna, sys; print(idna.__version__); sys.exit(7)")

    assert (ran.returncode, ran.stdout) == (7, "3.10\n"), ran.stderr


def test_options_alone_are_for_the_environments_python(project: Path, cli: Command) -> None:
    ran = cli("run", "etl", *LOCAL, "--", "-c", "import sys; print(sys.argv)", "--day", "1")

    assert ran.stdout == "['-c', '--day', '1']\n", ran.stderr


def test_standard_input_is_the_programs(project: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, "run", "etl", *LOCAL, "--", "-c", "print(input() + '!')"]

    ran = subprocess.run(command, cwd=project, input="hello\n", capture_output=True, text=True, check=False)

    assert ran.stdout == "hello!\n", ran.stderr


def test_a_package_is_added_for_one_run(project: Path, cli: Command) -> None:
    added = cli("run", "etl", *LOCAL, "--with", "six", "--", "-c", "import six, idna; print(idna.__version__)")
    after = cli("run", "etl", *LOCAL, "--", "-c", "import six")

    assert added.stdout == "3.10\n", added.stderr
    assert "No module named 'six'" in after.stderr


def test_programs_of_an_added_package_are_found(project: Path, cli: Command) -> None:
    ran = cli(
        "run", "etl", *LOCAL, "--with", "normalizer", "--with", "charset-normalizer", "--", "normalizer", "--version"
    )

    assert ran.returncode == 0, ran.stderr


def test_an_added_package_cannot_change_a_locked_one(project: Path, cli: Command) -> None:
    ran = cli("run", "etl", *LOCAL, "--with", "idna==3.7", "--", "python", "-V")

    assert ran.returncode == 1
    assert "Environment 'etl': --with idna==3.7 cannot be added to its locked packages." in ran.stderr
    assert "idna" in ran.stderr.partition("packages.")[2]


def test_a_script_of_another_python_is_refused(project: Path, cli: Command) -> None:
    own = Path(sys.executable).parent

    ran = cli("run", "etl", *LOCAL, "--", "pytest", PATH=f"{own}{os.pathsep}{os.environ['PATH']}")

    assert ran.returncode == 1
    assert f"it has no program 'pytest'; {own}/pytest belongs to another Python." in ran.stderr
    assert "--with pytest" in ran.stderr


def test_a_program_that_is_nowhere(project: Path, cli: Command) -> None:
    ran = cli("run", "etl", *LOCAL, "--", "no-such-program")

    assert ran.returncode == 1
    assert "Environment 'etl': it has no program 'no-such-program'." in ran.stderr


def test_an_unknown_environment(project: Path, cli: Command) -> None:
    ran = cli("run", "elt", *LOCAL, "--", "python")

    assert ran.returncode == 1
    assert "There is no environment 'elt'. Declared: etl." in ran.stderr


def test_an_option_of_the_program_without_the_sign_before_it(project: Path, cli: Command) -> None:
    ran = cli("run", "etl", *LOCAL, "python", "-c", "1")

    assert ran.returncode == 2
    assert "Put -- before the program" in ran.stderr


def test_connections_and_variables_are_those_of_airflow(project: Path, cli: Command) -> None:
    code = "import json, os; print(json.loads(os.environ['AIRFLOW_CONN_WH'])['host'], os.environ['AIRFLOW_VAR_REGION'])"
    given = {"AIRFLOW_CONN_WH": "postgres://user:password@db.example.com/sales", "AIRFLOW_VAR_REGION": "north"}

    ran = cli("run", "etl", *LOCAL, "--connection", "wh", "--variable", "region", "--", "-c", code, **given)

    assert ran.stdout.splitlines()[-1] == "db.example.com north", ran.stderr
    assert "password" not in ran.stderr


def test_a_connection_that_airflow_does_not_have(project: Path, cli: Command) -> None:
    ran = cli("run", "etl", *LOCAL, "--connection", "nowhere", "--", "python", "-V")

    assert ran.returncode == 1
    assert "--connection nowhere: Airflow has no such connection here." in ran.stderr


def test_variables_of_this_shell_stay_out(project: Path, cli: Command) -> None:
    ran = cli("run", "etl", *LOCAL, "--", "-c", "import os; print('AWS_PROFILE' in os.environ)", AWS_PROFILE="mine")

    assert ran.stdout == "False\n", ran.stderr


def test_ctrl_c_is_the_programs(project: Path) -> None:
    python = at_terminal(project, "run", "etl", *LOCAL, "--", "python", "-q")

    assert resize_interrupt_and_leave(python) == 5


def test_sigterm_ends_the_program(project: Path, cli: Command) -> None:
    assert cli("run", "etl", *LOCAL, "--", "python", "-V").returncode == 0
    with at_terminal(
        project, "run", "etl", *LOCAL, "--", "-c", "print('begun', flush=True); import time; time.sleep(99)"
    ) as run:
        run.expect("begun")
        run.kill(signal.SIGTERM)
        run.expect(pexpect.EOF)

    assert run.exitstatus == 128 + signal.SIGTERM


def test_a_shell_whose_settings_change_the_path(project: Path, tmp_path: Path) -> None:
    (tmp_path / ".bashrc").write_text("PS1='> '\nexport PATH=/usr/bin:/bin GREETING=hello\n", "utf-8")
    with at_terminal(project, "shell", "etl", *LOCAL, SHELL="/bin/bash", HOME=str(tmp_path)) as shell:
        shell.expect_exact("(etl) > ")
        shell.sendline("echo $GREETING; python -c 'import idna; print(idna.__version__)'; exit 3")
        shell.expect("hello\r\n3.10\r\n")
        shell.expect(pexpect.EOF)

    assert shell.exitstatus == 3


def test_a_shell_needs_a_terminal(project: Path, cli: Command) -> None:
    ran = cli("shell", "etl", *LOCAL)

    assert ran.returncode == 1
    assert "A shell needs a terminal." in ran.stderr


@pytest.mark.parametrize("python", ["3.8", "3.13"])
def test_files_arrive_in_a_container_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: str) -> None:
    found = find_interpreter(python)
    if found is None:
        pytest.skip(f"There is no Python {python} here.")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "hosts").symlink_to("/etc/hosts")
    monkeypatch.chdir(tmp_path)
    environment = Environment(name="etl", python=python, requirements=[], root=tmp_path)
    tar = _archive(Program(environment, ("ls", "data")), None)
    header = {"command": ["ls", "data"], "variables": {}, "tar": len(tar), "size": None}
    given = json.dumps(header).encode() + b"\n" + tar + b"0\n"
    text = starter()[-1].replace("/tmp/k8s-venv", str(tmp_path / "container"))

    ran = subprocess.run([str(found), "-c", text], input=given, capture_output=True, check=False)

    assert (ran.stdout.replace(READY, b""), ran.stderr, ran.returncode) == (b"hosts\n", b"", 0)
    assert (tmp_path / "container" / "work" / "data" / "hosts").readlink() == Path("/etc/hosts")
