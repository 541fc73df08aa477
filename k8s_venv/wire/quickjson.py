"""JSON through the functions of C that ``json`` itself uses.

``json`` imports regular expressions for what these do not need, which takes longer than all else before the user's
first line. A Python without these functions takes ``json``.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, ClassVar, Dict, Iterable, NoReturn

_SPACE = " \t\n\r"


def loads(text: str) -> Any:
    """Return the value of a JSON text; ``NaN`` and ``Infinity`` are not JSON.

    Raises:
        ValueError: it is not JSON.
    """
    text = text.strip(_SPACE)
    try:
        value, end = _scan(text, 0)
    except StopIteration:
        raise ValueError("not JSON, or cut short") from None
    if end != len(text):
        raise ValueError(f"something follows the JSON at character {end}")
    return value


def dumps(value: Any) -> str:
    """Return a value as compact JSON text, all characters as they are.

    Raises:
        TypeError: a part of it is of no type that JSON has.
        ValueError: it contains itself, or ``nan`` or an infinity.
    """
    return "".join(_chunks(value))


def _refuse(value: Any) -> NoReturn:
    raise TypeError(f"{type(value).__name__} is no JSON")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


class _Settings:
    """What the scanner wants to know, under the names that ``json.JSONDecoder`` has."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_refuse_constant)
    memo: ClassVar[Dict[str, str]] = {}


try:
    from _json import encode_basestring, make_encoder, make_scanner

    settings: Any = _Settings()
    _scan: Callable[[str, int], Any] = make_scanner(settings)

    def _chunks(value: Any) -> Iterable[str]:
        layout = (None, ":", ",", False, False, False)  # indent, separators, sort_keys, skipkeys, allow_nan
        chunks: Iterable[str] = make_encoder({}, _refuse, encode_basestring, *layout)(value, 0)
        return chunks

except ImportError:  # another implementation of Python
    import json

    _scan = json.JSONDecoder(parse_constant=_refuse_constant).scan_once  # type: ignore[attr-defined]
    _chunks = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).iterencode  # type: ignore[assignment]
