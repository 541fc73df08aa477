"""``k8s-venv test`` of a DAG file whose run fails, as somebody new to it meets it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.airflow_home import AIRFLOW, require_airflow

SALES = f"""
from {AIRFLOW} import dag, task
from helper import REASON

class NoSales(Exception):
    pass

@dag(schedule=None)
def sales():
    @task.isolated("bare")
    def fetch():
        none = NoSales(REASON)
        none.add_note("Ask again tomorrow.")
        raise none

    @task.isolated("bare", backend="kubernetes")
    def store():
        pass

    fetch(), store()

sales()
"""


@pytest.fixture
def dags(tmp_path: Path) -> Path:
    require_airflow()
    (tmp_path / "k8s-venv.toml").write_text('[environments.bare]\npython = "{}.{}"\n'.format(*sys.version_info))
    folder = tmp_path / "dags"
    folder.mkdir()
    (folder / "helper.py").write_text('REASON = "none today"\n')
    (folder / "sales.py").write_text(SALES)
    (folder / "neighbour.py").write_text("# airflow dag\nimport nothing_like_it\n")
    return folder


def start(dags: Path, name: str, **environ: str) -> subprocess.Popen[str]:
    ours = ("AIRFLOW", "K8S_VENV_PROJ", "K8S_VENV_REG")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    # Programs that are started in the background may have been told to ignore it.
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = [sys.executable, "-c", f"{heeding}; from k8s_venv.cli import main; main(prog_name='k8s-venv')"]
    command = [*program, "test", "--backend", "local", f"dags/{name}"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=dags.parent, env={**kept, **environ}, stdout=pipe, stderr=pipe, text=True)


def run(dags: Path, name: str, **environ: str) -> subprocess.CompletedProcess[str]:
    with start(dags, name, **environ) as process:
        stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def test_only_the_named_file_is_loaded(dags: Path) -> None:
    ran = run(dags, "sales.py")

    assert ran.returncode == 1
    assert "sales.NoSales: none today" in ran.stdout
    assert "nothing_like_it" not in ran.stdout + ran.stderr
    assert "not pinned" not in ran.stderr


def test_failed_tasks_are_named_at_the_end_with_their_sentences_and_no_call_of_airflow(dags: Path) -> None:
    ran = run(dags, "sales.py")

    *_, causes = ran.stderr.rstrip().partition("Error: The run of dags/sales.py failed in 2 tasks:\n")
    assert {line.partition(" No registry")[0] for line in causes.splitlines()} == {
        "  fetch: sales.NoSales: none today",
        "    Ask again tomorrow.",
        f"  store: {dags.parent / 'k8s-venv.toml'}:",
    }
    assert "raise none" in ran.stdout
    assert "/airflow/" not in ran.stdout
    assert "unusual_prefix" not in ran.stdout + ran.stderr


def test_ctrl_c_ends_the_run_and_not_one_task_of_it(dags: Path, tmp_path: Path) -> None:
    silent = """
        import time
        print(f"{REASON} begins", flush=True)
        time.sleep(600)
"""
    sleeping = SALES.replace("        raise none\n", silent).replace("        pass\n", silent)
    (dags / "sleeping.py").write_text(sleeping.replace(', backend="kubernetes"', ""))
    (tmp_path / "tmp").mkdir()

    with start(dags, "sleeping.py", TMPDIR=str(tmp_path / "tmp")) as process:
        assert process.stdout is not None
        said = next(line for line in process.stdout if "begins" in line)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate()

    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "Interrupted."
    assert (said + stdout).count("begins") == 1
    assert "Traceback" not in stdout + stderr
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_typo_in_an_environment_s_name_is_told_once(dags: Path) -> None:
    (dags / "typo.py").write_text(SALES.replace('"bare"', '"bear"'))

    ran = run(dags, "typo.py")

    said = "There is no environment 'bear'. Did you mean 'bare'?"
    assert (ran.stdout + ran.stderr).count(said) == 1
    assert "Traceback" not in ran.stdout + ran.stderr


@pytest.mark.parametrize("folder", ["elsewhere", "dags", "."])
def test_airflows_dags_folder_may_be_another_one(dags: Path, folder: str) -> None:
    """What lies there can be imported, as from Airflow's own processes; the file that is run lies where it lies."""
    (dags.parent / "elsewhere").mkdir()
    (dags / "helper.py").rename(dags.parent / folder / "helper.py")

    ran = run(dags, "sales.py", AIRFLOW__CORE__DAGS_FOLDER=str(dags.parent / folder))

    assert "  fetch: sales.NoSales: none today\n" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_run_without_a_cluster_names_the_local_backend_at_once(dags: Path, tmp_path: Path) -> None:
    (dags / "pods.py").write_text(SALES.replace(', backend="kubernetes"', ""), "utf-8")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "KUBE", "K8S_VENV_"))}
    cache = {key: value for key, value in os.environ.items() if key == "K8S_VENV_CACHE"}

    ran = subprocess.run(
        [sys.executable, "-c", "from k8s_venv.cli import main; main(prog_name='k8s-venv')", "test", "dags/pods.py"],
        cwd=dags.parent,
        env={**kept, **cache, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 1
    assert "Task 'sales.fetch' runs on Kubernetes, and no cluster is configured here" in ran.stderr
    assert "k8s-venv test --backend local pods.py" in ran.stderr
    assert "none today" not in ran.stdout + ran.stderr
