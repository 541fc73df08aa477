"""Arrays, frames and tables come out as they went in."""

from __future__ import annotations

import datetime
import decimal
import math
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k8s_venv.wire import values
from k8s_venv.wire.errors import MalformedError, MissingLibraryError, NoCodecError, UnreadableVersionError

np: Any = pytest.importorskip("numpy")
pd: Any = pytest.importorskip("pandas")
hypothesis_numpy: Any = pytest.importorskip("hypothesis.extra.numpy")


def round_trip(value: Any) -> Any:
    return values.loads(values.dumps(value))


def assert_same_array(one: Any, other: Any) -> None:
    assert (one.dtype, one.shape) == (other.dtype, other.shape)
    np.testing.assert_array_equal(one, other)
    assert one.flags.writeable


# --- numpy ------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    hypothesis_numpy.arrays(
        hypothesis_numpy.scalar_dtypes()
        | hypothesis_numpy.unicode_string_dtypes(max_len=4)
        | hypothesis_numpy.byte_string_dtypes(max_len=4)
        | hypothesis_numpy.array_dtypes(allow_subarrays=True).filter(lambda dtype: str(dtype).isascii()),
        hypothesis_numpy.array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=4),
    )
)
def test_any_array_and_its_items_come_out_as_they_went_in(array: Any) -> None:
    decoded = round_trip(array)
    assert (decoded.dtype, decoded.shape, decoded.tobytes()) == (array.dtype, array.shape, array.tobytes())
    for item in array.ravel()[:2]:
        again = round_trip(item)
        assert (type(again), again.dtype, again.tobytes()) == (type(item), item.dtype, item.tobytes())


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
        np.arange(10)[::-2],
        np.broadcast_to(np.array([1.5]), (2, 3)),
        np.array(5),
        np.zeros((0, 3)),
        np.arange(3, dtype=">i4"),
        np.array(["2020-01-01", "NaT"], "M8[s]"),
        np.array([1, 2], "m8[25us]"),
        np.zeros(3, np.dtype([("a", "i1"), ("b", "f8", (2,))], align=True)),
        np.zeros(2, [("ä", "i1"), ("nested", [("x", "U3")])]),
        np.array([1, None, "a", [1], {"b": (2,)}], object).reshape(5, 1),
        np.array([[], []], object),
        np.array(None, object),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_special_arrays_come_out_as_they_went_in(array: Any) -> None:
    assert_same_array(round_trip(array), array)


def test_memory_order_is_kept() -> None:
    assert round_trip(np.asfortranarray(np.ones((2, 3)))).flags.f_contiguous


@pytest.mark.parametrize(
    "scalar",
    [
        np.float64(1.5),
        np.int8(-3),
        np.bool_(True),
        np.str_(""),
        np.str_("żółw"),
        np.bytes_(b""),
        np.datetime64("NaT", "us"),
        np.timedelta64(5, "h"),
        np.complex64(1j),
        np.longdouble(1) / 3,
        np.void(b"abc"),
        np.zeros(1, [("a", "i1"), ("b", "f8")])[0],
    ],
    ids=lambda scalar: str(scalar.dtype),
)
def test_scalars_keep_their_types(scalar: Any) -> None:
    decoded = round_trip({"x": scalar})["x"]
    assert (type(decoded), decoded.dtype, decoded.tobytes()) == (type(scalar), scalar.dtype, scalar.tobytes())


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (np.zeros(2, [("a", object)]), "contains Python objects"),
        (np.zeros(2, [("蛇", "i1")]), "cannot name"),
        (np.zeros(1, [(f"field{n}", "i1") for n in range(2000)]), "cannot name"),
        (np.zeros(2, []), "items are empty"),
        (np.array([object()]), r"\[0\]: builtins.object"),
        (np.ma.array([1, 2], mask=[True, False]), "MaskedArray"),
    ],
    ids=["object field", "Unicode field", "many fields", "no fields", "object", "subclass"],
)
def test_arrays_that_cannot_travel_are_refused(array: Any, problem: str) -> None:
    with pytest.raises(NoCodecError, match=problem):
        values.dumps(array)


def test_fields_in_another_order_than_in_memory_are_refused() -> None:
    dtype = np.dtype({"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [4, 0], "itemsize": 16})
    with pytest.raises(NoCodecError, match=r"which npy 1\.0 cannot name"):
        values.dumps(np.zeros(2, dtype))


def test_a_large_array_is_not_copied_by_the_encoder() -> None:
    array = np.zeros(1000)
    parts = values.dump_parts({"a": array})
    assert any(np.shares_memory(np.frombuffer(part, "u1"), array) for part in parts[1:])


# --- pandas -----------------------------------------------------------------------------------------------

ZONE = datetime.timezone(datetime.timedelta(hours=5, minutes=30))
COLUMNS = {
    "int8": np.array([1, 2, 3], "i1"),
    "float": [1.5, np.nan, -0.0],
    "complex": np.array([1j, 2, 3]),
    "bool": [True, False, True],
    "text": ["a", "ż", None],
    "text as objects": pd.Series(["a", "b", "c"], dtype=object),
    "objects": pd.Series([1, "a", {"b": [None]}], dtype=object),
    "missing values as objects": pd.Series([None, np.nan, pd.NaT], dtype=object),
    "pandas scalars as objects": pd.Series([pd.Timestamp("2020"), pd.NA, pd.Timedelta(5)], dtype=object),
    "bytes": [b"a", b"", None],
    "datetime in seconds": pd.Series(["2020", None, "0001"], dtype="M8[s]"),
    "datetime in nanoseconds": pd.Series(["2020", None, "2021"], dtype="M8[ns]"),
    "zoned": pd.date_range("2020-10-25", periods=3, freq="h", tz="Europe/Berlin", unit="ms"),
    "UTC": pd.date_range("2020", periods=3, tz="UTC"),
    "fixed offset": pd.date_range("2020", periods=3, tz=ZONE),
    "timedelta": pd.to_timedelta([1, None, 3], unit="s"),
    "category": pd.Categorical(["b", None, "a"], categories=["b", "a", "unused"]),
    "ordered category": pd.Categorical([3, 1, 3], ordered=True),
    "category of times": pd.Categorical(pd.date_range("2020", periods=3, tz="UTC")),
    "Int64": pd.array([1, None, 2**62], "Int64"),
    "UInt8": pd.array([None, None, 255], "UInt8"),
    "Float32": pd.array([1.5, None, 2], "Float32"),
    "boolean": pd.array([True, None, False], "boolean"),
    "string": pd.array(["a", None, "b"], "string"),
    "python string": pd.array(["a", None, "\ud800"], pd.StringDtype("python")),
    "period": pd.PeriodIndex(["2020-01", None, "2020-03"], freq="M"),
    "yearly period": pd.period_range("2020", periods=3, freq="Y-MAR"),
    "interval": pd.arrays.IntervalArray.from_breaks([0, 1, 2, 3], closed="both"),
    "interval of times": pd.interval_range(pd.Timestamp("2020", tz="UTC"), periods=3, freq="D"),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_keep_their_dtypes(name: str) -> None:
    frame = pd.DataFrame({name: COLUMNS[name]})
    pd.testing.assert_frame_equal(round_trip(frame), frame, check_exact=True)
    pd.testing.assert_frame_equal(round_trip(frame[:0]), frame[:0])
    pd.testing.assert_series_equal(round_trip(frame[name][::-1]), frame[name][::-1])
    pd.testing.assert_index_equal(round_trip(pd.Index(frame[name])), pd.Index(frame[name]), exact=True)


def test_all_columns_together() -> None:
    frame = pd.DataFrame(COLUMNS)
    frame.attrs = {"source": ("a", datetime.date(2020, 1, 1))}
    decoded = round_trip({"frames": [frame]})["frames"][0]

    pd.testing.assert_frame_equal(decoded, frame)
    assert decoded.attrs == frame.attrs


INDEXES = {
    "range": pd.RangeIndex(7, 1, -2, name="r"),
    "text": pd.Index(["a", "b", "a"], name=("a", 1)),
    "text as objects": pd.Index(["a", "b", "c"], dtype=object),
    "missing text": pd.Index(["a", None, "c"]),
    "mixed": pd.Index([1, "a", (2, None)], tupleize_cols=False),
    "duplicates": pd.Index([1, 1, 2]),
    "small integers": pd.Index([1, 2, 3], dtype="i1"),
    "datetime": pd.DatetimeIndex(["2020", "2021", None], name="when"),
    "month ends": pd.date_range("2020", periods=3, freq="ME"),
    "hours in a zone": pd.date_range("2020-10-25", periods=3, freq="2h", tz="Europe/Berlin"),
    "business days": pd.bdate_range("2020", periods=3),
    "backwards": pd.date_range("2020", periods=3, freq="-1D"),
    "date offset": pd.date_range("2020", periods=3, freq=pd.DateOffset(months=2, days=1)),
    "timedelta": pd.timedelta_range(0, periods=3, freq="90s"),
    "period": pd.period_range("2020", periods=3, freq="Q-NOV"),
    "interval": pd.interval_range(0, 3),
    "category": pd.CategoricalIndex(["b", "a", "b"], ordered=True, name="c"),
    "multi": pd.MultiIndex.from_tuples([("a", 1), ("a", 1), (None, 2)], names=["x", None]),
    "multi with unused levels": pd.MultiIndex.from_product([["a", "b"], pd.date_range("2020", periods=3)])[:3],
}


@pytest.mark.parametrize("name", INDEXES)
def test_indexes_come_out_as_they_went_in(name: str) -> None:
    index = INDEXES[name]
    decoded = round_trip(index)
    pd.testing.assert_index_equal(decoded, index, exact=True)
    assert getattr(decoded, "freq", None) == getattr(index, "freq", None)
    rows = pd.DataFrame({"a": [1, 2, 3], "b": pd.Series(["x", "y", None], dtype=object).array}, index=index)
    pd.testing.assert_frame_equal(round_trip(rows), rows, check_freq=True)
    columns = pd.DataFrame([[1, "a", 2.5]], columns=index)
    pd.testing.assert_frame_equal(round_trip(columns), columns)


def test_a_frequency_without_a_name_stays_behind() -> None:
    index = pd.date_range("2020-01-06", periods=2, freq=pd.offsets.CustomBusinessDay(weekmask="Mon Wed"))
    decoded = round_trip(index)
    assert list(decoded) == list(index)
    assert decoded.freq is None


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame(),
        pd.DataFrame({"a": []}),
        pd.DataFrame(index=["x", "y"]),
        pd.DataFrame(columns=["x", "y"]),
        pd.DataFrame(columns=pd.MultiIndex.from_tuples([("a", 1)], names=["n", None])),
        pd.DataFrame([[1, "a", 2.5]], columns=["x", "x", None]),
        pd.DataFrame([[1, 2]], columns=[0, "a"], index=pd.Index([1.5], name="i")),
    ],
    ids=lambda frame: str(frame.shape),
)
def test_empty_and_odd_frames_come_out_as_they_went_in(frame: Any) -> None:
    pd.testing.assert_frame_equal(round_trip(frame), frame)


@pytest.mark.parametrize(
    "scalar",
    [
        pd.Timestamp("2020-01-01 01:02:03.123456789"),
        pd.Timestamp("0001-01-01").as_unit("s"),
        pd.Timestamp("2020-10-25 00:30", tz="UTC").tz_convert("Europe/Berlin"),
        pd.Timestamp("2020-10-25 01:30", tz="UTC").tz_convert("Europe/Berlin"),
        pd.Timestamp("2020", tz=ZONE),
        pd.Timedelta(-5),
        pd.Period("2020-01", freq="M"),
        pd.Interval(1, 2.5, "neither"),
        pd.Interval(pd.Timestamp("2020", tz="UTC"), pd.Timestamp("2021", tz="UTC")),
    ],
    ids=str,
)
def test_pandas_scalars_come_out_as_they_went_in(scalar: Any) -> None:
    decoded = round_trip([scalar])[0]
    assert (type(decoded), decoded, str(decoded)) == (type(scalar), scalar, str(scalar))
    assert getattr(decoded, "unit", None) == getattr(scalar, "unit", None)


def test_missing_values_stay_the_ones_they_are() -> None:
    decoded = round_trip([pd.NaT, pd.NA])
    assert decoded[0] is pd.NaT
    assert decoded[1] is pd.NA


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.none() | st.floats() | st.text(max_size=3) | st.binary(max_size=3), min_size=2, max_size=2)),
    st.lists(st.none() | st.text(max_size=2) | st.integers(-9, 9), min_size=2, max_size=2),
)
def test_any_frame_of_objects_comes_out_as_it_went_in(rows: list[Any], labels: list[Any]) -> None:
    frame = pd.DataFrame(rows, columns=pd.Index(labels, dtype=object), dtype=object)
    pd.testing.assert_frame_equal(round_trip(frame), frame, check_exact=True)


def test_what_a_frame_holds_without_a_codec_is_named_with_its_place() -> None:
    with pytest.raises(NoCodecError) as caught:
        values.dumps({"frame": pd.DataFrame({"x": [1, object()]})})
    assert caught.value.path == "['frame']['x'][1]"
    with pytest.raises(NoCodecError, match=r"\['x'\]: pandas dtype Sparse"):
        values.dumps(pd.DataFrame({"x": pd.arrays.SparseArray([0, 1])}))


def test_the_flag_against_duplicate_labels_is_kept() -> None:
    for value in (pd.DataFrame({"a": [1]}), pd.Series([1])):
        flagged = value.set_flags(allows_duplicate_labels=False)
        assert not round_trip(flagged).flags.allows_duplicate_labels
        assert round_trip(value).flags.allows_duplicate_labels


def test_nan_among_nullable_numbers_stays_nan() -> None:
    numbers = np.array([math.nan, 1.0, 2.0])
    column = round_trip(pd.Series(pd.arrays.FloatingArray(numbers, np.array([False, True, False]))))
    assert math.isnan(column[0])
    assert column[1] is pd.NA


def test_items_of_a_record_array_keep_their_attributes() -> None:
    records = np.rec.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")])
    assert (type(round_trip(records[0])), round_trip(records[0]).b) == (np.record, 2.5)
    assert round_trip(records.view(np.ndarray))[0].a == 1


def test_decoded_columns_can_be_written_to() -> None:
    frame = round_trip(pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]}))
    frame.loc[0, "a"] = 5.0
    frame.iloc[1, 1] = "z"
    assert frame.to_dict("list") == {"a": [5.0, 2.0], "b": ["x", "z"]}


# --- Arrow ------------------------------------------------------------------------------------------------


def test_pyarrow_tables_and_batches_come_out_as_they_went_in() -> None:
    pa: Any = pytest.importorskip("pyarrow")
    table = pa.table(
        {
            "a": [1, 2, None],
            "s": ["x", None, "y"],
            "l": [[1], [], None],
            "d": pa.array(["a", "b", "a"]).dictionary_encode(),
        }
    )
    table = table.replace_schema_metadata({"k": "v"})
    batch = pa.record_batch({"a": [1, 2, 3]})

    assert round_trip(table).equals(table, check_metadata=True)
    assert round_trip(table[:0]).equals(table[:0])
    assert round_trip(batch.slice(1, 1)).equals(batch.slice(1, 1))
    assert round_trip(batch.slice(0, 0)).equals(batch.slice(0, 0))
    with pytest.raises(NoCodecError, match=r"a pyarrow.RecordBatch of 3 rows without a column"):
        values.dumps(batch.select([]))


def test_columns_of_arrow_types_come_out_as_they_went_in() -> None:
    pa: Any = pytest.importorskip("pyarrow")
    frame = pd.DataFrame(
        {
            "a": pd.Series([1, None, 3], dtype=pd.ArrowDtype(pa.int32())),
            "t": pd.Series(["2020", None, "2021"], dtype="M8[us]").astype(pd.ArrowDtype(pa.timestamp("us", "UTC"))),
            "l": pd.Series([[1], None, []], dtype=pd.ArrowDtype(pa.list_(pa.int8()))),
        }
    )
    pd.testing.assert_frame_equal(round_trip(frame), frame)
    pd.testing.assert_frame_equal(round_trip(frame[:0]), frame[:0])


def test_polars_frames_and_series_come_out_as_they_went_in() -> None:
    pl: Any = pytest.importorskip("polars")
    frame = pl.DataFrame({"a": [1, None], "s": ["x", None], "l": [[1], []], "d": [datetime.date(2020, 1, 1), None]})
    frame = frame.with_columns(c=pl.col("s").cast(pl.Categorical))

    assert round_trip(frame).equals(frame)
    assert round_trip(frame).schema == frame.schema
    assert round_trip(frame.clear()).equals(frame.clear())
    assert round_trip(frame["l"]).equals(frame["l"])
    assert round_trip(frame["l"]).name == "l"
    with pytest.raises(NoCodecError, match=r"polars\.lazyframe"):
        values.dumps(frame.lazy())


def test_types_of_polars_columns_stay_what_they_are() -> None:
    pl: Any = pytest.importorskip("polars")
    sizes = pl.Enum(["small", "large"])
    frame = pl.DataFrame(
        {
            "enum": pl.Series(["small", None], dtype=sizes),
            "enums": pl.Series([["large"], None], dtype=pl.List(sizes)),
            "struct": pl.Series([{"a": 1, "size": "small"}, None], dtype=pl.Struct({"a": pl.Int8, "size": sizes})),
            "array": pl.Series([[1, 2], None], dtype=pl.Array(pl.Int16, 2)),
            "decimal": pl.Series([decimal.Decimal("1.50"), None], dtype=pl.Decimal(10, 2)),
            "time": [datetime.time(1, 2), None],
            "duration": pl.Series([datetime.timedelta(1), None], dtype=pl.Duration("ms")),
            "zoned": pl.Series([datetime.datetime(2024, 1, 1), None]).dt.replace_time_zone("Europe/Berlin"),
        }
    )
    assert round_trip(frame).equals(frame)
    assert round_trip(frame).schema == frame.schema
    for column in frame.get_columns():
        assert round_trip(column).dtype == column.dtype


def test_a_type_that_a_polars_reads_as_another_is_restored_or_refused() -> None:
    pl: Any = pytest.importorskip("polars")
    data = values.dumps(pl.Series("x", ["a", None]))

    restored = values.loads(_with_type(data, '[["Enum",["a"]]]'))
    assert (restored.dtype, restored.to_list()) == (pl.Enum(["a"]), ["a", None])
    with pytest.raises(MalformedError, match="a column of Strong, which it reads as String"):
        values.loads(_with_type(data, '["Strong"]'))


def _with_type(data: bytes, dtypes: str) -> bytes:
    """Return an encoded column of text that says to be of another type."""
    length = int.from_bytes(data[5:13], "big")
    head = data[13 : 13 + length].replace(b'["String"]', dtypes.encode())
    return data[:5] + len(head).to_bytes(8, "big") + head + data[13 + length :]


def test_python_objects_in_polars_are_refused_with_the_columns_name() -> None:
    pl: Any = pytest.importorskip("polars")
    objects = pl.Series("o", [{1}, object()], dtype=pl.Object)
    with pytest.raises(NoCodecError, match=r"\['o'\]: a polars column of Python objects"):
        values.dumps(pl.DataFrame([objects, pl.Series("n", [1, 2])]))
    with pytest.raises(NoCodecError, match="the value itself: a polars column of Python objects"):
        values.dumps(objects)


# --- what this side cannot hold ---------------------------------------------------------------------------


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    data = values.dumps([pd.Timestamp("2020")])
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingLibraryError, match="needs pandas"):
        values.loads(data)


def test_what_only_another_version_can_hold_is_an_error_with_both_versions() -> None:
    data = values.dumps(pd.Period("2020", freq="D")).replace(b'"freq":"D"', b'"freq":"X"')
    with pytest.raises(MalformedError, match="Invalid frequency"):
        values.loads(data)
    version = f'"pandas":"{pd.__version__}"'.encode()
    other = b'"pandas":"' + b"9" * len(pd.__version__) + b'"'
    with pytest.raises(
        UnreadableVersionError, match=f"written with pandas 9+ and cannot be read with pandas {pd.__version__}"
    ):
        values.loads(data.replace(version, other))
