"""Tasks that come from other operators: each of their options is taken, or refused with what to do instead."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

from k8s_venv.errors import K8sVenvError
from tests.airflow_home import AIRFLOW, LoadText, RunText, airflow_home
from tests.readme import ROOT

AIRFLOW_3 = AIRFLOW == "airflow.sdk"
PYTHON = "airflow.providers.standard.{}" if AIRFLOW_3 else "airflow.{}"
PEERS = [
    (PYTHON.format("operators.python"), "PythonVirtualenvOperator"),
    (PYTHON.format("operators.python"), "ExternalPythonOperator"),
    (PYTHON.format("operators.python"), "BranchPythonVirtualenvOperator"),
    (PYTHON.format("operators.python"), "BranchExternalPythonOperator"),
    (PYTHON.format("operators.python"), "ShortCircuitOperator"),
    (PYTHON.format("decorators.python_virtualenv"), "_PythonVirtualenvDecoratedOperator"),
    (PYTHON.format("decorators.external_python"), "_PythonExternalDecoratedOperator"),
    ("airflow.providers.docker.operators.docker", "DockerOperator"),
    ("airflow.providers.docker.decorators.docker", "_DockerDecoratedOperator"),
    ("airflow.providers.cncf.kubernetes.operators.pod", "KubernetesPodOperator"),
    ("airflow.providers.cncf.kubernetes.decorators.kubernetes", "_KubernetesDecoratedOperator"),
]
# What Airflow itself passes between its classes.
INTERNAL = {"self", "args", "kwargs", "context", "kwargs_to_upstream"}


def options_of(module: str, name: str) -> set[str]:
    """Return the options that an operator adds to those of every operator."""
    airflow_home()
    if ".docker." in module:
        pytest.importorskip("airflow.providers.docker", reason="needs apache-airflow-providers-docker")
    operator = getattr(importlib.import_module(module), name)
    from k8s_venv.airflow.compat import BaseOperator

    makers = [vars(k)["__init__"] for k in operator.__mro__ if "__init__" in vars(k) and k not in BaseOperator.__mro__]
    found = {option for maker in makers for option in inspect.signature(maker).parameters}
    return found - INTERNAL - set(inspect.signature(BaseOperator.__init__).parameters)


@pytest.mark.parametrize(("module", "name"), PEERS, ids=[name for _, name in PEERS])
def test_each_option_of_a_peer_is_taken_or_refused_with_what_to_do_instead(module: str, name: str) -> None:
    from_peer = options_of(module, name)
    from k8s_venv.airflow.decorator import isolated_task
    from k8s_venv.airflow.operators import IsolatedOperator, IsolatedShortCircuitOperator
    from k8s_venv.airflow.options import REFUSED, parameters_of

    for option in sorted(from_peer - parameters_of(IsolatedShortCircuitOperator)):
        given: dict[str, Any] = {option: "x"}
        with pytest.raises(K8sVenvError) as operators:
            IsolatedOperator(task_id="t", environment="e", python_callable=print, **given)
        with pytest.raises(K8sVenvError) as decorators:
            isolated_task("e", **given)
        sentences = [str(operators.value), str(decorators.value)]
        expected = f"the option {option!r} cannot be set: {REFUSED[option]}." if option in REFUSED else "k8s-venv.toml"
        assert all(expected in sentence for sentence in sentences)
        assert "@@" not in sentences[1]
        assert "Did you mean" not in sentences[0] + sentences[1]


def test_each_sentence_is_about_an_option_of_a_peer() -> None:
    from_peers = set().union(*(options_of(module, name) for module, name in PEERS))
    from k8s_venv.airflow.options import OPTIONS, REFUSED

    old = {"index_urls_from_connection_ids", "provide_context", "use_airflow_context", "use_dill", "cpu", "memory"}
    assert set(REFUSED) - from_peers <= old
    assert set(REFUSED) & OPTIONS == set()


def test_pod_options_are_the_providers_and_rendered_as_there() -> None:
    theirs = options_of("airflow.providers.cncf.kubernetes.operators.pod", "KubernetesPodOperator")
    from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator

    from k8s_venv.airflow.options import OPTIONS, REFUSED, TEMPLATED

    assert theirs | {"hostname"} <= OPTIONS | set(REFUSED) | {"deferrable"}
    assert theirs >= OPTIONS
    assert set(KubernetesPodOperator.template_fields) - set(REFUSED) <= set(TEMPLATED)


def test_the_readme_names_each_construct_and_what_exists_here() -> None:
    airflow_home()
    import k8s_venv
    from k8s_venv.airflow.operators import IsolatedShortCircuitOperator
    from k8s_venv.airflow.options import instead_of, parameters_of

    section = (ROOT / "README.md").read_text("utf-8").partition("## From what you have")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    before, after = (" ".join(column) for column in zip(*rows, strict=True))

    decorators = {"virtualenv", "external_python", "docker", "kubernetes", "short_circuit"}
    decorators |= {"branch_virtualenv", "branch_external_python"}
    assert set(re.findall(r"@task\.(\w+)", before)) == decorators
    assert {name for _, name in PEERS if not name.startswith("_")} <= set(re.findall(r"\w+Operator", before))
    assert set(re.findall(r"\w+Operator", after)) == {name for name in k8s_venv.__all__ if "Operator" in name}
    taken = parameters_of(IsolatedShortCircuitOperator) | {"task_ids"}
    for option in set(re.findall(r"\b(\w+)=", before)):
        assert option in taken or instead_of(option, {option: 1}, "NAME"), option


def mistake(call: str) -> str:
    return f"""
def work(): ...

@dag(schedule=None)
def moved():
    {call}

moved()
"""


OPERATOR = 'IsolatedOperator(task_id="t", environment="same", python_callable=work, {})'
DECORATOR = 'task.isolated("same", {})(work)()'
BLOCK = '    [environments.same]\n    python = "3.9"\n    requirements = ["x==1"]\n    system-site-packages = true\n'


@pytest.mark.parametrize(("call", "use"), [(OPERATOR, 'IsolatedOperator(environment="same"'), (DECORATOR, "@task.iso")])
def test_what_an_environment_is_stands_ready_to_be_pasted(load_text: LoadText, call: str, use: str) -> None:
    given = 'requirements=["x==1"], python_version="3.9", system_site_packages=True'

    with pytest.raises(K8sVenvError) as caught:
        load_text(mistake(call.format(given)))

    message = str(caught.value)
    assert "write requirements, python_version and system_site_packages into k8s-venv.toml" in message
    assert BLOCK in message
    assert f"and the task is {use}" in message


REQUIREMENTS = [
    (["a==1", "b"], 'requirements = ["a==1", "b"]'),
    (("a==1",), 'requirements = ["a==1"]'),
    ("requirements.txt", 'requirements = "requirements.txt"'),
    ("a==1\nb\n", 'requirements = ["a==1", "b"]'),
]


@pytest.mark.parametrize(("given", "line"), REQUIREMENTS)
def test_requirements_are_shown_in_each_form(given: object, line: str) -> None:
    airflow_home()
    from k8s_venv.airflow.options import instead_of

    assert f"    {line}\n" in str(instead_of("requirements", {"requirements": given}, "@task.isolated"))


@pytest.mark.parametrize("given", [None, 7, [], print])
def test_what_are_no_requirements_is_no_line(given: object) -> None:
    airflow_home()
    from k8s_venv.airflow.options import instead_of

    assert "requirements =" not in str(instead_of("requirements", {"requirements": given}, "@task.isolated"))


MISTAKES = [
    ('task.isolated("same", environment={"PASSWORD": "Pl4nted"})(work)()', "variables of the process go into env_vars"),
    ('task.isolated(environment={"PASSWORD": "Pl4nted"})(work)()', "variables of the process go into env_vars"),
    ('task.isolated("same", environment="other")(work)()', "names the environment 'same', and 'other' by keyword"),
    (
        'IsolatedOperator(task_id="t", environment={"PASSWORD": "Pl4nted"}, python_callable=work)',
        "variables of the process go into env_vars",
    ),
    ('task.isolated("same", op_args=[1])(work)()', "leave op_args out: pass the arguments in the call"),
    ("task.isolated(7)(work)()", "@task.isolated takes the environment's name, not 7."),
    ("task.short_circuit_isolated(7)(work)()", "@task.short_circuit_isolated takes the environment's name, not 7."),
    ('task.branch_isolated("same", provide_context=True)(work)()', "@task.branch_isolated: the option 'provide_con"),
    ('task.branch_isolated("same", result="reference")(work)()', "its value chooses what runs next, so it cannot be"),
    ('task.isolated("same", skip_on_exit_code="10")(work)()', "is an exit code or a list of them, not '10'"),
    ('task.isolated("same", serializer="dill")(work)()', "serializer is \"cloudpickle\" or left out, not 'dill'"),
    ('task.isolated("same", backendd="local")(work)()', "there is no option 'backendd'. Did you mean 'backend'?"),
]


@pytest.mark.parametrize(("call", "sentence"), MISTAKES)
def test_a_mistake_is_told_in_one_sentence(load_text: LoadText, call: str, sentence: str) -> None:
    with pytest.raises(K8sVenvError) as caught:
        load_text(mistake(call))

    assert sentence in str(caught.value)
    assert "@@" not in str(caught.value)
    assert "Pl4nted" not in str(caught.value)


@pytest.mark.parametrize("name", ["context_of", "requirement_list", "mount", "environ", "gpu", "on_node"])
def test_another_word_is_no_misspelling(name: str) -> None:
    airflow_home()
    from k8s_venv.airflow.options import check_options

    with pytest.raises(K8sVenvError, match="there is no option") as caught:
        check_options({name: 1}, "Task 't'")

    assert "Did you mean" not in str(caught.value)


CLASSIC = """
from k8s_venv import IsolatedBranchOperator, IsolatedShortCircuitOperator

def pick(): return "left"
def pick_both(): return ["left_of_two", "right_of_two"]
def nothing(): return []
def something(): return "yes"
def done(): ...

@dag(schedule=None, default_args={"environment": "same"})
def classic():
    def then(name, **options): return IsolatedOperator(task_id=name, python_callable=done, **options)
    def branch(name, function, **options):
        return IsolatedBranchOperator(task_id=name, python_callable=function, **options)
    def gate(name, function, **options):
        return IsolatedShortCircuitOperator(task_id=name, python_callable=function, **options)

    branch("branch", pick) >> [then("left"), then("right")]
    branch("two", pick_both, do_xcom_push=False) >> [then("left_of_two"), then("right_of_two"), then("third")]
    gate("closed", nothing) >> then("stopped") >> then("stopped_too", trigger_rule="all_done")
    gate("next_only", nothing, ignore_downstream_trigger_rules=False) >> then("next") >> then(
        "after_next", trigger_rule="all_done"
    )
    gate("open", something, do_xcom_push=False) >> then("goes_on")

classic()
"""


def test_the_operators_branch_and_short_circuit_as_the_decorators_do(run_text: RunText) -> None:
    states, _ = run_text(CLASSIC)

    assert (states["left"], states["right"]) == ("success", "skipped")
    assert (states["left_of_two"], states["right_of_two"], states["third"]) == ("success", "success", "skipped")
    assert (states["stopped"], states["stopped_too"]) == ("skipped", "skipped")
    assert (states["next"], states["after_next"]) == ("skipped", "success")
    assert states["goes_on"] == "success"


EXITS = """
import os, sys

@dag(schedule=None, default_args={"environment": "same"})
def exits():
    def leave(code): sys.exit(code)
    def leave_at_once(code): os._exit(code)
    def fail(code): raise ValueError(code)
    def give_up(code): runtime.fail("for good")
    def returns(code): return code

    def task_(name, function, code, skip):
        task.isolated(task_id=name, skip_on_exit_code=skip)(function)(code)

    task_("one", leave, 10, 10)
    task_("several", leave, 11, [10, 11])
    task_("range", leave, 300, range(40, 50))
    task_("at_once", leave_at_once, 10, {10})
    task_("text", leave, "no more", 1)
    task_("exception", fail, "x", 1)
    task_("zero", returns, 5, 0)
    task_("other", leave, 9, 10)
    task_("other_at_once", leave_at_once, 9, 10)
    task_("given_up", give_up, 1, 1)
    task_("without", leave, 10, None)
    task_("value", returns, 5, 10)
    IsolatedOperator(task_id="classic", python_callable=leave, op_args=[10], skip_on_exit_code=10)
    task.branch_isolated(task_id="branch", skip_on_exit_code=10)(leave)(10)

exits()
"""


def test_an_exit_code_skips_the_task_that_names_it(run_text: RunText) -> None:
    states, values = run_text(EXITS)

    skipped = {"one", "several", "range", "at_once", "text", "exception", "zero", "classic", "branch"}
    assert {name for name, state in states.items() if state == "skipped"} == skipped
    assert {name for name, state in states.items() if state == "failed"} == {
        "other",
        "other_at_once",
        "given_up",
        "without",
    }
    assert values["value"] == 5


def test_pod_options_of_the_project_do_not_skip(load_text: LoadText, same_environment: Path) -> None:
    with (same_environment / "k8s-venv.toml").open("a") as file:
        file.write(f"pod = {{ skip_on_exit_code = {json.dumps(10)} }}\n")

    with pytest.raises(
        K8sVenvError, match="'skip_on_exit_code' cannot be set: it is an option of the task, not of its"
    ):
        load_text(mistake('task.isolated("same")(work)()'))
