"""Airflow inside an environment, without its database: a hook finds what was delivered, and nobody else does."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from k8s_venv.locks import uv
from tests.airflow_home import AIRFLOW
from tests.cluster.conftest import RunFile, _build

PLANTED = "Pl4nted/Password"
TOKEN = "Pl4ntedToken"

PROJECT = """
[environments.snowflake]
python = "3.8"
requirements = "snowflake.txt"

[environments.none]
python = "3.8"
"""
# python-nvd3 and unicodecsv, which Airflow 2 needs, come without wheels.
REQUIREMENTS = """
--find-links wheels
apache-airflow
psycopg2-binary
apache-airflow-providers-snowflake
snowflake-sqlalchemy<1.7.8
cryptography<44
pyOpenSSL>=24
"""
DAG = f"""
import os
from {AIRFLOW} import DAG, task
from k8s_venv import runtime

SECRETS = {{"connections": ["snowflake_default"], "variables": ["stage_token"], "on_finish_action": "keep_pod"}}

with DAG("secrets", schedule=None):

    @task.isolated("snowflake", **SECRETS)
    def with_airflow():
        from airflow.exceptions import AirflowNotFoundException
        from airflow.models import Variable
        from airflow.providers.snowflake.hooks.snowflake import SnowflakeHook

        params = SnowflakeHook("snowflake_default")._get_conn_params
        params = params() if callable(params) else params  # a property in some versions
        print("connects with", params)
        refused = []
        for attempt in (lambda: SnowflakeHook("other")._get_conn_params, lambda: Variable.set("a", "b")):
            try:
                attempt()
            except (AirflowNotFoundException, RuntimeError) as error:
                refused.append(str(error))
        return {{
            "account": params["account"], "password": len(params["password"]),
            "token": len(Variable.get("stage_token")), "refused": refused, "user": os.getuid(),
            "home": os.environ["AIRFLOW_HOME"], "read_only": not os.access("/opt", os.W_OK),
        }}

    @task.isolated("none", **SECRETS)
    def without_airflow():
        connection = runtime.get_connection("snowflake_default")
        print("connects with", connection.password, runtime.get_variable("stage_token"))
        return [connection.host, connection.login, len(connection.password), connection.schema, connection.port,
                connection.extra_dejson, connection.get_uri().split(":")[0]]

    @task.isolated("none", env_vars={{"FROM": "{{{{ dag.dag_id }}}}"}}, **SECRETS)
    def fails():
        raise ValueError(runtime.get_connection("snowflake_default").password, os.environ["FROM"])

    with_airflow()
    without_airflow()
    fails()
"""
CONNECTION = {
    "conn_type": "snowflake",
    "host": "db",
    "login": "me",
    "password": PLANTED,
    "schema": "sales",
    "port": 443,
    "extra": json.dumps({"account": "ours", "warehouse": "small"}),
}


@pytest.fixture(scope="module")
def project(registry: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inside") / "dags"
    folder.mkdir()
    (folder / "k8s-venv.toml").write_text(PROJECT)
    (folder / "snowflake.txt").write_text(REQUIREMENTS)
    (folder / "dag.py").write_text(DAG)
    uv.run(
        [
            "tool",
            "run",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "-w",
            str(folder / "wheels"),
            "python-nvd3",
            "unicodecsv",
        ]
    )
    return _build(folder, registry)


def test_secrets_are_found_by_the_task_and_nowhere_else(
    project: Path, run_file: RunFile, client: Any, namespace: str, capfd: pytest.CaptureFixture[str]
) -> None:
    state, tasks = run_file(
        project / "dag.py", AIRFLOW_CONN_SNOWFLAKE_DEFAULT=json.dumps(CONNECTION), AIRFLOW_VAR_STAGE_TOKEN=TOKEN
    )

    printed = "".join(capfd.readouterr())
    assert (state, tasks["fails"].state) == ("failed", "failed")
    assert tasks["with_airflow"].value == {
        "account": "ours",
        "password": len(PLANTED),
        "token": len(TOKEN),
        "refused": [
            "The connection 'other' was not named by this task: add connections=['other'] to it. "
            "Connections that were: snowflake_default.",
            "Variable.set() needs Airflow's database, which an isolated environment cannot reach. Return the value, "
            "and let a plain task after this one store it.",
        ],
        "user": 50000,
        "home": "/tmp/airflow",
        "read_only": True,
    }
    assert tasks["without_airflow"].value == [
        *("db", "me", len(PLANTED), "sales", 443, {"account": "ours", "warehouse": "small"}, "snowflake")
    ]
    assert "connects with ***" in printed
    seen = {
        "the output": printed,
        "the pods": str(pods := client.list_namespaced_pod(namespace).items),
        "the events": str(client.list_namespaced_event(namespace).items),
        "the rendered templates": rendered_templates(),
        **{f"the log of {name}": log for name, log in logs(client, namespace, pods).items()},
    }
    for place, text in seen.items():
        for secret in (PLANTED, TOKEN, base64.b64encode(PLANTED.encode()).decode()):
            assert secret not in text, place
    secrets = client.list_namespaced_secret(namespace, field_selector="type=Opaque").items  # without the chart's
    stored = [secret.data.get("secrets.json", "") for secret in secrets]
    assert [PLANTED in base64.b64decode(data).decode() for data in stored] == [True] * 3
    for pod in pods:
        client.delete_namespaced_pod(pod.metadata.name, namespace)


def logs(client: Any, namespace: str, pods: list[Any]) -> dict[str, str]:
    return {
        f"{pod.metadata.name}/{container.name}": client.read_namespaced_pod_log(
            pod.metadata.name, namespace, container=container.name
        )
        for pod in pods
        for container in pod.spec.containers
    }


def rendered_templates() -> str:
    from airflow.models.renderedtifields import RenderedTaskInstanceFields
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        fields = session.scalars(select(RenderedTaskInstanceFields)).all()
        return str([(each.task_id, each.rendered_fields) for each in fields])
