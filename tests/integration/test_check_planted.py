"""One fault in each DAG file: `k8s-venv check` finds all of them in one go, each at its line, and nothing else."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from k8s_venv.config.project import load_project
from k8s_venv.locks.locking import write_lock
from tests.airflow_home import AIRFLOW, require_airflow
from tests.integration.test_check import run

EXAMPLES = Path(__file__).parents[2] / "examples"
HERE = "{}.{}".format(*sys.version_info)
PROJECT = f"""
[environments.old]
python = "3.8"

[environments.same]
python = "{HERE}"

[environments.stale]
python = "3.8"

[environments.garbled]
python = "3.8"

[environments.unlocked]
python = "3.8"
"""
HELPERS = {
    "undeclared_helper.py": "def load(text):\n    import yaml  # here\n    return yaml.safe_load(text)\n",
    "helpers/__init__.py": "",
    "helpers/there.py": "",
    "parts/there.py": "",
    "newer_helper.py": "def load(value):\n    match value:  # here\n        case _:\n            return 1\n",
}


class Fault(NamedTuple):
    """A DAG file with one fault.

    Args:
        file: its name.
        message: what is said of it.
        tasks: the tasks; `# here` marks the fault's line.
        before: what stands before the DAG.
        found_in: the file in which it is found, where that is another.
    """

    file: str
    message: str
    tasks: str
    before: str = ""
    found_in: str = ""

    @property
    def text(self) -> str:
        tasks = "".join(f"    {line}\n" for line in self.tasks.strip().splitlines())
        return (
            f"from {AIRFLOW} import dag, task\n{self.before}\n@dag(schedule=None)\ndef planted():\n{tasks}\nplanted()\n"
        )

    @property
    def place(self) -> tuple[str, int]:
        name = self.found_in or self.file
        text = HELPERS.get(name, self.text)
        return name, text[: text.index("# here")].count("\n") + 1


def task(option: str, body: str = "pass", *, environment: str = "old") -> str:
    given = f'"{environment}", {option}' if option else f'"{environment}"'
    return f"@task.isolated({given})  # here\ndef work(): {body}\nwork()"


def body(code: str, environment: str = "old") -> str:
    lines = "".join(f"    {line}\n" for line in code.strip("\n").splitlines())
    return f'@task.isolated("{environment}")\ndef work():\n{lines}work()'


FAULTS = [
    # what the task says
    Fault("environment.py", "There is no environment 'sme'. Did you mean 'same'?", task("", environment="sme")),
    Fault(
        "mapped_environment.py",
        "There is no environment 'sme'. Did you mean 'same'?",
        '@task.isolated("sme")  # here\ndef work(x): ...\nwork.expand(x=[1])',
    ),
    Fault(
        "default_environment.py",
        "There is no environment 'sme'. Did you mean 'same'?",
        "with_default()",
        '@dag(schedule=None, default_args={"environment": "sme"})\ndef with_default():\n'
        "    @task.isolated()  # here\n    def work(x): ...\n    work.expand(x=[1])\n",
    ),
    Fault("no_environment.py", "Task 'work' names no environment", "@task.isolated\ndef work(): ...\nwork()  # here"),
    Fault("pod_option.py", "there is no option 'container_resource'", task("container_resource={}")),
    Fault("requirements.py", "write requirements into k8s-venv.toml", task('requirements=["requests"]')),
    Fault(
        "connections.py",
        "connections",
        '@task.isolated("old", connections="warehouse")\ndef work(): ...\nwork()  # here',
    ),
    Fault("serializer.py", 'serializer="cloudpickle" needs equal minor versions', task('serializer="cloudpickle"')),
    Fault("transport.py", "transport=\"cloudpickle\" needs equal minor versions", task('transport="cloudpickle"')),
    Fault("backend.py", "backend", task('backend="kubernets"')),
    Fault("values.py", "values", '@task.isolated("old", values={"abov": 1})\ndef work(): ...\nwork()  # here'),
    # what the environment is
    Fault("stale.py", "its lock is stale: 'requests' was added", task("", environment="stale")),
    Fault("unlocked.py", "it was never locked", task("", environment="unlocked")),
    Fault("garbled.py", "pylock.garbled.toml", task("", environment="garbled")),
    # what the function uses
    Fault("open_file.py", "uses 'LOG', which cannot travel", body("LOG.read()"), "LOG = open(__file__)  # here"),
    Fault(
        "lock.py", "uses 'LOCK', which cannot travel", body("with LOCK: pass", "same"),
        "import threading\nLOCK = threading.Lock()  # here",
    ),
    Fault(
        "socket_held.py", "uses 'SOCKET', which cannot travel", body("SOCKET.close()"),
        "import socket\nSOCKET = socket.socket()  # here",
    ),
    Fault(
        "held_by_helper.py", "uses 'ROWS', which cannot travel", body("helper()"),
        "ROWS = (n for n in range(3))  # here\ndef helper(): return list(ROWS)",
    ),
    Fault(
        "shared.py", "assigns 'count', which is `nonlocal`",
        'count = 0\n@task.isolated("same")  # here\ndef work():\n    nonlocal count\n    count += 1\nwork()',
    ),
    Fault(
        "other_task.py", "uses 'first', which cannot travel",
        '@task.isolated("old")\ndef first(): ...\n@task.isolated("old")  # here\n'
        "def work():\n    return first()\nwork()",
    ),
    Fault(
        "other_value.py", "another task's value",
        '@task.isolated("old")\ndef first(): ...\nvalue = first()\n@task.isolated("same")  # here\n'
        "def work():\n    return value\nwork()",
    ),
    # what the environment cannot parse
    Fault("match.py", "`match`", body("match 1:  # here\n    case _: pass")),
    Fault("groups.py", "`except*`", body("try: pass\nexcept* ValueError: pass  # here")),
    Fault("type_parameters.py", "type parameter", body("helper(1)"), "def helper[T](x: T): return x  # here"),
    Fault("type_statement.py", "`type` alias", body("type X = int  # here")),
    Fault("quotes.py", "quote", body("return f'{'x'}'  # here")),
    Fault("parentheses.py", "parenthes", body("with (open('a') as a, open('b') as b): pass  # here")),
    Fault("newer.py", "`match`", body("newer_helper.load(1)"), "import newer_helper", found_in="newer_helper.py"),
    # what the environment does not have
    Fault("imports.py", "imports yaml, which nothing in environment 'old'", body("yaml"), "import yaml  # here"),
    Fault("imports_inside.py", "imports pandas, which nothing in", body("import pandas  # here", "same")),
    Fault(
        "imports_beside.py", "imports yaml, which nothing in", body("undeclared_helper.load('')"),
        "import undeclared_helper", found_in="undeclared_helper.py",
    ),
    Fault("newer_library.py", "imports tomllib, which nothing in environment 'old'", body("import tomllib  # here")),
    Fault(
        "imports_of_pickled.py", "imports pandas, which nothing in environment 'same'",
        '@task.isolated("same", transport="cloudpickle")\ndef work():\n    import pandas  # here\nwork()',
    ),
    Fault(
        "imports_of_fallback.py", "imports yaml, which nothing in environment 'same'",
        'options = Namespace(size=3)\n@task.isolated("same")\ndef work():\n    return helper(options)\nwork()',
        "import yaml  # here\nfrom argparse import Namespace\ndef helper(options): return yaml.dump(options.size)",
    ),
    Fault(
        "value_of_fallback.py", "imports click.types, which nothing in environment 'same'",
        'choice = Choice("ab")\n@task.isolated("same")  # here\ndef work():\n    return choice.choices\nwork()',
        "from click import Choice",
    ),
    Fault("submodule.py", "There is no gone.py in", body("import helpers.there, helpers.gone  # here")),
    Fault("part_of_folder.py", "imports parts.gone, which nothing in", body("from parts import there, gone  # here")),
    Fault("relative.py", "Import the module by its full name", body("from . import newer_helper  # here")),
    Fault(
        "path_at_run_time.py", "adds a folder to sys.path when the function runs",
        body("import sys\nsys.path.append('/opt/code')\nimport only_there  # here"),
    ),
    Fault("reraised.py", "imports yaml, which", body("try: import yaml  # here\nexcept ImportError: raise OSError")),
    Fault(
        "value_of_package.py", "imports yaml, which nothing in environment 'same' provides",
        'load = [safe_load]\n@task.isolated("same")  # here\ndef work():\n    return load[0]("1")\nwork()',
        "from yaml import safe_load",
    ),
    Fault("imports_by_text.py", "imports yaml, which nothing in", body("import_module('yaml')  # here"),
          "from importlib import import_module"),
    # what is no DAG file
    Fault("no_python.py", "invalid syntax", "x = = 1  # here"),
    Fault("no_module.py", "No module named 'nothing_there'", "pass", "import nothing_there  # here"),
]  # fmt: skip


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str | int]]:
    require_airflow()
    folder = tmp_path_factory.mktemp("planted")
    (folder / "k8s-venv.toml").write_text(PROJECT)
    environments = load_project(folder / "k8s-venv.toml").environments
    for name in ("old", "same", "stale"):
        write_lock(environments[name])
    stale = PROJECT.replace("[environments.stale]\n", '[environments.stale]\nrequirements = ["requests"]\n')
    (folder / "k8s-venv.toml").write_text(stale)
    (folder / "pylock.garbled.toml").write_text("lock-version = 1.0 =\n")
    (folder / "dags").mkdir()
    for name, text in [*HELPERS.items(), *((fault.file, fault.text) for fault in FAULTS)]:
        (folder / "dags" / name).parent.mkdir(exist_ok=True)
        (folder / "dags" / name).write_text(text)
    done = run(folder, "check", "--format", "json", "dags")
    assert done.returncode == 1, done.stderr
    found: list[dict[str, str | int]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.file.removesuffix(".py"))
def test_a_planted_fault_is_found_at_its_line(fault: Fault, findings: list[dict[str, str | int]]) -> None:
    name, line = fault.place

    found = [each for each in findings if Path(str(each["path"])).name == name]

    assert [each["line"] for each in found] == [line]
    assert fault.message in str(found[0]["message"])


def test_nothing_else_is_found(findings: list[dict[str, str | int]]) -> None:
    assert {(Path(str(each["path"])).name, each["line"]) for each in findings} == {fault.place for fault in FAULTS}


def test_nothing_is_found_in_the_examples(tmp_path: Path) -> None:
    require_airflow()
    examples = tmp_path / "examples"
    shutil.copytree(EXAMPLES, examples, ignore=shutil.ignore_patterns("pylock.*", "__pycache__"))
    for environment in load_project(examples / "k8s-venv.toml").environments.values():
        write_lock(environment)

    done = run(examples, "check", "dags")

    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
    assert "in 3 files, 0 findings" in done.stderr
