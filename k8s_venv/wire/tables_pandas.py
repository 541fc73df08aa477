"""Codecs for pandas frames, series, indexes and scalars: one column after the other, each with the dtype it has.

They need no pyarrow, and no version of pandas on both sides. What columns and indexes may be stands in
``pandas_columns``.
"""

from __future__ import annotations

from k8s_venv.wire.decoder import field
from k8s_venv.wire.errors import MalformedError
from k8s_venv.wire.libraries import library
from k8s_venv.wire.pandas_columns import decode_column, decode_index, encode_column, encode_index, pandas_zone
from k8s_venv.wire.pandas_frequencies import decode_period_name
from k8s_venv.wire.zones import encode_zone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional

    from k8s_venv.wire.decoder import Decoder
    from k8s_venv.wire.encoder import Encoder
    from k8s_venv.wire.registry import Node


def encode(encoder: Encoder, value: Any, depth: int) -> Optional[Node]:
    """Return the node for a pandas object, or None when there is no codec for it."""
    pandas, kind = library("pandas"), type(value)
    if kind is pandas.DataFrame:
        return _encode_frame(encoder, value, depth)
    if kind is pandas.Series:
        return {
            "$": "pandas.series",
            "index": encoder.at(".index", encode_index, encoder, value.index, depth),
            "data": encode_column(encoder, value.array, depth),
            "name": encoder.node(value.name, depth + 1),
            "attrs": encoder.at(".attrs", encoder.node, dict(value.attrs), depth + 1),
            **_unique(value),
        }
    if isinstance(value, pandas.Index):
        return {"$": "pandas.index", "index": encode_index(encoder, value, depth)}
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


def _encode_frame(encoder: Encoder, frame: Any, depth: int) -> Node:
    return {
        "$": "pandas.frame",
        "index": encoder.at(".index", encode_index, encoder, frame.index, depth),
        "columns": encoder.at(".columns", encode_index, encoder, frame.columns, depth),
        "data": [
            encoder.at(f"[{label!r}]", encode_column, encoder, frame.iloc[:, position].array, depth)
            for position, label in enumerate(frame.columns)
        ],
        "attrs": encoder.at(".attrs", encoder.node, dict(frame.attrs), depth + 1),
        **_unique(frame),
    }


def _unique(value: Any) -> Node:
    """Return the mark of a frame or series that allows no duplicate labels, which pandas has from 1.2 on."""
    return {} if getattr(getattr(value, "flags", None), "allows_duplicate_labels", True) else {"unique": True}


def _restore_flags(value: Any, node: Node) -> Any:
    if node.get("unique"):
        value.flags.allows_duplicate_labels = False
    return value


def _decode_frame(decoder: Decoder, node: Node) -> Any:
    pandas = library("pandas")
    index, columns = decode_index(decoder, node["index"]), decode_index(decoder, node["columns"])
    arrays = [decode_column(decoder, column) for column in field(node, "data", list)]
    if len(arrays) != len(columns) or any(len(array) != len(index) for array in arrays):
        raise MalformedError("a frame whose columns and indexes do not fit")
    # A column of objects keeps its dtype only as a series that has it: pandas 3 looks for text in all others.
    data = {
        number: pandas.Series(array, index=index, dtype=object, copy=False) if array.dtype == object else array
        for number, array in enumerate(arrays)
    }
    frame = pandas.DataFrame(data, index=index, copy=False) if data else pandas.DataFrame(index=index)
    frame.columns = columns
    frame.attrs.update(field({"attrs": decoder.value(node["attrs"])}, "attrs", dict))
    return _restore_flags(frame, node)


def _decode_series(decoder: Decoder, node: Node) -> Any:
    data, index = decode_column(decoder, node["data"]), decode_index(decoder, node["index"])
    dtype = object if data.dtype == object else None
    series = library("pandas").Series(data, index=index, dtype=dtype, name=decoder.value(node["name"]), copy=False)
    series.attrs.update(field({"attrs": decoder.value(node["attrs"])}, "attrs", dict))
    return _restore_flags(series, node)


def _timestamp(decoder: Decoder, node: Node) -> Any:
    instant = library("pandas").Timestamp(_datetime64("datetime64", node))
    zone = pandas_zone(node)
    return instant if zone is None else instant.tz_localize("UTC").tz_convert(zone)


def _datetime64(kind: str, node: Node) -> Any:
    ticks, unit = field(node, "v", int), field(node, "unit", str)
    if unit not in ("s", "ms", "us", "ns"):
        raise MalformedError(f"no pandas scalar counts in {unit[:80]!r}")
    return getattr(library("numpy"), kind)(ticks, unit)


def _period(decoder: Decoder, node: Node) -> Any:
    return library("pandas").Period(ordinal=field(node, "v", int), freq=decode_period_name(node["freq"]))


def _interval(decoder: Decoder, node: Node) -> Any:
    left, right = decoder.value(node["left"]), decoder.value(node["right"])
    return library("pandas").Interval(left, right, field(node, "closed", str))


DECODERS: Dict[str, Callable[[Decoder, Node], Any]] = {
    "pandas.frame": _decode_frame,
    "pandas.series": _decode_series,
    "pandas.index": lambda decoder, node: decode_index(decoder, node["index"]),
    "pandas.timestamp": _timestamp,
    "pandas.timedelta": lambda decoder, node: library("pandas").Timedelta(_datetime64("timedelta64", node)),
    "pandas.period": _period,
    "pandas.interval": _interval,
    "pandas.NaT": lambda decoder, node: library("pandas").NaT,
    "pandas.NA": lambda decoder, node: library("pandas").NA,
}
