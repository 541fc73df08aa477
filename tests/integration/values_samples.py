# ruff: noqa: UP006 -- Python 3.8
"""Write sample values with one interpreter and check them in another; runs on every Python from 3.8.

``write FOLDER`` leaves each sample in a file. ``read FOLDER…`` makes the same samples again, compares them with what
the files say, and prints as JSON what is wrong with each, or None.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import importlib
import json
import math
import pathlib
import sys
import traceback
import uuid
from typing import Any, Callable, Dict  # noqa: UP035 -- Python 3.8

from k8s_venv.wire import values

Sample = Callable[[], Any]
UTC = datetime.timezone.utc  # noqa: UP017 -- Python 3.8

PLAIN: Dict[str, Sample] = {
    "json": lambda: {"args": [None, True, 1, -2.5, "żółw", {"a": []}], "kwargs": {}},
    "numbers": lambda: (10**5000, -(2**70), -0.0, math.inf, complex(1, -0.0), decimal.Decimal("-1.50E+7")),
    "text": lambda: ["\ud800", "\ud800\udc00", "\U0001f40d", b"\x00", bytearray(b"x")],
    "keys": lambda: {1: "a", (1, "b"): {2: frozenset([3])}, None: [{4}], "$": 5, 2.5: 6},
    "times": lambda: [
        datetime.datetime(2020, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
        datetime.datetime(2020, 1, 2, fold=1),
        datetime.datetime(1, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(seconds=-7, microseconds=3))),
        datetime.time(1, 2, 3),
        datetime.date(2020, 2, 29),
        datetime.timedelta(-1, 2, 3),
    ],
    "scalars": lambda: [uuid.UUID(int=7), pathlib.Path("/a b"), pathlib.PureWindowsPath("c:\\x")],
    "containers": lambda: [
        collections.OrderedDict([(1, 2)]),
        collections.deque([1], 3),
        collections.Counter("aab"),
        collections.defaultdict(list, {1: [2]}),
    ],
}


def _arrays() -> Any:
    import numpy as np

    return [
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array(["2020", "NaT"], "M8[s]"),
        np.array(["a", "ż"]),
        np.zeros(2, [("a", "i1"), ("b", ">f8", (2,))]),
        np.array([1, None, "x"], object),
        np.float32(1.5),
        np.datetime64("2020-01-01"),
        np.bool_(True),
    ]


def _is_old() -> bool:
    import pandas as pd

    return tuple(map(int, pd.__version__.split(".")[:2])) < (2, 2)


def _frame() -> Any:
    import numpy as np
    import pandas as pd

    instants = pd.Series(["2020-01-01", None, "2021-01-01T12:00"], dtype="datetime64[ns]")
    frame = pd.DataFrame(
        {
            "i": np.array([1, 2, 3], "i2"),
            "f": [1.5, None, -0.0],
            "b": [True, False, True],
            "o": pd.Series([1, (2, "x"), None], dtype=object),
            "d": instants,
            "z": instants.dt.tz_localize("Europe/Berlin"),
            "u": instants.dt.tz_localize("UTC"),
            "x": instants.dt.tz_localize(datetime.timezone(datetime.timedelta(hours=2))),
            "t": pd.Series([1, None, 3], dtype="timedelta64[ns]"),
            "c": pd.Categorical([3, 1, None], ordered=True),
            "I": pd.array([1, None, 3], "Int64"),
            "B": pd.array([True, None, False], "boolean"),
            "F": pd.array([1.5, None, 2], "Float64"),
            "s": pd.array(["a", None, "b"], pd.StringDtype("python")),
            "p": pd.PeriodIndex(["2020-01", None, "2020-03"], freq="M"),
            "y": pd.period_range("2020", periods=3, freq="A-MAR" if _is_old() else "Y-MAR"),
            "v": pd.arrays.IntervalArray.from_breaks([0, 1, 2, 3]),
        }
    )
    frame.index = pd.MultiIndex.from_arrays([[1, 1, 2], [1.5, 2.5, 1.5]], names=["a", None])
    frame.attrs["source"] = ("a", 1)
    return frame


def _frequencies() -> Any:
    pd: Any = importlib.import_module("pandas")

    names = "M BM SM QS Q-DEC A-DEC AS-MAR D B W-SUN H 2T 3S L" if _is_old() else ""
    names = names or "ME BME SME QS QE-DEC YE-DEC YS-MAR D B W-SUN h 2min 3s ms"
    indexes = [pd.date_range(pd.Timestamp(2020, 1, 1), periods=3, freq=name) for name in names.split()]
    indexes = [pd.DatetimeIndex(index.astype("datetime64[ns]"), freq=index.freq) for index in indexes]
    return [pd.Series([1, 2, 3], index=index) for index in indexes]


def _pandas_scalars() -> Any:
    import pandas as pd

    return [
        pd.Timestamp("2020-01-01T01:02:03.123456789"),
        pd.Timestamp("2020-07-01T01:02:03.000000001", tz="Europe/Berlin"),
        pd.Timedelta(5, "ns"),
        pd.Period("2020-01", freq="M"),
        pd.Interval(1, 2, "both"),
    ]


def _text() -> Any:
    import pandas as pd

    return pd.DataFrame({"t": ["a", math.nan, "b"], "all": ["x", "y", "z"]}, index=["k", "l", "m"])


def _pyarrow() -> Any:
    import pyarrow as pa

    return pa.table({"a": [1, None], "s": ["x", None], "l": [[1], []]})


def _polars() -> Any:
    pl: Any = importlib.import_module("polars")
    return pl.DataFrame({"a": [1, None], "s": ["x", None], "l": [[1], []]})


def _same(found: Any, expected: Any) -> None:
    """Compare two values, types included."""
    kind = type(expected)
    assert type(found) is kind, (type(found), kind)
    package = kind.__module__.partition(".")[0]
    if kind in (list, tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected):  # noqa: B905 -- Python 3.8
            _same(one, other)
    elif package == "numpy":
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert str(found) == str(expected)
        assert found.dtype == object or found.tobytes() == expected.tobytes()
    elif package == "pandas" and kind.__name__ in ("DataFrame", "Series"):
        import pandas as pd

        check = pd.testing.assert_frame_equal if kind.__name__ == "DataFrame" else pd.testing.assert_series_equal
        # Text has a type of its own since pandas 3: see the section on versions in the runner's README.
        check(_objects(found), _objects(expected), check_freq=True)
        assert found.attrs == expected.attrs
    elif package in ("pyarrow", "polars"):
        assert found.equals(expected)
    elif isinstance(expected, BaseException):
        assert (repr(found), vars(found)) == (repr(expected), vars(expected))
    else:
        assert found == expected
        assert kind is int or str(found) == str(expected)  # an integer may have too many digits to show


def _objects(frame: Any) -> Any:
    frame = frame.copy()
    if frame.ndim == 2:
        frame.columns = frame.columns.astype(object)
        frame = frame.astype({name: object for name in frame.columns if str(frame[name].dtype) == "str"})
    if str(frame.index.dtype) == "str":
        frame.index = frame.index.astype(object)
    return frame


def _standard() -> Any:
    import fractions
    import ipaddress
    import re

    return [
        range(1, 10**20, 3),
        slice(None, 2, "x"),
        fractions.Fraction(-1, 3),
        [ipaddress.ip_address("10.0.0.1"), ipaddress.ip_network("::/8"), ipaddress.ip_interface("10.0.0.1/8")],
        [re.compile("a[b-d]+", re.IGNORECASE | re.VERBOSE), re.compile(b"x")],
        [ValueError("x", 1), FileNotFoundError(2, "No such file", "/a"), ImportError("no", name="a")],
        collections.defaultdict(collections.OrderedDict, {1: collections.OrderedDict(a=1)}),
        datetime.time(1, tzinfo=datetime.timezone(datetime.timedelta(hours=2), "CEST")),
    ]


SAMPLES: Dict[str, Sample] = {
    **PLAIN,
    "standard": _standard,
    "arrays": _arrays,
    "frame": _frame,
    "frequencies": _frequencies,
    "pandas-scalars": _pandas_scalars,
    "text-frame": _text,
    "pyarrow": _pyarrow,
    "polars": _polars,
}


def write(folder: pathlib.Path) -> None:
    """Leave each sample that this environment has the libraries for in a file."""
    for name, make in SAMPLES.items():
        try:
            value = make()
        except ImportError:
            continue
        (folder / f"{name}.bin").write_bytes(values.dumps(value))


def read(folder: pathlib.Path) -> Dict[str, Any]:
    """Return what is wrong with each sample in a folder, as far as this environment has the libraries."""
    problems: Dict[str, Any] = {}
    for file in sorted(folder.glob("*.bin")):
        try:
            expected = SAMPLES[file.stem]()
        except ImportError:
            continue
        try:
            _same(values.loads(file.read_bytes()), expected)
        except Exception:  # noqa: BLE001 -- the test shows it
            problems[file.stem] = traceback.format_exc()
        else:
            problems[file.stem] = None
    return problems


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(pathlib.Path(sys.argv[2]))
    else:
        sys.stdout.write(json.dumps({path: read(pathlib.Path(path)) for path in sys.argv[2:]}))
