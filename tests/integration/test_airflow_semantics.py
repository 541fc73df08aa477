"""Isolated tasks behave as Airflow's own: what a DAG's author writes, and how its tasks end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from k8s_venv.errors import K8sVenvError
from tests.airflow_home import AIRFLOW, HEAD, SAME, LoadText, RunText

METADATA = AIRFLOW if AIRFLOW == "airflow.sdk" else "airflow.datasets.metadata"
FLOW = """
@dag(schedule=None, default_args={"environment": "same"}, params={"p": 7})
def pipeline():
    @task.isolated(retries=1, retry_delay=0)
    def second_try(ti=None):
        if ti.try_number == 1:
            raise ValueError("not yet")
        return ti.try_number

    @task.isolated
    def skips():
        runtime.skip("nothing to do")

    @task.isolated(retries=3, retry_delay=0)
    def fails_for_good():
        runtime.fail("no use")

    @task.isolated(trigger_rule="none_failed")
    def after_skip(value=None):
        return value

    @task.isolated(trigger_rule="one_failed")
    def after_failure():
        return "seen"

    @task.isolated
    def never(value):
        return value

    @task.branch_isolated
    def choose(params=None):
        return "left" if params["p"] == 7 else ["right"]

    @task.isolated
    def left(): return "left"

    @task.isolated
    def right(): return "right"

    @task.short_circuit_isolated
    def stop(): return False

    @task.short_circuit_isolated(ignore_downstream_trigger_rules=False)
    def stop_next(): return []

    @task.isolated
    def stopped(): ...

    @task.isolated(trigger_rule="all_done")
    def not_stopped(): return "ran"

    @setup
    @task.isolated
    def create(): return "made"

    @teardown
    @task.isolated
    def remove(): return "removed"

    second_try()
    after_skip(skips())
    broken = fails_for_good()
    broken >> after_failure()
    never(broken)
    choose() >> [left(), right()]
    stop() >> stopped() >> not_stopped.override(task_id="also_stopped")()
    stop_next() >> stopped.override(task_id="next_stopped")() >> not_stopped()
    made = create()
    made >> never.override(task_id="with_resource")(made) >> remove().as_teardown(setups=made)

pipeline()
"""


def test_a_run_takes_the_course_that_airflow_gives_it(run_text: RunText) -> None:
    states, values = run_text(FLOW)

    assert values["second_try"] == 2
    assert states["skips"] == "skipped"
    assert states["after_skip"] == "success"
    assert states["fails_for_good"] == "failed"
    assert values["after_failure"] == "seen"
    assert states["never"] == "upstream_failed"
    assert (states["left"], states["right"]) == ("success", "skipped")
    assert (states["stopped"], states["also_stopped"]) == ("skipped", "skipped")
    assert (states["next_stopped"], values["not_stopped"]) == ("skipped", "ran")
    assert (values["with_resource"], values["remove"]) == ("made", "removed")


VALUES = """
@dag(schedule=None, params={"p": 7})
def values_flow():
    @task.isolated("same", multiple_outputs=True)
    def several():
        return {"numbers": [1, 2, 3], "word": "w"}

    @task.isolated("same")
    def numbers():
        return [1, 2, 3]

    @task.isolated("same")
    def add(a, b=10, *, c=0):
        return a + b + c

    @task.isolated("same")
    def keep(*values, **named):
        return [list(values), {key: value for key, value in named.items() if key in ("x", "rendered")}]

    @task.isolated("same")
    def total(values):
        return sum(values)

    @task
    def pairs():
        return [{"a": 1, "b": 2}, {"a": 3, "b": 4}]

    @task
    def seconds():
        return [7, 8, 9]

    @task.isolated("same", templates_dict={"query": "query.sql", "p": "{{ params.p }}"}, templates_exts=[".sql"])
    def from_files(query, templates_dict=None):
        return [query, templates_dict]

    @task.isolated("same", map_index_template="{{ name }} {{ params.p }}")
    def named(name):
        return name

    @task.isolated("same")
    def before(prev_data_interval_start_success=None, prev_end_date_success=None):
        return [prev_data_interval_start_success, prev_end_date_success]

    @task_group
    def group(n):
        @task.isolated("same", task_id="twice")
        def double(n):
            return n * 2

        return double(n)

    parts, listed, others = several(), numbers(), seconds()
    added = add.partial(b=100).expand(a=listed)
    add.override(task_id="kwargs").partial(c=1).expand_kwargs(pairs())
    total(added)
    add.override(task_id="mapped").expand(a=listed.map(lambda n: n * 1000))
    keep.override(task_id="zipped").partial(x=1).expand(rendered=listed.zip(others))
    add.override(task_id="joined").expand(a=listed.concat(others))
    keep.override(task_id="templated")(
        "{{ params.p }}", parts["word"], {"deep": ["{{ ti.task_id }}"]}, x=parts, rendered="{{ dag.dag_id }}"
    )
    total.override(task_id="of_group")(group.expand(n=[1, 2, 3]))
    from_files("query.sql")
    named.expand(name=["a", "b"])
    before()

values_flow()
"""


def test_values_flow_as_xcoms_do(run_text: RunText, same_environment: Path) -> None:
    (same_environment / "query.sql").write_text("select {{ params.p }}")

    states, values = run_text(VALUES)

    assert set(states.values()) == {"success"}
    assert [values[f"add[{n}]"] for n in range(3)] == [101, 102, 103]
    assert [values[f"kwargs[{n}]"] for n in range(2)] == [4, 8]
    assert values["total"] == 306
    assert [values[f"mapped[{n}]"] for n in range(3)] == [1010, 2010, 3010]
    assert [values[f"joined[{n}]"] for n in range(6)] == [11, 12, 13, 17, 18, 19]
    assert [tuple(values[f"zipped[{n}]"][1]["rendered"]) for n in range(3)] == [(1, 7), (2, 8), (3, 9)]
    assert values["zipped[0]"][1]["x"] == 1
    assert values["templated"] == [
        ["7", "w", {"deep": ["templated"]}],
        {"x": {"numbers": [1, 2, 3], "word": "w"}, "rendered": "values_flow"},
    ]
    assert values["of_group"] == 12
    assert values["from_files"] == ["select 7", {"query": "select 7", "p": "7"}]
    assert [values[f"named[{n}]"] for n in range(2)] == ["a", "b"]
    assert values["before"] == [None, None]


def test_the_nearest_default_environment_counts(load_text: LoadText, same_environment: Path) -> None:
    (same_environment / "k8s-venv.toml").write_text(SAME + SAME.replace("same", "outer") + SAME.replace("same", "own"))
    dag = load_text("""
@dag(schedule=None, default_args={"environment": "outer"})
def pipeline():
    @task.isolated
    def one(): ...

    @task.isolated()
    def two(n): ...

    @task.isolated("own")
    def three(): ...

    @task_group(default_args={"environment": "same"})
    def group():
        one()
        two.expand(n=[1])

    one()
    two.expand(n=[1])
    three()
    group()

pipeline()
""")
    from k8s_venv.airflow.loading import isolated_tasks

    assert {task.name: task.environment.name for task in isolated_tasks(dag)} == {
        "pipeline.one": "outer",
        "pipeline.two": "outer",
        "pipeline.three": "own",
        "pipeline.group.one": "same",
        "pipeline.group.two": "same",
    }


INSIDE = """
@dag(schedule=None, default_args={"environment": "airflow"})
def pipeline():
    @task.isolated(variables=["stage"])
    def inside():
        from airflow.models import Variable
        return Variable.get("stage")

    @task.isolated
    def skips():
        from airflow.exceptions import AirflowSkipException
        raise AirflowSkipException("nothing to do")

    inside() >> skips()

pipeline()
"""


def test_an_environment_may_have_airflow_and_k8s_venv(
    run_text: RunText, same_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = f'[environments.airflow]\npython = "{sys.version_info[0]}.{sys.version_info[1]}"\n'
    (same_environment / "k8s-venv.toml").write_text(f'{here}interpreter = "{sys.executable}"\n')
    monkeypatch.setenv("AIRFLOW_VAR_STAGE", "tests")

    states, values = run_text(INSIDE)

    assert values["inside"] == "tests"
    assert states["skips"] == "skipped"


def test_a_variable_that_a_class_of_the_dag_file_reads_is_the_workers(
    run_text: RunText, same_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_STAGE", "tests")

    _, values = run_text("""
from airflow.models import Variable

class Config:
    stage = Variable.get("stage")

@dag(schedule=None, default_args={"environment": "same"})
def pipeline():
    @task.isolated
    def inside():
        return Config.stage

    inside()

pipeline()
""")

    assert values["inside"] == "tests"


SERIALIZE = """
import json, sys
from pathlib import Path
from k8s_venv.airflow.inprocess import read_dag_file
from airflow.serialization import serialized_objects as airflow

kind = getattr(airflow, "DagSerialization", None) or airflow.SerializedDAG
bag = read_dag_file(Path(sys.argv[1]))
print(json.dumps([kind.to_dict(dag) for dag in bag.dags.values()], sort_keys=True))
"""
SERIALIZED = """
from kubernetes.client import models as k8s

PASSWORD = "Pl4nted"

@dag(schedule=None, default_args={"environment": "same"})
def pipeline():
    @task.isolated(
        env_vars=[k8s.V1EnvVar(name="A", value="b")], tolerations=[k8s.V1Toleration(key="spot")], affinity={"a": {}},
        values={"exec": False}, labels={"x": "1", "y": "2", "z": "3"}, variables=["b", "a"], connections=["c"],
    )
    def work(n, password=PASSWORD):
        return PASSWORD

    work({"a": [1], "b": (2,)})
    work.expand(n=[1, 2])
    IsolatedOperator(task_id="classic", environment="same", python_callable=pow, op_args=[2, 10])

pipeline()
"""


def test_a_dag_is_stored_alike_each_time_it_is_parsed(same_environment: Path) -> None:
    """Airflow 3 makes a new version of a DAG whose stored form has changed."""
    (same_environment / "dag.py").write_text(HEAD + SERIALIZED)

    stored = [
        subprocess.run(
            [sys.executable, "-c", SERIALIZE, str(same_environment / "dag.py")],
            env={**os.environ, "PYTHONHASHSEED": seed, "AIRFLOW__CORE__DAGS_FOLDER": str(same_environment)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()[-1]
        for seed in ("1", "2")
    ]

    assert stored[0] == stored[1]
    assert len(json.loads(stored[0])[0]["dag"]["tasks"]) == 3
    assert "Pl4nted" not in stored[0]


MISTAKES = [
    ("@task.isolated\n    def work(): ...\n    work()", "Task 'work' names no environment: @task.isolated(\"NAME\")"),
    ("@task.isolated(7)\n    def work(): ...\n    work()", "@task.isolated takes the environment's name, not 7."),
    ("@task.branch_isolated(7)\n    def work(): ...\n    work()", "@task.branch_isolated takes the environment's name"),
    (
        "@task\n    def work(): ...\n    IsolatedOperator(task_id='t', environment='same', python_callable=work)",
        "Task 't': python_callable is work, which a @task decorator has made a task.",
    ),
    (
        "IsolatedOperator(task_id='t', environment='same', python_callable='work')",
        "Task 't': python_callable must be a function, not 'work'.",
    ),
    (
        "@task.isolated('same')\n    def work(n): yield n\n    work.expand(n=[1])",
        "work() yields, and a generator cannot",
    ),
    (
        "import functools\n    def work(n): yield n\n"
        "    IsolatedOperator(task_id='t', environment='same', python_callable=functools.partial(work, 1))",
        "Task 't': work() yields, and a generator cannot travel. Let it return a list.",
    ),
    (
        f"from {METADATA} import Metadata as Told\n"
        "    @task.isolated('same')\n    def work():\n        yield Told('orders', {'rows': 2})\n        return 2\n"
        "    work()",
        "work() yields Metadata, which needs Airflow itself. Let work() return its value only, and let a plain task "
        "after it yield the Metadata, with the asset among that task's outlets.",
    ),
    (
        "@task.isolated('same')\n    def work():\n"
        f"        import {METADATA} as assets\n        yield assets.Metadata('orders')\n    work()",
        "work() yields Metadata, which needs Airflow itself.",
    ),
    (
        "class Metadata: ...\n    @task.isolated('same')\n    def work(): yield Metadata()\n    work()",
        "work() yields, and a generator cannot travel.",
    ),
    ("@task.isolated('same', retrys=1)\n    def work(): ...\n    work()", "'retrys'. Did you mean 'retries'?"),
    (
        "@task.isolated('same', index_urls=[])\n    def work(): ...\n    work()",
        "'index_urls' cannot be set: name indexes",
    ),
]


@pytest.mark.parametrize(("body", "sentence"), MISTAKES)
def test_a_mistake_is_told_when_the_dag_is_parsed(load_text: LoadText, body: str, sentence: str) -> None:
    with pytest.raises(K8sVenvError) as caught:
        load_text(f"\n@dag(schedule=None)\ndef pipeline():\n    {body}\n\npipeline()\n")

    assert sentence in str(caught.value)


def test_a_task_runs_what_was_loaded_though_its_file_is_edited_meanwhile(run_text: RunText) -> None:
    states, values = run_text("""
@dag(schedule=None, default_args={"environment": "same"})
def pipeline():
    @task
    def edit():
        from pathlib import Path
        Path(__file__).write_text(Path(__file__).read_text().replace("10", "20"))

    @task.isolated
    def plain(): return 10

    @task.isolated
    def mapped(x): return 10

    edit() >> [plain(), mapped.expand(x=[1])]

pipeline()
""")

    assert set(states.values()) == {"success"}
    assert (values["plain"], values["mapped[0]"]) == (10, 10)
