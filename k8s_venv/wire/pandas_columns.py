"""The columns and indexes of pandas objects: for each kind of dtype what holds it exactly."""

from __future__ import annotations

import math
import re

from k8s_venv.wire.decoder import field
from k8s_venv.wire.errors import MalformedError, MissingLibraryError, NoCodecError
from k8s_venv.wire.libraries import library, version
from k8s_venv.wire.pandas_frequencies import decode_frequency, decode_period_name, encode_frequency
from k8s_venv.wire.tables_numpy import object_array, read_npy, write_npy
from k8s_venv.wire.zones import decode_zone, encode_zone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional

    from k8s_venv.wire.decoder import Decoder
    from k8s_venv.wire.encoder import Encoder
    from k8s_venv.wire.registry import Node

_MASKED = {"boolean", "Float32", "Float64"} | {f"{u}Int{size}" for u in ("", "U") for size in (8, 16, 32, 64)}
_ZONE = re.compile(r"(?!dateutil/)[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*")


def encode_column(encoder: Encoder, array: Any, depth: int) -> Node:
    """Return the entry for a pandas array.

    Raises:
        NoCodecError: there is no codec for its dtype.
    """
    pandas, numpy, dtype = library("pandas"), library("numpy"), array.dtype
    if type(dtype).__name__ in ("NumpyEADtype", "PandasDtype"):  # pandas' thin wrapper around numpy arrays
        array, dtype = array.to_numpy(), dtype.numpy_dtype
    if isinstance(dtype, numpy.dtype):
        if dtype.kind == "O":
            return {"kind": "object", "v": encoder.items(list(array), depth)}
        return {"kind": "plain", "b": write_npy(encoder, numpy.asarray(array))}
    if isinstance(dtype, pandas.CategoricalDtype):
        return _encode_categories(encoder, array, depth)
    if isinstance(dtype, pandas.DatetimeTZDtype):
        instants = pandas.Series(array).dt.tz_convert(None).to_numpy()
        return {"kind": "zoned", "b": write_npy(encoder, instants), **encode_zone(dtype.tz)}
    if isinstance(dtype, pandas.StringDtype):
        return _encode_text(encoder, array, depth)
    if str(dtype) in _MASKED and hasattr(dtype, "numpy_dtype"):
        filled = array.to_numpy(dtype=dtype.numpy_dtype, na_value=dtype.numpy_dtype.type(0))
        buffers = {"b": write_npy(encoder, filled), "mask": write_npy(encoder, numpy.asarray(array.isna()))}
        return {"kind": "masked", "dtype": str(dtype), **buffers}
    if isinstance(dtype, pandas.PeriodDtype):
        return {"kind": "period", "b": write_npy(encoder, array.asi8), "freq": pandas.PeriodIndex(array).freqstr}
    if isinstance(dtype, pandas.IntervalDtype):
        left = encode_column(encoder, array.left.array, depth)
        right = encode_column(encoder, array.right.array, depth)
        return {"kind": "interval", "left": left, "right": right, "closed": array.closed}
    if isinstance(dtype, getattr(pandas, "ArrowDtype", ())):
        from k8s_venv.wire.tables_arrow import write_ipc

        chunks = array.__arrow_array__()
        return {"kind": "arrow", "b": write_ipc(encoder, library("pyarrow").table({"": chunks}))}
    raise NoCodecError("", f"pandas dtype {dtype}")


def _encode_categories(encoder: Encoder, array: Any, depth: int) -> Node:
    return {
        "kind": "category",
        "b": write_npy(encoder, array.codes),
        "categories": encode_index(encoder, array.dtype.categories, depth),
        "ordered": bool(array.dtype.ordered),
    }


def _encode_text(encoder: Encoder, array: Any, depth: int) -> Node:
    dtype, pandas = array.dtype, library("pandas")
    missing = "NA" if getattr(dtype, "na_value", pandas.NA) is pandas.NA else "nan"
    texts = array.astype(object)
    texts[array.isna()] = None
    # pandas 2.1 called text with nan for what is missing by a storage of its own.
    storage = dtype.storage.partition("_")[0]
    return {"kind": "string", "v": encoder.items(list(texts), depth), "missing": missing, "storage": storage}


def encode_index(encoder: Encoder, index: Any, depth: int) -> Node:
    """Return the entry for an index of any kind."""
    pandas = library("pandas")
    names = [encoder.node(name, depth + 1) for name in index.names]
    if isinstance(index, pandas.RangeIndex):
        return {"kind": "range", "v": [index.start, index.stop, index.step], "names": names}
    if isinstance(index, pandas.MultiIndex):
        return {
            "kind": "multi",
            "levels": [encode_index(encoder, level, depth) for level in index.levels],
            "codes": [write_npy(encoder, library("numpy").asarray(codes)) for codes in index.codes],
            "names": names,
        }
    node: Node = {"kind": "flat", "data": encode_column(encoder, index.array, depth), "names": names}
    frequency = encode_frequency(index)
    if frequency is not None:
        node["freq"] = frequency
    return node


def pandas_zone(node: Node) -> Any:
    """Return a zone as pandas takes it: a name, which each version looks up where it likes; else a fixed offset."""
    if "zone" not in node:
        return decode_zone(node)
    name = field(node, "zone", str)
    if not _ZONE.fullmatch(name):
        raise MalformedError(f"no time zone is called {name[:80]!r}")
    return name


def decode_column(decoder: Decoder, node: Node) -> Any:
    """Return the array in an entry.

    Raises:
        MalformedError: there is no such kind of column.
    """
    decode: Optional[Callable[[Decoder, Node], Any]] = _KINDS.get(field(node, "kind", str))
    if decode is None:
        raise MalformedError(f"unknown kind of column {node['kind'][:80]!r}")
    return decode(decoder, node)


def _decode_categories(decoder: Decoder, node: Node) -> Any:
    categories = decode_index(decoder, node["categories"])
    ordered = field(node, "ordered", bool)
    return library("pandas").Categorical.from_codes(read_npy(decoder, node["b"]), categories, ordered=ordered)


def _decode_zoned(decoder: Decoder, node: Node) -> Any:
    instants = library("pandas").Series(read_npy(decoder, node["b"]))
    return instants.dt.tz_localize("UTC").dt.tz_convert(pandas_zone(node)).array


def _decode_text(decoder: Decoder, node: Node) -> Any:
    pandas, texts = library("pandas"), object_array(decoder, node["v"])
    if not {type(text) for text in texts} <= {str, type(None)}:
        raise MalformedError("a column of text with something else in it")
    storage = field(node, "storage", str)
    if storage == "pyarrow" and not _has_pyarrow():
        storage = "python"
    if node["missing"] == "NA":
        return pandas.array(texts, dtype=pandas.StringDtype(storage))
    if version(pandas) >= (3, 0):
        return pandas.array(texts, dtype=pandas.StringDtype(storage, na_value=math.nan))
    # Before pandas 3 text with `nan` for what is missing is a column of objects.
    texts[[text is None for text in texts]] = math.nan
    return texts


def _has_pyarrow() -> bool:
    try:
        library("pyarrow")
    except MissingLibraryError:
        return False
    return True


def _decode_masked(decoder: Decoder, node: Node) -> Any:
    pandas, name = library("pandas"), field(node, "dtype", str)
    if name not in _MASKED:
        raise MalformedError(f"no nullable dtype is called {name[:80]!r}")
    values, mask = read_npy(decoder, node["b"]), read_npy(decoder, node["mask"])
    dtype = pandas.api.types.pandas_dtype(name)
    if mask.dtype != bool or mask.shape != values.shape or values.dtype != dtype.numpy_dtype:
        raise MalformedError("a nullable column whose mask does not fit")
    # Not from the numbers: `nan` among them is not missing.
    return dtype.construct_array_type()(values, mask)


def _decode_period(decoder: Decoder, node: Node) -> Any:
    pandas = library("pandas")
    dtype = pandas.PeriodDtype(decode_period_name(node["freq"]))
    return pandas.arrays.PeriodArray(read_npy(decoder, node["b"]), dtype=dtype)


def _decode_interval(decoder: Decoder, node: Node) -> Any:
    pandas = library("pandas")
    left, right = decode_column(decoder, node["left"]), decode_column(decoder, node["right"])
    return pandas.arrays.IntervalArray.from_arrays(pandas.Index(left), pandas.Index(right), field(node, "closed", str))


def _decode_arrow(decoder: Decoder, node: Node) -> Any:
    from k8s_venv.wire.tables_arrow import read_ipc

    pandas, table = library("pandas"), read_ipc(decoder, node["b"])
    chunks = table.column(0)
    return pandas.ArrowDtype(chunks.type).construct_array_type()(chunks)


_KINDS: Dict[str, Callable[[Decoder, Node], Any]] = {
    "plain": lambda decoder, node: read_npy(decoder, node["b"]),
    "object": lambda decoder, node: object_array(decoder, node["v"]),
    "category": _decode_categories,
    "zoned": _decode_zoned,
    "string": _decode_text,
    "masked": _decode_masked,
    "period": _decode_period,
    "interval": _decode_interval,
    "arrow": _decode_arrow,
}


def decode_index(decoder: Decoder, node: Node) -> Any:
    """Return the index in an entry."""
    pandas, kind = library("pandas"), field(node, "kind", str)
    names: List[Any] = [decoder.value(name) for name in field(node, "names", list)]
    if kind == "range":
        start, stop, step = (field({"v": bound}, "v", int) for bound in field(node, "v", list))
        return pandas.RangeIndex(start, stop, step, name=names[0])
    if kind == "multi":
        levels = [decode_index(decoder, level) for level in field(node, "levels", list)]
        codes = [read_npy(decoder, number) for number in field(node, "codes", list)]
        return pandas.MultiIndex(levels=levels, codes=codes, names=names)
    data = decode_column(decoder, field(node, "data", dict))
    # An older pandas' labels of text take the type that pandas 3 gives to text.
    old_text = (
        data.dtype == object
        and version(pandas) >= (3, 0) > _version_of(decoder)
        and len(data) > 0
        and all(type(item) is str for item in data)
    )
    if old_text:
        index = pandas.Index(list(data), name=names[0])
    else:
        index = pandas.Index(data, name=names[0], dtype=object if data.dtype == object else None)
    if "freq" in node:
        index.freq = decode_frequency(node["freq"])
    return index


def _version_of(decoder: Decoder) -> Any:
    major, _, rest = decoder.libraries.get("pandas", "3.0").partition(".")
    return int(major), int(rest.partition(".")[0])
