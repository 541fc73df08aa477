"""What an exception holds comes back with it; what cannot travel is named, and no secret goes along."""

from __future__ import annotations

import dataclasses
import email.message
import enum
import http
import io
import subprocess
import threading
import traceback
import urllib.error
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from k8s_venv.calls import SentCall
from k8s_venv.calls.exceptions import rebuild
from k8s_venv.config.environment import Environment
from k8s_venv.errors import RemoteError, visible
from k8s_venv.runner import failures
from k8s_venv.wire import protocol
from k8s_venv.wire.masking import masked_data, masker
from k8s_venv.wire.values import dumps, loads

CALL = SentCall(
    environment=Environment(name="x", root=Path(), python="3.12"), function="work", modules=frozenset([__name__])
)
SECRET = "correct horse"


@dataclasses.dataclass
class Order:
    number: int
    note: str = ""


class Level(enum.Enum):
    HIGH = 1


class CodedError(Exception):
    def __init__(self, text: str, *, code: int) -> None:
        super().__init__(text)
        self.code = code


class OrderError(Exception):
    def __init__(self, order: Order, level: Level) -> None:
        super().__init__(f"order {order.number}")
        self.order, self.level = order, level


class SlottedError(Exception):
    __slots__ = ("code", "unset")

    def __init__(self, code: int) -> None:
        super().__init__("slotted")
        self.code = code


class ReducedError(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")
        self.parts = (first, second)

    def __reduce__(self) -> Any:
        return ReducedError, self.parts


class GoneError(OSError):
    def __init__(self, code: int) -> None:
        super().__init__(2, "gone", "/x")
        self.code = code


class PropertyError(Exception):
    def __init__(self, code: int) -> None:
        self._code = code

    @property
    def code(self) -> int:
        return self._code

    def __str__(self) -> str:
        return f"code {self._code}"


class ManyErrors(ExceptionGroup[Exception]):
    pass


class HeldError(Exception):
    """One that holds anything."""


def holding(**attributes: Any) -> HeldError:
    error = HeldError("held")
    vars(error).update(attributes)
    return error


def there_and_back(error: BaseException, secrets: tuple[str, ...] = ()) -> Any:
    """Return what the sender makes of an exception that a call raised."""
    mask = masker(secrets)
    try:
        raise error
    except BaseException as raised:  # noqa: BLE001 -- of any type
        failure = failures.describe(raised, CALL.types, mask if secrets else None)
        outcome = failures.outcome(raised)
    wire = dumps(masked_data(failure, mask))
    assert all(secret.encode() not in wire for secret in secrets)
    return rebuild(outcome, loads(wire), CALL)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (CodedError("no stock", code=3), {"code": 3, "args": ("no stock",)}),
        (OrderError(Order(7), Level.HIGH), {"order": Order(7), "level": Level.HIGH}),
        (SlottedError(4), {"code": 4}),
        (ReducedError("a", "b"), {"parts": ("a", "b"), "args": ("a and b",)}),
        (GoneError(7), {"code": 7, "errno": 2, "filename": "/x"}),
        (PropertyError(5), {"code": 5}),
        (subprocess.CalledProcessError(2, ["ls"], "out", "err"), {"returncode": 2, "stdout": "out", "stderr": "err"}),
        (FileNotFoundError(2, "no", "/a", None, "/b"), {"errno": 2, "filename": "/a", "filename2": "/b"}),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), {"object": b"\xff", "reason": "no"}),
        (KeyError("k"), {"args": ("k",)}),
        (StopIteration(5), {"value": 5}),
        (ImportError("no", name="pandas", path="/p"), {"name": "pandas", "path": "/p"}),
        (AttributeError("no", name="foo"), {"name": "foo"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_arguments_and_attributes_come_back(error: BaseException, expected: dict[str, Any]) -> None:
    rebuilt = there_and_back(error)

    assert type(rebuilt) is type(error)
    assert str(rebuilt) == str(error)
    assert {name: getattr(rebuilt, name) for name in expected} == expected


def test_what_cannot_travel_is_left_out_and_named() -> None:
    rebuilt = there_and_back(holding(code=1, lock=threading.Lock(), text="x" * 10**6))

    assert rebuilt.code == 1
    assert not hasattr(rebuilt, "lock")
    assert rebuilt.__notes__ == ["Left out of this exception, since it cannot travel: lock (_thread.lock), text (str)."]


def test_an_argument_that_cannot_travel_keeps_its_text() -> None:
    lock = threading.Lock()

    rebuilt = there_and_back(ValueError(Order(1), lock))

    assert type(rebuilt) is ValueError
    assert rebuilt.args == (Order(1), repr(lock))
    assert "args[1] (_thread.lock)" in rebuilt.__notes__[0]


def test_a_type_that_cannot_do_without_what_was_left_out_is_itself_nevertheless() -> None:
    rebuilt: Any = there_and_back(urllib.error.HTTPError("http://x", 404, "no", email.message.Message(), io.BytesIO()))

    assert isinstance(rebuilt, urllib.error.HTTPError)
    assert rebuilt.code == 404
    assert vars(rebuilt)["fp"] is None
    assert "fp (_io.BytesIO)" in rebuilt.__notes__[0]


def test_exceptions_that_an_exception_holds_are_themselves() -> None:
    rebuilt = there_and_back(urllib.error.URLError(ConnectionRefusedError(111, "refused")))

    assert type(rebuilt) is urllib.error.URLError
    assert isinstance(rebuilt.reason, ConnectionRefusedError)
    assert rebuilt.reason.errno == 111


def chained(*, explicit: bool) -> BaseException:
    try:
        try:
            raise CodedError("first", code=3)
        except CodedError as error:
            raise ValueError("second") from (error if explicit else None)
    except ValueError as error:
        if not explicit:
            error.__suppress_context__ = False
        return error


@pytest.mark.parametrize("explicit", [True, False])
def test_what_an_exception_followed_is_found_behind_its_traceback_and_shown_once(explicit: bool) -> None:
    rebuilt = there_and_back(chained(explicit=explicit))

    followed = rebuilt.__cause__.__context__
    assert isinstance(followed, CodedError)
    assert followed.code == 3
    assert rebuilt.__context__ is followed
    assert "".join(traceback.format_exception(rebuilt)).count("CodedError: first") == 1


def test_members_of_a_group_keep_what_they_hold() -> None:
    rebuilt: Any = there_and_back(ManyErrors("two (at once)", [CodedError("a", code=1), holding(code=2)]))

    assert isinstance(rebuilt, ManyErrors)
    assert rebuilt.message == "two (at once)"
    assert [vars(error)["code"] for error in rebuilt.exceptions] == [1, 2]


def test_a_group_of_very_many_says_how_many_are_missing() -> None:
    rebuilt = there_and_back(ExceptionGroup("many", [ValueError(number) for number in range(150)]))

    assert len(rebuilt.exceptions) == 100
    assert rebuilt.__notes__ == ["50 more exceptions of this group stand in the traceback alone."]


@pytest.mark.parametrize("error", [SystemExit(10), KeyboardInterrupt("stop"), GeneratorExit("end")])
def test_what_would_end_this_process_is_only_reported(error: BaseException) -> None:
    rebuilt = there_and_back(error)

    assert type(rebuilt) is RemoteError
    assert rebuilt.arguments == error.args


def test_a_type_that_is_not_known_here_keeps_its_attributes() -> None:
    error: Any = type("OnlyThere", (Exception,), {"__module__": "somewhere"})("no")
    error.status = 404
    error.response = object()

    rebuilt = there_and_back(error)

    assert type(rebuilt) is RemoteError
    assert rebuilt.attributes == {"status": 404}
    assert "response (object)" in rebuilt.__notes__[0]


def test_very_long_chains_and_cycles_arrive() -> None:
    error = ValueError("0")
    for number in range(1, 200):
        outer = ValueError(str(number))
        outer.__cause__, error = error, outer
    vars(error)["me"] = error

    rebuilt = there_and_back(error)

    assert str(rebuilt) == "199"
    assert str(rebuilt.__context__) == "198"
    assert "me (ValueError)" in rebuilt.__notes__[0]


@pytest.mark.parametrize(
    "held",
    [
        {"text": f"it is {SECRET}"},
        {"deep": [{"a": (f"x{SECRET}x",)}]},
        {"keys": {SECRET: 1}},
        {"in_a_set": {SECRET}},
        {"raw": SECRET.encode()},
        {"path": Path(f"/{SECRET}/x")},
        {"order": Order(1, SECRET)},
        {SECRET: 1},
        {"error": ValueError(SECRET)},
        {"error": ValueError({SECRET}, SECRET.encode())},
        {"type": type(SECRET, (), {})()},
    ],
    ids=lambda held: next(iter(held)),
)
def test_no_secret_goes_with_an_exception(held: dict[str, Any]) -> None:
    error = holding(code=3, **held)
    error.args = ("held", {SECRET}, SECRET.encode(), [SECRET])
    error.__cause__ = holding(**held)

    rebuilt = there_and_back(error, (SECRET,))

    assert rebuilt.code == 3
    assert SECRET not in repr(rebuilt.args)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.dates() | st.sampled_from(Level),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3) | st.tuples(inner),
    max_leaves=6,
)


@given(st.lists(PLAIN, max_size=3), st.dictionaries(st.text("abcxyz_", min_size=1), PLAIN, max_size=3))
def test_any_plain_parts_come_back(args: list[Any], attributes: dict[str, Any]) -> None:
    kept = {name: value for name, value in attributes.items() if not name.startswith("__") and name != "args"}
    error = holding(**kept)
    error.args = tuple(args)
    assume(visible(str(error)) == str(error))  # else its text and arguments are escaped

    rebuilt = there_and_back(error)

    assert type(rebuilt) is HeldError
    assert rebuilt.args == tuple(args)
    assert vars(rebuilt) == kept


def test_an_exception_that_has_to_be_short_says_that_something_is_missing() -> None:
    failure = failures.short(holding(code=3))

    rebuilt = rebuild(protocol.FAILURE, failure, CALL)

    assert rebuilt.__notes__ == ["What it holds beside its message did not fit into the pod's status."]


def test_an_exception_never_takes_the_place_of_what_its_type_does() -> None:
    failure = {**failures.describe(holding(code=1)), "attributes": [("add_note", dumps(1)), ("__cause__", dumps(2))]}

    rebuilt: Any = rebuild(protocol.FAILURE, failure, CALL)

    assert callable(rebuilt.add_note)
    assert "add_note" not in vars(rebuilt)


def test_parts_that_cannot_be_read_here_do_not_lose_the_failure() -> None:
    parts = {"attributes": [("broken", b"no value"), ("code", dumps(3))], "args": None, "encoded_args": [b"neither"]}

    rebuilt: Any = rebuild(protocol.FAILURE, {**failures.describe(HeldError("held")), **parts}, CALL)

    assert "broken (" in "".join(rebuilt.__notes__)
    assert "args[0] (" in "".join(rebuilt.__notes__)


class Name(str):
    """A text of the project's own kind."""


class Shown:
    def __str__(self) -> str:
        return "for people"

    def __repr__(self) -> str:
        return "Shown()"


class TaggedTextError(Exception):
    def __str__(self) -> str:
        return Name("tagged")


class UnreadableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class ClosedError(Exception):
    def __getattribute__(self, name: str) -> Any:
        if name == "__dict__":
            raise RuntimeError("closed")
        return super().__getattribute__(name)


def test_instances_of_subclasses_arrive_as_what_they_are_beneath_and_are_named() -> None:
    error = HeldError(Name("red"), {"names": [Name("blue")]})
    vars(error)["status"] = http.HTTPStatus.NOT_FOUND

    rebuilt: Any = there_and_back(error)

    assert rebuilt.args == ("red", {"names": ["blue"]})
    assert type(rebuilt.args[0]) is str
    assert (type(rebuilt.status), rebuilt.status) == (int, 404)
    assert rebuilt.__notes__ == [
        f"args[0] is of the type {__name__}.Name, which arrives as a plain str.",
        f"args[1]['names'][0] is of the type {__name__}.Name, which arrives as a plain str.",
        "status is of the type http.HTTPStatus, which arrives as a plain int.",
    ]


def test_an_argument_that_reads_otherwise_here_does_not_cost_an_exception_its_type() -> None:
    rebuilt = there_and_back(ValueError(http.HTTPStatus.NOT_FOUND, "x"))

    assert type(rebuilt) is ValueError
    assert rebuilt.args == (404, "x")
    assert f"Its text was: ({http.HTTPStatus.NOT_FOUND!r}, 'x')" in rebuilt.__notes__


def test_an_argument_that_cannot_travel_is_shown_as_the_exception_showed_it() -> None:
    assert str(there_and_back(ValueError(Shown()))) == "for people"
    assert str(there_and_back(ValueError(Shown(), 1))) == "(Shown(), 1)"


def test_a_text_of_a_subclass_is_a_message() -> None:
    rebuilt = there_and_back(TaggedTextError(1))

    assert type(rebuilt) is TaggedTextError
    assert rebuilt.args == (1,)


def test_a_message_that_cannot_be_read_is_what_the_arguments_say() -> None:
    rebuilt = there_and_back(UnreadableError("lost?", 5))

    assert isinstance(rebuilt, RemoteError)
    assert rebuilt.message == "<RuntimeError while reading the message> ('lost?', 5)"
    assert rebuilt.arguments == ("lost?", 5)


def test_an_exception_that_cannot_be_read_keeps_its_message() -> None:
    failure = failures.bare(ClosedError("disk full"))

    assert failure["message"] == "disk full"
    assert failure["traceback"].endswith("ClosedError: disk full\n")
