"""What a sender makes of a result that an environment left: hostile ones end as our error and nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import traceback
import unicodedata
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8s_venv import load
from k8s_venv.calls import Result, SentCall, open_result, parse_document, refer, results
from k8s_venv.calls.results import inline_result
from k8s_venv.config.environment import Environment
from k8s_venv.errors import BackendError, CallError, K8sVenvError, RemoteError, visible
from k8s_venv.runtime import FailTask, SkipTask
from k8s_venv.wire import protocol
from k8s_venv.wire.values import dumps

CALL = SentCall(
    environment=Environment(name="x", root=Path(), python="3.12"), function="work", modules=frozenset(["dag"])
)


def document(payload: bytes, outcome: str = protocol.VALUE, **changes: Any) -> dict[str, Any]:
    fields = {
        "protocol": protocol.PROTOCOL,
        "outcome": outcome,
        "size": len(payload),
        "sha256": hashlib.sha256(payload).hexdigest(),
        "python": "3.12.1",
        "timings": {"run": 0.5},
        "encoding": protocol.INLINE_ENCODING,
        "inline": base64.b85encode(zlib.compress(payload)).decode(),
    }
    return {**fields, **changes}


def opened(fields: dict[str, Any]) -> Any:
    return open_result(inline_result(parse_document(json.dumps(fields), "x"), "x"), CALL)


def test_a_value_comes_back() -> None:
    assert opened(document(dumps({"a": [1, 2]}))) == {"a": [1, 2]}


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": 2},
        {"protocol": None},
        {"size": -1},
        {"size": 10**15},
        {"size": "many"},
        {"size": float("inf")},
        {"timings": {"run": 10**400}},
        {"timings": []},
        {"inline": "not base85: \u00e9"},
        {"inline": base64.b85encode(b"not zlib").decode()},
        {"sha256": "0" * 64},
    ],
)
def test_a_damaged_document_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BackendError):
        opened(document(dumps(1), **changes))


def test_a_bomb_is_cut_at_the_announced_size() -> None:
    bomb = base64.b85encode(zlib.compress(b"0" * 50_000_000)).decode()

    result = inline_result(parse_document(json.dumps(document(b"x", inline=bomb)), "x"), "x")

    assert len(result.payload) == 2
    with pytest.raises(BackendError, match="2 bytes instead of 1"):
        open_result(result, CALL)


def test_a_result_that_was_checked_while_it_was_read_is_not_hashed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = dumps([1, 2])
    read = Result(parse_document(json.dumps(document(payload)), "x"), payload, checked=True)
    monkeypatch.setattr(results, "sha256_of", lambda _: pytest.fail("it was hashed again"))

    assert open_result(read, CALL) == [1, 2]
    by_reference = refer(read, CALL)
    monkeypatch.undo()
    assert load(by_reference) == [1, 2]


def test_a_pickle_in_a_result_is_never_opened() -> None:
    payload = dumps(object, pickle=lambda value: b"cos\nsystem\n(S'exit 1'\ntR.")

    with pytest.raises(BackendError, match="pickled"):
        opened(document(payload))


@pytest.mark.parametrize(
    ("module", "name"),
    [("os", "system"), ("builtins", "eval"), ("subprocess", "Popen"), ("builtins", "SystemExit"), ("dag", "Missing")],
)
def test_a_failure_raises_exceptions_and_calls_nothing_else(module: str, name: str) -> None:
    failure: dict[str, Any] = {
        "module": module,
        "name": name,
        "message": "1",
        "args": ("1",),
        "missing": None,
        "notes": [],
        "group": None,
        "traceback": "",
    }

    with pytest.raises(K8sVenvError, match=name):
        opened(document(dumps(failure), protocol.FAILURE))


ENDLESS = range(10**15)


def forged(**changes: Any) -> BaseException:
    """Return what a failure that anyone could write is raised as."""
    facts: dict[str, Any] = {"module": "builtins", "name": "ValueError", "message": "1", "args": ("1",)}
    facts |= {"missing": None, "notes": [], "group": None, "traceback": "", **changes}
    with pytest.raises(Exception) as caught:  # noqa: PT011 -- of any type
        opened(document(dumps(facts), protocol.FAILURE))
    return caught.value


@pytest.mark.parametrize("entry", ["args", "notes", "group", "left_out", "attributes"])
@pytest.mark.parametrize("module", ["builtins", "k8s_venv.wire.errors"])
def test_a_failure_whose_lists_have_no_end_is_refused(entry: str, module: str) -> None:
    error = forged(**{entry: ENDLESS, "module": module})

    assert isinstance(error, K8sVenvError)
    assert len(str(error)) < 1000


def test_many_arguments_of_a_failure_are_read_in_the_time_of_their_number() -> None:
    error = forged(args=None, encoded_args=["x"] * 100_000)

    assert isinstance(error, RemoteError)
    assert len(error.arguments or ()) == 100_000


@pytest.mark.parametrize(
    ("name", "message", "args"),
    [
        ("SyntaxError", "m (f, line 1)", ("m", ("f", 1, 1, "x", 1, 10**12))),
        ("SyntaxError", "m (f, line 1)", ("m", ("f", 1, "x", 5))),
        ("SyntaxError", "m", ("m", ENDLESS)),
        ("ExceptionGroup", "m", ("m", ENDLESS)),
        ("UnicodeDecodeError", "m", ("utf8", b"x", -(2**62), 1 - 2**62, "r")),
    ],
)
def test_a_failure_that_would_harm_who_shows_it_is_a_remote_error(name: str, message: str, args: Any) -> None:
    error = forged(name=name, message=message, args=args)

    assert isinstance(error, RemoteError)
    assert error.kind == name
    assert traceback.format_exception(error)


def test_attributes_of_a_failure_touch_nothing_that_python_itself_reads() -> None:
    attributes = {"args": ENDLESS, "start": -(2**62), "end": 1 - 2**62, "name_from": "x", "end_offset": 10**12}
    pairs = [(name, dumps(value)) for name, value in attributes.items()]
    decode = "'utf8' codec can't decode byte 0x78 in position 0: r"

    for name, message, args in (
        ("UnicodeDecodeError", decode, ("utf8", b"x", 0, 1, "r")),
        ("SyntaxError", "m (f, line 1)", ("m", ("f", 1, 1, "x"))),
        ("ValueError", "1", ("1",)),
    ):
        error = forged(name=name, message=message, args=args, attributes=pairs)
        assert type(error).__name__ == name
        assert error.args == args
        assert traceback.format_exception(error)


@pytest.mark.parametrize("missing", ["x" * 100_000, "../../../etc/passwd", "a\0b", "..", ""])
def test_a_module_without_a_modules_name_is_looked_for_nowhere(missing: str) -> None:
    error = failed_import(missing)

    assert type(error) is ModuleNotFoundError
    assert "There is no" not in "".join(getattr(error, "__notes__", ()))


def failed_import(missing: str) -> BaseException:
    return forged(name="ModuleNotFoundError", missing=missing)


def test_showing_a_failure_imports_nothing() -> None:
    sys.modules.pop("antigravity", None)

    error = forged(name="ImportError", missing="antigravity", attributes=[("name_from", dumps("fly"))])

    assert traceback.format_exception(error)
    assert "antigravity" not in sys.modules


def test_finding_the_type_of_a_failure_imports_nothing() -> None:
    script = """
import concurrent.futures
import sys
from tests.unit.test_results import forged

forged(module="concurrent.futures", name="ProcessPoolExecutor")
assert "concurrent.futures.process" not in sys.modules
"""

    subprocess.run([sys.executable, "-c", script], check=True)


@given(st.binary(max_size=200))
def test_garbage_is_refused(garbage: bytes) -> None:
    for read in (lambda: parse_document(garbage, "x"), lambda: opened(document(garbage))):
        with pytest.raises(K8sVenvError):
            read()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=8,
    )
)
def test_a_failure_of_any_shape_is_an_error_of_ours(failure: Any) -> None:
    with pytest.raises(K8sVenvError):
        opened(document(dumps(failure), protocol.FAILURE))


def test_a_result_of_the_wrong_length_is_refused() -> None:
    parsed = parse_document(json.dumps(document(dumps(1))), "x")

    with pytest.raises(BackendError, match="damaged"):
        open_result(Result(parsed, b""), CALL)


HIDING = "\x1b[2J\r\x1e\u2028\u202e\0\x85::group::##[endgroup]"


def failed(message: str, module: str = "builtins", name: str = "ValueError", **changes: Any) -> BaseException:
    failure = {
        "module": module,
        "name": name,
        "message": message,
        "args": (message,),
        "missing": None,
        "notes": [message],
        "group": None,
        "traceback": f"Traceback:\n{name}: {message}\n",
        **changes,
    }
    outcome = changes.get("outcome", protocol.FAILURE)
    with pytest.raises(BaseException) as raised:  # noqa: PT011 -- it is what the test looks at
        opened(document(dumps(failure), outcome))
    return raised.value


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, ValueError),
        ({"module": "elsewhere", "name": "Unknown"}, RemoteError),
        ({"outcome": protocol.SKIP}, SkipTask),
        ({"outcome": protocol.FAIL}, FailTask),
        ({"module": "k8s_venv.wire.errors", "name": "DeliveryError"}, BackendError),
        ({"module": "k8s_venv.wire.errors", "name": "RestoringError"}, CallError),
        ({"module": f"else{HIDING}", "name": f"Un{HIDING}"}, RemoteError),
    ],
)
def test_what_a_failure_says_hides_and_imitates_nothing_in_a_log(changes: dict[str, Any], kind: type) -> None:
    error = failed(f"two{HIDING}\nlines", **changes)

    assert isinstance(error, kind)
    shown = "".join(traceback.format_exception(error))
    assert r"two\x1b[2J\r\x1e\u2028\u202e\x00\x85\x3a:group::\x23#[endgroup]" in shown
    assert not set(HIDING[:8]) & set(shown.replace("[2J", "")) - set("[2J")
    assert "::group::" not in shown


def test_a_failure_that_hides_nothing_is_raised_with_the_very_arguments_that_it_had() -> None:
    error = failed("'a\\r'", name="KeyError", args=("a\r",))

    assert isinstance(error, KeyError)
    assert error.args == ("a\r",)


@given(st.text())
def test_a_text_that_is_visible_stays_as_it_is_when_it_is_shown_again(text: str) -> None:
    once = visible(text)

    assert visible(once) == once
    assert all(
        sign.isprintable() or sign in "\n\t" or unicodedata.category(sign) in ("Zs", "Cf", "Cn", "Co") for sign in once
    )
