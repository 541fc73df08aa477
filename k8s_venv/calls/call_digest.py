"""A call's digest: equal for two tries of the same call, whichever worker packs them.

It covers what the function is, what it is called with, and how its result comes back. It leaves out what differs
between two tries of a task (the number of the try, the clock, the connections) and what only carries the call (the
runner, the time of packing, where a file lies and which of its lines a function begins at).
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from typing import TYPE_CHECKING, Any

from k8s_venv.calls.pickle_digest import pickle_digest
from k8s_venv.wire import protocol
from k8s_venv.wire.values import document_of, dumps, head_length, loads, map_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from k8s_venv.calls.packed import PackedCall
    from k8s_venv.wire.registry import Buffer

# What every call carries alike.
_RUNNER_FOLDERS = ("k8s_venv/", f"{protocol.VENDOR}/")
_RUNNER_FILES = {protocol.RUNNER, "__main__.py"}
# What of the header says who packed the call.
_PACKED_BY = {"protocol", "sender"}
# What of a recipe says where source text stands.
_PLACES = {"file", "line"}
# In the JSON of an encoded value, where its digest is not that of its bytes; in a text these quotes are escaped.
_VARYING = tuple(b'{"$":"%s"' % kind for kind in (b"set", b"frozenset", b"cloudpickle"))


def call_digest(call: PackedCall) -> str:
    """Return a call's digest, in hexadecimal.

    It is made of everything that the function is given, secrets that are passed as arguments among it: whoever
    publishes it makes it expensive to guess these.

    Args:
        call: the call.
    """
    values = call.environment.values
    digests = {"values": _of_json([values.location, values.exec, values.status])}
    with zipfile.ZipFile(io.BytesIO(call.archive)) as archive:
        for name in archive.namelist():
            if not name.startswith(_RUNNER_FOLDERS) and name not in _RUNNER_FILES and name != protocol.SOURCES:
                digests[name] = _DIGESTS.get(name, _of_bytes)(archive.read(name))
    if call.arguments is not None:
        digests[protocol.ARGUMENTS] = _of_value(map_file(str(call.arguments.path)))
    return _of_json(sorted(digests.items()))


def _of_header(data: bytes) -> str:
    return _of_json([item for item in sorted(json.loads(data).items()) if item[0] not in _PACKED_BY])


def _of_recipe(data: bytes) -> str:
    return _of_json(_without_places(json.loads(data)))


def _without_places(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_places(item) for item in value]
    if isinstance(value, dict):
        return {name: _without_places(item) for name, item in value.items() if name not in _PLACES}
    return value


def _of_context(data: bytes) -> str:
    """Return the digest of what a user gives to a run: two tries differ in the rest, or it is the same for all."""
    context: Mapping[str, Any] = loads(data) or {}
    values, run = context.get("values") or {}, (context.get("objects") or {}).get("dag_run") or {}
    return _of_value(dumps([values.get("params"), values.get("templates_dict"), run.get("conf")]))


def _of_state(data: bytes) -> str:
    """Return the digest of what a function's modules hold: pickles, and the values that these refer to."""
    value = _Value(data)
    parts = value.document["value"]
    digests = []
    for name in ("early", "late"):
        coded, pickled = parts[f"{name}_coded"], parts[name]
        referred = [_of_json(value.apart(item)) for item in coded] if isinstance(coded, list) else []
        digests.append(pickle_digest(value.place(pickled["b"]), referred) if pickled else "")
    return _of_json([*digests, *value.rest()])


def _of_value(data: Buffer) -> str:
    """Return the digest of an encoded value."""
    head = bytes(memoryview(data)[: head_length(data)])
    if not any(sign in head for sign in _VARYING):
        return _of_bytes(data)
    value = _Value(data)
    document = value.in_order(value.document["value"])
    return _of_json([document, *value.rest()])


class _Value:
    """An encoded value, of which the digest does not depend on the order of a set.

    Args:
        data: the encoded value.
    """

    def __init__(self, data: Buffer) -> None:
        self.document = document_of(data)
        self._data = memoryview(data)
        self._ends = [head_length(data)]
        for size in self.document["buffers"]:
            self._ends.append(self._ends[-1] + size)
        self._placed: set[int] = set()

    def place(self, number: int) -> bytes:
        """Return a buffer whose digest will stand in its place."""
        self._placed.add(number)
        return bytes(self._buffer(number))

    def rest(self) -> Iterator[str]:
        """Yield the digests of the buffers that stand in no place yet."""
        for number in range(len(self._ends) - 1):
            if number not in self._placed:
                yield _of_bytes(self._buffer(number))

    def in_order(self, node: Any) -> Any:
        """Return a node with its sets sorted, and with the digests of pickles in their places."""
        kind = node.get("$") if isinstance(node, dict) else None
        if kind in ("set", "frozenset"):
            # Its buffers stand in the order of the set.
            return {"$": kind, "v": sorted((self.apart(item) for item in node["v"]), key=_text)}
        if kind == "cloudpickle":
            return {"$": kind, "b": pickle_digest(self.place(node["b"]))}
        return _each(node, self.in_order)

    def apart(self, node: Any) -> Any:
        """Return a node, as ``in_order`` does, with the digests of its buffers in their places."""
        kind = node.get("$") if isinstance(node, dict) else None
        if kind in ("set", "frozenset", "cloudpickle"):
            return self.in_order(node)
        if kind is not None and isinstance(node.get("b"), int):
            node = {**node, "b": _of_bytes(self.place(node["b"]))}
        return _each(node, self.apart)

    def _buffer(self, number: int) -> memoryview:
        return self._data[self._ends[number] : self._ends[number + 1]]


def _each(node: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(node, list):
        return [change(item) for item in node]
    if isinstance(node, dict):
        return {name: change(item) for name, item in node.items()}
    return node


def _of_pickle(data: bytes) -> str:
    return pickle_digest(data)


def _of_bytes(data: Buffer) -> str:
    return hashlib.sha256(data).hexdigest()


def _of_json(value: Any) -> str:
    return _of_bytes(_text(value).encode())


def _text(value: Any) -> str:
    return json.dumps(value)


_DIGESTS: Mapping[str, Callable[[bytes], str]] = {
    protocol.HEADER: _of_header,
    protocol.CONTEXT: _of_context,
    protocol.ARGUMENTS: _of_value,
    protocol.SOURCE_FUNCTION: _of_recipe,
    protocol.SOURCE_VALUES: _of_state,
    protocol.PICKLED_FUNCTION: _of_pickle,
}
