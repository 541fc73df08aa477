"""What of Airflow's context an isolated task's function gets, next to a plain task's."""

from __future__ import annotations

import pytest

from k8s_venv.errors import K8sVenvError
from tests.airflow_home import AIRFLOW, VERSION, LoadText, RunText, airflow_home

ASSET = "Asset" if AIRFLOW == "airflow.sdk" else "Dataset"
IMPORT = f"from {AIRFLOW if ASSET == 'Asset' else 'airflow.datasets'} import {ASSET}, {ASSET}Alias"

INLETS = f"""
{IMPORT}

IN, OUT = {ASSET}("s3://bucket/in", extra={{"team": "sales"}}), {ASSET}("s3://bucket/out")

@dag(schedule=None, default_args={{"environment": "same"}})
def lineage():
    @task.isolated(inlets=[IN, {ASSET}Alias("any"), "a note"], outlets=[OUT])
    def named(inlets, outlets, ds):
        asset, alias, note = inlets
        return [asset.uri, asset.extra, alias.name, note, outlets[0].uri, len(ds)]

    @task.isolated(outlets=OUT)
    def by_keywords(**context):
        from k8s_venv import runtime
        return [context["inlets"], context["outlets"][0].uri, runtime.get_current_context()["outlets"][0].uri]

    @task.isolated(inlets=[IN])
    def unknown_attribute(inlets):
        return inlets[0].nothing

    named()
    by_keywords()
    unknown_attribute()

lineage()
"""


def test_inlets_and_outlets_have_their_plain_attributes(run_text: RunText, capfd: pytest.CaptureFixture[str]) -> None:
    if VERSION.startswith("3.0."):
        with pytest.raises(K8sVenvError, match=r"has an asset as inlet or outlet.* needs Airflow 3\.1 or newer"):
            run_text(INLETS)
        return

    states, values = run_text(INLETS)

    assert values["named"] == ["s3://bucket/in", {"team": "sales"}, "any", "a note", "s3://bucket/out", 10]
    assert values["by_keywords"] == [[], "s3://bucket/out", "s3://bucket/out"]
    assert states["unknown_attribute"] == "failed"
    assert "inlets[0].nothing is not available inside an isolated environment" in capfd.readouterr().out


def test_each_key_of_airflows_context_travels_or_is_refused_with_what_to_do_instead() -> None:
    airflow_home()
    from k8s_venv.airflow.compat import KNOWN_CONTEXT_KEYS
    from k8s_venv.airflow.context import AVAILABLE, context_parameters
    from k8s_venv.runtime import INSTEAD

    for key in sorted(KNOWN_CONTEXT_KEYS):
        scope: dict[str, object] = {}
        exec(f"def work({key}): ...", scope)
        if key in AVAILABLE:
            assert context_parameters(scope["work"], (), {}) == (key,)  # type: ignore[arg-type]
            continue
        with pytest.raises(K8sVenvError) as caught:
            context_parameters(scope["work"], (), {})  # type: ignore[arg-type]
        assert f"work() asks for {key!r} of Airflow's context, which" in str(caught.value)
        usual = "only callbacks get" if key in ("exception", "reason") else "Pass what you need"
        assert INSTEAD.get(key, usual) in str(caught.value)


SAME_KEYS = """
@dag(schedule=None, default_args={"environment": "same"})
def context_keys():
    @task
    def plain(**context):
        return sorted(context)

    @task.isolated
    def isolated(**context):
        return sorted(context)

    @task.isolated
    def of_callbacks(exception=None, reason=None):
        return [exception, reason]

    plain()
    isolated()
    of_callbacks()

context_keys()
"""


def test_a_function_with_keywords_gets_what_a_plain_task_gets_but_what_needs_airflow(run_text: RunText) -> None:
    from k8s_venv.runtime import INSTEAD

    _, values = run_text(SAME_KEYS)

    missing = set(values["plain"]) - set(values["isolated"]) - set(INSTEAD)
    requested = {name for name in missing if "success" in name}
    relative = ("execution_date", "next_", "prev_", "tomorrow_", "yesterday_")  # Airflow 2's, sent on request
    old = {name for name in missing if name.startswith(relative)}
    assert missing - requested - old == set()
    assert values["of_callbacks"] == [None, None]


RESERVED = [
    ("def work(ds): ...", "work('x')", "'ds'"),
    ("def work(ds=None): ...", "work('x')", "'ds'"),
    ("def work(ti=None, n=None): ...", "work(1, 2)", "'ti'"),
    ("def work(n, params): ...", "work(1, {})", "'params'"),
    ("def work(inlets): ...", "work([])", "'inlets'"),
    ("def work(var): ...", "work(1)", "'var'"),
    ("async def work(run_id): ...", "work('x')", "'run_id'"),
]


@pytest.mark.parametrize(("function", "call", "name"), RESERVED)
def test_a_positional_argument_for_a_reserved_name_is_refused(
    load_text: LoadText, function: str, call: str, name: str
) -> None:
    body = f"    @task.isolated('same')\n    {function}\n    {call}\n"

    with pytest.raises(K8sVenvError, match=rf"work\(\) gets a positional argument for its parameter {name}, a name"):
        load_text(f"\n@dag(schedule=None)\ndef lineage():\n{body}\nlineage()\n")


def test_a_positional_argument_for_a_reserved_name_is_refused_of_the_operator(load_text: LoadText) -> None:
    with pytest.raises(K8sVenvError, match=r"dag\.py:6: work\(\) gets a positional argument for its parameter 'ds'"):
        load_text("""
@dag(schedule=None)
def lineage():
    def work(ds): ...
    IsolatedOperator(task_id="t", environment="same", python_callable=work, op_args=["x"])
lineage()
""")


KEYWORDS = """
@dag(schedule=None, default_args={"environment": "same"})
def lineage():
    @task.isolated
    def by_name(n, ds): return [n, ds]

    @task.isolated
    def keyword_only(n, *, ds): return [n, len(ds)]

    @task.isolated
    def of_callbacks(reason): return reason

    by_name(1, ds="mine")
    keyword_only(1)
    of_callbacks("late")

lineage()
"""


def test_keyword_arguments_win_over_the_context(run_text: RunText) -> None:
    _, values = run_text(KEYWORDS)

    assert values["by_name"] == [1, "mine"]
    assert values["keyword_only"] == [1, 10]
    assert values["of_callbacks"] == "late"
