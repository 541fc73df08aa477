"""`k8s-venv run` and `shell` in containers: pods of a namespace that enforces `restricted`, and Docker's."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pexpect
import pytest

from tests.terminal import at_terminal, resize_interrupt_and_leave

PROGRAM = [sys.executable, "-c", "from k8s_venv.cli import main; main(prog_name='k8s-venv')"]
pytestmark = pytest.mark.parametrize("backend", ["kubernetes", "docker"])


def run(folder: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, "run", *arguments], cwd=folder, input=stdin, capture_output=True, text=True, check=False
    )


def test_a_script_with_its_arguments_input_and_exit_code(folder: Path, backend: str) -> None:
    code = "import sys, pandas\n"
    code += "print(sys.argv, input(), sys.stdin.read())\nprint('fault', file=sys.stderr)\nsys.exit(3)\n"
    (folder / "report.py").write_text(code, "utf-8")

    ran = run(folder, "legacy", "--backend", backend, "--", "python", "report.py", "--day", "1", stdin="one\ntwo")

    assert (ran.returncode, ran.stdout) == (3, "['report.py', '--day', '1'] one two\n"), ran.stderr
    assert "fault\n" in ran.stderr


def test_a_package_is_added_for_one_run(folder: Path, backend: str) -> None:
    (folder / "test_it.py").write_text("import pandas\n\ndef test_it(): assert pandas\n", "utf-8")

    ran = run(folder, "current", "--backend", backend, "--with", "pytest", "--", "pytest", "-q", "test_it.py")

    assert "1 passed" in ran.stdout, ran.stderr


def test_a_program_that_the_image_lacks(folder: Path, backend: str) -> None:
    ran = run(folder, "current", "--backend", backend, "--", "no-such-program")

    assert ran.returncode == 127
    assert "no-such-program: No such file or directory" in ran.stderr


def test_what_runs_is_restricted_as_a_task_is(folder: Path, backend: str) -> None:
    code = "import os; print(os.getuid() != 0, os.path.exists('/var/run/secrets/kubernetes.io'))"

    ran = run(folder, "current", "--backend", backend, "--", "-c", code)

    assert ran.stdout == "True False\n", ran.stderr


def test_a_terminal(folder: Path, backend: str) -> None:
    python = at_terminal(folder, "run", "current", "--backend", backend, "--", "python", "-q")

    assert resize_interrupt_and_leave(python) == 5


def test_a_shell_whose_terminal_is_closed(folder: Path, backend: str, client: Any, namespace: str) -> None:
    def containers() -> set[str]:
        if backend == "kubernetes":
            pods = client.list_namespaced_pod(namespace, label_selector="app.kubernetes.io/name=current").items
            return {pod.metadata.name for pod in pods if not pod.metadata.deletion_timestamp}
        listed = ["docker", "ps", "-aq", "--no-trunc", "--filter", "label=k8s-venv.environment=current"]
        return set(subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split())

    before = containers()
    with at_terminal(folder, "shell", "current", "--backend", backend) as shell:
        shell.expect(r"\$ ")
        shell.sendline("python -c 'import pandas; print(6 * 7)'")
        shell.expect("42\r\n")
        begun = containers() - before
        shell.kill(signal.SIGHUP)
        shell.expect(pexpect.EOF)

    assert len(begun) == 1
    assert not begun & containers()


def test_a_connection_stands_in_no_pod(
    folder: Path, backend: str, client: Any, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", "postgres://user:very-secret-word@db.example.com/sales")
    arguments = ["run", "current", "--backend", backend, "--connection", "warehouse", "--", "python", "-q"]
    with at_terminal(folder, *arguments) as python:
        python.expect(">>> ")
        python.sendline("import os; print('very-' + 'secret-word' in os.environ['AIRFLOW_CONN_WAREHOUSE'])")
        python.expect("True\r\n")
        pods = client.list_namespaced_pod(namespace).to_str() + client.list_namespaced_secret(namespace).to_str()
        listed = subprocess.run(["docker", "ps", "-q"], capture_output=True, text=True, check=True).stdout.split()
        shown = subprocess.run(["docker", "inspect", *listed], capture_output=True, text=True, check=False).stdout
        python.sendeof()
        python.expect(pexpect.EOF)

    assert "very-secret-word" not in pods + shown


def test_an_image_that_was_never_built(folder: Path, backend: str) -> None:
    ran = run(folder, "never-built", "--backend", backend, "--", "python", "-V")

    assert ran.returncode == 1
    assert "Environment 'never-built': its image localhost:5000/nothing/here:1" in ran.stderr
