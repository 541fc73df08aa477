"""Isolated tasks behave as Airflow's own: what a DAG's author writes, and how its tasks end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from k8s_venv.errors import K8sVenvError
from k8s_venv.locking import write_lock
from k8s_venv.project import load_project
from tests.airflow_home import AIRFLOW, airflow_home, dags_folder

PROJECT = """
[environments.same]
python = "{}.{}"
""".format(*sys.version_info)
HEAD = f"from {AIRFLOW} import dag, setup, task, task_group, teardown\nfrom k8s_venv import IsolatedOperator, runtime\n"

Run = Callable[[str], tuple[dict[str, str], dict[str, Any]]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    airflow_home()
    (tmp_path / "k8s-venv.toml").write_text(PROJECT)
    write_lock(load_project(tmp_path / "k8s-venv.toml").environment("same"))
    return tmp_path


@pytest.fixture
def load(folder: Path) -> Callable[[str], Any]:
    """Load the text of a DAG file."""

    def load_text(text: str) -> Any:
        from k8s_venv.airflow.testing import load_dag

        path = folder / "dag.py"
        path.write_text(HEAD + text)
        with dags_folder(folder):
            return load_dag(path)

    return load_text


@pytest.fixture
def run(folder: Path, load: Callable[[str], Any]) -> Run:
    """Run the text of a DAG file; return the tasks' states and values, by id and, where mapped, number."""

    def run_text(text: str) -> tuple[dict[str, str], dict[str, Any]]:
        dag = load(text)
        with dags_folder(folder, K8S_VENV_BACKEND="local"):
            from k8s_venv.airflow.testing import run_dag

            _, outcomes = run_dag(dag)
        named = [(o.task_id if o.map_index < 0 else f"{o.task_id}[{o.map_index}]", o) for o in outcomes]
        return {key: o.state for key, o in named}, {key: o.value for key, o in named}

    return run_text


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


def test_a_run_takes_the_course_that_airflow_gives_it(run: Run) -> None:
    states, values = run(FLOW)

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
def pipeline():
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

pipeline()
"""


def test_values_flow_as_xcoms_do(run: Run) -> None:
    states, values = run(VALUES)

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
        {"x": {"numbers": [1, 2, 3], "word": "w"}, "rendered": "pipeline"},
    ]
    assert values["of_group"] == 12


def test_the_nearest_default_environment_counts(load: Callable[[str], Any], folder: Path) -> None:
    (folder / "k8s-venv.toml").write_text(PROJECT + PROJECT.replace("same", "outer") + PROJECT.replace("same", "own"))
    dag = load("""
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
]


@pytest.mark.parametrize(("body", "sentence"), MISTAKES)
def test_a_mistake_is_told_when_the_dag_is_parsed(load: Callable[[str], Any], body: str, sentence: str) -> None:
    with pytest.raises(K8sVenvError) as caught:
        load(f"\n@dag(schedule=None)\ndef pipeline():\n    {body}\n\npipeline()\n")

    assert sentence in str(caught.value)


def test_a_task_runs_what_was_loaded_though_its_file_is_edited_meanwhile(run: Run) -> None:
    states, values = run("""
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
