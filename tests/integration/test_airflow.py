"""The provider in a real Airflow: what a DAG file gets at parse, and how tasks end."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from k8s_venv.errors import K8sVenvError
from tests.airflow_home import AIRFLOW, airflow_home, dags_folder

PROJECT = """
[environments.same]
python = "{here}"

[environments.other]
python = "{other}"
"""
HERE = "{}.{}".format(*sys.version_info)
OTHER = "3.8"

Load = Callable[[str], object]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    airflow_home()
    (tmp_path / "k8s-venv.toml").write_text(PROJECT.format(here=HERE, other=OTHER))
    return tmp_path


@pytest.fixture
def load(project: Path) -> Load:
    """Load the text of a DAG file as Airflow does."""

    def load_text(text: str) -> object:
        from k8s_venv.airflow.loading import load_dag

        path = project / "dag.py"
        path.write_text(text)
        with dags_folder(project):
            return load_dag(path)

    return load_text


def dag_file(task: str, call: str = "work()") -> str:
    return f"""
from {AIRFLOW} import dag, task

@dag(schedule=None)
def pipeline():
{task}
    {call}

pipeline()
"""


def isolated(decorator: str, function: str = "def work(): return 1") -> str:
    return f"    @{decorator}\n    {function}\n"


@pytest.mark.parametrize(
    ("decorator", "function", "sentence"),
    [
        ('task.isolated("smae")', "def work(): ...", "There is no environment 'smae'. Did you mean 'same'?"),
        ("task.isolated", "def work(): ...", "names no environment: @task.isolated("),
        ("task.isolated()", "def work(): ...", "names no environment: @task.isolated("),
        ('task.isolated("same", backend="podman")', "def work(): ...", "there is no backend 'podman'"),
        ('task.isolated("same", imag="x")', "def work(): ...", "there is no option 'imag'. Did you mean 'image'?"),
        ('task.isolated("same", cmds=["x"])', "def work(): ...", "'cmds' cannot be set: leave it out: what the com"),
        ('task.isolated("same", memory="1Gi")', "def work(): ...", 'container_resources={"limits": {"memory": '),
        (
            'task.isolated("same", container_resources={"limits": {"memory": "1 GB"}})',
            "def work(): ...",
            "Task 'work': '1 GB' in `container_resources` is not a quantity, such as 500m or 2Gi.",
        ),
        ('task.isolated("same", requirements=["x"])', "def work(): ...", 'requirements = ["x"]'),
        ('task.isolated("same", connections="x")', "def work(): ...", "connections is a list: connections=['x']"),
        ('task.isolated("same")', "def work(var=None): ...", "asks for 'var' of Airflow's context"),
    ],
)
def test_a_mistake_is_told_when_the_dag_is_parsed(load: Load, decorator: str, function: str, sentence: str) -> None:
    with pytest.raises(K8sVenvError) as caught:
        load(dag_file(isolated(decorator, function)))

    assert sentence in str(caught.value)
    assert re.search(r"dag\.py cannot be loaded: line [69]: ", str(caught.value))  # the decorator's or the call's


def test_a_misspelt_pod_option_of_the_project_is_told_when_the_dag_is_parsed(load: Load, tmp_path: Path) -> None:
    (tmp_path / "k8s-venv.toml").write_text('[pod]\nnamespce = "tasks"\n[environments.same]\npython = "3.12"\n')

    with pytest.raises(K8sVenvError, match=r"k8s-venv.toml: \[pod\]: there is no option 'namespce'. Did you mean"):
        load(dag_file(isolated('task.isolated("same")')))


def test_an_amount_of_the_project_that_is_none_is_told_when_the_dag_is_parsed(load: Load, tmp_path: Path) -> None:
    pod = 'pod = { container_resources = { requests = { cpu = "two" } } }'
    (tmp_path / "k8s-venv.toml").write_text(f'[environments.same]\npython = "3.12"\n{pod}\n')

    with pytest.raises(K8sVenvError, match=r"k8s-venv.toml: environment 'same': 'two' in `container_resources` is not"):
        load(dag_file(isolated('task.isolated("same")')))


def test_default_args_reach_pod_options(load: Load) -> None:
    dag = load(
        dag_file(isolated('task.isolated("same")')).replace(
            "schedule=None", 'schedule=None, default_args={"namespace": "team", "priority_class_name": "low"}'
        )
    )

    options = dag.get_task("work").pod_options()  # type: ignore[attr-defined]
    assert options == {"namespace": "team", "priority_class_name": "low"}


def test_a_copied_task_keeps_its_options(load: Load) -> None:
    dag = load(dag_file(isolated('task.isolated("same", namespace="team", affinity=None)')))

    task = copy.deepcopy(dag.get_task("work"))  # type: ignore[attr-defined]

    assert task.pod_options() == {"namespace": "team", "affinity": None}


def test_parsing_a_dag_imports_nothing_of_kubernetes(project: Path) -> None:
    path = project / "dag.py"
    path.write_text(dag_file(isolated('task.isolated("same")')))
    script = (
        "import sys, runpy; runpy.run_path(sys.argv[1]);"
        "print([m for m in ('kubernetes', 'docker', 'cloudpickle', 'rich.console') if m in sys.modules"
        " and m not in BEFORE])"
    )
    before = f"import sys; from {AIRFLOW} import dag, task; task.python; BEFORE = set(sys.modules);"

    run = subprocess.run([sys.executable, "-c", before + script, str(path)], capture_output=True, text=True, check=True)

    assert run.stdout.splitlines()[-1] == "[]"


def test_the_triggerers_loop_does_not_import_kubernetes(project: Path) -> None:
    script = (
        "import sys; from airflow.triggers.base import BaseTrigger; BEFORE = set(sys.modules);"
        "from k8s_venv.airflow.trigger import IsolatedPodTrigger;"
        "path, options = IsolatedPodTrigger(uid='1').serialize(); print(path, options);"
        "print({name.partition('.')[0] for name in set(sys.modules) - BEFORE} - {'k8s_venv'})"
    )

    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert run.stdout.splitlines()[-2:] == ["k8s_venv.airflow.trigger.IsolatedPodTrigger {'uid': '1'}", "set()"]


RUN = """
import logging
from functools import wraps
from {airflow} import dag, task
from k8s_venv import runtime, IsolatedOperator

LIMIT = 3

class Refused(Exception):
    pass

def logged(function):
    @wraps(function)
    def wrapper(*args, **kwargs):
        print("calling", function.__name__)
        return function(*args, **kwargs)
    return wrapper

@dag(schedule=None, params={{"p": 7}})
def pipeline():
    @task.isolated("{environment}")
    @logged
    def context(limit, ds=None, params=None, **rest):
        return [limit, ds, params["p"], rest["ti"].task_id, runtime.get_current_context()["run_id"] == rest["run_id"]]

    @task.isolated("{environment}", multiple_outputs=True)
    def several() -> dict:
        return {{"a": 1, "b": [2]}}

    @task
    def both(a, b):
        return [a, b]

    @task.isolated("{environment}")
    def number(n):
        return n * LIMIT

    @task.isolated("{environment}")
    def total(values):
        return sum(values)

    @task.isolated("{environment}")
    def nothing():
        logging.getLogger(__name__).warning("said by logging")

    @task.isolated("{environment}")
    def fails():
        raise runtime.FailTask("for good")

    @task.isolated("{environment}", retries=0)
    def own():
        raise Refused("no", 1)

    @task.isolated("{environment}")
    def no_codec():
        return {{"model": [object()]}}

    context(LIMIT)
    parts = several()
    both(parts["a"], parts["b"])
    total(number.expand(n=[1, 2, 3]))
    nothing()
    fails()
    own()
    no_codec()
    IsolatedOperator(task_id="classic", environment="{environment}", python_callable=pow, op_args=[2, 10]) \\
        if "{environment}" == "same" else None

pipeline()
"""


@pytest.fixture(params=["same", "other"])
def environment(request: pytest.FixtureRequest) -> str:
    from k8s_venv.locks.uv import find_interpreter

    if request.param == "other" and find_interpreter(OTHER) is None:
        pytest.skip(f"Python {OTHER} is not installed")
    return str(request.param)


def test_tasks_end_as_plain_ones_would(
    project: Path, load: Load, environment: str, capfd: pytest.CaptureFixture[str]
) -> None:
    from k8s_venv.config.project import load_project
    from k8s_venv.locks.locking import write_lock

    for each in load_project(project / "k8s-venv.toml").environments.values():
        write_lock(each)
    dag = load(RUN.format(airflow=AIRFLOW, environment=environment))
    with dags_folder(project, K8S_VENV_BACKEND="local"):
        from k8s_venv.airflow.inprocess import run_dag

        state, outcomes = run_dag(dag)  # type: ignore[arg-type]

    states = {(outcome.task_id, outcome.map_index): outcome.state for outcome in outcomes}
    values = {(outcome.task_id, outcome.map_index): outcome.value for outcome in outcomes}
    printed = capfd.readouterr().out
    assert state == "failed"
    assert values["context", -1][0::2] == [3, 7, True]
    assert values["context", -1][3] == "context"
    assert "calling context" in printed
    assert values["both", -1] == [1, [2]]
    assert values["total", -1] == 18
    assert states["nothing", -1] == "success"
    assert "said by logging" in printed
    assert states["fails", -1] == "failed"
    assert "for good" in printed
    assert "Refused: ('no', 1)" in printed
    assert "result['model'][0] is builtins.object" in printed
    if environment == "same":
        assert values["classic", -1] == 1024


def test_the_run_of_a_task_without_a_lock_says_what_to_do(project: Path, load: Load) -> None:
    dag = load(dag_file(isolated('task.isolated("same")')))
    with dags_folder(project, K8S_VENV_BACKEND="local"):
        from k8s_venv.airflow.inprocess import run_dag

        state, [outcome] = run_dag(dag)  # type: ignore[arg-type]

    assert state == "failed"
    assert "it was never locked" in outcome.error


def test_the_provider_describes_itself() -> None:
    airflow_home()
    run = subprocess.run(
        [sys.executable, "-m", "airflow", "providers", "get", "k8s-venv", "--output", "json"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout[run.stdout.index("[") :])
