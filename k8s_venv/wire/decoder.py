"""Nodes and buffers become values; ``README.md`` is the specification.

Decoding builds only what the codecs name, and the types that the call itself shipped. It never imports or calls
anything that a document names, with one exception: a ``cloudpickle`` node, which is refused unless the reader
allows it.
"""

from __future__ import annotations

import sys

from k8s_venv.wire import quickjson
from k8s_venv.wire.errors import MalformedError, MissingLibraryError, UnknownCodecError, UnreadableVersionError
from k8s_venv.wire.registry import LONGEST_KEY, MODULE_OF_NAME, codec_module, registered

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Tuple

    from k8s_venv.wire.errors import Notes
    from k8s_venv.wire.registry import Buffer, Node, Types

# Keys with the hash of another are looked for where there are so many, and only where anyone can make such.
_MANY = 1000
_RANDOM_HASH = frozenset((str, bytes))


class UserError(Exception):
    """Carries what a user's own code raised past the net for hostile documents."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class ReferenceReader:
    """Reads the values that other tasks wrote, and to which a call's arguments refer.

    Args:
        fetch: returns a kept value, still encoded, for its digest; None if the sender does not say where it is.
        unpickle: loads what another task pickled; without it that is refused.
    """

    def __init__(
        self, fetch: Callable[[str], Optional[Buffer]], unpickle: Optional[Callable[[memoryview], Any]]
    ) -> None:
        self.fetch = fetch
        self.unpickle = unpickle


class Decoder:
    """Turn nodes back into values.

    Args:
        buffers: the buffers that the nodes refer to.
        unpickle: loads pickled parts; without it they are refused.
        types: finds the types that travelled with the call; without it their instances are refused.
        libraries: the versions of the libraries that wrote the value, by their names.
        forget: gives back the memory that the buffers so far took, where they are parts of a file.
        notes: receives what arrives as something plainer, because its own type cannot be made here.
        references: reads the values that this one refers to; without it, only those that stand in it.
    """

    def __init__(
        self,
        buffers: List[memoryview],
        unpickle: Optional[Callable[[memoryview], Any]] = None,
        types: Optional[Types] = None,
        libraries: Optional[Dict[str, str]] = None,
        forget: Callable[[], None] = lambda: None,
        notes: Optional[Notes] = None,
        references: Optional[ReferenceReader] = None,
    ) -> None:
        self.types = types
        self.libraries = libraries or {}
        self.unpickle = unpickle
        self.notes = notes
        self.references = references
        self.patterns = 0  # what compiling the regular expressions so far has cost
        self.long_keys = 0  # integers so far that are too long for a key
        self.collisions = 0  # keys so far that had the hash of another
        self._forget = forget
        self._buffers: List[Optional[memoryview]] = list(buffers)

    def buffer(self, number: Any) -> memoryview:
        """Return a buffer by its number.

        Raises:
            MalformedError: there is no such buffer, or it was used before; that would let a small document
                stand for a huge value.
        """
        if type(number) is not int or not 0 <= number < len(self._buffers):
            raise MalformedError(f"no buffer {number!r}")
        found, self._buffers[number] = self._buffers[number], None
        if found is None:
            raise MalformedError(f"buffer {number} is used twice")
        self._forget()
        return found

    def value(self, node: Any) -> Any:
        """Return the value that ``node`` stands for.

        Raises:
            MalformedError: the node is not one that an encoder writes.
        """
        kind = type(node)
        if kind is list:
            return [self.value(item) for item in node]
        if kind is not dict:
            return node
        if "$" not in node:
            return {key: self.value(item) for key, item in node.items()}
        name = node["$"]
        decode = _DECODERS.get(name) if type(name) is str else None
        if decode is None:
            decode = _load_decoder(name)
        if "." not in name:
            return decode(self, node)
        library = name.partition(".")[0]
        try:
            return decode(self, node)
        except (MalformedError, MissingLibraryError, UserError):
            raise
        except Exception as error:
            raise self.unreadable(library, error) from error

    def keys(self, nodes: List[Any]) -> List[Any]:
        """Return members of a set, or keys of a dictionary, that can be compared in time that grows with their length.

        Raises:
            MalformedError: too many have the same hash as another, and each would be compared with each; or one holds
                an integer that is too long to be compared.
        """
        long_keys = self.long_keys
        found = [self.value(node) for node in nodes]
        if self.long_keys > long_keys:
            raise MalformedError("an integer in a set or a key that is too long to be compared")
        if len(found) > _MANY and not _RANDOM_HASH.issuperset(map(type, found)):
            self.collisions += len(found) - len(set(map(hash, found)))
            if self.collisions > _MANY:
                raise MalformedError("members of a set, or keys of a dictionary, that take too long to compare")
        return found

    def items(self, node: Node) -> List[Any]:
        """Return the values in a node's list."""
        return [self.value(item) for item in field(node, "v", list)]

    def pairs(self, node: Node) -> List[Tuple[Any, Any]]:
        """Return the keys and values in a node's list of pairs."""
        entries = field(node, "v", list)
        keys = self.keys([key for key, _ in entries])
        return list(zip(keys, [self.value(item) for _, item in entries]))

    def unreadable(self, library: str, error: BaseException) -> MalformedError:
        """Return the error for a part of the value that a library here cannot hold."""
        ours = str(getattr(sys.modules.get(library), "__version__", "?"))
        theirs = self.libraries.get(library, ours)
        problem = f"{type(error).__name__}: {error}"
        return MalformedError(problem) if theirs == ours else UnreadableVersionError(library, theirs, ours, problem)


def field(node: Any, name: str, kind: type) -> Any:
    """Return an entry of a node.

    Args:
        node: the node.
        name: the entry's name.
        kind: the type that it must have.

    Raises:
        MalformedError: the entry is missing, or of another type.
    """
    entry = node.get(name) if type(node) is dict else None
    if type(entry) is not kind:
        raise MalformedError(f"a node without {name!r} of type {kind.__name__}")
    return entry


def _load_decoder(name: Any) -> Callable[[Decoder, Node], Any]:
    module = MODULE_OF_NAME.get(name.partition(".")[0]) if type(name) is str else None
    if module is not None:
        _DECODERS.update(codec_module(module).DECODERS)
    if module is None or name not in _DECODERS:
        raise MalformedError(f"unknown codec {str(name)[:80]!r}")
    return _DECODERS[name]


def _decode_int(decoder: Decoder, node: Node) -> int:
    value = int(field(node, "v", str), 16)
    decoder.long_keys += value.bit_length() > LONGEST_KEY
    return value


def _decode_float(decoder: Decoder, node: Node) -> float:
    return {name: float(name) for name in ("nan", "inf", "-inf")}[node["v"]]


def _decode_pickle(decoder: Decoder, node: Node) -> Any:
    if decoder.unpickle is None:
        raise MalformedError("a pickled part, which this reader does not accept")
    data = decoder.buffer(node["b"])
    try:
        return decoder.unpickle(data)
    except Exception as error:
        raise UserError(error) from error


def _decode_registered(decoder: Decoder, node: Node) -> Any:
    name = field(node, "name", str)
    decode = registered("names").get(name)
    if decode is None:
        raise UnknownCodecError(name)
    plain = decoder.value(node["v"])
    try:
        return decode(plain)
    except (MalformedError, MissingLibraryError):
        raise
    except Exception as error:
        raise MalformedError(f"the codec {name!r} failed: {type(error).__name__}: {error}") from error


_DECODERS: Dict[str, Callable[[Decoder, Node], Any]] = {
    "json": lambda decoder, node: quickjson.loads(str(decoder.buffer(node["b"]), "utf-8")),
    "str": lambda decoder, node: str(decoder.buffer(node["b"]), "utf-8", "surrogatepass"),
    "int": _decode_int,
    "float": _decode_float,
    "bytes": lambda decoder, node: bytes(decoder.buffer(node["b"])),
    "bytearray": lambda decoder, node: bytearray(decoder.buffer(node["b"])),
    "tuple": lambda decoder, node: tuple(decoder.items(node)),
    "set": lambda decoder, node: set(decoder.keys(field(node, "v", list))),
    "frozenset": lambda decoder, node: frozenset(decoder.keys(field(node, "v", list))),
    "dict": lambda decoder, node: dict(decoder.pairs(node)),
    "custom": _decode_registered,
    "cloudpickle": _decode_pickle,
}
