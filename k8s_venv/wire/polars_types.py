"""The types of polars' columns, named on the wire: versions of polars read some of them as others from Arrow IPC."""

from __future__ import annotations

from k8s_venv.wire.errors import NoCodecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List

_RENAMED = {"Utf8": "String"}  # polars 0.20


def describe(frame: Any) -> List[Any]:
    """Return what the types of a frame's columns are called, and what they consist of.

    Raises:
        NoCodecError: a column holds Python objects.
    """
    found = []
    for column in frame.get_columns():
        try:
            found.append(describe_type(column.dtype))
        except NoCodecError as error:
            raise error.within(f"[{column.name!r}]") from None
    return found


def describe_type(dtype: Any) -> Any:
    """Return what one type is called, and what it consists of; see ``describe``."""
    name = _name(dtype)
    if name == "Object":
        raise NoCodecError("", "a polars column of Python objects, which Arrow IPC cannot write (a list can travel)")
    if name == "Enum":
        return [name, list(dtype.categories)]
    if name == "Categorical":
        return [name, getattr(dtype, "ordering", None) or "lexical"]  # newer polars knows no other
    if name in ("List", "Array"):
        return [name, describe_type(dtype.inner)]
    if name == "Struct":
        return [name, [describe_type(entry.dtype) for entry in dtype.fields]]
    return name


def _name(dtype: Any) -> str:
    name: str = dtype.__name__ if isinstance(dtype, type) else type(dtype).__name__
    return _RENAMED.get(name, name)


def restored(polars: Any, column: Any, description: Any) -> Any:
    """Return a column with the type that it was written with.

    Args:
        polars: the library.
        column: what polars read.
        description: what ``describe`` returned for it.

    Raises:
        TypeError: this polars has no such type.
    """
    wanted = _wanted(polars, column.dtype, description)
    # Inside of lists and structs older polars cannot set it.
    if description == ["Categorical", "lexical"] and getattr(wanted, "ordering", None) == "physical":
        wanted = polars.Categorical("lexical")
    if wanted != column.dtype or repr(wanted) != repr(column.dtype):
        column = column.cast(wanted)
        if repr(column.dtype) != repr(wanted):
            raise TypeError(f"a column of {wanted}, which it reads as {column.dtype}")
    return column


def _wanted(polars: Any, found: Any, description: Any) -> Any:
    name, detail = (description, []) if type(description) is str else description
    if name == "Enum":
        return polars.Enum(detail)
    if name != _name(found):
        raise TypeError(f"a column of {str(name)[:80]}, which it reads as {found}")
    if name == "List":
        return polars.List(_wanted(polars, found.inner, detail))
    if name == "Array":
        return polars.Array(_wanted(polars, found.inner, detail), found.shape[0])
    if name == "Struct":
        if len(detail) != len(found.fields):
            raise TypeError(f"a column of {len(detail)} fields, which it reads as {found}")
        parts = zip(found.fields, detail)
        return polars.Struct([polars.Field(part.name, _wanted(polars, part.dtype, inner)) for part, inner in parts])
    return found
