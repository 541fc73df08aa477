"""What each installation can do: a worker's is lean, and names the extra that brings what it lacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from k8s_venv.cache import cache_folder
from k8s_venv.config.project import load_project
from k8s_venv.locks import uv
from k8s_venv.locks.locking import write_lock
from tests.readme import ROOT

BUILD_TOOLS = {"isal", "rich", "ruff", "stdlib_list", "tomli_w", "uv", "zstandard"}
CALL = """
import sys
from k8s_venv.backends import image_of
from k8s_venv.calls import pack
from k8s_venv.config.project import find_project, load_project
import work

project = load_project(find_project())
environment = project.environment("lean")
call = pack(work.double, [21], {}, environment=environment)
print(image_of(environment, project), call.transport, *sorted(set(sys.argv[1:]) & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def lean(tmp_path_factory: pytest.TempPathFactory, package_index: None) -> Path:
    """Return the folder of a virtual environment with k8s-venv and none of its extras."""
    folder = tmp_path_factory.mktemp("lean") / "venv"
    uv.run(["venv", str(folder), "--python", sys.executable])
    uv.run(["pip", "install", "--python", str(folder / "bin/python"), str(ROOT)])
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "k8s-venv.toml").write_text(
        'registry = "registry.example.com/airflow"\n[environments.lean]\npython = "3.8"\n'
    )
    (tmp_path / "work.py").write_text("def double(number):\n    return 2 * number\n")
    write_lock(load_project(tmp_path / "k8s-venv.toml").environment("lean"))
    return tmp_path


def run(lean: Path, folder: Path, *command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", str(folder)), "PYTHONPATH": ".", **environ}
    return subprocess.run(
        [str(lean / "bin" / command[0]), *command[1:]],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_worker_packs_calls_and_computes_images_without_the_tools_that_build_them(lean: Path, project: Path) -> None:
    ran = run(lean, project, "python", "-c", CALL, *BUILD_TOOLS)

    assert ran.stderr == ""
    image, transport, *imported = ran.stdout.split()
    assert image.startswith("registry.example.com/airflow/lean:")
    assert (transport, imported) == ("source", [])


def test_an_installation_without_extras_stays_small(lean: Path) -> None:
    listed = uv.run(["pip", "list", "--python", str(lean / "bin/python"), "--format", "json"])

    names = {each["name"].replace("-", "_") for each in json.loads(listed)}
    assert not names & BUILD_TOOLS
    size = sum(path.stat().st_size for path in lean.rglob("*") if path.is_file() and path.suffix != ".pyc")
    assert size < 35_000_000


@pytest.mark.parametrize(
    ("command", "package", "extra"),
    [
        (["lock"], "rich", "local"),
        (["init", "new"], "tomli_w", "local"),
        (["build-images"], "isal", "build"),
    ],
)
def test_a_command_names_the_extra_that_it_lacks(
    lean: Path, project: Path, command: list[str], package: str, extra: str
) -> None:
    ran = run(lean, project, "k8s-venv", *command)

    assert ran.returncode == 1
    assert (
        ran.stderr == f"Error: The package `{package}` is not installed here. Run: pip install 'k8s-venv[{extra}]'.\n"
    )


def test_the_extra_local_suffices_to_lock_and_check(lean: Path, project: Path, tmp_path: Path) -> None:
    local = tmp_path / "local"
    uv.run(["venv", str(local), "--python", sys.executable])
    uv.run(["pip", "install", "--python", str(local / "bin/python"), f"{ROOT}[local]"])

    locked = run(local, project, "k8s-venv", "lock", K8S_VENV_CACHE=str(cache_folder()))

    assert locked.returncode == 0, locked.stderr
    assert "locked 0 packages in pylock.lean.toml" in locked.stderr


def test_the_local_backend_names_the_extra_that_brings_uv(lean: Path, project: Path) -> None:
    program = "import k8s_venv, work; k8s_venv.run('lean', work.double, 21)"

    ran = run(lean, project, "python", "-c", program, K8S_VENV_BACKEND="local")

    assert "The package `uv` is not installed here. Run: pip install 'k8s-venv[local]'." in ran.stderr
