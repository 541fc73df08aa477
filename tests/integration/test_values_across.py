"""Values cross between Python versions and library versions, in both directions, through real processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.interpreters import environment, run_code

ENVIRONMENTS = {
    "3.8 alone": ("3.8",),
    "3.8, pandas 1.5": ("3.8", "pandas==1.5.*", "numpy==1.*"),
    "3.8, pandas 2.0, pyarrow, polars": ("3.8", "pandas==2.0.*", "pyarrow", "polars"),
    "3.12, pandas 2.2, pyarrow, polars": ("3.12", "pandas==2.2.*", "numpy==2.*", "pyarrow", "polars"),
    "3.12, pandas 3, pyarrow, polars": ("3.12", "pandas==3.*", "pyarrow", "polars"),
    "3.13, pandas 3": ("3.13", "pandas==3.*"),
    **{f"{version} alone": (version,) for version in ("3.9", "3.10", "3.11")},
}
SCRIPT = (Path(__file__).parent / "values_samples.py").read_text("utf-8")
SHOW = """
import sys
from k8s_venv.wire import values
try:
    value = values.loads(open(sys.argv[1], "rb").read())
except Exception as error:
    print(f"{type(error).__name__}: {error}")
else:
    exec(sys.argv[2])
"""


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a folder for each environment, with the samples that it wrote."""
    folders = {name: tmp_path_factory.mktemp("values") for name in ENVIRONMENTS}
    for name, folder in folders.items():
        run_code(environment(*ENVIRONMENTS[name]), SCRIPT, "write", str(folder))
    return folders


@pytest.mark.parametrize("reader", ENVIRONMENTS)
def test_what_any_environment_writes_another_reads(reader: str, written: dict[str, Path]) -> None:
    python = environment(*ENVIRONMENTS[reader])

    problems = json.loads(run_code(python, SCRIPT, "read", *map(str, written.values())))

    for writer, folder in written.items():
        found = problems[str(folder)]
        assert len(found) >= 7  # the plain values need no library
        assert not any(found.values()), "\n".join(f"{name} of {writer}: {text}" for name, text in found.items() if text)


def carry(tmp_path: Path, writer: str, expression: str, reader: str, show: str) -> str:
    """Make a value with pandas in one environment and return what another prints about it."""
    file = tmp_path / "value.bin"
    code = f"""
import sys
from k8s_venv.wire import values
import pandas as pd
open(sys.argv[1], "wb").write(values.dumps({expression}))
"""
    run_code(environment(*ENVIRONMENTS[writer]), code, str(file))
    return run_code(environment(*ENVIRONMENTS[reader]), SHOW, str(file), show).strip()


OLD, MIDDLE, NEW = "3.8, pandas 1.5", "3.8, pandas 2.0, pyarrow, polars", "3.12, pandas 3, pyarrow, polars"


@pytest.mark.parametrize("reader", [OLD, MIDDLE])
def test_text_of_pandas_3_becomes_objects_with_nan_before(reader: str, tmp_path: Path) -> None:
    frame = "pd.DataFrame({'t': ['a', None]}, index=['x', 'y'])"
    shown = carry(tmp_path, NEW, frame, reader, "print(value.t.dtype, list(value.t), value.index.dtype)")
    assert shown == "object ['a', nan] object"


def test_labels_of_text_become_text_in_pandas_3_but_data_stays_as_it_was(tmp_path: Path) -> None:
    frame = "pd.DataFrame({'t': ['a', None]}, index=['x', 'y'])"
    shown = carry(
        tmp_path, OLD, frame, NEW, "print(value.t.dtype, list(value.t), value.index.dtype, value.columns.dtype)"
    )
    assert shown == "object ['a', None] str str"


def test_other_units_become_nanoseconds_in_pandas_1(tmp_path: Path) -> None:
    index = "pd.to_timedelta(['1s', '2s']).as_unit('ms')"
    frame = f"pd.DataFrame({{'t': pd.Series(['2020', None], dtype='M8[s]').array}}, index={index})"
    shown = carry(tmp_path, NEW, frame, OLD, "print(value.t.dtype, value.t.iloc[0], value.index.dtype)")
    assert shown == "datetime64[ns] 2020-01-01 00:00:00 timedelta64[ns]"


@pytest.mark.parametrize(
    "value",
    [
        "pd.Series(['0001-01-01'], dtype='M8[s]')",
        "pd.Series(['0001-01-01'], dtype='M8[s]').dt.tz_localize('UTC')",
        "pd.DatetimeIndex(['0001-01-01'], dtype='M8[s]')",
        "pd.Timestamp('0001-01-01')",
    ],
)
def test_what_pandas_1_cannot_hold_is_an_error_with_both_versions(value: str, tmp_path: Path) -> None:
    shown = carry(tmp_path, NEW, value, OLD, "print(value)")
    assert shown.startswith("UnreadableVersionError: the value was written with pandas 3.")
    assert "cannot be read with pandas 1.5." in shown


@pytest.mark.parametrize(
    ("value", "reader", "missing"),
    [
        ("pd.DataFrame({'a': [1]})", "3.8 alone", "pandas"),
        ("[pd.Series([1]).to_numpy()]", "3.8 alone", "numpy"),
        ("pd.Series([1], dtype='int64[pyarrow]')", "3.13, pandas 3", "pyarrow"),
        ("__import__('pyarrow').table({'a': [1]})", OLD, "pyarrow"),
        ("__import__('polars').DataFrame({'a': [1]})", OLD, "polars"),
        ("pd.Timestamp('2020', tz='Europe/Berlin').to_pydatetime()", "3.8 alone", "backports.zoneinfo"),
    ],
)
def test_a_library_that_is_missing_on_the_other_side_is_named(
    value: str, reader: str, missing: str, tmp_path: Path
) -> None:
    shown = carry(tmp_path, NEW, value, reader, "print(value)")
    assert shown == f"MissingLibraryError: the value needs {missing}, which is not installed"


def test_text_in_arrow_memory_is_read_without_pyarrow(tmp_path: Path) -> None:
    value: Any = "pd.Series(['a', None], dtype='string[pyarrow]')"
    assert carry(tmp_path, NEW, value, OLD, "print(value.dtype, list(value))") == "string ['a', <NA>]"


PENDULUMS = {
    "none": ("3.12",),
    "2": ("3.8", "pendulum==2.*"),
    "2 and zoneinfo": ("3.8", "pendulum==2.*", "backports.zoneinfo", "tzdata"),
    "0.4": ("3.12", "pendulum==0.4", "tzdata"),
    "3": ("3.12", "pendulum==3.*"),
}
TIMES = """
import datetime, pickle, sys
import pendulum
from k8s_venv.wire import values
new_york = pendulum.timezone("America/New_York")
made = [pendulum.DateTime(2024, 11, 3, 1, 30, tzinfo=new_york, fold=fold) for fold in (0, 1)]
made += [pendulum.DateTime(2024, 7, 1, tzinfo=pendulum.timezone("UTC")), pendulum.DateTime(2024, 7, 1)]
made += [made[0] + pendulum.duration(minutes=59), made[0] + pendulum.duration(minutes=61)]
lengths = [pendulum.duration(days=2, seconds=1), made[2] - made[0]]
open(sys.argv[1], "wb").write(values.dumps({"times": made, "date": pendulum.date(2024, 2, 29), "lengths": lengths}))
print([time.isoformat() for time in made], "2024-02-29", [length.total_seconds() for length in lengths])
"""
SHOW_TIMES = """
print([time.isoformat() for time in value["times"]], value["date"].isoformat(),
      [length.total_seconds() for length in value["lengths"]])
"""


@pytest.mark.parametrize("reader", PENDULUMS)
@pytest.mark.parametrize("writer", ["2", "3"])
def test_pendulums_times_are_the_same_to_every_pendulum(writer: str, reader: str, tmp_path: Path) -> None:
    file = tmp_path / "times.bin"

    written = run_code(environment(*PENDULUMS[writer]), TIMES, str(file))

    assert run_code(environment(*PENDULUMS[reader]), SHOW, str(file), SHOW_TIMES) == written


POLARS = ("3.8, pandas 2.0, pyarrow, polars", "3.12, pandas 3, pyarrow, polars")


@pytest.mark.parametrize(("writer", "reader"), [POLARS, POLARS[::-1]])
def test_an_enumeration_of_polars_is_one_in_another_version(writer: str, reader: str, tmp_path: Path) -> None:
    series = "__import__('polars').Series(['a', None], dtype=__import__('polars').Enum(['a', 'b']))"
    shown = carry(tmp_path, writer, series, reader, "print(value.dtype, value.to_list())")
    assert shown == "Enum(categories=['a', 'b']) ['a', None]"
