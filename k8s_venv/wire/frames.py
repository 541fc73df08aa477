"""Codecs for pandas frames, series, indexes and scalars: one column after the other, each with the dtype it has.

They need no pyarrow, and no version of pandas on both sides.
"""

from __future__ import annotations

import math
import re

from k8s_venv.wire.arrays import object_array, read_ipc, read_npy, write_ipc, write_npy
from k8s_venv.wire.decoder import field
from k8s_venv.wire.errors import MalformedError, MissingLibraryError, NoCodecError
from k8s_venv.wire.registry import library, version
from k8s_venv.wire.times import decode_zone, encode_zone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional

    from k8s_venv.wire.decoder import Decoder
    from k8s_venv.wire.encoder import Encoder
    from k8s_venv.wire.registry import Node

_MASKED = {"boolean", "Float32", "Float64"} | {f"{u}Int{size}" for u in ("", "U") for size in (8, 16, 32, 64)}
_ZONE = re.compile(r"(?!dateutil/)[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*")


def encode(encoder: Encoder, value: Any, depth: int) -> Optional[Node]:
    """Return the node for a pandas object, or None when there is no codec for it."""
    pandas, kind = library("pandas"), type(value)
    if kind is pandas.DataFrame or kind is pandas.Series:
        return _encode_labelled(encoder, value, depth)
    if isinstance(value, pandas.Index):
        return {"$": "pandas.index", "index": _encode_index(encoder, value, depth)}
    return _encode_scalar(encoder, value, depth)


def _encode_scalar(encoder: Encoder, value: Any, depth: int) -> Optional[Node]:
    pandas, kind = library("pandas"), type(value)
    if value is pandas.NaT:
        return {"$": "pandas.NaT"}
    if value is pandas.NA:
        return {"$": "pandas.NA"}
    if kind is pandas.Timestamp:
        # `asm8` is the instant in UTC, in the unit that the timestamp has.
        return {"$": "pandas.timestamp", **_ticks(value.asm8), **encode_zone(value.tz)}
    if kind is pandas.Timedelta:
        return {"$": "pandas.timedelta", **_ticks(value.asm8)}
    if kind is pandas.Period:
        return {"$": "pandas.period", "v": value.ordinal, "freq": value.freqstr}
    if kind is pandas.Interval:
        ends = {"left": encoder.node(value.left, depth + 1), "right": encoder.node(value.right, depth + 1)}
        return {"$": "pandas.interval", "closed": value.closed, **ends}
    return None


def _ticks(scalar: Any) -> Node:
    numpy = library("numpy")
    return {"v": int(scalar.view("i8")), "unit": numpy.datetime_data(scalar.dtype)[0]}


def _encode_labelled(encoder: Encoder, value: Any, depth: int) -> Node:
    """Return the node for a frame or a series."""
    node: Node = {"index": encoder.at(".index", _encode_index, encoder, value.index, depth)}
    if hasattr(value, "columns"):
        node["$"] = "pandas.frame"
        node["columns"] = encoder.at(".columns", _encode_index, encoder, value.columns, depth)
        node["data"] = [
            encoder.at(f"[{label!r}]", _encode_column, encoder, value.iloc[:, position].array, depth)
            for position, label in enumerate(value.columns)
        ]
    else:
        node["$"] = "pandas.series"
        node["data"] = _encode_column(encoder, value.array, depth)
        node["name"] = encoder.node(value.name, depth + 1)
    node["attrs"] = encoder.at(".attrs", encoder.node, dict(value.attrs), depth + 1)
    # Whether labels may stand twice, which pandas knows from 1.2 on.
    if not getattr(getattr(value, "flags", None), "allows_duplicate_labels", True):
        node["unique"] = True
    return node


def _decode_frame(decoder: Decoder, node: Node) -> Any:
    pandas = library("pandas")
    index, columns = _decode_index(decoder, node["index"]), _decode_index(decoder, node["columns"])
    arrays = [_decode_column(decoder, column) for column in field(node, "data", list)]
    if len(arrays) != len(columns) or any(len(array) != len(index) for array in arrays):
        raise MalformedError("a frame whose columns and indexes do not fit")
    # A column of objects keeps its dtype only as a series that has it: pandas 3 looks for text in all others.
    data = {
        number: pandas.Series(array, index=index, dtype=object, copy=False) if array.dtype == object else array
        for number, array in enumerate(arrays)
    }
    frame = pandas.DataFrame(data, index=index, copy=False) if data else pandas.DataFrame(index=index)
    frame.columns = columns
    return _with_attributes(decoder, node, frame)


def _decode_series(decoder: Decoder, node: Node) -> Any:
    data, index = _decode_column(decoder, node["data"]), _decode_index(decoder, node["index"])
    dtype = object if data.dtype == object else None
    series = library("pandas").Series(data, index=index, dtype=dtype, name=decoder.value(node["name"]), copy=False)
    return _with_attributes(decoder, node, series)


def _with_attributes(decoder: Decoder, node: Node, value: Any) -> Any:
    value.attrs.update(field({"attrs": decoder.value(node["attrs"])}, "attrs", dict))
    if node.get("unique"):
        value.flags.allows_duplicate_labels = False
    return value


def _timestamp(decoder: Decoder, node: Node) -> Any:
    instant = library("pandas").Timestamp(_datetime64("datetime64", node))
    zone = _pandas_zone(node)
    return instant if zone is None else instant.tz_localize("UTC").tz_convert(zone)


def _datetime64(kind: str, node: Node) -> Any:
    ticks, unit = field(node, "v", int), field(node, "unit", str)
    if unit not in ("s", "ms", "us", "ns"):
        raise MalformedError(f"no pandas scalar counts in {unit[:80]!r}")
    return getattr(library("numpy"), kind)(ticks, unit)


def _period(decoder: Decoder, node: Node) -> Any:
    return library("pandas").Period(ordinal=field(node, "v", int), freq=_decode_period_name(node["freq"]))


def _interval(decoder: Decoder, node: Node) -> Any:
    left, right = decoder.value(node["left"]), decoder.value(node["right"])
    return library("pandas").Interval(left, right, field(node, "closed", str))


# --- columns and indexes ----------------------------------------------------------------------------------


def _encode_column(encoder: Encoder, array: Any, depth: int) -> Node:
    """Return the entry for a pandas array."""
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
        left = _encode_column(encoder, array.left.array, depth)
        right = _encode_column(encoder, array.right.array, depth)
        return {"kind": "interval", "left": left, "right": right, "closed": array.closed}
    if isinstance(dtype, getattr(pandas, "ArrowDtype", ())):
        chunks = array.__arrow_array__()
        return {"kind": "arrow", "b": write_ipc(encoder, library("pyarrow").table({"": chunks}))}
    raise NoCodecError("", f"pandas dtype {dtype}")


def _encode_categories(encoder: Encoder, array: Any, depth: int) -> Node:
    return {
        "kind": "category",
        "b": write_npy(encoder, array.codes),
        "categories": _encode_index(encoder, array.dtype.categories, depth),
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


def _encode_index(encoder: Encoder, index: Any, depth: int) -> Node:
    """Return the entry for an index of any kind."""
    pandas = library("pandas")
    names = [encoder.node(name, depth + 1) for name in index.names]
    if isinstance(index, pandas.RangeIndex):
        return {"kind": "range", "v": [index.start, index.stop, index.step], "names": names}
    if isinstance(index, pandas.MultiIndex):
        return {
            "kind": "multi",
            "levels": [_encode_index(encoder, level, depth) for level in index.levels],
            "codes": [write_npy(encoder, library("numpy").asarray(codes)) for codes in index.codes],
            "names": names,
        }
    node: Node = {"kind": "flat", "data": _encode_column(encoder, index.array, depth), "names": names}
    frequency = _encode_frequency(index)
    if frequency is not None:
        node["freq"] = frequency
    return node


def _pandas_zone(node: Node) -> Any:
    """Return a zone as pandas takes it: a name, which each version looks up where it likes; else a fixed offset."""
    if "zone" not in node:
        return decode_zone(node)
    name = field(node, "zone", str)
    if not _ZONE.fullmatch(name):
        raise MalformedError(f"no time zone is called {name[:80]!r}")
    return name


def _decode_column(decoder: Decoder, node: Node) -> Any:
    """Return the array in an entry."""
    kind = field(node, "kind", str)
    if kind not in _KINDS:
        raise MalformedError(f"unknown kind of column {kind[:80]!r}")
    return _KINDS[kind](decoder, node)


def _decode_categories(decoder: Decoder, node: Node) -> Any:
    categories = _decode_index(decoder, node["categories"])
    ordered = field(node, "ordered", bool)
    return library("pandas").Categorical.from_codes(read_npy(decoder, node["b"]), categories, ordered=ordered)


def _decode_zoned(decoder: Decoder, node: Node) -> Any:
    instants = library("pandas").Series(read_npy(decoder, node["b"]))
    return instants.dt.tz_localize("UTC").dt.tz_convert(_pandas_zone(node)).array


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
    dtype = pandas.PeriodDtype(_decode_period_name(node["freq"]))
    return pandas.arrays.PeriodArray(read_npy(decoder, node["b"]), dtype=dtype)


def _decode_interval(decoder: Decoder, node: Node) -> Any:
    pandas = library("pandas")
    left, right = _decode_column(decoder, node["left"]), _decode_column(decoder, node["right"])
    return pandas.arrays.IntervalArray.from_arrays(pandas.Index(left), pandas.Index(right), field(node, "closed", str))


def _decode_arrow(decoder: Decoder, node: Node) -> Any:
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


def _decode_index(decoder: Decoder, node: Node) -> Any:
    """Return the index in an entry."""
    pandas, kind = library("pandas"), field(node, "kind", str)
    names: List[Any] = [decoder.value(name) for name in field(node, "names", list)]
    if kind == "range":
        start, stop, step = (field({"v": bound}, "v", int) for bound in field(node, "v", list))
        return pandas.RangeIndex(start, stop, step, name=names[0])
    if kind == "multi":
        levels = [_decode_index(decoder, level) for level in field(node, "levels", list)]
        codes = [read_npy(decoder, number) for number in field(node, "codes", list)]
        return pandas.MultiIndex(levels=levels, codes=codes, names=names)
    data = _decode_column(decoder, field(node, "data", dict))
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
        index.freq = _decode_frequency(node["freq"])
    return index


def _version_of(decoder: Decoder) -> Any:
    major, _, rest = decoder.libraries.get("pandas", "3.0").partition(".")
    return int(major), int(rest.partition(".")[0])


# --- names of frequencies ---------------------------------------------------------------------------------

# pandas 2.2 changed them; the wire has those of the writer. See "Deprecations" in its release notes.
# Of offsets, by their names before pandas 2.2.
_NEW_OFFSETS = {
    "M": "ME", "Q": "QE", "A": "YE", "AS": "YS", "BM": "BME", "BQ": "BQE", "BA": "BYE", "BAS": "BYS", "SM": "SME",
    "CBM": "CBME", "H": "h", "BH": "bh", "CBH": "cbh", "T": "min", "S": "s", "L": "ms", "U": "us", "N": "ns",
}  # fmt: skip
_NEW_PERIODS = {"A": "Y", **{old: _NEW_OFFSETS[old] for old in "HTSLUN"}}
_NAME = re.compile(r"(-?\d*)([A-Za-z]{1,4})(-[A-Z0-9]{1,4})?")


def _encode_frequency(index: Any) -> Any:
    """Return an index's frequency: its name, or what a ``DateOffset`` is made of; else None, and it stays behind."""
    pandas = library("pandas")
    frequency = getattr(index, "freq", None)
    if frequency is None or isinstance(index, pandas.PeriodIndex):
        return None
    if type(frequency) is pandas.DateOffset:
        parts = frequency.kwds
        return {"n": frequency.n, "parts": parts} if all(type(part) is int for part in parts.values()) else None
    name = frequency.freqstr
    if not _NAME.fullmatch(name) or pandas.tseries.frequencies.to_offset(name) != frequency:
        return None
    return name


def _decode_frequency(node: Any) -> Any:
    """Return the frequency in an entry."""
    if type(node) is not dict:
        return _translate(node, _NEW_OFFSETS)
    parts = field(node, "parts", dict)
    if not all(type(part) is int for part in parts.values()):
        raise MalformedError("a DateOffset of something else than numbers")
    return library("pandas").DateOffset(field(node, "n", int), **parts)


def _decode_period_name(name: Any) -> str:
    """Return the name that this pandas gives to the frequency of periods."""
    return _translate(name, _NEW_PERIODS)


def _translate(name: Any, new: Any) -> str:
    match = _NAME.fullmatch(name) if type(name) is str else None
    if match is None:
        raise MalformedError(f"no frequency is called {str(name)[:80]!r}")
    names = new if version(library("pandas")) >= (2, 2) else {value: key for key, value in new.items()}
    count, base, anchor = match.groups()
    return f"{count}{names.get(base, base)}{anchor or ''}"


DECODERS: Dict[str, Callable[[Decoder, Node], Any]] = {
    "pandas.frame": _decode_frame,
    "pandas.series": _decode_series,
    "pandas.index": lambda decoder, node: _decode_index(decoder, node["index"]),
    "pandas.timestamp": _timestamp,
    "pandas.timedelta": lambda decoder, node: library("pandas").Timedelta(_datetime64("timedelta64", node)),
    "pandas.period": _period,
    "pandas.interval": _interval,
    "pandas.NaT": lambda decoder, node: library("pandas").NaT,
    "pandas.NA": lambda decoder, node: library("pandas").NA,
}
