"""Codecs for numpy: arrays in its own ``npy`` format 1.0 (NEP 1) and never with pickles, scalars as their bytes."""

from __future__ import annotations

import io
import math
import re

from k8s_venv.wire.decoder import field
from k8s_venv.wire.errors import MalformedError, NoCodecError
from k8s_venv.wire.libraries import library
from k8s_venv.wire.registry import Later

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional

    from k8s_venv.wire.decoder import Decoder
    from k8s_venv.wire.encoder import Encoder
    from k8s_venv.wire.registry import Buffer, Node

_PREFIX = 10  # bytes before the header: magic, version 1.0, the header's length
_HEADER_LIMIT = 10_000  # what numpy's own reader accepts, in bytes
_SCALAR = re.compile(r"[<>|=][biufcmMSUV]\d{1,9}(\[\d*[A-Za-z]{1,2}\])?")


def encode(encoder: Encoder, value: Any, depth: int) -> Optional[Node]:
    """Return the node for an array or a scalar, or None when it is neither."""
    numpy = library("numpy")
    if type(value) is numpy.ndarray:
        if value.dtype.kind == "O":
            items = encoder.items(list(value.flat), depth)
            return {"$": "numpy.object", "shape": list(value.shape), "v": items}
        return {"$": "numpy.array", "b": write_npy(encoder, value), **_record(value.dtype)}
    if isinstance(value, numpy.generic):
        if _SCALAR.fullmatch(value.dtype.str) and value.dtype == numpy.dtype(value.dtype.str):
            data = value.tobytes() if value.dtype.itemsize else b""  # numpy gives an empty string a character
            return {"$": "numpy.scalar", "dtype": value.dtype.str, "v": data.hex()}
        return {"$": "numpy.record", "b": write_npy(encoder, numpy.asarray(value)), **_record(value.dtype)}
    return None


def _record(dtype: Any) -> Node:
    """Return the mark of items whose fields are attributes as well."""
    return {"record": True} if dtype.type is library("numpy").record else {}


def write_npy(encoder: Encoder, array: Any) -> int:
    """Add an array as a buffer, whose data is not copied when it is contiguous; return the buffer's number.

    Raises:
        NoCodecError: its dtype cannot be written.
    """
    npy = library("numpy.lib.format")
    if array.dtype.hasobject:
        raise NoCodecError("", f"numpy dtype {array.dtype}, which contains Python objects")
    if array.dtype.itemsize == 0 and array.size:
        raise NoCodecError("", f"numpy dtype {array.dtype}, whose items are empty")
    head = io.BytesIO()
    try:
        entries = npy.header_data_from_array_1_0(array)
        npy.write_array_header_1_0(head, entries)
        named = npy.descr_to_dtype(entries["descr"]) == array.dtype and head.tell() <= _HEADER_LIMIT
    except ValueError:  # fields in another order than in memory, too many of them, or names beyond Latin-1
        named = False
    if not named:
        raise NoCodecError("", f"numpy dtype {str(array.dtype)[:80]}, which npy 1.0 cannot name")
    data = array.T if entries["fortran_order"] else array
    if data.flags.c_contiguous or not data.size:
        return encoder.long_buffer([head.getvalue(), _bytes_of(data)])
    return encoder.long_buffer([head.getvalue(), Later(data.nbytes, lambda: _bytes_of(data.copy(order="C")))])


def _bytes_of(array: Any) -> Buffer:
    data: Buffer = array.reshape(-1).view("u1").data if array.size else b""
    return data


def read_npy(decoder: Decoder, number: Any) -> Any:
    """Return the array in a buffer, as writable memory of its own.

    Raises:
        MalformedError: it is not an npy file as ``write_npy`` makes them. Nothing is allocated on its word.
    """
    numpy, npy, view = library("numpy"), library("numpy.lib.format"), decoder.buffer(number)
    length = int.from_bytes(view[_PREFIX - 2 : _PREFIX], "little")
    start = _PREFIX + length
    if bytes(view[: _PREFIX - 2]) != npy.magic(1, 0) or start > min(len(view), _HEADER_LIMIT):
        raise MalformedError("not an array in npy format 1.0")
    stream = io.BytesIO(view[_PREFIX - 2 : start])
    shape, fortran, dtype = npy.read_array_header_1_0(stream)
    if dtype.hasobject or min(shape, default=0) < 0:
        raise MalformedError(f"an array of dtype {str(dtype)[:80]} and shape {str(shape)[:80]}")
    size, order = math.prod(shape), "F" if fortran else "C"
    if size * dtype.itemsize != len(view) - start or (size and not dtype.itemsize):
        raise MalformedError("an array that is not as long as announced")
    if not size:
        return numpy.empty(shape, dtype, order)
    return numpy.frombuffer(view[start:], dtype).reshape(shape, order=order).copy(order="K")


def _decode_array(decoder: Decoder, node: Node) -> Any:
    numpy, array = library("numpy"), read_npy(decoder, node["b"])
    return array.view(numpy.dtype((numpy.record, array.dtype))) if node.get("record") else array


def _decode_object(decoder: Decoder, node: Node) -> Any:
    array = object_array(decoder, node["v"])
    shape = field(node, "shape", list)
    if any(type(length) is not int or length < 0 for length in shape):
        raise MalformedError("an array without a shape")
    return array.reshape(shape)


def object_array(decoder: Decoder, node: Any) -> Any:
    """Return an array of objects from a node for a list."""
    items = decoder.value(node)
    if type(items) is not list:
        raise MalformedError("an array of objects without a list of them")
    array = library("numpy").empty(len(items), dtype=object)
    for number, item in enumerate(items):  # assigned whole, lists among them would become dimensions
        array[number] = item
    return array


def _decode_scalar(decoder: Decoder, node: Node) -> Any:
    numpy, name, data = library("numpy"), field(node, "dtype", str), bytes.fromhex(field(node, "v", str))
    if not _SCALAR.fullmatch(name):
        raise MalformedError(f"no numpy scalar has the dtype {name[:80]!r}")
    dtype = numpy.dtype(name)
    if len(data) != dtype.itemsize:
        raise MalformedError("a numpy scalar that is not as long as its dtype")
    return numpy.frombuffer(data, dtype)[0] if data else numpy.zeros((), dtype)[()]


DECODERS: Dict[str, Callable[[Decoder, Node], Any]] = {
    "numpy.array": _decode_array,
    "numpy.object": _decode_object,
    "numpy.record": lambda decoder, node: _decode_array(decoder, node)[()],
    "numpy.scalar": _decode_scalar,
}
