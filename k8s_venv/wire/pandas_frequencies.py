"""The names of frequencies, which pandas 2.2 changed.

The wire has the names that the writer's pandas uses; see "Deprecations" in the release notes of pandas 2.2.0.
"""

from __future__ import annotations

import re

from k8s_venv.wire.decoder import field
from k8s_venv.wire.errors import MalformedError
from k8s_venv.wire.libraries import library, version

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Of offsets, by their names before pandas 2.2.
_NEW_OFFSETS = {
    "M": "ME",
    "Q": "QE",
    "A": "YE",
    "AS": "YS",
    "BM": "BME",
    "BQ": "BQE",
    "BA": "BYE",
    "BAS": "BYS",
    "SM": "SME",
    "CBM": "CBME",
    "H": "h",
    "BH": "bh",
    "CBH": "cbh",
    "T": "min",
    "S": "s",
    "L": "ms",
    "U": "us",
    "N": "ns",
}
_NEW_PERIODS = {"A": "Y", **{old: _NEW_OFFSETS[old] for old in "HTSLUN"}}
_NAME = re.compile(r"(-?\d*)([A-Za-z]{1,4})(-[A-Z0-9]{1,4})?")


def encode_frequency(index: Any) -> Any:
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


def decode_frequency(node: Any) -> Any:
    """Return the frequency in an entry."""
    if type(node) is not dict:
        return _translate(node, _NEW_OFFSETS)
    parts = field(node, "parts", dict)
    if not all(type(part) is int for part in parts.values()):
        raise MalformedError("a DateOffset of something else than numbers")
    return library("pandas").DateOffset(field(node, "n", int), **parts)


def decode_period_name(name: Any) -> str:
    """Return the name that this pandas gives to the frequency of periods."""
    return _translate(name, _NEW_PERIODS)


def _translate(name: Any, new: Any) -> str:
    match = _NAME.fullmatch(name) if type(name) is str else None
    if match is None:
        raise MalformedError(f"no frequency is called {str(name)[:80]!r}")
    names = new if version(library("pandas")) >= (2, 2) else {value: key for key, value in new.items()}
    count, base, anchor = match.groups()
    return f"{count}{names.get(base, base)}{anchor or ''}"
