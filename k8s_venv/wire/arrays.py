"""Codecs for arrays and tables of numpy, pyarrow and polars.

numpy's arrays travel in its own ``npy`` format 1.0 (NEP 1), never with pickles, and its scalars as their bytes; tables
in the Arrow IPC streaming format (https://arrow.apache.org/docs/format).
"""

from __future__ import annotations

import io
import math
import re

from k8s_venv.wire.decoder import field
from k8s_venv.wire.errors import MalformedError, MissingLibraryError, NoCodecError
from k8s_venv.wire.registry import Later, library, version

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional

    from k8s_venv.wire.decoder import Decoder
    from k8s_venv.wire.encoder import Encoder
    from k8s_venv.wire.registry import Buffer, Node

_PREFIX = 10  # bytes before the header: magic, version 1.0, the header's length
_HEADER_LIMIT = 10_000  # what numpy's own reader accepts, in bytes
_SCALAR = re.compile(r"[<>|=][biufcmMSUV]\d{1,9}(\[\d*[A-Za-z]{1,2}\])?")
# Older pyarrow unpickles what such a column says (CVE-2023-47248).
_UNPICKLED = b"arrow.py_extension_type"
_RENAMED = {"Utf8": "String"}  # polars 0.20


def encode(encoder: Encoder, value: Any, depth: int) -> Optional[Node]:
    """Return the node for an array, a scalar, a table, a frame or a series, or None for a value of another type."""
    package = type(value).__module__.partition(".")[0]
    return {"numpy": _encode_numpy, "pyarrow": _encode_arrow, "polars": _encode_polars}[package](encoder, value, depth)


# --- numpy ------------------------------------------------------------------------------------------------


def _encode_numpy(encoder: Encoder, value: Any, depth: int) -> Optional[Node]:
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


# --- pyarrow ----------------------------------------------------------------------------------------------


def _encode_arrow(encoder: Encoder, value: Any, depth: int) -> Optional[Node]:
    name = type(value).__name__
    if name not in ("Table", "RecordBatch"):
        return None
    if value.num_rows and not value.num_columns:
        raise NoCodecError("", f"a pyarrow.{name} of {value.num_rows} rows without a column")
    if name == "Table":
        return {"$": "pyarrow.table", "b": write_ipc(encoder, value)}
    return {"$": "pyarrow.batch", "b": write_ipc(encoder, library("pyarrow").Table.from_batches([value]))}


def write_ipc(encoder: Encoder, table: Any) -> int:
    """Add a pyarrow table as a buffer and return the buffer's number.

    Raises:
        NoCodecError: a column cannot be written.
    """
    pyarrow, ipc = library("pyarrow"), library("pyarrow.ipc")
    sink = pyarrow.BufferOutputStream()
    try:
        with ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    except (pyarrow.ArrowException, NotImplementedError) as error:
        raise NoCodecError("", f"a pyarrow table that Arrow IPC cannot write ({error})") from error
    encoder.uses("pyarrow")
    return encoder.buffer(memoryview(sink.getvalue()))


def read_ipc(decoder: Decoder, number: Any) -> Any:
    """Return the pyarrow table in a buffer; it shares the buffer's memory.

    Raises:
        MalformedError: it is no table, or one that this pyarrow cannot hold.
    """
    pyarrow, ipc, view = library("pyarrow"), library("pyarrow.ipc"), decoder.buffer(number)
    if version(pyarrow) < (14, 1) and _UNPICKLED in bytes(view):
        raise MalformedError("a table with a pickled extension type, which this reader does not accept")
    try:
        with ipc.open_stream(pyarrow.py_buffer(view)) as reader:
            table = reader.read_all()
        table.validate(full=True)
    except Exception as error:
        raise decoder.unreadable("pyarrow", error) from error
    return table


def _read_batch(decoder: Decoder, node: Node) -> Any:
    pyarrow, table = library("pyarrow"), read_ipc(decoder, node["b"])
    batches = table.to_batches()
    if len(batches) == 1:
        return batches[0]
    if batches:
        raise MalformedError("more than one record batch")
    return pyarrow.RecordBatch.from_arrays(
        [pyarrow.array([], entry.type) for entry in table.schema], schema=table.schema
    )


# --- polars -----------------------------------------------------------------------------------------------


def _encode_polars(encoder: Encoder, value: Any, depth: int) -> Optional[Node]:
    name = type(value).__name__
    if name == "DataFrame":
        columns = value.get_columns()
        dtypes = [encoder.at(f"[{column.name!r}]", _describe_type, column.dtype) for column in columns]
        return {"$": "polars.frame", **_write_polars(encoder, value, dtypes)}
    if name == "Series":
        frame = library("polars").DataFrame([value.rename("")])
        parts = _write_polars(encoder, frame, [_describe_type(value.dtype)])
        return {"$": "polars.series", "name": encoder.node(value.name), **parts}
    return None


def _write_polars(encoder: Encoder, frame: Any, dtypes: List[Any]) -> Node:
    polars, stream = library("polars"), io.BytesIO()
    # The oldest layout: an older polars reads it as well.
    oldest = {"compat_level": polars.CompatLevel.oldest()} if hasattr(polars, "CompatLevel") else {}
    try:
        frame.write_ipc_stream(stream, **oldest)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 -- a panic of polars is no Exception
        raise NoCodecError("", f"a polars frame that Arrow IPC cannot write ({error})") from None
    height = {} if frame.width else {"height": frame.height}
    return {"b": encoder.buffer(stream.getbuffer()), "dtypes": dtypes, **height}


def _read_polars(decoder: Decoder, node: Node) -> Any:
    polars = library("polars")
    try:
        frame = polars.read_ipc_stream(io.BytesIO(decoder.buffer(node["b"])))
        if "dtypes" not in node:  # which earlier versions did not write
            return frame
        if frame.height != node.get("height", frame.height):
            raise TypeError(f"a frame of {node['height']} rows without a column")
        columns = frame.get_columns()
        if len(columns) != len(field(node, "dtypes", list)):
            raise MalformedError("a frame whose columns and types do not fit")
        pairs = zip(columns, node["dtypes"])
        restored = [_restored(polars, column, dtype) for column, dtype in pairs]
        return frame.with_columns(restored) if restored else frame
    except (KeyboardInterrupt, SystemExit, MalformedError, MissingLibraryError):
        raise
    except BaseException as error:  # noqa: BLE001 -- a panic of polars is no Exception
        raise decoder.unreadable("polars", error) from None


def _read_series(decoder: Decoder, node: Node) -> Any:
    frame = _read_polars(decoder, node)
    return frame.to_series(0).rename(decoder.value(node["name"]))


def _describe_type(dtype: Any) -> Any:
    """Return a type's name, or a list of the name and its parts: another polars may read another type."""
    name = _type_name(dtype)
    if name == "Object":
        raise NoCodecError("", "a polars column of Python objects, which Arrow IPC cannot write (a list can travel)")
    if name == "Enum":
        return [name, list(dtype.categories)]
    if name == "Categorical":
        return [name, getattr(dtype, "ordering", None) or "lexical"]  # newer polars knows no other
    if name in ("List", "Array"):
        return [name, _describe_type(dtype.inner)]
    if name == "Struct":
        return [name, [_describe_type(entry.dtype) for entry in dtype.fields]]
    return name


def _type_name(dtype: Any) -> str:
    name: str = dtype.__name__ if isinstance(dtype, type) else type(dtype).__name__
    return _RENAMED.get(name, name)


def _restored(polars: Any, column: Any, description: Any) -> Any:
    """Return a column with the type that was described, or raise a TypeError if this polars has no such type."""
    wanted = _wanted(polars, column.dtype, description)
    # Inside of lists and structs older polars cannot set it.
    if description == ["Categorical", "lexical"] and getattr(wanted, "ordering", None) == "physical":
        wanted = polars.Categorical("lexical")
    if wanted != column.dtype or repr(wanted) != repr(column.dtype):
        column = column.cast(wanted)
        if repr(column.dtype) != repr(wanted):
            raise TypeError(f"a column of {wanted}, which it reads as {column.dtype}")
    return column


def _wanted(polars: Any, found: Any, description: Any) -> Any:
    name, detail = (description, []) if type(description) is str else description
    if name == "Enum":
        return polars.Enum(detail)
    if name != _type_name(found):
        raise TypeError(f"a column of {str(name)[:80]}, which it reads as {found}")
    if name == "List":
        return polars.List(_wanted(polars, found.inner, detail))
    if name == "Array":
        return polars.Array(_wanted(polars, found.inner, detail), found.shape[0])
    if name == "Struct":
        if len(detail) != len(found.fields):
            raise TypeError(f"a column of {len(detail)} fields, which it reads as {found}")
        parts = zip(found.fields, detail)
        return polars.Struct([polars.Field(part.name, _wanted(polars, part.dtype, inner)) for part, inner in parts])
    return found


DECODERS: Dict[str, Callable[[Decoder, Node], Any]] = {
    "numpy.array": _decode_array,
    "numpy.object": _decode_object,
    "numpy.record": lambda decoder, node: _decode_array(decoder, node)[()],
    "numpy.scalar": _decode_scalar,
    "pyarrow.table": lambda decoder, node: read_ipc(decoder, node["b"]),
    "pyarrow.batch": _read_batch,
    "polars.frame": _read_polars,
    "polars.series": _read_series,
}
