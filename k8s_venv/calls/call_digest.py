"""A call's digest: equal for two tries of the same call, whichever worker packs them.

It covers what the function is, what it is called with, and how its result comes back. It leaves out what differs
between two tries of a task (the number of the try, the clock, the connections) and what only carries the call (the
runner, the time of packing, where a file lies and which of its lines a function begins at).
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import zipfile
from typing import TYPE_CHECKING, Any, ClassVar

from k8s_venv.calls.capturing import MADE_AGAIN
from k8s_venv.wire import protocol
from k8s_venv.wire.values import document_of, dumps, head_length, loads, map_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from k8s_venv.calls.packed import PackedCall
    from k8s_venv.wire.registry import Buffer

# What each call carries alike.
_RUNNER_FOLDERS = ("k8s_venv/", f"{protocol.VENDOR}/")
_CARRIERS = {protocol.RUNNER, "__main__.py", protocol.SOURCES}
# The fields of the header that say who packed the call, and where.
_PACKED_BY = {"protocol", "sender", "root"}
# The fields of a recipe that say where source text stands.
_PLACES = {"file", "line"}
# An encoded value with one of these may have other bytes in another process. In a text these quotes are escaped.
_VARYING = tuple(b'{"$":"%s"' % kind for kind in (b"set", b"frozenset", b"cloudpickle"))

# Following a pickle is slow: of a larger one, in bytes, the digest is that of its bytes.
_LONGEST_PICKLE = 4 * 1024 * 1024
# The functions of cloudpickle that make a class, and the random number (in hexadecimal) among their arguments.
_CLASS_MAKERS = {"_make_skeleton_class", "_make_skeleton_enum", "_make_typevar"}
_RANDOM = re.compile(r"[0-9a-f]{32}")


def call_digest(call: PackedCall) -> str:
    """Return a call's digest, in hexadecimal.

    It covers everything that the function is given, also secrets that are passed as arguments. Code that publishes it
    must make it expensive to guess these.

    Args:
        call: the call.
    """
    values = call.environment.values
    digests = {"values": _of_json([values.location, values.exec, values.status])}
    with zipfile.ZipFile(io.BytesIO(call.archive)) as archive:
        for name in archive.namelist():
            data = archive.read(name)
            if not name.startswith(_RUNNER_FOLDERS) and name not in _CARRIERS and data != MADE_AGAIN:
                digests[name] = _DIGESTS.get(name, _of_bytes)(data)
    if call.arguments is not None:
        digests[protocol.ARGUMENTS] = _of_value(map_file(str(call.arguments.path)))
    return _of_json(sorted(digests.items()))


def _of_header(data: bytes) -> str:
    return _of_json([item for item in sorted(json.loads(data).items()) if item[0] not in _PACKED_BY])


def _of_recipe(data: bytes) -> str:
    return _of_json(_without_places(json.loads(data)))


def _without_places(value: Any) -> Any:
    if isinstance(value, dict):
        value = {name: item for name, item in value.items() if name not in _PLACES}
    return _each(value, _without_places)


def _of_context(data: bytes) -> str:
    """Return the digest of what a user gives to a run. The rest differs between two tries, or is the same for all."""
    context: Mapping[str, Any] = loads(data) or {}
    values, run = context.get("values") or {}, (context.get("objects") or {}).get("dag_run") or {}
    return _of_value(dumps([values.get("params"), values.get("templates_dict"), run.get("conf")]))


def _of_state(data: bytes) -> str:
    """Return the digest of the state of a function's modules: pickles, and the values that these refer to."""
    value = _Value(data)
    parts = value.document["value"]
    digests = []
    for name in ("early", "late"):
        coded, pickled = parts[f"{name}_coded"], parts[name]
        referred = [_of_json(value.placed(item)) for item in coded] if isinstance(coded, list) else []
        digests.append(pickle_digest(value.buffer(pickled["b"]), referred) if pickled else "")
    return _of_json([*digests, *value.rest()])


def _of_value(data: Buffer) -> str:
    """Return the digest of an encoded value."""
    head = bytes(memoryview(data)[: head_length(data)])
    if not any(sign in head for sign in _VARYING):
        return _of_bytes(data)
    value = _Value(data)
    document = value.placed(value.document["value"])
    return _of_json([document, *value.rest()])


class _Value:
    """An encoded value, to be digested such that the order of a set does not count.

    Args:
        data: the encoded value.
    """

    def __init__(self, data: Buffer) -> None:
        self.document = document_of(data)
        self._buffers: dict[int, memoryview] = {}
        start = head_length(data)
        for number, size in enumerate(self.document["buffers"]):
            self._buffers[number] = memoryview(data)[start : start + size]
            start += size

    def placed(self, node: Any) -> Any:
        """Return a node with its sets sorted, and with the digests of its buffers in their places."""
        kind = node.get("$") if isinstance(node, dict) else None
        if kind in ("set", "frozenset"):
            return {"$": kind, "v": sorted((self.placed(item) for item in node["v"]), key=json.dumps)}
        if kind is not None and isinstance(node.get("b"), int):
            digest = pickle_digest if kind == "cloudpickle" else _of_bytes
            node = {**node, "b": digest(self.buffer(node["b"]))}
        return _each(node, self.placed)

    def buffer(self, number: int) -> memoryview:
        """Return a buffer whose digest will stand in its place."""
        return self._buffers.pop(number)

    def rest(self) -> Iterator[str]:
        """Yield the digests of the buffers that stand in no place."""
        return map(_of_bytes, self._buffers.values())


def _each(node: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(node, list):
        return [change(item) for item in node]
    if isinstance(node, dict):
        return {name: change(item) for name, item in node.items()}
    return node


def _of_bytes(data: Buffer) -> str:
    return hashlib.sha256(data).hexdigest()


def _of_json(value: Any) -> str:
    return _of_bytes(json.dumps(value).encode())


# --- pickles --------------------------------------------------------------------------------------------------


def pickle_digest(data: bytes | memoryview, persistent: Sequence[str] = ()) -> str:
    """Return the digest of a pickle, in hexadecimal: equal for equal values, in whichever process they were pickled.

    A set is pickled in the order in which it is walked, which differs from process to process, and cloudpickle gives
    each class that it takes by value a random number. So what the pickle would make is digested: sets sorted, and
    without those numbers.

    Args:
        data: the pickle.
        persistent: the digests of the objects that it refers to as ``("coded", number)``.
    """
    if len(data) <= _LONGEST_PICKLE:
        try:
            return _Digester().digest(_Follower(data, persistent).load())
        except Exception:  # noqa: BLE001, S110 -- an instruction that is not followed here
            pass
    return _of_bytes(data)


class _Made:
    """What a pickle makes of something that it names, in place of that: its kind, and what it is made of."""

    def __init__(self, kind: str, *parts: Any) -> None:
        self.kind = kind
        self.parts = list(parts)

    def __call__(self, *arguments: Any) -> _Made:
        return _Made("call", self, arguments)

    def __setstate__(self, state: Any) -> None:
        self.parts.append(_Made("state", state))

    def append(self, item: Any) -> None:
        self.parts.append(_Made("list", item))

    def extend(self, items: Sequence[Any]) -> None:
        self.parts.append(_Made("list", *items))

    def __setitem__(self, key: Any, item: Any) -> None:
        self.parts.append(_Made("dict", key, item))

    def add(self, item: Any) -> None:
        self.parts.append(_Made("set", item))


class _Follower(pickle._Unpickler):
    """Follows a pickle without importing or calling anything that it names."""

    def __init__(self, data: bytes | memoryview, persistent: Sequence[str]) -> None:
        super().__init__(io.BytesIO(data))
        self.stack: list[Any] = []
        self._persistent = persistent

    def find_class(self, module: str, name: str) -> Any:
        return _Made("global", module, name)

    def persistent_load(self, name: Any) -> Any:
        if name[0] == "coded" and self._persistent:
            return _Made("coded", self._persistent[name[1]])
        return _Made("persistent", name)

    def _new(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        self.stack.append(_Made("new", kind, arguments))

    def _new_with_keywords(self) -> None:
        keywords, arguments, kind = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.stack.append(_Made("new", kind, arguments, keywords))

    def _set_items(self) -> None:
        items: list[Any] = self.pop_mark()  # type: ignore[attr-defined]
        changed = self.stack[-1]
        if isinstance(changed, _Made):
            changed.parts.append(_Made("dict", *items))
        else:
            changed.update(zip(items[::2], items[1::2], strict=True))

    def _drop(self) -> None:
        """Leave out an object; a call whose result is dropped was made to set the state of the object below it."""
        dropped = self.stack.pop()
        if isinstance(dropped, _Made) and dropped.kind == "call":
            self.stack[-1].parts.append(dropped)

    dispatch: ClassVar[Any] = {
        **pickle._Unpickler.dispatch,
        pickle.NEWOBJ[0]: _new,
        pickle.NEWOBJ_EX[0]: _new_with_keywords,
        pickle.SETITEMS[0]: _set_items,
        pickle.POP[0]: _drop,
    }


class _Digester:
    """Digests what a pickle makes, also if it contains itself."""

    def __init__(self) -> None:
        self._open: dict[int, int] = {}  # how deep those objects stand that are being digested
        self._known: dict[int, tuple[str, Any]] = {}  # with the object itself, or another could get its id

    def digest(self, value: Any) -> str:
        """Return the digest of an object and all that it consists of."""
        return self._digest(value)[0]

    def _digest(self, value: Any) -> tuple[str, int]:
        """Return an object's digest, and how deep the outermost object stands that it refers back to."""
        kind, parts = _anatomy(value)
        depth = len(self._open)
        if parts is None:
            return _hashed(kind, [repr(value)]), depth
        if id(value) in self._known:
            return self._known[id(value)][0], depth
        if id(value) in self._open:
            return _hashed("again", [str(self._open[id(value)])]), self._open[id(value)]
        self._open[id(value)] = depth
        found = [self._digest(part) for part in parts]
        del self._open[id(value)]
        digests = [digest for digest, _ in found]
        digest = _hashed(kind, sorted(digests) if kind in ("set", "frozenset") else digests)
        outermost = min((each for _, each in found), default=depth)
        if outermost >= depth:  # it means the same wherever it stands
            self._known[id(value)] = digest, value
        return digest, outermost


def _anatomy(value: Any) -> tuple[str, list[Any] | None]:
    """Return an object's kind, and what it consists of, or None for text, a number and the like."""
    if isinstance(value, _Made):
        return value.kind, _without_random_numbers(value)
    if value is None or isinstance(value, bool):
        return {None: "NONE", True: "NEWTRUE", False: "NEWFALSE"}[value], []
    kind = type(value).__name__
    if isinstance(value, dict):
        return kind, [part for pair in value.items() for part in pair]
    return kind, list(value) if isinstance(value, list | tuple | set | frozenset) else None


def _without_random_numbers(value: _Made) -> list[Any]:
    """Return the parts of an object without the random numbers that cloudpickle gives to classes."""
    function = value.parts[0] if value.kind == "call" else None
    if not isinstance(function, _Made) or function.kind != "global":
        return value.parts
    (module, name), (_, arguments, *changes) = function.parts, value.parts
    if not module.startswith("cloudpickle") or name not in _CLASS_MAKERS:
        return value.parts
    kept = tuple(part for part in arguments if not (isinstance(part, str) and _RANDOM.fullmatch(part)))
    return [function, kept, *changes]


def _hashed(kind: str, texts: Sequence[str]) -> str:
    digest = hashlib.sha256(kind.encode())
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(data) + data)
    return digest.hexdigest()


_DIGESTS: Mapping[str, Callable[[bytes], str]] = {
    protocol.HEADER: _of_header,
    protocol.CONTEXT: _of_context,
    protocol.ARGUMENTS: _of_value,
    protocol.SOURCE_FUNCTION: _of_recipe,
    protocol.SOURCE_VALUES: _of_state,
    protocol.PICKLED_FUNCTION: pickle_digest,
}
