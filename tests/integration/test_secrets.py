"""Connections and variables inside an environment, on a real interpreter: readable by the task, hidden from logs."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k8s_venv import runtime
from k8s_venv.backends.local.backend import LocalBackend
from k8s_venv.calls import open_result, pack
from k8s_venv.config.environment import Environment
from k8s_venv.runner import streams
from k8s_venv.wire.masking import MASK, masked_data, masker
from tests.airflow_home import airflow_home

BareEnvironment = Callable[[str], Environment]
HERE = "{}.{}".format(*sys.version_info)
PLANTED = "pl@nted/secret \N{SNOWMAN}"
SECRETS = {
    "connections": {
        "warehouse": {
            "conn_type": "postgres",
            "host": "db",
            "login": "me",
            "password": PLANTED,
            "schema": "sales",
            "port": 5432,
            "extra": '{"sslmode": "require"}',
        }
    },
    "variables": {"limits": '{"rows": 10}'},
    "masked": [PLANTED],
}


def call(
    environment: Environment, function: Callable[..., Any], secrets: dict[str, Any] | None = None
) -> tuple[Any, list[str]]:
    lines: list[str] = []
    packed = pack(function, (), {}, environment=environment, secrets=SECRETS if secrets is None else secrets)
    return open_result(LocalBackend().run(packed, lines.append), packed), lines


def read_all() -> dict[str, Any]:
    import os

    from k8s_venv import runtime

    connection = runtime.get_connection("warehouse")
    return {
        "connection": list(vars(connection).values()),
        "extra": connection.extra_dejson,
        "uri": connection.get_uri(),
        "text": runtime.get_variable("limits"),
        "json": runtime.get_variable("limits", deserialize_json=True),
        "default": runtime.get_variable("other", 7),
        "environ": [os.environ["AIRFLOW_VAR_LIMITS"], "AIRFLOW_CONN_WAREHOUSE" in os.environ],
        "airflow_home": "AIRFLOW_HOME" in os.environ,
    }


def print_secrets() -> None:
    import json
    import logging
    import sys
    from urllib.parse import quote

    from k8s_venv import runtime

    connection = runtime.get_connection("warehouse")
    print("printed", connection.password, connection)
    print("uri", connection.get_uri(), quote(connection.password or ""))
    print("fields", vars(connection), json.dumps(connection.password), file=sys.stderr)
    logging.getLogger("app").error("logged %s", connection.password)


def fail_with_secret() -> None:
    from k8s_venv import runtime

    raise ValueError("cannot log in with", runtime.get_connection("warehouse").password)


def ask_for_connection() -> None:
    from k8s_venv import runtime

    runtime.get_connection("lake")


def ask_for_variable() -> None:
    from k8s_venv import runtime

    runtime.get_variable("owner")


@pytest.fixture(params=["3.8", HERE])
def environment(request: pytest.FixtureRequest, bare_environment: BareEnvironment) -> Environment:
    return bare_environment(request.param)


def test_a_task_reads_what_it_named_without_airflow(environment: Environment) -> None:
    found, _ = call(environment, read_all)

    assert found == {
        "connection": ["warehouse", "postgres", "db", "me", PLANTED, "sales", 5432, '{"sslmode": "require"}'],
        "extra": {"sslmode": "require"},
        "uri": "postgres://me:pl%40nted%2Fsecret%20%E2%98%83@db:5432/sales?__extra__=%7B%22sslmode%22%3A+%22require%22%7D",
        "text": '{"rows": 10}',
        "json": {"rows": 10},
        "default": 7,
        "environ": ['{"rows": 10}', True],
        "airflow_home": False,
    }


def test_what_a_task_prints_is_masked(environment: Environment) -> None:
    _, lines = call(environment, print_secrets)

    printed = "\n".join(lines)
    assert "planted" not in printed.replace("pl@nted", "planted").replace("pl%40nted", "planted")
    assert f"printed {MASK} <Connection warehouse (postgres)>" in printed
    assert f"ERROR - logged {MASK}" in printed


def test_a_failure_is_masked_with_its_arguments(environment: Environment) -> None:
    with pytest.raises(ValueError, match="cannot log in") as caught:
        call(environment, fail_with_secret)

    assert caught.value.args == ("cannot log in with", MASK)
    assert "nted" not in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (ask_for_connection, "The connection 'lake' was not named by this task: add connections=['lake'] to it."),
        (ask_for_variable, "The variable 'owner' was not named by this task: add variables=['owner'] to it."),
    ],
)
def test_what_was_not_named_is_told(
    bare_environment: BareEnvironment, function: Callable[[], None], sentence: str
) -> None:
    for secrets in (SECRETS, {}):
        with pytest.raises(LookupError) as caught:
            call(bare_environment(HERE), function, secrets)

        assert sentence in str(caught.value)


@given(secret=st.text(min_size=5), before=st.text(), after=st.text())
def test_no_writing_of_a_secret_passes(secret: str, before: str, after: str) -> None:
    mask = masker([secret])

    for written in (secret, repr(secret)[1:-1], json.dumps(secret)[1:-1]):
        assert mask(f"{before}{written}{after}").count(MASK) >= 1
        assert mask(written) == MASK


def test_long_lines_of_a_secret_are_masked_one_by_one() -> None:
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nxyz\n-----END KEY-----\n"

    assert masker([key])("line: MIIEvQIBADANBgkqhkiG9w0BAQEFAASC") == f"line: {MASK}"


def test_short_secrets_leave_words_alone() -> None:
    assert masker(["ab"])("about") == "about"


def test_data_keeps_its_shape() -> None:
    data = {"args": ("x hidden", 1, None), "members": [{"hidden": b"hidden"}]}

    assert masked_data(data, masker(["hidden"])) == {"args": ("x ***", 1, None), "members": [{"***": b"hidden"}]}


def test_bytes_are_masked_as_well() -> None:
    target = io.BytesIO()
    lines: Any = streams.Lines(target, b"")
    lines.mask = masker(["hidden"])
    printed = io.TextIOWrapper(lines, "utf-8", write_through=True)

    written = printed.write("a hidden word\n")
    printed.buffer.write(b"\xff hidden\n")

    assert written == len("a hidden word\n")
    assert target.getvalue() == b"a *** word\n\xff ***\n"


def test_what_needs_airflow_names_the_alternative() -> None:
    ti = runtime.ContextObject("ti", {"task_id": "work"})
    context = runtime.Context({"ti": ti, "ds": "2026-01-01"})

    with pytest.raises(
        AttributeError, match=r"Pass the other task's output as an argument: this_task\(other_task\(\)\)"
    ):
        ti.xcom_pull(task_ids="other")
    with pytest.raises(AttributeError, match="Return the value"):
        ti.xcom_push("key", 1)
    with pytest.raises(KeyError, match=r"call runtime.get_variable\(.*Available: ds, ti"):
        context["var"]
    assert context.get("var") is None
    with contextlib.suppress(KeyError):
        assert context["ds"] == "2026-01-01"


@settings(max_examples=50, deadline=None)
@given(
    fields=st.fixed_dictionaries(
        {"conn_type": st.sampled_from(["postgres", "google_cloud_platform", "http"])},
        optional={
            "host": st.from_regex(r"[a-z0-9.-]{1,20}", fullmatch=True),
            "login": st.text(min_size=1, max_size=20),
            "password": st.text(min_size=1, max_size=20),
            "schema": st.text(min_size=1, max_size=20),
            "port": st.integers(1, 65535),
            "extra": st.dictionaries(st.text(min_size=1), st.text() | st.booleans(), min_size=1).map(json.dumps),
        },
    )
)
def test_airflow_reads_the_uri_of_a_connection_as_the_connection(fields: dict[str, Any]) -> None:
    airflow_home()
    from airflow.models.connection import Connection

    theirs = Connection(uri=runtime.Connection(conn_id="c", **fields).get_uri())

    found = {name: getattr(theirs, name) for name in fields if name != "extra"}
    assert found == {name: value for name, value in fields.items() if name != "extra"}
    assert theirs.extra_dejson == json.loads(fields.get("extra", "{}"))
