"""Results handed on by reference: small marked JSON documents that Airflow stores without reading the value.

The next isolated task takes such a document as the value itself, decoded inside its environment, so what stands
beside Airflow needs none of the value's libraries. ``k8s_venv.load(document)`` opens one anywhere else.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from typing import TYPE_CHECKING, Any

from k8s_venv.errors import CallError
from k8s_venv.runner.errors import MalformedError, MissingLibraryError
from k8s_venv.runner.mapped import sha256_of
from k8s_venv.runner.protocol import INLINE_ENCODING, RESULT_LIMIT
from k8s_venv.runner.references import Reference
from k8s_venv.runner.values import Buffer, loads

if TYPE_CHECKING:
    from collections.abc import Mapping

MARK = "k8s-venv-value"
_VERSION = 1
_DEPTH = 3  # how deep in an argument's lists and dictionaries a document is looked for


def to_document(payload: Buffer) -> dict[str, Any]:
    """Return the document for an encoded value.

    Args:
        payload: what the runner wrote.
    """
    return {
        MARK: _VERSION,
        "encoding": INLINE_ENCODING,
        "size": len(payload),
        "sha256": sha256_of(payload),
        "data": base64.b85encode(zlib.compress(payload, 1)).decode("ascii"),
    }


def load(document: Mapping[str, Any]) -> Any:
    """Return the value that a document stands for.

    Args:
        document: what a task with ``result="reference"`` returned.

    Raises:
        CallError: it is no such document, it is damaged, or a library that the value needs is missing.
    """
    if not is_document(document):
        raise CallError(f"This is not a value handed on by reference: it lacks the key {MARK!r}.")
    try:
        return loads(_payload(document))
    except MissingLibraryError as error:
        raise CallError(f"The value needs {error.library}, which is not installed here.") from None
    except MalformedError as error:
        raise CallError(f"The value handed on by reference cannot be read: {error}.") from None


def with_references(value: Any, depth: int = 0) -> Any:
    """Return an argument with each document in it replaced by what the runner decodes.

    Args:
        value: the argument.
        depth: how many containers stand around it.
    """
    kind = type(value)
    if kind is dict:
        if is_document(value):
            return Reference(_payload(value))
        if depth < _DEPTH:
            return {key: with_references(item, depth + 1) for key, item in value.items()}
    elif kind in (list, tuple) and depth < _DEPTH:
        return kind(with_references(item, depth + 1) for item in value)
    return value


def is_document(value: Mapping[str, Any]) -> bool:
    """Tell whether a dictionary stands for a value handed on by reference."""
    return value.keys() == {MARK, "encoding", "size", "sha256", "data"}


def _payload(document: Mapping[str, Any]) -> bytes:
    try:
        size = int(document["size"])
        if document[MARK] != _VERSION or document["encoding"] != INLINE_ENCODING or not 0 <= size <= RESULT_LIMIT:
            raise ValueError("another version wrote it")
        payload = zlib.decompressobj().decompress(base64.b85decode(document["data"]), size + 1)
        if len(payload) != size or hashlib.sha256(payload).hexdigest() != document["sha256"]:
            raise ValueError("its checksum does not match")
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        raise CallError(f"A value handed on by reference is damaged: {error}.") from None
    return payload
