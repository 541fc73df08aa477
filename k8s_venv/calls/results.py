"""What a call's result becomes: the value or the exception.

Nothing here imports or unpickles what a result names, unless the task itself asks for ``serializer="cloudpickle"``.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import sys
import zlib
from typing import TYPE_CHECKING, Any

from k8s_venv.calls.exceptions import rebuild
from k8s_venv.calls.packed import Result
from k8s_venv.capture.origins import sent_name
from k8s_venv.errors import BackendError, CallError
from k8s_venv.wire import protocol
from k8s_venv.wire.errors import MalformedError, MissingLibraryError, UnknownTypeError
from k8s_venv.wire.values import loads, sha256_of

if TYPE_CHECKING:
    from k8s_venv.calls.packed import SentCall
    from k8s_venv.wire.registry import Buffer


# --- the runner's document ------------------------------------------------------------------------------------


def parse_document(text: str | bytes, environment: str) -> protocol.Document:
    """Read a result document.

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
            stored=bool(fields.get("stored", False)),
        )
        if not 0 <= document.size <= protocol.RESULT_LIMIT:
            raise ValueError(f"a payload of {document.size} bytes")
    except (ValueError, OverflowError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BackendError(environment, f"the call's result cannot be read: {error}.") from None
    return document


def inline_result(document: protocol.Document, environment: str) -> Result:
    """Return the result whose payload stands in its document.

    Raises:
        BackendError: the payload is damaged.
    """
    try:
        return Result(document, inflated(document.inline or "", document.size))
    except (ValueError, zlib.error) as error:
        raise BackendError(environment, f"the call's result is damaged: {error}.") from None


def inflated(text: str, size: int) -> bytes:
    """Return the payload in a text, but never much more than was announced: compressed data may grow to any size.

    Args:
        text: the compressed payload, in base 85.
        size: the bytes that were announced.

    Raises:
        ValueError: it is not base 85.
        zlib.error: it is not compressed data.
    """
    return zlib.decompressobj().decompress(base64.b85decode(text), size + 1)


# --- a value or an exception ----------------------------------------------------------------------------------


def open_result(result: Result, call: SentCall) -> Any:
    """Return the value of a result, or raise its failure.

    Args:
        result: what the backend brought back.
        call: the call it belongs to.

    Raises:
        BackendError: the result is damaged.
        CallError: the result could not travel.
        SkipTask: the task skipped itself.
        FailTask: the task failed itself for good.
        Exception: the task's own exception, or a ``RemoteError`` if its type is not known here.
    """
    payload = sealed_value(result, call)
    try:
        return loads(payload, _unpickle if call.serializer else None, call.types)
    except _UnpicklingError as error:
        raise CallError(f"The result of {call.function}() cannot be unpickled here: {error}.") from error.__cause__
    except MissingLibraryError as error:
        raise CallError(
            f"The result of {call.function}() needs {error.library}, which is not installed beside Airflow. Install it "
            'there, return plain data, or hand the value on as it is with result="reference".'
        ) from None
    except UnknownTypeError as error:
        module = next((each for each in call.modules if error.name.startswith(f"{each}.")), None)
        if module is None or module in sys.modules:
            raise _unreadable(call, error) from None
        raise CallError(
            f"The result of {call.function}() needs the type {error.name}, and the module {module} is not loaded here: "
            "a result never imports one. Import it at the top of the file that makes the call, return plain data, or "
            'hand the value on as it is with result="reference".'
        ) from None
    except MalformedError as error:
        raise _unreadable(call, error) from None


def sealed_value(result: Result, call: SentCall) -> Buffer:
    """Return the value of a result still encoded, or raise its failure; see ``open_result``."""
    environment, document = call.environment.name, result.document
    payload = result.stored.take(document.size) if result.stored else result.payload
    if len(payload) != document.size:
        raise BackendError(
            environment, f"the call's result is damaged: {len(payload):,} bytes instead of {document.size:,}."
        )
    if not result.checked and sha256_of(payload) != document.sha256:
        raise BackendError(environment, "the call's result is damaged: its checksum does not match.")
    if document.outcome == protocol.VALUE:
        return payload
    try:
        failure = loads(payload)
    except (MalformedError, MissingLibraryError) as error:
        raise _unreadable(call, error) from None
    raise rebuild(document.outcome, failure, call)


def _unreadable(call: SentCall, error: Exception) -> BackendError:
    return BackendError(call.environment.name, f"the result of {call.function}() cannot be read: {error}.")


class _UnpicklingError(Exception):
    """A pickled part of a result that cannot be loaded."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return super().find_class("__main__" if module == sent_name("__main__") else module, name)


def _unpickle(data: memoryview) -> Any:
    """Load what the environment pickled: only for a task that trusts it with that."""
    try:
        return _Unpickler(io.BytesIO(data)).load()
    except Exception as error:
        raise _UnpicklingError(f"{type(error).__name__}: {error}") from error
