"""Digests of pickles that are equal for equal values, in whichever process they were pickled.

A set is pickled in the order in which it is walked, which differs from process to process, and cloudpickle gives each
class that it takes by value a random number. So a pickle's instructions are followed, without running anything of
what they name, and what they would make is digested: sets sorted, and without those numbers.
"""

from __future__ import annotations

import hashlib
import pickletools
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

# Following the instructions is slow: of a larger pickle, in bytes, the digest is that of its bytes.
_LONGEST = 4 * 1024 * 1024

_EMPTY = {"EMPTY_TUPLE": "tuple", "EMPTY_LIST": "list", "EMPTY_DICT": "dict", "EMPTY_SET": "set"}
_CONSTANTS = {"NONE", "NEWTRUE", "NEWFALSE"}
# What takes so many objects from the stack, or all down to the mark, and puts one there.
_COUNTED = {
    **{"TUPLE1": ("tuple", 1), "TUPLE2": ("tuple", 2), "TUPLE3": ("tuple", 3)},
    **{"STACK_GLOBAL": ("global", 2), "REDUCE": ("call", 2), "NEWOBJ": ("new", 2), "NEWOBJ_EX": ("new", 3)},
}
_MARKED = {"TUPLE": "tuple", "LIST": "list", "DICT": "dict", "FROZENSET": "frozenset", "OBJ": "new"}
# What changes the object below those that it takes from the stack.
_CHANGES = {"APPEND": ("list", 1), "SETITEM": ("dict", 2), "BUILD": ("state", 1)}
_MARKED_CHANGES = {"APPENDS": "list", "SETITEMS": "dict", "ADDITEMS": "set"}
_NOT_FOLLOWED = {"EXT1", "EXT2", "EXT4", "INST", "PERSID"}
_UNORDERED = {"set", "frozenset"}
# What cloudpickle has make a class, with a random number (in hexadecimal) among the arguments.
_CLASS_MAKERS = {"_make_skeleton_class", "_make_skeleton_enum", "_make_typevar"}
_RANDOM = re.compile(r"[0-9a-f]{32}")


class _Object:
    """What a pickle makes: its kind, and what it is made of."""

    __slots__ = ("kind", "parts")

    def __init__(self, kind: str, parts: list[Any]) -> None:
        self.kind = kind
        self.parts = parts


def pickle_digest(data: bytes, persistent: Sequence[str] = ()) -> str:
    """Return the digest of a pickle, in hexadecimal.

    Args:
        data: the pickle.
        persistent: the digests of the objects that it refers to as ``("coded", number)``.
    """
    if len(data) <= _LONGEST:
        try:
            return _Digester().digest(_Machine(persistent).run(data))
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError):
            pass  # it uses what this does not follow
    return hashlib.sha256(data).hexdigest()


class _Machine:
    """Follows the instructions of a pickle (see ``pickletools``) without importing or calling anything."""

    def __init__(self, persistent: Sequence[str]) -> None:
        self._persistent = persistent
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        """Return what the pickle makes."""
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name not in ("PROTO", "FRAME", "STOP"):
                self._step(opcode.name, argument)
        return self._stack[-1]

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _EMPTY:
            stack.append(_Object(_EMPTY[name], []))
        elif name in _CONSTANTS:
            stack.append(_Object(name, []))
        elif name in _COUNTED:
            kind, count = _COUNTED[name]
            stack.append(_Object(kind, self._take(count)))
        elif name in _MARKED:
            stack.append(_Object(_MARKED[name], self._take_marked()))
        elif name in _CHANGES:
            kind, count = _CHANGES[name]
            self._change(kind, self._take(count))
        elif name in _MARKED_CHANGES:
            self._change(_MARKED_CHANGES[name], self._take_marked())
        elif name == "BINPERSID":
            stack.append(self._referred(stack.pop()))
        else:
            self._step_aside(name, argument)

    def _step_aside(self, name: str, argument: Any) -> None:
        """Follow an instruction about the stack itself, or one with an argument of its own."""
        stack = self._stack
        if name == "MARK":
            self._marks.append(len(stack))
        elif name == "POP":
            self._drop(stack.pop())
        elif name == "POP_MARK":
            self._take_marked()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name == "GLOBAL":
            stack.append(_Object("global", argument.split(" ", 1)))
        elif argument is not None and name not in _NOT_FOLLOWED:
            stack.append(argument)
        else:
            raise ValueError(name)

    def _take(self, count: int) -> list[Any]:
        taken = self._stack[-count:]
        del self._stack[-count:]
        return taken

    def _take_marked(self) -> list[Any]:
        start = self._marks.pop()
        taken = self._stack[start:]
        del self._stack[start:]
        return taken

    def _drop(self, value: Any) -> None:
        """Leave out an object; a call whose result is dropped was made to set the state of the object below it."""
        if isinstance(value, _Object) and value.kind == "call":
            self._stack[-1].parts.append(value)

    def _change(self, kind: str, parts: list[Any]) -> None:
        changed = self._stack[-1]
        changed.parts += parts if changed.kind == kind else [_Object(kind, parts)]

    def _referred(self, name: Any) -> Any:
        if name.parts[0] == "coded" and self._persistent:
            return _Object("coded", [self._persistent[name.parts[1]]])
        return _Object("persistent", [name])


class _Digester:
    """Digests what a pickle makes, also where it contains itself."""

    def __init__(self) -> None:
        self._open: dict[int, int] = {}  # how deep those objects stand that are being digested
        self._known: dict[int, str] = {}

    def digest(self, value: Any) -> str:
        """Return the digest of an object and all that it consists of."""
        return self._digest(value)[0]

    def _digest(self, value: Any) -> tuple[str, int]:
        """Return an object's digest, and how deep the outermost object stands that it refers back to."""
        if not isinstance(value, _Object):
            return _hashed(type(value).__name__, [repr(value)]), len(self._open)
        if id(value) in self._known:
            return self._known[id(value)], len(self._open)
        depth = len(self._open)
        if id(value) in self._open:
            return _hashed("again", [str(self._open[id(value)])]), self._open[id(value)]
        self._open[id(value)] = depth
        found = [self._digest(part) for part in _told_apart(value)]
        del self._open[id(value)]
        digests = [digest for digest, _ in found]
        digest = _hashed(value.kind, sorted(digests) if value.kind in _UNORDERED else digests)
        outermost = min((each for _, each in found), default=depth)
        if outermost >= depth:  # it means the same wherever it stands
            self._known[id(value)] = digest
        return digest, outermost


def _told_apart(value: _Object) -> list[Any]:
    """Return the parts of an object without the random numbers that cloudpickle gives to classes."""
    if value.kind != "call" or not _makes_class(value.parts[0]):
        return value.parts
    function, arguments, *changes = value.parts
    told = [part for part in arguments.parts if not (isinstance(part, str) and _RANDOM.fullmatch(part))]
    return [function, _Object("tuple", told), *changes]


def _makes_class(function: Any) -> bool:
    if not isinstance(function, _Object) or function.kind != "global":
        return False
    module, name = function.parts
    return str(module).startswith("cloudpickle") and name in _CLASS_MAKERS


def _hashed(kind: str, texts: Sequence[str]) -> str:
    digest = hashlib.sha256(kind.encode())
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(data) + data)
    return digest.hexdigest()
