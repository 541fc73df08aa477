"""`k8s-venv check` names what would keep pods from waiting for an environment's calls, with its line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from k8s_venv.backends.local.environments import make_environment
from k8s_venv.config.project import load_project
from k8s_venv.locks.locking import write_lock
from tests.airflow_home import require_airflow
from tests.wheels import make_wheel

HERE = "{}.{}".format(*sys.version_info)
DAG = """
from airflow.sdk import dag, task

@dag(schedule=None)
def sales():
    @task.isolated("etl")
    def load():
        pass

    @task.isolated("etl")
    def clean():
        pass

    load() >> clean()

sales()
"""
FILES = {
    "tables/__init__.py": "from tables import parts\n",
    "tables/parts.py": "",
    "broken.py": "def connect():\n    raise RuntimeError('no driver for\\x1b[31m //user:password@host')\n\nconnect()\n",
    "airflow/__init__.py": "",
    "company.py": "import airflow\n",
    "crashing.py": "import os\nos.abort()\n",
    "leaving.py": "import sys\nsys.exit('not today')\n",
    "needs_variable.py": "import os\nprint('noise', os.environ['MODE'])\n",
}


def check(folder: Path, settings: str, dag: str = DAG, *, made_here: bool = False) -> list[dict[str, Any]]:
    """Check two tasks in an environment with a wheel of `FILES`, after the environment was made here, if it says so."""
    require_airflow()
    own = {"own.py": f"PLACE = {str(folder)!r}\n"}  # so that no other test has made this environment
    wheel = make_wheel(folder / "wheels", "tables", "1.0", files={**FILES, **own})
    text = f'[environments.etl]\npython = "{HERE}"\nrequirements = ["tables @ {wheel.as_uri()}"]\n{settings}'
    (folder / "k8s-venv.toml").write_text(text)
    (folder / "dag.py").write_text(dag)
    environment = load_project(folder / "k8s-venv.toml").environments["etl"]
    write_lock(environment)
    if made_here:
        make_environment(environment)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    done = subprocess.run(
        ["k8s-venv", "check", "--format", "json"], cwd=folder, env=environ, capture_output=True, text=True, check=False
    )
    assert done.stderr.endswith("findings\n") or done.stderr.endswith("finding\n"), done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_modules_of_the_lock_and_of_python_can_be_imported_early(tmp_path: Path) -> None:
    settings = 'warm = { min = 1, preload = ["tables", "tables.parts", "json", "concurrent.futures"] }\n'

    assert check(tmp_path, settings, made_here=True) == []


def test_a_module_that_the_lock_lacks_is_named_with_its_line_and_tasks(tmp_path: Path) -> None:
    found = check(tmp_path, '\n[environments.etl.warm]\nmin = 1\npreload = ["tables", "yaml"]\n')

    assert {each["task"] for each in found} == {"sales.load", "sales.clean"}
    assert {(each["path"], each["line"]) for each in found} == {(f"{tmp_path}/k8s-venv.toml", 7)}
    assert found[0]["message"] == (
        "`preload` names yaml, which nothing in environment 'etl' provides. Add PyYAML to `requirements` of "
        "[environments.etl] and run `k8s-venv lock etl`, or leave it out of `preload`."
    )


def test_a_misspelt_module_gets_the_nearest_name(tmp_path: Path) -> None:
    (found, _) = check(tmp_path, 'warm = { preload = ["tabels"] }\n')

    assert (
        "`preload` names tabels, which nothing in environment 'etl' provides. Did you mean 'tables'?"
        in found["message"]
    )


def test_a_module_of_the_project_arrives_with_its_call(tmp_path: Path) -> None:
    (tmp_path / "helpers.py").write_text("")

    (found, _) = check(tmp_path, 'warm = { preload = ["helpers"] }\n')

    assert f"It is {tmp_path}/helpers.py, which arrives with each call that uses it. Leave it out" in found["message"]


def test_a_module_that_fails_here_is_named_with_its_traceback(tmp_path: Path) -> None:
    (found, _) = check(tmp_path, 'warm = { preload = ["tables", "broken"] }\n', made_here=True)

    reason, _, traceback = found["message"].partition("\n")
    assert reason == (
        "`preload` names broken, which cannot be imported on this machine: RuntimeError: no driver for\\x1b[31m "
        "//user:password@host. Correct what it needs, or leave it out of `preload`."
    )
    assert traceback.startswith("Traceback (most recent call last):\n")
    assert 'broken.py", line 4, in <module>\n    connect()' in traceback


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("crashing", "importing tables, crashing on this machine failed: its process was ended by SIGABRT"),
        ("company", "names company, which cannot be imported on this machine: ImportError: it imports airflow, which "),
        ("leaving", "names leaving, which cannot be imported on this machine: SystemExit: not today."),
    ],
)
def test_a_module_that_ends_its_process_or_imports_airflow_is_named(tmp_path: Path, module: str, reason: str) -> None:
    (found, _) = check(tmp_path, f'warm = {{ preload = ["tables", "{module}"] }}\n', made_here=True)

    assert reason in found["message"]


def test_the_environments_own_variables_are_there_when_modules_are_imported(tmp_path: Path) -> None:
    settings = 'warm = { preload = ["needs_variable"] }\npod = { env_vars = { MODE = "fast" } }\n'

    assert check(tmp_path, settings, made_here=True) == []


def test_nothing_is_imported_where_the_environment_is_not_here_or_has_more_than_packages(tmp_path: Path) -> None:
    assert check(tmp_path, 'warm = { preload = ["broken"] }\n') == []
    settings = 'warm = { preload = ["broken"] }\npackages = ["libpq5"]\nbuilder = "buildkit"\n'
    assert check(tmp_path, settings, made_here=True) == []


def test_pod_options_that_no_waiting_pod_can_have_are_named(tmp_path: Path) -> None:
    found = check(
        tmp_path,
        """
warm = { min = 1 }
[environments.etl.pod]
priority_class_name = "high"
node_selector = { run = "{{ run_id }}" }
labels = { run = "{{ run_id }}" }
tolerations = [{ key = "spot", operator = "Exists" }]
on_finish_action = "keep_pod"
namespace = "{{ var.value.namespace }}"
affinity = {}
[pod]
host_aliases = [{ ip = "10.0.0.1", hostnames = ["db"] }]
""",
    )

    messages = {each["line"]: each["message"] for each in found}
    assert sorted(messages) == [7, 8, 15]
    assert messages[7] == (
        "Environment 'etl' has `warm`, but the option 'priority_class_name' of `pod` is one that only Airflow's "
        "operator renders, so no pod can wait with it. Give it to the tasks that need it, which then run in pods of "
        "their own, or leave out `warm`."
    )
    assert "the option 'node_selector' of `pod` is a template, which only a running task can fill in" in messages[8]
    assert "the option 'host_aliases' of [pod] is one that only Airflow's operator renders" in messages[15]


def test_an_environment_without_waiting_pods_may_have_them_all(tmp_path: Path) -> None:
    assert check(tmp_path, 'pod = { priority_class_name = "high" }\n') == []


@pytest.mark.parametrize(
    ("options", "start"),
    [
        ("", "at a pod that waits, if one is free"),
        ('labels={"run": "1"}, on_finish_action="keep_pod", tolerations=[]', "at a pod that waits, if one is free"),
        (
            'env_vars={"MODE": "fast"}, node_selector={"disk": "slow"}',
            "in a pod of its own, since it differs from those that wait: env_vars, node_selector",
        ),
    ],
)
def test_explain_says_how_a_task_starts(tmp_path: Path, options: str, start: str) -> None:
    settings = 'warm = { min = 1 }\npod = { node_selector = { disk = "fast" } }\n'
    assert check(tmp_path, settings, DAG.replace('"etl"', f'"etl", {options}')) == []

    shown = subprocess.run(
        ["k8s-venv", "explain", "dag.py", "load"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout

    assert f"start        {start}\n" in shown
