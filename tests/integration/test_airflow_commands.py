"""``@task.isolated_cmd``: commands in an environment."""

from __future__ import annotations

from pathlib import Path

from tests.airflow_home import RunText

FLOW = """
@dag(schedule=None, default_args={"environment": "same"}, params={"p": 7})
def pipeline():
    @task.isolated_cmd(files=["sql/*.sql"], env={"DAY": "{{ params.p }}"}, cwd="sql")
    def read(name, params=None):
        return ["sh", "-c", f"echo {params['p']} {name} {{{{ params.p }}}} $DAY; cat q.sql"]

    @task.isolated_cmd
    def document():
        return "echo '[1, 2]' > $K8S_VENV_RESULT"

    @task.isolated_cmd(skip_on_exit_code=9)
    def skipped():
        return "exit 9"

    @task.isolated_cmd(retries=0)
    def failing():
        return ["sh", "-c", "exit 7"]

    @task.isolated_cmd(retries=0)
    def wrong():
        return 5

    read("x"), document(), skipped(), failing(), wrong()

pipeline()
"""


def test_commands_end_as_their_programs_do(same_environment: Path, run_text: RunText) -> None:
    (same_environment / "sql").mkdir()
    (same_environment / "sql" / "q.sql").write_text("select 1")

    states, values = run_text(FLOW)

    assert states == {
        "read": "success",
        "document": "success",
        "skipped": "skipped",
        "failing": "failed",
        "wrong": "failed",
    }
    assert (values["read"], values["document"]) == ("select 1", [1, 2])
