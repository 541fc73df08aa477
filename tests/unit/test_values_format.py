"""The format is the one that README and schemas describe, and today's code reads what earlier code wrote."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import fractions
import ipaddress
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import k8s_venv.wire
from k8s_venv.wire import protocol, values
from k8s_venv.wire.registry import MODULE_OF_NAME, codec_module
from k8s_venv.wire.shipped_types import resolver
from tests.integration import values_samples

jsonschema: Any = pytest.importorskip("jsonschema")
GOLDEN = Path(__file__).parent.parent / "golden" / "values"
WIRE = Path(k8s_venv.wire.__file__).parent
CORE = {
    "json",
    "str",
    "int",
    "float",
    "bytes",
    "bytearray",
    "tuple",
    "set",
    "frozenset",
    "dict",
    "custom",
    "cloudpickle",
}


def validator(name: str) -> Any:
    schema = json.loads((WIRE / name).read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


VALUE, RESULT = validator("value.schema.json"), validator("result.schema.json")


def head(data: bytes) -> Any:
    """Return the JSON document of an encoded value, by the layout that the README states."""
    assert data[:5] == b"K8SV\x01"
    length = int.from_bytes(data[5:13], "big")
    document = json.loads(data[13 : 13 + length])
    assert 13 + length + sum(document["buffers"]) == len(data)
    return document


@pytest.mark.parametrize("folder", sorted(GOLDEN.iterdir()), ids=lambda folder: folder.name)
def test_what_earlier_code_wrote_is_still_read(folder: Path) -> None:
    problems = values_samples.read(folder)

    assert set(problems) >= set(values_samples.PLAIN)
    assert not any(problems.values()), "\n".join(f"{name}: {text}" for name, text in problems.items() if text)


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("*/*.bin")), ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_what_earlier_code_wrote_fits_the_schema(file: Path) -> None:
    VALUE.validate(head(file.read_bytes()))


class Colour(enum.Flag):
    RED = 1


class Mode(enum.IntFlag):
    READ = 1


class Point(NamedTuple):
    x: int


def everything() -> list[Any]:
    """Return values that no golden document has."""
    zone = datetime.timezone(datetime.timedelta(hours=1))
    found: list[Any] = [
        Colour.RED,
        Point(1),
        [float("nan"), decimal.Decimal(1), datetime.time(1, tzinfo=zone)],
        {"$": object()},
        [datetime.time(1, tzinfo=datetime.timezone(datetime.timedelta(hours=2), "CEST"))],
        [range(3), slice(1, None), fractions.Fraction(1, 3), ipaddress.ip_address("::1"), re.compile("a", re.I)],
        [FileNotFoundError(2, "x", "/a"), Mode(5), collections.defaultdict(collections.OrderedDict)],
        *_of_pendulum_and_polars(),
    ]
    try:
        import pandas as pd
    except ImportError:
        return found
    months = pd.date_range("2020", periods=3, freq=pd.DateOffset(months=2))
    return [
        *found,
        pd.DataFrame({"a": pd.Categorical(["x", "y", "x"])}, index=months),
        pd.Series(pd.interval_range(0, 3), index=pd.RangeIndex(3), name=("n", 1)),
        [pd.Timestamp("2020"), pd.NaT, pd.Period("2020", "D")],
        pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", 1)])),
    ]


def _of_pendulum_and_polars() -> list[Any]:
    try:
        import pendulum
        import polars as pl
    except ImportError:
        return []
    day = pendulum.datetime(2024, 1, 1, tz="Europe/Berlin")
    nested = pl.Struct({"a": pl.List(pl.Enum(["x"])), "b": pl.Array(pl.Categorical, 1)})
    return [
        [day.date(), day.time(), pendulum.duration(months=1), pendulum.interval(day, day.add(days=1))],
        pl.DataFrame({"a": [1], "s": pl.Series([{"a": ["x"], "b": ["y"]}], dtype=nested)}),
        pl.DataFrame(height=3),
        pl.Series("e", ["x"], dtype=pl.Enum(["x"])),
    ]


@pytest.mark.parametrize("value", everything(), ids=lambda value: type(value).__name__)
def test_what_is_written_fits_the_schema(value: Any) -> None:
    VALUE.validate(head(values.dumps(value, lambda part: b"pickle", resolver({__name__}))))


@pytest.mark.parametrize(
    "node",
    [{"$": "unknown"}, {"$": "bytes"}, {"$": "bytes", "b": -1}, {"$": "float", "v": "1"}, [{"$": "tuple", "v": 1}]],
    ids=str,
)
def test_the_schema_refuses_what_no_encoder_writes(node: Any) -> None:
    assert not VALUE.is_valid({"value": node, "buffers": []})


@pytest.mark.parametrize("inline", [None, "abc"])
def test_result_documents_fit_their_schema(inline: str | None) -> None:
    document = protocol.Document(protocol.VALUE, 3, "0" * 64, "3.8.18", {"open": 0.1}, inline)
    RESULT.validate(document.to_json())


def test_the_readme_lists_every_codec() -> None:
    names = set(CORE)
    for module in set(MODULE_OF_NAME.values()):
        names |= set(codec_module(module).DECODERS)
    text = (WIRE / "README.md").read_text("utf-8")
    table = text[text.index("| `$` |") :].partition("\n\n")[0]
    listed = {name for row in table.splitlines()[2:] for name in re.findall(r"`([\w.]+)`", row.split("|")[1])}
    assert listed == names
