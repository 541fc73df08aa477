"""Codecs for pyarrow and polars, through the Arrow IPC streaming format (https://arrow.apache.org/docs/format)."""

from __future__ import annotations

import io

from k8s_venv.wire import polars_types
from k8s_venv.wire.decoder import field
from k8s_venv.wire.errors import MalformedError, MissingLibraryError, NoCodecError
from k8s_venv.wire.libraries import library, version

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional

    from k8s_venv.wire.decoder import Decoder
    from k8s_venv.wire.encoder import Encoder
    from k8s_venv.wire.registry import Node

# Older pyarrow unpickles what such a column says (CVE-2023-47248).
_UNPICKLED = b"arrow.py_extension_type"


def encode(encoder: Encoder, value: Any, depth: int) -> Optional[Node]:
    """Return the node for a table, batch, frame or series, or None when it is of another type."""
    kind = type(value)
    name = f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
    if name in ("pyarrow.Table", "pyarrow.RecordBatch") and value.num_rows and not value.num_columns:
        raise NoCodecError("", f"a {name} of {value.num_rows} rows without a column")
    if name == "pyarrow.Table":
        return {"$": "pyarrow.table", "b": write_ipc(encoder, value)}
    if name == "pyarrow.RecordBatch":
        table = library("pyarrow").Table.from_batches([value])
        return {"$": "pyarrow.batch", "b": write_ipc(encoder, table)}
    if name == "polars.DataFrame":
        return {"$": "polars.frame", **_write_polars(encoder, value, polars_types.describe(value))}
    if name == "polars.Series":
        dtypes = [polars_types.describe_type(value.dtype)]
        frame = library("polars").DataFrame([value.rename("")])
        return {"$": "polars.series", "name": encoder.node(value.name), **_write_polars(encoder, frame, dtypes)}
    return None


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
        restored = [polars_types.restored(polars, column, dtype) for column, dtype in pairs]
        return frame.with_columns(restored) if restored else frame
    except (KeyboardInterrupt, SystemExit, MalformedError, MissingLibraryError):
        raise
    except BaseException as error:  # noqa: BLE001 -- a panic of polars is no Exception
        raise decoder.unreadable("polars", error) from None


def _read_series(decoder: Decoder, node: Node) -> Any:
    frame = _read_polars(decoder, node)
    return frame.to_series(0).rename(decoder.value(node["name"]))


DECODERS: Dict[str, Callable[[Decoder, Node], Any]] = {
    "pyarrow.table": lambda decoder, node: read_ipc(decoder, node["b"]),
    "pyarrow.batch": _read_batch,
    "polars.frame": lambda decoder, node: _read_polars(decoder, node),
    "polars.series": _read_series,
}
