"""Turn what the runner reported into the value, or into the exception.

Nothing here imports or unpickles what a result names. An exception's type is only looked up: among the built-in
ones, Airflow's, and those of modules that the call itself shipped and that are loaded here already.
"""

from __future__ import annotations

import base64
import builtins
import contextlib
import dataclasses
import hashlib
import json
import sys
import zlib
from typing import TYPE_CHECKING, Any

from k8s_venv.errors import BackendError, CallError, RemoteError
from k8s_venv.runner import protocol
from k8s_venv.runner.errors import MalformedError, MissingLibraryError
from k8s_venv.runner.values import loads
from k8s_venv.runtime import FailTask, SkipTask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from k8s_venv.calls.packing import PackedCall

_RUNNER_ERRORS = "k8s_venv.runner.errors"


@dataclasses.dataclass(frozen=True)
class Result:
    """How a call ended.

    Args:
        document: the outcome, and what the payload must look like.
        payload: the encoded value or failure.

    """

    document: protocol.Document
    payload: bytes = dataclasses.field(repr=False)


class RemoteTraceback(Exception):  # noqa: N818 -- the cause of another exception, shown above it
    """The traceback of the environment's side, as the cause of the exception that is raised here.

    Args:
        text: the traceback as the environment printed it.

    """

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(text)

    def __str__(self) -> str:
        return f"\n\n{self.text}"


def parse_document(text: str | bytes, environment: str) -> protocol.Document:
    """Read a result document, and its payload where it is inline.

    Args:
        text: the document's JSON.
        environment: the environment's name, for messages.

    Raises:
        BackendError: it is not a document that this version understands.

    """
    try:
        if len(text) > protocol.DOCUMENT_LIMIT:
            raise ValueError(f"longer than {protocol.DOCUMENT_LIMIT} bytes")
        fields = json.loads(text)
        if fields["protocol"] != protocol.PROTOCOL:
            raise ValueError(f"protocol {fields['protocol']!r} instead of {protocol.PROTOCOL}")
        document = protocol.Document(
            outcome=str(fields["outcome"]),
            size=int(fields["size"]),
            sha256=str(fields["sha256"]),
            python=str(fields["python"]),
            timings={str(phase): float(seconds) for phase, seconds in fields["timings"].items()},
            inline=str(fields["inline"]) if "inline" in fields else None,
        )
        if not 0 <= document.size <= protocol.RESULT_LIMIT:
            raise ValueError(f"a payload of {document.size} bytes")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BackendError(environment, f"the call's result cannot be read: {error}.") from None
    return document


def inline_result(document: protocol.Document, environment: str) -> Result:
    """Return the result whose payload stands in its document.

    Raises:
        BackendError: the payload is damaged.

    """
    try:
        packed = base64.b85decode(document.inline or "")
        # Never more than was announced, whatever the compressed data would grow to.
        payload = zlib.decompressobj().decompress(packed, document.size + 1)
    except (ValueError, zlib.error) as error:
        raise BackendError(environment, f"the call's result is damaged: {error}.") from None
    return Result(document, payload)


def open_result(result: Result, call: PackedCall) -> Any:
    """Return the value of a result, or raise its failure.

    Args:
        result: what the backend brought back.
        call: the call it belongs to.

    Raises:
        BackendError: the result is damaged.
        CallError: the result could not travel.
        SkipTask: the task skipped itself.
        FailTask: the task failed itself for good.
        Exception: the task's own exception, or a ``RemoteError`` where its type is not known here.

    """
    environment, document = call.environment.name, result.document
    if len(result.payload) != document.size or hashlib.sha256(result.payload).hexdigest() != document.sha256:
        raise BackendError(environment, "the call's result is damaged: its checksum does not match.")
    try:
        content = loads(result.payload)
    except MissingLibraryError as error:
        raise CallError(
            f"The result of {call.function}() needs {error.library}, which is not installed beside Airflow. Install it "
            "there, or return plain data."
        ) from None
    except MalformedError as error:
        raise BackendError(environment, f"the call's result cannot be read: {error}.") from None
    if document.outcome == protocol.VALUE:
        return content
    raise _exception(document.outcome, content, call)


def _exception(outcome: str, failure: Mapping[str, Any], call: PackedCall) -> BaseException:
    try:
        module, name, message = str(failure["module"]), str(failure["name"]), str(failure["message"])
        text, notes, missing = str(failure["traceback"]), list(failure["notes"]), failure["missing"]
        args = tuple(failure["args"]) if failure["args"] is not None else None
    except (KeyError, TypeError) as error:
        return BackendError(call.environment.name, f"the call's failure cannot be read: {error!r}.")
    if outcome == protocol.SKIP:
        return SkipTask(message)
    if module == _RUNNER_ERRORS:
        return _our_error(name, args or (), message, call)
    raised = FailTask(message) if outcome == protocol.FAIL else _rebuild(module, name, message, args, call.modules)
    for note in notes:
        raised.add_note(str(note))
    if name == "ModuleNotFoundError" and missing:
        raised.add_note(_requirement_hint(str(missing), call))
    raised.__cause__ = RemoteTraceback(text)
    return raised


def _our_error(name: str, args: tuple[Any, ...], message: str, call: PackedCall) -> Exception:
    """Return the error for what the runner itself refused."""
    environment = call.environment
    if name == "NoCodecError" and len(args) == 2:
        return CallError(
            f"The result of {call.function}() cannot travel: {args[0]} is {args[1]}. Return plain data, numpy arrays "
            "or pandas frames."
        )
    if name == "MissingLibraryError":
        return CallError(
            f"An argument of {call.function}() cannot be read in environment {environment.name!r}: {message}. Add it "
            f"to {environment.requirements_place} and run `k8s-venv lock {environment.name}`."
        )
    return BackendError(environment.name, message)


def _rebuild(
    module: str, name: str, message: str, args: tuple[Any, ...] | None, shipped: frozenset[str]
) -> BaseException:
    """Return the exception as itself, or as a ``RemoteError`` when its type may not be raised here."""
    kind: Any = None
    if module == builtins.__name__:
        kind = getattr(builtins, name, None)
    elif module in shipped or module.partition(".")[0] == "airflow":
        kind = sys.modules.get(module)
        for part in name.split("."):
            kind = getattr(kind, part, None)
    if isinstance(kind, type) and issubclass(kind, Exception) and args is not None:
        with contextlib.suppress(Exception):  # a type that is not made from its `args`
            rebuilt = kind(*args)
            if str(rebuilt) == message:
                return rebuilt
    full = name if module == builtins.__name__ else f"{module}.{name}"
    return RemoteError(full, message)


def _requirement_hint(missing: str, call: PackedCall) -> str:
    environment = call.environment
    return (
        f"Environment {environment.name!r} (Python {environment.python}) has no module {missing!r}. Add the package "
        f"that provides it to {environment.requirements_place}, then run `k8s-venv lock {environment.name}`."
    )
