"""Codecs for numpy and pandas, written so that no version of either needs to be on both sides.

Arrays travel in numpy's own ``npy`` format without pickles (NEP 1); a frame is its columns one by one, each
with the dtype it has, and its two indexes. Neither library is imported unless a value needs it.
"""

from __future__ import annotations

import importlib
import io
import sys
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional

from k8s_venv.runner.errors import MalformedError, MissingLibraryError, NoCodecError

if TYPE_CHECKING:
    from k8s_venv.runner.values import Decoder, Encoder

Node = Dict[str, Any]

_PLAIN_TYPES = {str, int, bool, type(None)}


def library(name: str, *alternatives: str) -> Any:
    """Import a library by name, or the first of its alternatives.

    Raises:
        MissingLibraryError: none of them is installed.

    """
    for candidate in (name, *alternatives):
        try:
            return importlib.import_module(candidate)
        except ImportError:
            continue
    raise MissingLibraryError(alternatives[-1] if alternatives else name)


def encode(encoder: Encoder, value: Any, path: str, depth: int) -> Optional[Node]:
    """Return the node for a numpy or pandas object, or None when ``value`` is neither."""
    root = type(value).__module__.partition(".")[0]
    if root == "numpy" and "numpy" in sys.modules:
        return _encode_numpy(encoder, value, path, depth)
    if root == "pandas" and "pandas" in sys.modules:
        return _encode_pandas(encoder, value, path, depth)
    return None


def decode(decoder: Decoder, node: Node) -> Any:
    """Return the numpy or pandas object that ``node`` stands for.

    Raises:
        MalformedError: the node's codec is unknown.
        MissingLibraryError: numpy or pandas is not installed.

    """
    if node["$"] not in _DECODERS:
        raise MalformedError(f"unknown codec {node['$']!r}")
    return _DECODERS[node["$"]](decoder, node)


# --- numpy ------------------------------------------------------------------------------------------------


def _encode_numpy(encoder: Encoder, value: Any, path: str, depth: int) -> Optional[Node]:
    numpy = library("numpy")
    if type(value) is numpy.ndarray:
        if value.dtype.kind == "O":
            items = [encoder.node(item, f"{path}.flat[{i}]", depth + 1) for i, item in enumerate(value.flat)]
            return {"$": "numpy.object", "shape": list(value.shape), "v": items}
        return {"$": "numpy.array", "b": _npy(encoder, value, path)}
    if isinstance(value, numpy.generic):
        return {"$": "numpy.scalar", "b": _npy(encoder, numpy.asarray(value), path)}
    return None


def _npy(encoder: Encoder, array: Any, path: str) -> int:
    if array.dtype.hasobject:
        raise NoCodecError(path, f"numpy dtype {array.dtype}, which contains Python objects")
    stream = io.BytesIO()
    library("numpy").lib.format.write_array(stream, array, allow_pickle=False)
    return encoder.buffer(stream.getbuffer())


def _read_npy(decoder: Decoder, node: Node) -> Any:
    numpy = library("numpy")
    return numpy.lib.format.read_array(io.BytesIO(decoder.buffer(node["b"])), allow_pickle=False)


def _object_array(decoder: Decoder, node: Node) -> Any:
    numpy = library("numpy")
    array = numpy.empty(len(node["v"]), dtype=object)
    for number, item in enumerate(node["v"]):
        array[number] = decoder.value(item)
    return array.reshape(node["shape"])


# --- pandas -----------------------------------------------------------------------------------------------


def _encode_pandas(encoder: Encoder, value: Any, path: str, depth: int) -> Optional[Node]:
    pandas = library("pandas")
    kind = type(value)
    if kind is pandas.DataFrame:
        return _encode_frame(encoder, value, path, depth)
    if kind is pandas.Series:
        return {
            "$": "pandas.series",
            "index": _encode_index(encoder, value.index, f"{path}.index", depth),
            "data": _encode_column(encoder, value.array, path, depth),
            "name": encoder.node(value.name, f"{path}.name", depth + 1),
        }
    if isinstance(value, pandas.Index):
        return {"$": "pandas.index", "index": _encode_index(encoder, value, path, depth)}
    if value is pandas.NaT:
        return {"$": "pandas.NaT"}
    if value is pandas.NA:
        return {"$": "pandas.NA"}
    if kind is pandas.Timestamp or kind is pandas.Timedelta:
        series = pandas.Series([value])
        return {"$": "pandas.scalar", "data": _encode_column(encoder, series.array, path, depth)}
    return None


def _encode_frame(encoder: Encoder, frame: Any, path: str, depth: int) -> Node:
    return {
        "$": "pandas.frame",
        "index": _encode_index(encoder, frame.index, f"{path}.index", depth),
        "columns": _encode_index(encoder, frame.columns, f"{path}.columns", depth),
        "data": [
            _encode_column(encoder, frame.iloc[:, position].array, f"{path}[{label!r}]", depth)
            for position, label in enumerate(frame.columns)
        ],
        "attrs": encoder.node(dict(frame.attrs), f"{path}.attrs", depth + 1),
    }


def _encode_index(encoder: Encoder, index: Any, path: str, depth: int) -> Node:
    pandas = library("pandas")
    names = [encoder.node(name, f"{path}.names", depth + 1) for name in index.names]
    if isinstance(index, pandas.RangeIndex):
        return {"kind": "range", "v": [index.start, index.stop, index.step], "names": names}
    if isinstance(index, pandas.MultiIndex):
        levels = [
            _encode_column(encoder, index.get_level_values(i).array, f"{path}[{i}]", depth)
            for i in range(index.nlevels)
        ]
        return {"kind": "multi", "levels": levels, "names": names}
    node: Node = {"kind": "flat", "data": _encode_column(encoder, index.array, path, depth), "names": names}
    if getattr(index, "freqstr", None) and not isinstance(index, pandas.PeriodIndex):
        node["freq"] = index.freqstr
    return node


def _encode_column(encoder: Encoder, array: Any, path: str, depth: int) -> Node:
    pandas = library("pandas")
    dtype = array.dtype
    if type(dtype).__name__ in ("NumpyEADtype", "PandasDtype"):  # pandas' thin wrapper around numpy arrays
        array, dtype = array.to_numpy(), dtype.numpy_dtype
    if isinstance(dtype, pandas.CategoricalDtype):
        return {
            "kind": "category",
            "b": _npy(encoder, array.codes, path),
            "categories": _encode_index(encoder, dtype.categories, f"{path}.categories", depth),
            "ordered": bool(dtype.ordered),
        }
    if isinstance(dtype, pandas.DatetimeTZDtype):
        # A timestamp carries its zone by the same rules as any other datetime.
        sample = encoder.node(pandas.Timestamp(0, tz=dtype.tz).to_pydatetime(), path, depth)
        instants = pandas.Series(array).dt.tz_convert("UTC").dt.tz_localize(None).to_numpy()
        return {"kind": "zoned", "b": _npy(encoder, instants, path), "sample": sample}
    if isinstance(dtype, pandas.StringDtype):
        missing = "nan" if getattr(dtype, "na_value", pandas.NA) is not pandas.NA else "NA"
        texts = [None if absent else text for text, absent in zip(array, array.isna(), strict=False)]
        return {"kind": "string", "v": texts, "missing": missing}
    if _is_masked(dtype):
        absent = array.isna()
        filled = array.to_numpy(dtype=dtype.numpy_dtype, na_value=dtype.numpy_dtype.type(0))
        return {
            "kind": "masked",
            "b": _npy(encoder, filled, path),
            "mask": _npy(encoder, absent, path),
            "dtype": str(dtype),
        }
    if isinstance(dtype, library("numpy").dtype):
        if dtype.kind == "O":
            return {"kind": "object", "v": _encode_objects(encoder, array, path, depth)}
        return {"kind": "plain", "b": _npy(encoder, library("numpy").asarray(array), path)}
    raise NoCodecError(path, f"pandas dtype {dtype}")


def _is_masked(dtype: Any) -> bool:
    """Tell whether a dtype is one of pandas' nullable numbers or booleans."""
    return (
        hasattr(dtype, "numpy_dtype")
        and type(dtype).__module__.startswith("pandas.core.arrays.")
        and (str(dtype) in _MASKED)
    )


_MASKED = {"boolean", "Float32", "Float64"} | {f"{u}Int{size}" for u in ("", "U") for size in (8, 16, 32, 64)}


def _encode_objects(encoder: Encoder, array: Any, path: str, depth: int) -> Any:
    items = list(array)
    # One pass in C for the usual column of text; the limit on integers is the JSON reader's.
    if {type(item) for item in items} <= {str, bool, type(None)}:
        return items
    return [encoder.node(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(items)]


def _decode_frame(decoder: Decoder, node: Node) -> Any:
    pandas = library("pandas")
    index = _decode_index(decoder, node["index"])
    columns = _decode_index(decoder, node["columns"])
    data = {number: _decode_column(decoder, column) for number, column in enumerate(node["data"])}
    if len(data) != len(columns) or any(len(column) != len(index) for column in data.values()):
        raise MalformedError("a frame whose columns and indexes do not fit")
    frame = pandas.DataFrame(data, index=index, copy=False) if data else pandas.DataFrame(index=index)
    frame.columns = columns
    frame.attrs.update(decoder.value(node["attrs"]))
    return frame


def _decode_series(decoder: Decoder, node: Node) -> Any:
    data = _decode_column(decoder, node["data"])
    index = _decode_index(decoder, node["index"])
    return library("pandas").Series(data, index=index, name=decoder.value(node["name"]), copy=False)


def _decode_index(decoder: Decoder, node: Node) -> Any:
    pandas = library("pandas")
    names = [decoder.value(name) for name in node["names"]]
    if node["kind"] == "range":
        return pandas.RangeIndex(*node["v"], name=names[0])
    if node["kind"] == "multi":
        levels = [_decode_column(decoder, level) for level in node["levels"]]
        return pandas.MultiIndex.from_arrays(levels, names=names)
    data = _decode_column(decoder, node["data"])
    # Labels that are all text take the type that this pandas gives to text: `object` before pandas 3.
    text = node["data"]["kind"] == "object" and all(type(item) is str for item in data)
    index = pandas.Index(list(data) if text else data, name=names[0], dtype=None if text else data.dtype)
    if "freq" in node:
        index.freq = node["freq"]
    return index


def _decode_column(decoder: Decoder, node: Node) -> Any:
    pandas, kind = library("pandas"), node["kind"]
    if kind == "plain":
        return _read_npy(decoder, node)
    if kind == "object":
        return _object_array(decoder, {"shape": [len(node["v"])], "v": node["v"]})
    if kind == "category":
        categories = _decode_index(decoder, node["categories"])
        return pandas.Categorical.from_codes(_read_npy(decoder, node), categories, ordered=node["ordered"])
    if kind == "zoned":
        zone = decoder.value(node["sample"]).tzinfo
        return pandas.Series(_read_npy(decoder, node)).dt.tz_localize("UTC").dt.tz_convert(zone).array
    if kind == "string":
        return _decode_strings(node)
    if kind == "masked":
        array = pandas.array(_read_npy(decoder, node), dtype=node["dtype"])
        array[_read_npy(decoder, {"b": node["mask"]})] = pandas.NA
        return array
    raise MalformedError(f"unknown kind of column {kind!r}")


def _decode_strings(node: Node) -> Any:
    pandas = library("pandas")
    if node["missing"] == "NA":
        return pandas.array(node["v"], dtype="string")
    if int(pandas.__version__.partition(".")[0]) >= 3:
        return pandas.array(node["v"], dtype="str")
    # Before pandas 3 text with `nan` for what is missing is a column of objects.
    nan = float("nan")
    texts = [nan if text is None else text for text in node["v"]]
    array = library("numpy").empty(len(texts), dtype=object)
    array[:] = texts
    return array


_DECODERS: Dict[str, Callable[[Decoder, Node], Any]] = {
    "numpy.array": _read_npy,
    "numpy.scalar": lambda decoder, node: _read_npy(decoder, node)[()],
    "numpy.object": _object_array,
    "pandas.frame": _decode_frame,
    "pandas.series": _decode_series,
    "pandas.index": lambda decoder, node: _decode_index(decoder, node["index"]),
    "pandas.scalar": lambda decoder, node: library("pandas").Series(_decode_column(decoder, node["data"]))[0],
    "pandas.NaT": lambda decoder, node: library("pandas").NaT,
    "pandas.NA": lambda decoder, node: library("pandas").NA,
}
