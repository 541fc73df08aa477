"""`k8s-venv check` finds planted faults, each at its line, and invents none; `k8s-venv explain` shows what travels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from k8s_venv.check.provides import providers
from k8s_venv.config.project import load_project
from k8s_venv.locks.locking import write_lock
from tests.airflow_home import require_airflow
from tests.wheels import make_wheel

HERE = "{}.{}".format(*sys.version_info)
PROJECT = f"""
[environments.old]
python = "3.8"
requirements = ["requests"]

[environments.same]
python = "{HERE}"
requirements = ["requests"]

[environments.unlocked]
python = "3.8"
"""
FAULTS = """
import threading
import yaml
from airflow.sdk import dag, task
from helper import double

LOCK = threading.Lock()

@dag(schedule=None)
def faults():
    @task.isolated("old")
    def newer(x=1):
        match x:  # newer syntax
            case 1:
                return 2

    @task.isolated("old")
    def lock():
        with LOCK:
            pass

    @task.isolated("same")
    def lock_same():
        with LOCK:
            pass

    @task.isolated("old")
    def undeclared():
        return yaml.safe_load("a: 1")

    @task.isolated("same")
    def undeclared_inside():
        import pandas  # undeclared inside
        try:
            import ujson
        except ImportError:
            ujson = None
        import requests.adapters
        return pandas, ujson, requests

    @task.isolated("unlocked")
    def unlocked():
        pass

    @task.isolated("old")
    def fine(a):
        import json
        import requests
        return json.dumps(double(a)), requests

    newer(), lock(), lock_same(), undeclared(), undeclared_inside(), unlocked()
    fine.expand(a=[1, 2])

faults()
"""
MAPPED = """
from airflow.sdk import dag, task

@dag(schedule=None)
def mapped():
    @task.isolated("old", container_resource={})  # misspelt
    def work(x):
        pass

    work.expand(x=[1, 2])

mapped()
"""
PICKLED = """
from airflow.sdk import dag, task

@dag(schedule=None)
def pickled():
    @task.isolated("old", serializer="cloudpickle")
    def work():
        pass

    work()  # other minor version

pickled()
"""
BROKEN = """
from airflow.sdk import dag, task

@dag(schedule=None)
def broken():
    @task.isolated("sme")
    def work():
        pass

    work()  # unknown environment

broken()
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_airflow()
    folder = tmp_path_factory.mktemp("check")
    (folder / "k8s-venv.toml").write_text(PROJECT)
    (folder / "dags").mkdir()
    (folder / "dags" / "faults.py").write_text(FAULTS)
    (folder / "dags" / "broken.py").write_text(BROKEN)
    (folder / "dags" / "pickled.py").write_text(PICKLED)
    (folder / "dags" / "mapped.py").write_text(MAPPED)
    (folder / "dags" / "helper.py").write_text("def double(x):\n    return x * 2\n")
    environments = load_project(folder / "k8s-venv.toml").environments
    write_lock(environments["old"])
    write_lock(environments["same"])
    return folder


def run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    return subprocess.run(
        ["k8s-venv", *arguments], cwd=project, env=environ, capture_output=True, text=True, check=False
    )


def line_of(text: str, mark: str, after: str = "") -> int:
    start = text.index(after)
    return text[: text.index(mark, start)].count("\n") + 1


def test_every_planted_fault_is_found_at_its_line_and_nothing_else(project: Path) -> None:
    done = run(project, "check", "--format", "json", "dags")

    assert done.returncode == 1, done.stderr
    findings = json.loads(done.stdout)
    places = {(Path(each["path"]).name, each["line"]): each["message"] for each in findings}
    assert [each["task"] for each in findings if "'LOCK'" in each["message"]] == ["faults.lock", "faults.lock_same"]
    expected = {
        ("broken.py", line_of(BROKEN, "@task.isolated")): "There is no environment 'sme'. Did you mean 'same'?",
        ("mapped.py", line_of(MAPPED, "@task.isolated")): "there is no option 'container_resource'",
        ("pickled.py", line_of(PICKLED, "@task.isolated")): 'serializer="cloudpickle" needs equal minor versions',
        ("faults.py", line_of(FAULTS, "import yaml")): "imports yaml, which nothing in environment 'old' provides",
        ("faults.py", line_of(FAULTS, "LOCK = ")): "uses 'LOCK'",
        ("faults.py", line_of(FAULTS, "match x")): "Cannot use `match` statement on Python 3.8",
        ("faults.py", line_of(FAULTS, "import pandas")): "imports pandas, which nothing in environment 'same' provides",
        ("faults.py", line_of(FAULTS, '@task.isolated("unlocked")')): "it was never locked",
    }
    assert set(places) == set(expected)
    for place, message in expected.items():
        assert message in places[place]


def test_findings_are_lines_or_annotations(project: Path) -> None:
    done = run(project, "check", "dags/broken.py")
    assert done.stdout.startswith(str(project / "dags" / "broken.py") + ":6: ")

    done = run(project, "check", "--format", "github", "dags/broken.py")
    assert done.stdout.startswith(f"::error file={project / 'dags' / 'broken.py'},line=6::")


def test_a_project_without_faults_passes(project: Path, tmp_path: Path) -> None:
    (tmp_path / "k8s-venv.toml").write_text('[environments.bare]\npython = "3.8"\n')
    (tmp_path / "dag.py").write_text(BROKEN.replace("sme", "bare"))
    write_lock(load_project(tmp_path / "k8s-venv.toml").environments["bare"])

    done = run(tmp_path, "check")

    assert done.returncode == 0, done.stdout
    assert done.stdout == ""
    assert "1 isolated task in 1 file, 0 findings" in done.stderr


@pytest.mark.parametrize("path", ["dags/dag.py", "dags/team/dag.py", "dags"])
def test_plugins_beside_the_dags_are_found_and_travel(path: str, project: Path, tmp_path: Path) -> None:
    file = tmp_path / (path if path.endswith(".py") else "dags/dag.py")
    file.parent.mkdir(parents=True)
    (tmp_path / "dags" / "k8s-venv.toml").write_text('[environments.bare]\npython = "3.8"\n')
    (tmp_path / "plugins" / "common").mkdir(parents=True)
    (tmp_path / "plugins" / "common" / "util.py").write_text("def clean(text):\n    return text.strip()\n")
    text = BROKEN.replace("sme", "bare").replace("pass", "return clean(' a ')")
    file.write_text(f"from common.util import clean\n{text}")
    write_lock(load_project(tmp_path / "dags" / "k8s-venv.toml").environments["bare"])

    checked = run(tmp_path, "check", path)
    explained = run(tmp_path, "explain", str(file), "work")

    assert checked.returncode == 0, checked.stdout
    assert "beside/common/util.py" in explained.stdout


def test_modules_beside_a_dag_are_checked_where_an_import_names_them(project: Path, tmp_path: Path) -> None:
    (tmp_path / "k8s-venv.toml").write_text('[environments.bare]\npython = "3.8"\n')
    for name, text in {"named.py": "import undeclared\n", "computed.py": "import undeclared\n"}.items():
        (tmp_path / "jobs").mkdir(exist_ok=True)
        (tmp_path / "jobs" / name).write_text(text)
    (tmp_path / "garbled.py").write_text("x = = 1\n")
    code = "import garbled, jobs.named, importlib\n        importlib.import_module(f'jobs.{garbled.job}')"
    (tmp_path / "dag.py").write_text(BROKEN.replace("sme", "bare").replace("pass", code))
    write_lock(load_project(tmp_path / "k8s-venv.toml").environments["bare"])

    done = run(tmp_path, "check", "dag.py")

    garbled, named = done.stdout.splitlines()
    assert garbled == f"{tmp_path}/garbled.py:1: broken.work: does not parse: invalid syntax."
    assert named.startswith(f"{tmp_path}/jobs/named.py:1: broken.work: imports undeclared, which nothing in")


def test_a_dag_that_is_never_called_is_found_and_a_file_without_any_is_counted(tmp_path: Path) -> None:
    uncalled = BROKEN.replace("sme", "bare").removesuffix("broken()\n")
    (tmp_path / "k8s-venv.toml").write_text('[environments.bare]\npython = "3.8"\n')
    (tmp_path / "dag.py").write_text(uncalled)
    (tmp_path / "no_dag.py").write_text("x = 1\n")

    done = run(tmp_path, "check", "dag.py")
    assert done.returncode == 1
    assert f"dag.py:{line_of(uncalled, 'def broken')}: @dag broken() is never called" in done.stdout

    done = run(tmp_path, "check", "no_dag.py")
    assert done.returncode == 0
    assert "0 isolated tasks in 1 file, 0 findings" in done.stderr


def test_files_that_cannot_be_loaded_leave_the_others_their_counts(tmp_path: Path) -> None:
    write_project(tmp_path, '[environments.bare]\npython = "3.8"\n', BROKEN.replace("sme", "bare"))
    (tmp_path / "fragment.py").write_text("def (\n")  # names no DAG, so Airflow passes it over
    (tmp_path / "broken_dag.py").write_text("from airflow.sdk import dag\nimport nowhere\n")
    (tmp_path / "lost.py").symlink_to("nowhere.py")

    done = run(tmp_path, "check")

    assert done.returncode == 1
    assert "broken_dag.py:2: ModuleNotFoundError: No module named 'nowhere'" in done.stdout
    assert "nowhere.py:1: The file cannot be read: No such file or directory." in done.stdout
    assert "1 isolated task in 4 files, 2 findings" in done.stderr


USES_PANDAS = """
from airflow.sdk import dag, task

@dag(schedule=None)
def uses_pandas():
    @task.isolated(OPTIONS)
    def work():
        import pandas
        return pandas.__version__

    work()

uses_pandas()
"""


def write_project(folder: Path, project: str, dag: str) -> None:
    """Write a project with one DAG file, and the locks of its environments."""
    (folder / "k8s-venv.toml").write_text(project)
    (folder / "dag.py").write_text(dag)
    for environment in load_project(folder / "k8s-venv.toml").environments.values():
        write_lock(environment)


@pytest.mark.parametrize(
    ("environment", "options"),
    [
        ("", 'image="example.com/models:1"'),
        ("", 'image="{{ var.value.image }}", backend="docker"'),
        ('image = "example.com/models:1"', ""),
        ('pod = { image = "example.com/models:1" }', ""),
        ('interpreter = "/opt/old/bin/python"', 'backend="local"'),
    ],
)
def test_what_somebody_else_made_is_not_judged_by_the_lock(tmp_path: Path, environment: str, options: str) -> None:
    dag = USES_PANDAS.replace("OPTIONS", f'"made", {options}')
    write_project(tmp_path, f'[environments.made]\npython = "3.12"\n{environment}\n', dag)

    done = run(tmp_path, "check")

    assert (done.returncode, done.stdout) == (0, "")
    assert "lock         not used: it runs in " in run(tmp_path, "explain", "dag.py", "work").stdout


@pytest.mark.parametrize(
    ("environment", "options"),
    [
        ('interpreter = "/opt/old/bin/python"', 'backend="kubernetes"'),  # whose image is made from the lock
        ('image = "example.com/models:1"', 'backend="local"'),  # which runs no image
    ],
)
def test_where_the_lock_is_used_it_is_judged(tmp_path: Path, environment: str, options: str) -> None:
    dag = USES_PANDAS.replace("OPTIONS", f'"made", {options}')
    write_project(tmp_path, f'[environments.made]\npython = "3.12"\n{environment}\n', dag)

    assert "imports pandas, which nothing in environment 'made' provides" in run(tmp_path, "check").stdout


def test_a_mapped_image_is_the_tasks_own(tmp_path: Path) -> None:
    dag = """
from airflow.sdk import dag
from k8s_venv import IsolatedOperator

def work():
    import pandas

@dag(schedule=None)
def mapped_images():
    IsolatedOperator.partial(task_id="work", environment="bare", python_callable=work).expand(image=["a:1", "b:1"])

mapped_images()
"""
    write_project(tmp_path, '[environments.bare]\npython = "3.12"\n', dag)

    assert run(tmp_path, "check").returncode == 0


def test_packages_that_cannot_be_had_are_one_finding_and_hide_no_other(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "wheels", "own")
    gone = 'requirements = ["--find-links wheels", "--no-index", "own"]'
    project = f'[environments.gone]\npython = "3.12"\n{gone}\n[environments.made]\npython = "3.12"\n'
    write_project(tmp_path, project, USES_PANDAS.replace("OPTIONS", '"made"'))
    (tmp_path / "other.py").write_text(USES_PANDAS.replace("OPTIONS", '"gone"').replace("uses_pandas", "other"))
    wheel.unlink()

    done = run(tmp_path, "check")

    found = done.stdout.splitlines()
    assert "uses_pandas.work: imports pandas, which nothing in environment 'made' provides" in found[0]
    assert "other.work: Environment 'gone': its locked packages cannot be had." in found[1]
    assert "2 isolated tasks in 2 files, 2 findings" in done.stderr


def test_an_environment_that_was_never_locked_is_one_finding(tmp_path: Path) -> None:
    tasks = "".join(f'    @task.isolated("bare")\n    def work{each}(): ...\n    work{each}()\n' for each in range(3))
    dag = f"from airflow.sdk import dag, task\n@dag(schedule=None)\ndef three():\n{tasks}three()\n"
    (tmp_path / "k8s-venv.toml").write_text('[environments.bare]\npython = "3.8"\n')
    (tmp_path / "dag.py").write_text(dag)

    (line,) = run(tmp_path, "check").stdout.splitlines()

    assert "dag.py:4: three.work0: Environment 'bare': it was never locked" in line
    assert line.endswith("Run `k8s-venv lock bare`. 3 tasks use this environment.")


SHARED = """
from airflow.sdk import dag, task
from sources import url_of

@dag(schedule=None)
def imports():
    for number in range(50):
        @task.isolated("bare", task_id=f"load_{number:02}", OPTIONS)
        def load():
            return url_of("stock")

        load()

    @task.isolated("bare", optional_variables=["B"])
    def other():
        return url_of("stock")

    other()

imports()
"""
SOURCES = """
from airflow.sdk import Variable

A = Variable.get("A", None)

def url_of(name):
    return f"{A}/{name}"
"""
NOT_NAMED = "uses the variable 'A', which the task does not name, so it does not arrive. Give the task "


def test_one_line_that_fails_in_many_tasks_is_one_finding_for_each_thing_to_do(tmp_path: Path) -> None:
    (tmp_path / "k8s-venv.toml").write_text('[environments.bare]\npython = "3.12"\nimage = "example.com/airflow:3"\n')
    (tmp_path / "dag.py").write_text(SHARED.replace("OPTIONS", ""))
    (tmp_path / "sources.py").write_text(SOURCES)
    some = "imports.load_00, imports.load_01, imports.load_02 and 47 more"

    done = run(tmp_path, "check", "dag.py")
    annotated = run(tmp_path, "check", "--format", "github", "dag.py")
    each = json.loads(run(tmp_path, "check", "--format", "json", "dag.py").stdout)

    lines = [
        f'{some}: {NOT_NAMED}optional_variables=["A"].',
        f'imports.other: {NOT_NAMED}optional_variables=["B", "A"].',
    ]
    assert done.stdout.splitlines() == [f"{tmp_path}/sources.py:4: {line}" for line in lines]
    assert "51 isolated tasks in 1 file, 2 findings" in done.stderr
    assert annotated.stdout.splitlines() == [f"::error file={tmp_path}/sources.py,line=4::{line}" for line in lines]
    assert len(each) == 51
    assert {"path": f"{tmp_path}/sources.py", "line": 4, "task": "imports.load_49"}.items() <= each[49].items()
    assert each[49]["message"] == f'{NOT_NAMED}optional_variables=["A"].'


def test_explain_shows_what_travels(project: Path) -> None:
    done = run(project, "explain", "dags/faults.py", "fine")

    assert done.returncode == 0, done.stderr
    assert "environment  old, Python 3.8" in done.stdout
    assert "transport    source, because the environment runs Python 3.8" in done.stdout
    assert "beside/helper.py" in done.stdout
    assert "return json.dumps(double(a)), requests" in done.stdout
    assert "LOCK" not in done.stdout


SECRETS = """
from airflow.sdk import dag, task

LIMITS = {"rows": 10, "api_key": "hidden-1"}
DATABASE = "postgresql://user:hidden-2@host/db"
INDEX = "https://hidden-5@host/simple"
SERVICE_PASSWORD = "hidden-3"
LONG = list(range(1000))

class Client:
    def __init__(self): self.rows = "hidden-4"
    def __repr__(self): return self.rows
client = Client()

@dag(schedule=None)
def secrets():
    @task.isolated("old")
    def work():
        return LIMITS, DATABASE, INDEX, SERVICE_PASSWORD, LONG, client

    work()

secrets()
"""


def test_explain_shows_values_shortened_and_without_secrets(project: Path, tmp_path: Path) -> None:
    path = project / "secrets.py"
    path.write_text(SECRETS)

    values = run(project, "explain", "secrets.py", "work").stdout.partition("values  ")[2].partition("\n---")[0]

    assert "LIMITS = {'api_key': '***', 'rows': 10}" in values
    assert "DATABASE = 'postgresql://***@host/db'" in values
    assert "SERVICE_PASSWORD = ***" in values
    assert "LONG = [0, 1, 2, 3, 4, 5, ...]" in values
    assert "client = <Client>" in values
    assert "hidden" not in values


def test_explain_names_the_tasks_there_are(project: Path) -> None:
    done = run(project, "explain", "dags/faults.py", "fin")

    assert done.returncode == 1
    assert "faults.fine" in done.stderr


def test_a_message_of_several_paragraphs_is_one_line(project: Path, tmp_path: Path) -> None:
    (tmp_path / "k8s-venv.toml").write_text("")
    options = '"frames", requirements=["lxml"], python_version="3.9"'
    (tmp_path / "dag.py").write_text(BROKEN.replace('"sme"', options))

    done = run(tmp_path, "check")
    annotated = run(tmp_path, "check", "--format", "github")

    (line,) = done.stdout.splitlines()
    assert ": write requirements and python_version into k8s-venv.toml" in line
    assert '[environments.frames] python = "3.9" requirements = ["lxml"] and the task is' in line
    assert ':%0A%0A    [environments.frames]%0A    python = "3.9"%0A' in annotated.stdout


def test_of_packages_that_share_a_namespace_the_one_with_the_module_is_named() -> None:
    require_airflow()

    named = providers("airflow.providers.cncf.kubernetes.operators.pod")

    assert named == ["apache-airflow-providers-cncf-kubernetes"]
    assert providers("airflow.providers.cncf.kubernetes.operators", ("pod",)) == named
    assert providers("airflow.providers.nobody.hooks.http") == []
    assert providers("airflow.providers", ("nobody",)) == []
    assert providers("yaml") == ["PyYAML"]


EXCEPTIONS = """
from airflow.sdk import dag, task

@dag(schedule=None)
def exceptions():
    @task.isolated("bare")
    def skips():
        from airflow.exceptions import AirflowSkipException, AirflowFailException

        raise AirflowSkipException("nothing to do")

    @task.isolated("bare")
    def others():
        from airflow.exceptions import AirflowException, AirflowSkipException

        raise AirflowException

    @task.isolated("bare")
    def context():
        from airflow.operators.python import get_current_context

        return get_current_context()["ds"]

    skips()
    others()
    context()

exceptions()
"""


def test_for_what_is_airflows_what_needs_no_airflow_is_named(tmp_path: Path) -> None:
    write_project(tmp_path, '[environments.bare]\npython = "3.8"\n', EXCEPTIONS)

    skips, others, context = run(tmp_path, "check").stdout.splitlines()

    assert skips.endswith(
        "imports airflow.exceptions, which nothing in environment 'bare' provides. Use runtime.skip() instead of "
        "AirflowSkipException and runtime.fail() instead of AirflowFailException (from k8s_venv import runtime), which "
        "needs no Airflow there."
    )
    assert "Use runtime.skip() instead of AirflowSkipException (from k8s_venv" in others
    assert "For the rest, add apache-airflow" in others
    assert context.endswith(
        "imports airflow.operators.python, which nothing in environment 'bare' provides. Use "
        "runtime.get_current_context() instead of get_current_context (from k8s_venv import runtime), which needs no "
        "Airflow there."
    )


NAMESPACES = """
from airflow.sdk import dag, task

@dag(schedule=None)
def namespaces():
    @task.isolated("shared")
    def work():
        from shared_name import one
        from shared_name import two  # not there
        import older_name.one
        from older_name import SETTING
        import older_name.two  # not there

    work()

namespaces()
"""


def test_of_a_shared_name_each_part_is_looked_for(tmp_path: Path) -> None:
    shares = "__path__ = __import__('pkgutil').extend_path(__path__, __name__)\nSETTING = 1\n"
    files = {"shared_name/one/__init__.py": "", "older_name/__init__.py": shares, "older_name/one.py": ""}
    make_wheel(tmp_path / "wheels", "own", files=files)
    project = '[environments.shared]\npython = "3.12"\nrequirements = ["--find-links wheels", "--no-index", "own"]\n'
    write_project(tmp_path, project, NAMESPACES)

    done = run(tmp_path, "check")

    found = {line.split(":")[1]: line for line in done.stdout.splitlines()}
    assert set(found) == {str(line_of(NAMESPACES, "import two")), str(line_of(NAMESPACES, "import older_name.two"))}
    assert "imports shared_name.two, which nothing in environment 'shared' provides" in done.stdout
