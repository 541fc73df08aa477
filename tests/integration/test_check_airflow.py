"""`k8s-venv check` finds what a task asks of Airflow that does not reach its environment, and invents nothing."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.airflow_home import AIRFLOW, airflow_home, dags_folder

PROJECT = """
backend = "local"

[environments.here]
python = "{}.{}"
interpreter = "{}"
""".format(*sys.version_info[:2], sys.executable)
HEAD = f"from {AIRFLOW} import dag, task\n"
BASE_HOOK = "airflow.sdk" if AIRFLOW == "airflow.sdk" else "airflow.hooks.base"
VARIABLE = "airflow.sdk" if AIRFLOW == "airflow.sdk" else "airflow.models"

Found = dict[int, list[str]]
Check = Callable[..., Found]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Check the text of a DAG file; return the messages by line, of modules beside it by name and line."""

    def check_text(text: str, **modules: str) -> dict[int, list[str]]:
        airflow_home()
        from k8s_venv.airflow.loading import load_tasks
        from k8s_venv.check.tasks import check_tasks

        (tmp_path / "k8s-venv.toml").write_text(PROJECT)
        (tmp_path / "dag_file.py").write_text(HEAD + textwrap.dedent(text))
        for name, content in modules.items():
            (tmp_path / f"{name}.py").write_text(textwrap.dedent(content))
        with dags_folder(tmp_path):
            tasks, broken = load_tasks(tmp_path / "dag_file.py")
            findings = [*broken, *check_tasks(tasks)]
        for name in modules:
            sys.modules.pop(name, None)
        found: dict[int, list[str]] = {}
        for each in findings:
            found.setdefault(each.line, []).append(each.message)
        return found

    return check_text


def in_dag(body: str, options: str = "", head: str = "", call: str = "work()") -> str:
    """Return a DAG file with one isolated task, whose lines say after ``# ->`` what is to be found there."""
    task = textwrap.indent(textwrap.dedent(body).strip("\n"), "        ")
    return f"""
{textwrap.dedent(head)}
@dag(schedule=None)
def uses():
    @task.isolated("here"{options})
{task.replace("        def work", "    def work", 1)}

    {call}

uses()
"""


def expected(text: str) -> dict[int, list[str]]:
    lines = enumerate((HEAD + text).split("\n"), 1)
    return {number: re.findall(r"# -> (.*)", line) for number, line in lines if "# -> " in line}


def assert_found(found: dict[int, list[str]], text: str) -> None:
    wanted = expected(text)
    assert found.keys() == wanted.keys(), found
    for line, (sentence,) in wanted.items():
        assert any(sentence in message for message in found[line]), found[line]


USES = {
    "a variable": f"""
        def work():
            from {VARIABLE} import Variable
            return Variable.get("stage")  # -> Give the task variables=["stage"].
        """,
    "an alias": f"""
        def work():
            from {VARIABLE} import Variable as V
            return V.get("stage")  # -> uses the variable 'stage'
        """,
    "through the module": """
        def work():
            import airflow.models as models
            return models.Variable.get(key="stage")  # -> variables=["stage"]
        """,
    "the whole path": """
        def work():
            import airflow.models
            return airflow.models.Variable.get("stage", deserialize_json=True)  # -> variables=["stage"]
        """,
    "with a default": f"""
        def work():
            from {VARIABLE} import Variable
            return Variable.get("stage", default_var="dev")  # -> optional_variables=["stage"]
        """,
    "guarded": f"""
        def work():
            from {VARIABLE} import Variable
            try:
                return Variable.get("stage")  # -> optional_variables=["stage"]
            except KeyError:
                return None
        """,
    "a name that is set once": f"""
        def work():
            from {VARIABLE} import Variable
            key = "stage"
            return Variable.get(key)  # -> variables=["stage"]
        """,
    "in a nested function": f"""
        def work():
            from {VARIABLE} import Variable
            def inner():
                return Variable.get("stage")  # -> variables=["stage"]
            return inner()
        """,
    "in a lambda and a comprehension": f"""
        def work():
            from {VARIABLE} import Variable
            one = (lambda: Variable.get("a"))()  # -> variables=["a", "b"]
            return [Variable.get("b") for n in [one]]  # -> variables=["a", "b"]
        """,
    "stored": f"""
        def work():
            from {VARIABLE} import Variable
            Variable.set("stage", 1)  # -> asks for Variable.set(), which needs Airflow itself. Return the value
        """,
    "a connection": f"""
        def work():
            from {BASE_HOOK} import BaseHook
            return BaseHook.get_connection("db").host  # -> Give the task connections=["db"].
        """,
    "by keyword": f"""
        def work():
            from {BASE_HOOK} import BaseHook
            return BaseHook.get_connection(conn_id="db").host  # -> connections=["db"]
        """,
    "of a hook": """
        def work():
            from airflow.providers.postgres.hooks.postgres import PostgresHook
            return PostgresHook(postgres_conn_id="db").get_records("select 1")  # -> connections=["db"]
        """,
    "of a hook by position": """
        def work():
            from airflow.providers.amazon.aws.hooks.s3 import S3Hook
            hook = S3Hook("aws")  # -> connections=["aws"]
            return hook.list_keys("bucket")
        """,
    "of a hook whose first argument is another": """
        def work():
            from airflow.providers.http.hooks.http import HttpHook
            HttpHook("GET", "api").run("/")  # -> connections=["api"]
        """,
    "of a hook whose first argument is no connection": """
        def work():
            from airflow.providers.amazon.aws.hooks.glue import GlueJobHook
            return GlueJobHook("nightly").initialize_job()
        """,
    "of a hook's class": """
        def work():
            from airflow.providers.postgres.hooks.postgres import PostgresHook
            return PostgresHook.get_connection("db").host  # -> connections=["db"]
        """,
    "of an operator": """
        def work():
            from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
            SQLExecuteQueryOperator(task_id="t", sql="x", conn_id="db").execute({})  # -> connections=["db"]
        """,
    "of the runtime": """
        def work():
            from k8s_venv import runtime
            runtime.get_variable("a", default=1)  # -> optional_variables=["a"]
            return runtime.get_connection("db").host  # -> connections=["db"]
        """,
    "xcom_pull": """
        def work(ti):
            return ti.xcom_pull("first")  # -> Pass the other task's output as an argument: work(first()).
        """,
    "xcom_pull of the context": """
        def work(**context):
            return context["ti"].xcom_pull(task_ids="first")  # -> work(first())
        """,
    "xcom_pull of another DAG": """
        def work(ti):
            return ti.xcom_pull(dag_id="other", task_ids="first")  # -> Let a plain task before this one pull it
        """,
    "xcom_pull by get": """
        def work(**kwargs):
            return kwargs.get("task_instance").xcom_pull(task_ids=["a", "b"])  # -> work(other_task())
        """,
    "xcom_push of a name": """
        def work(**context):
            ti = context["ti"]
            ti.xcom_push(key="a", value=1)  # -> asks for ti.xcom_push(), which needs Airflow itself. Return the value
        """,
    "xcom_pull of the current context": f"""
        def work():
            from {AIRFLOW if AIRFLOW == "airflow.sdk" else "airflow.operators.python"} import get_current_context
            return get_current_context()["ti"].xcom_pull(task_ids="first")  # -> work(first())
        """,
    "xcom_pull of the runtime's context": """
        def work():
            from k8s_venv import runtime
            return runtime.get_current_context()["ti"].xcom_pull(task_ids="first")  # -> work(first())
        """,
    "an attribute": """
        def work(ti, dag_run=None):
            dag_run.get_task_instances()  # -> asks for dag_run.get_task_instances, which needs Airflow
            return ti.hostname  # -> asks for ti.hostname
        """,
    "a key of the context": """
        def work(**context):
            return context["var"]["value"]  # -> Name the variable in variables=["…"]
        """,
}


@pytest.mark.parametrize("body", USES.values(), ids=USES)
def test_a_use_is_found_at_its_line_with_what_to_write(check: Check, body: str) -> None:
    text = in_dag(body)

    assert_found(check(text), text)


FINE = {
    "named": (f'def work():\n    from {VARIABLE} import Variable\n    return Variable.get("a")', ', variables=["a"]'),
    "named as optional": (
        f'def work():\n    from {VARIABLE} import Variable\n    return Variable.get("a")',
        ', optional_variables=["a"]',
    ),
    "a connection that is named": (
        'def work():\n    from airflow.providers.x.hooks.y import YHook\n    YHook(y_conn_id="a")',
        ', connections=["a"]',
    ),
    "in a variable of the process": (
        f'def work():\n    from {VARIABLE} import Variable\n    return Variable.get("a")',
        ', env_vars={"AIRFLOW_VAR_A": "1"}',
    ),
    "a secrets backend": (
        f'def work():\n    from {VARIABLE} import Variable\n    return Variable.get("a")',
        ', env_vars={"AIRFLOW__SECRETS__BACKEND": "x"}',
    ),
    "variables from a Secret": (
        f'def work():\n    from {VARIABLE} import Variable\n    return Variable.get("a")',
        ', env_from=[{"secretRef": {"name": "a"}}]',
    ),
    "another Variable": ('def work():\n    from tkinter import Variable\n    return Variable.get("a")', ""),
    "another hook": ('def work():\n    from mine import MyHook\n    return MyHook("a")', ""),
    "another get_connection": ('def work(pool=None):\n    return pool.get_connection("a")', ""),
    "a parameter": (f"def work(key='a'):\n    from {VARIABLE} import Variable\n    return Variable.get(key)", ""),
    "two values": (
        f"def work():\n    from {VARIABLE} import Variable\n    k = 'a'\n    k = 'b'\n    return Variable.get(k)",
        ', variables=["a", "b"]',
    ),
    "known attributes": ("def work(ti, dag_run, dag):\n    return [ti.try_number, dag_run.conf, dag.dag_id]", ""),
    "keys of the context": ('def work(**context):\n    return [context["ds"], context["ti"].task_id]', ""),
    "only for type checkers": (
        f"def work():\n    if False:\n        from {VARIABLE} import Variable\n        Variable.get('a')",
        "",
    ),
    "a method of its own": (
        "def work():\n    class Box:\n        def xcom_pull(self): return self.xcom_pull()\n    return Box",
        "",
    ),
    "a loop's variable": ("def work(ti):\n    return [ti.hostname for ti in []]", ""),
    "a hook without an id": ("def work():\n    from airflow.providers.x.hooks.y import YHook\n    YHook()", ""),
    "a template": (
        "def work():\n    from airflow.providers.x.hooks.y import YHook\n    YHook(y_conn_id='{{ params.a }}')",
        "",
    ),
}


@pytest.mark.parametrize(("body", "options"), FINE.values(), ids=FINE)
def test_what_works_is_not_found(check: Check, body: str, options: str) -> None:
    found = check(in_dag(body, options))

    assert found == {}


def test_names_that_a_call_gives_do_not_come_from_the_context(check: Check) -> None:
    body = 'def work(**settings):\n    return settings["conf"]["a"]'

    assert check(in_dag(body, call='work(conf={"a": 1})')) == {}


BESIDE = f"""
from {VARIABLE} import Variable

KEY = "beside"

def used():
    return Variable.get(KEY)

def never_used(ti):
    ti.xcom_push("a", 1)
    return Variable.get("never")

class Store:
    def load(self):
        return Variable.get("loaded")

    def other(self):
        return Variable.get("other")
"""


def test_of_modules_beside_only_what_the_task_can_reach_is_looked_at(check: Check) -> None:
    body = "def work():\n    import beside\n    return [beside.used(), beside.Store().load()]"

    found = check(in_dag(body), beside=BESIDE)

    messages = " ".join(message for each in found.values() for message in each)
    assert "'beside'" in messages
    assert "'loaded'" in messages
    assert "'never'" not in messages
    assert "'other'" not in messages
    assert "xcom_push" not in messages
    assert found.keys() == {7, 15}


def test_names_of_the_dag_file_are_known(check: Check) -> None:
    text = in_dag(
        """
        def work():
            return helper(KEY)

        """,
        head=f"""
        from {VARIABLE} import Variable
        from {BASE_HOOK} import BaseHook

        KEY = "stage"
        CONNECTION = "db"

        def helper(key):
            BaseHook.get_connection(CONNECTION)  # -> connections=["db"]
            return Variable.get(KEY)  # -> variables=["stage"]

        def not_used():
            return Variable.get("never")
        """,
    )

    assert_found(check(text), text)


def test_a_hook_of_the_projects_own_is_known(check: Check) -> None:
    text = in_dag(
        """
        def work():
            OurHook.get_connection("a")  # -> connections=["a", "b", "c"]
            OurHook(our_conn_id="b")  # -> connections=["a", "b", "c"]
            return OurHook("x", "c")  # -> connections=["a", "b", "c"]

        """,
        head=f"""
        from {BASE_HOOK} import BaseHook

        class OurHook(BaseHook):
            def __init__(self, table="", our_conn_id=""):
                self.table = table
                self.connection = self.get_connection(our_conn_id)
        """,
    )

    assert_found(check(text), text)


def test_what_the_dag_file_asked_for_itself_travels_as_a_value(check: Check) -> None:
    text = in_dag(
        """
        def work(n=1):
            return [STAGE, n]

        """,
        head=f"""
        from {VARIABLE} import Variable
        from {BASE_HOOK} import BaseHook

        STAGE = Variable.get("stage", "dev")

        def of_the_worker(context):
            context["ti"].xcom_push("a", BaseHook.get_connection("db").host)
        """,
    ).replace('@task.isolated("here"', '@task.isolated("here", on_failure_callback=of_the_worker')

    assert check(text) == {}


def test_names_that_are_given_already_stand_in_the_line_to_write(check: Check) -> None:
    body = f"def work():\n    from {VARIABLE} import Variable\n    return Variable.get('b') + Variable.get('a')"

    found = check(in_dag(body, ', variables=["z", "a"]'))

    assert [message for each in found.values() for message in each] == [
        "uses the variable 'b', which the task does not name, so it does not arrive. "
        'Give the task variables=["z", "a", "b"].'
    ]


@pytest.mark.parametrize("named", [False, True])
def test_a_mapped_task_and_default_args_name_them_as_well(check: Check, named: bool) -> None:
    given = ', default_args={"variables": ["a"]}' if named else ""

    found = check(f"""
from {VARIABLE} import Variable

@dag(schedule=None{given})
def uses():
    @task.isolated("here")
    def work(n):
        return Variable.get("a")

    work.expand(n=[1, 2])

uses()
""")

    assert bool(found) is not named
