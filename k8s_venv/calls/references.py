"""Values by reference: a small document, marked as one, that Airflow stores in place of a value.

With ``result="reference"`` a value becomes such a document, and nothing of the value is read. The next isolated task
takes the document as the value itself, decoded inside its environment, so the worker needs none of the value's
libraries; ``k8s_venv.load(document)`` opens one anywhere else. A small value stands in its document, a large one is
stored at the location for large values, which the document names.
"""

from __future__ import annotations

import base64
import contextlib
import re
import sys
import uuid
import zlib
from typing import TYPE_CHECKING, Any

from k8s_venv.calls.packed import Spool
from k8s_venv.calls.results import inflated, sealed_value
from k8s_venv.calls.transfer import StoredValue, location_at
from k8s_venv.capture.origins import is_installed
from k8s_venv.errors import CallError, readable
from k8s_venv.wire import protocol
from k8s_venv.wire.errors import MalformedError, MissingLibraryError, UnknownTypeError
from k8s_venv.wire.shipped_types import own_name, resolver
from k8s_venv.wire.values import KeptReference, Reference, head_length, loads, sha256_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from k8s_venv.calls.packed import Result, SentCall
    from k8s_venv.config.environment import Environment
    from k8s_venv.wire.registry import Buffer

MARK = "k8s-venv-value"
# Documents of version 1 have the value in them, those of version 2 say where it is stored.
_VERSION, _STORED_VERSION = 1, 2
_KEYS = {MARK, "encoding", "size", "sha256", "data"}
_STORED_KEYS = {MARK, "location", "name", "size", "sha256"}
_DEPTH = 6  # how deep in an argument's lists and dictionaries a document is looked for
_DOCUMENT_LIMIT = 16 * 1024 * 1024  # bytes of a value that may stand in Airflow's database


def refer(result: Result, call: SentCall) -> dict[str, Any]:
    """Return the document for a call's value, or raise its failure.

    A value that is stored at a location stays there, unread.

    Args:
        result: what the backend brought back.
        call: the call it belongs to.

    Raises:
        CallError: the value is too large for a document, and there is no location for it.
        Exception: as ``open_result``.
    """
    document, values = result.document, call.environment.values
    if result.stored is not None and document.outcome == protocol.VALUE:
        return _stored_document(result.stored, document)
    payload = sealed_value(result, call)
    if values.location and len(payload) > values.above:
        stored = StoredValue(location_at(values.location), f"{call.environment.name}-{uuid.uuid4().hex}.result")
        with contextlib.closing(Spool([payload])) as spool:
            stored.location.put(stored.name, spool.path)
        return _stored_document(stored, document)
    if len(payload) > _DOCUMENT_LIMIT:
        raise CallError(
            f"The value of {call.function}() takes {len(payload):,} bytes; by reference {_DOCUMENT_LIMIT:,} fit into "
            "Airflow's database. Name a `location` under [values] in the project file."
        )
    return to_document(payload, document.sha256)


def to_document(payload: Buffer, sha256: str) -> dict[str, Any]:
    """Return the document with an encoded value in it.

    Args:
        payload: what the runner wrote.
        sha256: its digest, in hexadecimal.
    """
    return {
        MARK: _VERSION,
        "encoding": protocol.INLINE_ENCODING,
        "size": len(payload),
        "sha256": sha256,
        "data": base64.b85encode(zlib.compress(payload, 1)).decode("ascii"),
    }


def _stored_document(stored: StoredValue, value: protocol.Document) -> dict[str, Any]:
    return {
        MARK: _STORED_VERSION,
        "location": stored.location.url,
        "name": stored.name,
        "size": value.size,
        "sha256": value.sha256,
    }


def is_document(value: Mapping[str, Any]) -> bool:
    """Return whether a dictionary stands for a value handed on by reference."""
    return value.keys() in (_KEYS, _STORED_KEYS)


def load(document: Mapping[str, Any]) -> Any:
    """Return the value that a document stands for.

    Args:
        document: what a task with ``result="reference"`` returned.

    Raises:
        CallError: it is no such document, it is damaged, or a library or a type that the value needs is missing.
    """
    if not is_document(document):
        raise CallError(f"This is not a value handed on by reference: it lacks the key {MARK!r}.")
    try:
        return loads(_stored_payload(document) if "location" in document else _payload(document), types=_loaded_type)
    except MissingLibraryError as error:
        raise CallError(f"The value needs {error.library}, which is not installed here.") from None
    except UnknownTypeError as error:
        raise CallError(
            f"The value handed on by reference needs the type {readable(error.name)}. Import its module before you "
            "load the value: nothing is imported because a value names it."
        ) from None
    except MalformedError as error:
        raise CallError(f"The value handed on by reference cannot be read: {error}.") from None


def _loaded_type(module: str, name: str) -> type | None:
    """Return a type of a module of the user's own, if that is loaded here; a value never imports one."""
    names = [each for each in list(sys.modules) if own_name(each) == own_name(module) and not is_installed(each)]
    return resolver(names)(module, name)


def with_references(
    value: Any, environment: Environment, stored: dict[str, tuple[int, StoredValue]], depth: int = 0
) -> Any:
    """Return an argument with each document in it replaced by what the runner decodes.

    Args:
        value: the argument.
        environment: where it goes.
        stored: receives the size and the place of each value that is stored at a location, by its digest.
        depth: how many containers stand around it.
    """
    kind = type(value)
    if kind is dict:
        if is_document(value):
            in_location = "location" in value
            return _stored_reference(value, environment, stored) if in_location else Reference(_payload(value))
        if depth < _DEPTH:
            return {key: with_references(item, environment, stored, depth + 1) for key, item in value.items()}
    elif kind in (list, tuple) and depth < _DEPTH:
        return kind(with_references(item, environment, stored, depth + 1) for item in value)
    return value


def _payload(document: Mapping[str, Any]) -> bytes:
    """Return the value that stands in its document."""
    try:
        size = int(document["size"])
        known = document[MARK] == _VERSION and document["encoding"] == protocol.INLINE_ENCODING
        if not known or not 0 <= size <= _DOCUMENT_LIMIT:
            raise ValueError("another version wrote it")
        payload = inflated(document["data"], size)
        if len(payload) != size or sha256_of(payload) != document["sha256"]:
            raise ValueError("its checksum does not match")
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        raise CallError(f"A value handed on by reference is damaged: {error}.") from None
    return payload


def _place(document: Mapping[str, Any]) -> tuple[StoredValue, int, str]:
    """Return where a document says that its value is stored, with the value's size and digest."""
    url, name, size, sha256 = (document[key] for key in ("location", "name", "size", "sha256"))
    well_formed = (
        document[MARK] == _STORED_VERSION
        and type(size) is int
        and 0 <= size <= protocol.RESULT_LIMIT
        and all(isinstance(text, str) for text in (url, name, sha256))
        and re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII)
        and re.fullmatch(r"[0-9a-f]{64}", sha256)
    )
    if not well_formed:
        raise CallError("A value handed on by reference is damaged: another version wrote it.")
    return StoredValue(location_at(url), name), size, sha256


def _stored_payload(document: Mapping[str, Any]) -> Buffer:
    stored, size, sha256 = _place(document)
    payload = stored.location.fetch(stored.name, size)
    if len(payload) != size or sha256_of(payload) != sha256:
        place = f"{stored.name} in {stored.location.url}"
        raise CallError(f"A value handed on by reference is damaged: {place} was altered.")
    return payload


def _stored_reference(
    document: Mapping[str, Any], environment: Environment, found: dict[str, tuple[int, StoredValue]]
) -> KeptReference:
    """Return the reference to a stored value, of which only the beginning is read here."""
    # The document's author must not choose what this worker reads, and for whom it signs.
    if document["location"] != environment.values.location:
        raise CallError(
            f"A value handed on by reference is kept in {document['location']!r}, which is not the location of "
            f"environment {environment.name!r}. Give both environments the same `location` under [values]."
        )
    stored, size, sha256 = _place(document)
    start = stored.location.start(stored.name, min(size, 4096))
    if head_length(start) > len(start):
        start = stored.location.start(stored.name, min(size, head_length(start)))
    found[sha256] = (size, stored)
    return KeptReference(sha256, start)
