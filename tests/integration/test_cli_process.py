"""The command line as a process: its terminal, its pipes, its signals, and several at once."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Command
from tests.terminal import run_on_terminal
from tests.unit.test_cli import LONG, error_of, project_file
from tests.unit.test_cli_lock import project

__all__ = ["project", "project_file"]


@pytest.fixture
def with_debian_packages(tmp_path: Path) -> None:
    """Declare an environment that only BuildKit can build."""
    (tmp_path / "k8s-venv.toml").write_text('[environments.etl]\npython = "3.12"\npackages = ["jq"]\n')


@pytest.mark.usefixtures("with_debian_packages")
def test_building_without_the_docker_package_gets_one_sentence(
    cli: Command, test_registry: str, tmp_path: Path
) -> None:
    (tmp_path / "docker.py").write_text("raise ImportError('not installed')")

    said = error_of(cli("build-images", K8S_VENV_REGISTRY=test_registry, PYTHONPATH=str(tmp_path)))

    assert said.endswith(
        "its image needs BuildKit (Debian packages). The package `docker` is not installed here. "
        "Run: pip install 'k8s-venv[docker]'."
    )


@pytest.mark.usefixtures("with_debian_packages")
@pytest.mark.parametrize("address", ["unix:///nonexistent", "tcp://localhost:1", "nonsense"])
def test_building_without_an_engine_gets_one_sentence(cli: Command, test_registry: str, address: str) -> None:
    pytest.importorskip("docker", reason="needs the docker extra")

    said = error_of(cli("build-images", K8S_VENV_REGISTRY=test_registry, DOCKER_HOST=address))

    assert said.endswith(
        f"No Docker Engine answers at {address}. Install or start one, or set DOCKER_HOST to one that runs."
    )


def test_progress_on_a_terminal_is_live_and_ends_with_a_mark(project_file: Path) -> None:
    ran = run_on_terminal("--project", str(project_file), "lock")

    assert ran.status == 0
    assert f"✓ {LONG}" in ran.shown
    assert f"locked 0 packages in pylock.{LONG}.toml" in ran.shown


def test_progress_on_a_narrow_terminal_without_colours_keeps_names_whole(project_file: Path) -> None:
    ran = run_on_terminal("--project", str(project_file), "lock", columns=len(LONG) + 20, NO_COLOR="1")

    assert ran.status == 0
    assert f"✓ {LONG} 0:" in ran.shown
    assert not re.search(r"\x1b\[\d*m", ran.shown)


def test_an_output_without_some_signs_shows_what_it_can(cli: Command) -> None:
    shown = cli("lock", "--help", PYTHONIOENCODING="latin-1")

    assert (shown.returncode, shown.stderr) == (0, "")
    assert "(UV_INDEX_URL, \\u2026)" in shown.stdout


@pytest.mark.skipif(sys.platform == "darwin", reason="file names are UTF-8 there")
def test_a_folder_whose_name_is_no_text_can_hold_a_project(cli: Command) -> None:
    ran = cli("init", os.fsdecode(b"caf\xe9"))

    assert (ran.returncode, ran.stdout.splitlines()[0]) == (0, "caf\\udce9/k8s-venv.toml")


@pytest.mark.parametrize("command", [["list"], ["list", "--json"], ["--help"]])
def test_a_reader_that_leaves_early_is_no_error(project_file: Path, command: list[str]) -> None:
    gone, pipe = os.pipe()
    os.close(gone)

    ran = subprocess.run(
        [sys.executable, "-c", "from k8s_venv.cli import main; main()", "--project", str(project_file), *command],
        stdout=pipe,
        stderr=subprocess.PIPE,
        check=False,
    )

    os.close(pipe)
    assert ran.stderr == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_an_output_without_space_left_gets_one_sentence(project_file: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        ran = subprocess.run(
            [sys.executable, "-c", "from k8s_venv.cli import main; main()", "--project", str(project_file), "list"],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )

    assert ran.returncode == 1
    assert ran.stderr == b"Error: The output cannot be written: No space left on device.\n"


def test_a_shell_completes_commands_and_environments(cli: Command, project_file: Path) -> None:
    def completed(words: str) -> list[str]:
        environ = {"_K8S_VENV_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        return [line.partition(",")[2] for line in cli(**environ).stdout.splitlines() if line]

    assert completed("k8s-venv lo") == ["lock"]
    assert completed("k8s-venv lock b") == ["bare"]
    assert completed("k8s-venv build-images ") == ["bare", LONG]
    project_file.write_text("[environments")
    assert completed("k8s-venv lock b") == []


def test_check_passes_on_fresh_locks_without_a_request(project: Path, cli: Command) -> None:
    assert cli("lock").returncode == 0

    # No uv, no cache, no network: only the project's files are read.
    ran = cli("lock", "--check", K8S_VENV_CACHE="/dev/null/cache", PATH="/nowhere", ALL_PROXY="http://localhost:1")

    assert (ran.returncode, ran.stdout) == (0, "")
    assert ran.stderr == "2 environments, 0 without a fresh lock\n"


# As Ctrl-C on a terminal does, which every process of the command gets; and as a supervisor does.
@pytest.mark.parametrize(
    ("interrupt", "number"), [(os.killpg, signal.SIGINT), (os.kill, signal.SIGINT), (os.kill, signal.SIGTERM)]
)
def test_an_interrupted_lock_leaves_the_older_one_and_nothing_else(
    project: Path, cli: Command, interrupt: Callable[[int, int], None], number: signal.Signals
) -> None:
    cli("lock")
    before = {path.name: path.read_bytes() for path in project.iterdir() if path.is_file()}
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts, and never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
        (project / "etl.txt").write_text(f"--index-url {url}\nown-lib\n")
        process = subprocess.Popen(
            [sys.executable, "-c", "from k8s_venv.cli import main; main()", "lock"],
            cwd=project,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "UV_HTTP_TIMEOUT": "300"},
        )
        silent.settimeout(60)
        silent.accept()
        interrupt(process.pid, number)
        said = process.communicate(timeout=60)[1]

    assert process.returncode == 128 + number
    assert said.splitlines()[-1] == "Interrupted."
    after = {path.name: path.read_bytes() for path in project.iterdir() if path.is_file()}
    assert after.keys() == before.keys()
    assert after["pylock.etl.toml"] == before["pylock.etl.toml"]


def test_several_locks_at_once_in_a_folder_of_any_name_agree(project: Path, tmp_path: Path) -> None:
    folder, link = project / "größe und raum", project / "link"
    folder.mkdir()
    link.symlink_to(folder)
    for name in ("k8s-venv.toml", "etl.txt", "wheels"):
        (project / name).rename(folder / name)
    command = [sys.executable, "-c", "from k8s_venv.cli import main; main()", "lock"]

    running = [subprocess.Popen(command, cwd=each, stderr=subprocess.PIPE) for each in (folder, link, folder)]

    assert [process.wait() for process in running if process.communicate()] == [0, 0, 0]
    assert sorted(path.name for path in folder.iterdir()) == [
        *("etl.txt", "k8s-venv.toml", "pylock.etl.toml", "pylock.training.toml", "wheels")
    ]
    assert subprocess.run([*command, "--check"], cwd=link, check=False).returncode == 0
