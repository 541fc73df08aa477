"""Connections and variables of a real Airflow, in the tasks that name them and in no log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from k8s_venv.errors import K8sVenvError
from tests.airflow_home import AIRFLOW, VERSION, airflow_home

HERE = "{}.{}".format(*sys.version_info)
# In several writings, so that a leak of any is found: the word stands in all of them.
PLANTED = "Pl4ntedPassword/äöü"
WAREHOUSE = {
    "conn_type": "snowflake",
    "host": "db",
    "login": "me",
    "password": PLANTED,
    "extra": json.dumps({"account": "ours", "private_key_content": "Pl4ntedKey", "warehouse": "small"}),
}

DAG = """
import os
from {airflow} import dag, task
from k8s_venv import runtime

@dag(schedule=None)
def pipeline():
    @task.isolated("{environment}", connections=["warehouse"], optional_connections=["nowhere"],
                   variables=["token"], optional_variables=["nothing"])
    def use():
        connection = runtime.get_connection("warehouse")
        print("printed", connection.password, connection.extra)
        os.system("echo from a child $AIRFLOW_CONN_WAREHOUSE $AIRFLOW_VAR_TOKEN")
        return [len(connection.password), connection.extra_dejson["warehouse"], len(runtime.get_variable("token")),
                "AIRFLOW_CONN_OTHER" in os.environ]

    @task.isolated("{environment}", connections=["warehouse"])
    def fails():
        raise RuntimeError("no login with " + runtime.get_connection("warehouse").password)

    @task.isolated("{environment}", variables=["token"])
    def returns():
        return runtime.get_variable("token")

    use()
    fails()
    returns()

pipeline()
"""

Run = Callable[[str], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run the text of a DAG file with `k8s-venv test`, as a user would, with secrets in Airflow's surroundings."""
    airflow_home()
    (tmp_path / "k8s-venv.toml").write_text(f'[environments.bare]\npython = "{HERE}"\n')

    def run_text(text: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "dag.py").write_text(text)
        environ = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        secrets = {
            "AIRFLOW_CONN_WAREHOUSE": json.dumps(WAREHOUSE),
            "AIRFLOW_CONN_OTHER": json.dumps(WAREHOUSE),
            "AIRFLOW_VAR_TOKEN": "Pl4ntedToken",
        }
        command = [sys.executable, "-c", "from k8s_venv.cli import main; main(prog_name='k8s-venv')"]
        return subprocess.run(
            [*command, "test", "--backend", "local", "dag.py"],
            cwd=tmp_path,
            env={**environ, **secrets},
            capture_output=True,
            text=True,
            check=False,
        )

    return run_text


def test_secrets_reach_the_task_and_no_output(run: Run) -> None:
    done = run(DAG.format(airflow=AIRFLOW, environment="bare"))

    printed = done.stdout + done.stderr
    assert "printed ***" in printed
    assert "from a child" in printed
    assert "no login with ***" in printed
    assert f"[{len(PLANTED)}, 'small', {len('Pl4ntedToken')}, False]" in printed
    assert "Pl4nted" not in printed


@pytest.mark.parametrize("kind", ["connection", "variable"])
def test_what_airflow_does_not_have_is_told(kind: str) -> None:
    if kind == "variable" and VERSION.startswith("3.0."):
        pytest.skip("Airflow 3.0 looks variables up within tasks alone")
    airflow_home()
    from k8s_venv.airflow.context import SecretNames, resolve_secrets

    with pytest.raises(K8sVenvError, match=f"Task 'use' asks for the {kind} 'absent', which is not defined in Airflow"):
        resolve_secrets(SecretNames(**{f"{kind}s": ("absent",)}), "use")

    assert resolve_secrets(SecretNames(**{f"optional_{kind}s": ("absent",)}), "use") == {}


def test_names_are_lists() -> None:
    airflow_home()
    from k8s_venv.airflow.operators import IsolatedOperator

    with pytest.raises(K8sVenvError, match=r"variables is a list: variables=\['x'\]"):
        IsolatedOperator(task_id="t", environment="bare", python_callable=print, variables="x")
