"""Values on the wire: one JSON document for the structure, raw buffers for the bulk.

A value becomes a *node*: what JSON can say exactly stands as itself, everything else as an object with
the key ``$`` that names its codec. Buffers (arrays, byte strings) follow the JSON in the order in which
nodes refer to them. Decoding builds only the types listed here; it never imports or calls anything that
a document names, with one exception: a ``cloudpickle`` node, which is refused unless the reader allows it.

Layout: ``K8SV``, format version (1 byte), length of the JSON (8 bytes, big-endian), JSON, buffers.
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
import pathlib
import struct
import uuid
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

from k8s_venv.runner import tables
from k8s_venv.runner.errors import MalformedError, MissingLibraryError, NoCodecError

MAGIC = b"K8SV\x01"
MAX_DEPTH = 200
# Python refuses to read decimal integers of more than 4300 digits; longer ones travel in hexadecimal.
_LARGEST_DECIMAL = 10**4000

Buffer = Union[bytes, bytearray, memoryview]


class Encoder:
    """Turn values into nodes and collect their buffers.

    Args:
        pickle: pickles what has no codec; without it such a value is refused.

    """

    def __init__(self, pickle: Optional[Callable[[Any], bytes]] = None) -> None:
        self.buffers: List[Buffer] = []
        self._pickle = pickle

    def buffer(self, data: Buffer) -> int:
        """Add a buffer and return its number."""
        self.buffers.append(data)
        return len(self.buffers) - 1

    def node(self, value: Any, path: str = "", depth: int = 0) -> Any:
        """Return the node for ``value``.

        Raises:
            NoCodecError: a part of the value has no codec, or it is nested too deeply.

        """
        kind = type(value)
        if value is None or kind is bool or kind is str:
            return value
        if depth > MAX_DEPTH:
            raise NoCodecError(path[:80], f"nested more than {MAX_DEPTH} levels deep, or containing itself")
        if kind is int:
            if -_LARGEST_DECIMAL < value < _LARGEST_DECIMAL:
                return value
            return {"$": "int", "v": hex(value)}
        if kind is float:
            return value if math.isfinite(value) else {"$": "float", "v": repr(value)}
        if kind is list:
            return [self.node(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value)]
        if kind is dict:
            return self._dict(value, path, depth)
        if kind in _SEQUENCES:
            items = [self.node(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value)]
            return {"$": _SEQUENCES[kind], "v": items}
        scalar = _encode_scalar(value, kind, path)
        if scalar is not None:
            return scalar
        if kind is bytes or kind is bytearray:
            return {"$": kind.__name__, "b": self.buffer(value)}
        table = tables.encode(self, value, path, depth)
        if table is not None:
            return table
        return self._pickled(value, path)

    def _dict(self, value: Dict[Any, Any], path: str, depth: int) -> Any:
        if all(type(key) is str for key in value) and "$" not in value:
            return {key: self.node(item, f"{path}[{key!r}]", depth + 1) for key, item in value.items()}
        pairs = [
            [
                self.node(key, f"{path} key {key!r}", depth + 1),
                self.node(item, f"{path}[{key!r}]", depth + 1),
            ]
            for key, item in value.items()
        ]
        return {"$": "dict", "v": pairs}

    def _pickled(self, value: Any, path: str) -> Any:
        kind = type(value)
        name = f"{kind.__module__}.{kind.__qualname__}"
        if self._pickle is None:
            raise NoCodecError(path, name)
        try:
            data = self._pickle(value)
        except Exception as error:
            raise NoCodecError(path, f"{name}, which cannot be pickled either ({error})") from error
        return {"$": "cloudpickle", "b": self.buffer(data)}


class Decoder:
    """Turn nodes back into values.

    Args:
        buffers: the buffers that the nodes refer to.
        unpickle: loads pickled parts; without it they are refused.

    """

    def __init__(self, buffers: List[memoryview], unpickle: Optional[Callable[[memoryview], Any]] = None) -> None:
        self.buffers = buffers
        self._unpickle = unpickle

    def buffer(self, number: Any) -> memoryview:
        """Return a buffer by its number.

        Raises:
            MalformedError: there is no such buffer.

        """
        if type(number) is not int or not 0 <= number < len(self.buffers):
            raise MalformedError(f"no buffer {number!r}")
        return self.buffers[number]

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
        tag = node["$"]
        if tag == "dict":
            return {self.value(key): self.value(item) for key, item in node["v"]}
        if tag in _BUILDERS:
            return _BUILDERS[tag]([self.value(item) for item in node["v"]])
        if tag in _SCALARS:
            return _SCALARS[tag](node)
        if tag == "bytes":
            return bytes(self.buffer(node["b"]))
        if tag == "bytearray":
            return bytearray(self.buffer(node["b"]))
        if tag == "cloudpickle":
            if self._unpickle is None:
                raise MalformedError("a pickled part, which this reader does not accept")
            return self._unpickle(self.buffer(node["b"]))
        return tables.decode(self, node)


def dump_parts(value: Any, pickle: Optional[Callable[[Any], bytes]] = None) -> List[Buffer]:
    """Encode a value as consecutive pieces, so that large buffers need no copy.

    Args:
        value: what to encode.
        pickle: pickles what has no codec; without it such a value is refused.

    Raises:
        NoCodecError: a part of the value has no codec.

    """
    encoder = Encoder(pickle)
    node = encoder.node(value)
    lengths = [memoryview(buffer).nbytes for buffer in encoder.buffers]
    text = json.dumps({"value": node, "buffers": lengths}, separators=(",", ":"), allow_nan=False)
    head = text.encode("ascii")
    return [MAGIC + struct.pack(">Q", len(head)) + head, *encoder.buffers]


def dumps(value: Any, pickle: Optional[Callable[[Any], bytes]] = None) -> bytes:
    """Encode a value as one byte string; see ``dump_parts``."""
    return b"".join(bytes(part) for part in dump_parts(value, pickle))


def loads(data: Buffer, unpickle: Optional[Callable[[memoryview], Any]] = None) -> Any:
    """Decode what ``dumps`` wrote.

    Args:
        data: the encoded value.
        unpickle: loads pickled parts; without it they are refused.

    Raises:
        MalformedError: ``data`` is not an encoded value.
        MissingLibraryError: a library that the value needs is not installed here.

    """
    view = memoryview(data).cast("B")
    try:
        if bytes(view[: len(MAGIC)]) != MAGIC:
            raise MalformedError("not a value of this format")
        start = len(MAGIC) + 8
        (length,) = struct.unpack(">Q", view[len(MAGIC) : start])
        document = json.loads(bytes(view[start : start + length]).decode("ascii"))
        buffers = _split(view[start + length :], document["buffers"])
        return Decoder(buffers, unpickle).value(document["value"])
    except (MalformedError, MissingLibraryError):
        raise
    except RecursionError:
        raise MalformedError("nested too deeply") from None
    except (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        struct.error,
        ArithmeticError,
    ) as error:
        raise MalformedError(f"{type(error).__name__}: {error}") from error


def _split(view: memoryview, lengths: List[int]) -> List[memoryview]:
    if any(type(length) is not int or length < 0 for length in lengths) or sum(lengths) != view.nbytes:
        raise MalformedError("the buffers are not as long as announced")
    buffers, position = [], 0
    for length in lengths:
        buffers.append(view[position : position + length])
        position += length
    return buffers


_SEQUENCES: Dict[type, str] = {tuple: "tuple", set: "set", frozenset: "frozenset"}
_BUILDERS: Dict[str, Callable[[List[Any]], Any]] = {"tuple": tuple, "set": set, "frozenset": frozenset}


def _encode_scalar(value: Any, kind: type, path: str) -> Optional[Dict[str, Any]]:
    if kind is datetime.datetime or _is_pendulum(kind):
        zone, offset = _zone(value.tzinfo, value.utcoffset(), path)
        text = value.replace(tzinfo=None).isoformat()
        node = {"$": "datetime", "v": text, "zone": zone, "offset": offset, "fold": value.fold}
        return node if kind is datetime.datetime else {**node, "pendulum": True}
    if kind is datetime.time:
        zone, offset = _zone(value.tzinfo, value.utcoffset(), path)
        text = value.replace(tzinfo=None).isoformat()
        return {"$": "time", "v": text, "zone": zone, "offset": offset, "fold": value.fold}
    if kind is datetime.date:
        return {"$": "date", "v": value.isoformat()}
    if kind is datetime.timedelta:
        return {"$": "timedelta", "v": [value.days, value.seconds, value.microseconds]}
    if kind is decimal.Decimal:
        return {"$": "decimal", "v": str(value)}
    if kind is uuid.UUID:
        return {"$": "uuid", "v": value.hex}
    if kind is complex:
        return {"$": "complex", "v": [repr(value.real), repr(value.imag)]}
    if isinstance(value, pathlib.PurePath) and kind in _PATHS:
        return {"$": "path", "v": value.as_posix(), "pure": not isinstance(value, pathlib.Path)}
    return None


_PATHS = (type(pathlib.Path()), type(pathlib.PurePath()), pathlib.PurePosixPath)


def _is_pendulum(kind: type) -> bool:
    """Tell whether a type is the datetime that Airflow's own context uses."""
    return kind.__name__ == "DateTime" and kind.__module__.partition(".")[0] == "pendulum"


def _zone(
    tzinfo: Optional[datetime.tzinfo], offset: Optional[datetime.timedelta], path: str
) -> Tuple[Optional[str], Optional[float]]:
    """Return a zone's IANA name, or its fixed offset in seconds."""
    if tzinfo is None:
        return None, None
    # zoneinfo and dateutil, pendulum, pytz: each names its zone in one of these.
    names = (getattr(tzinfo, attribute, None) for attribute in ("key", "name", "zone"))
    name = next((name for name in names if isinstance(name, str)), None)
    if name is not None and name not in ("UTC", "Etc/UTC", "GMT"):
        return name, None
    fixed = offset if name is not None else tzinfo.utcoffset(None)
    if fixed is not None:
        return None, fixed.total_seconds()
    raise NoCodecError(path, f"a time zone without a name ({type(tzinfo).__module__}.{type(tzinfo).__name__})")


def _tzinfo(node: Dict[str, Any]) -> Optional[datetime.tzinfo]:
    if node["zone"] is not None:
        zoneinfo = tables.library("zoneinfo", "backports.zoneinfo")
        try:
            return zoneinfo.ZoneInfo(node["zone"])  # type: ignore[no-any-return]
        except zoneinfo.ZoneInfoNotFoundError:
            raise MissingLibraryError("tzdata") from None
    if node["offset"] is None:
        return None
    if node["offset"] == 0:
        return datetime.UTC
    return datetime.timezone(datetime.timedelta(seconds=node["offset"]))


def _datetime(node: Dict[str, Any]) -> datetime.datetime:
    naive = datetime.datetime.fromisoformat(node["v"])
    value = naive.replace(tzinfo=_tzinfo(node), fold=node["fold"])
    if not node.get("pendulum"):
        return value
    try:
        pendulum = tables.library("pendulum")
    except MissingLibraryError:  # the standard type says the same instant in the same zone
        return value
    return pendulum.instance(value, tz=value.tzinfo)  # type: ignore[no-any-return]


def _time(node: Dict[str, Any]) -> datetime.time:
    naive = datetime.time.fromisoformat(node["v"])
    return naive.replace(tzinfo=_tzinfo(node), fold=node["fold"])


_SCALARS: Dict[str, Callable[[Dict[str, Any]], Any]] = {
    "int": lambda node: int(node["v"], 16),
    "float": lambda node: {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[node["v"]],
    "complex": lambda node: complex(float(node["v"][0]), float(node["v"][1])),
    "datetime": _datetime,
    "time": _time,
    "date": lambda node: datetime.date.fromisoformat(node["v"]),
    "timedelta": lambda node: datetime.timedelta(*node["v"]),
    "decimal": lambda node: decimal.Decimal(node["v"]),
    "uuid": lambda node: uuid.UUID(hex=node["v"]),
    "path": lambda node: (pathlib.PurePosixPath if node["pure"] else pathlib.Path)(node["v"]),
}
