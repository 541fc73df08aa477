"""What an exception holds beside its text: arguments and attributes, each encoded by itself.

What cannot travel is left out, with its name: a failure is never lost to what it holds, and no secret goes with it.
"""

from __future__ import annotations

from k8s_venv.wire import values
from k8s_venv.wire.encoder import length
from k8s_venv.wire.errors import NoCodecError
from k8s_venv.wire.notes import Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

    from k8s_venv.wire.registry import Types

    Facts = Callable[[BaseException, int], Dict[str, Any]]

PART_LIMIT = 64 * 1024  # bytes of one attribute
ALL_LIMIT = 256 * 1024  # bytes of all attributes of an exception, its causes and its members
EXCEPTIONS_LIMIT = 100  # members, causes and exceptions that others hold
LEVELS_LIMIT = 30  # of exceptions that hold others
TEXT_LIMIT = 500  # characters of what is left out

# Of Python's own types these follow from the arguments, hold the caller's objects, or are for who shows the exception.
_FOLLOWING = frozenset(
    ("characters_written", "encoding", "end", "end_lineno", "end_offset", "errno", "exceptions", "filename",
     "filename2", "lineno", "msg", "name_from", "obj", "object", "offset", "print_file_and_line", "reason", "start",
     "strerror", "text", "value")
)  # fmt: skip


class Parts:
    """Encode what exceptions hold, as long as there is room.

    Args:
        types: finds the types that travelled with the call.
        mask: hides secrets in a text.
        facts: describes an exception that another one holds.
    """

    def __init__(self, types: Optional[Types], mask: Optional[Callable[[str], str]], facts: Facts) -> None:
        self._types = types
        self._mask = mask
        self._facts = facts
        self._room = ALL_LIMIT
        self._around: List[int] = []  # the exceptions that hold the one at work, by id
        self._count = 0

    def of(self, error: BaseException, depth: int) -> Dict[str, Any]:
        """Return what an exception holds, and the exception that it followed.

        Args:
            error: the exception.
            depth: how many exceptions hold it.

        Returns:
            ``args``, the arguments where they are plain data, else None; and what there is of: ``encoded_args``, each
            argument as bytes, as facts of an exception, or as its mere text; ``attributes``, pairs of a name and
            bytes or facts; ``left_out``, the names and types of what cannot travel; ``plainer``, sentences about what
            arrives as a plainer type; ``previous``, the cause or the context, and whether it is the ``explicit`` cause.
        """
        self._around.append(id(error))
        self._count += 1
        left_out: List[Tuple[str, str]] = []
        plainer: List[str] = []
        arguments = _arguments(error)
        plain = self._plain(arguments)
        found = {
            "encoded_args": [] if plain is not None else list(self._encoded_args(arguments, depth, left_out, plainer)),
            "attributes": list(self._encoded_attributes(error, depth, left_out, plainer)),
            "left_out": left_out,
            "plainer": plainer,
            "previous": self._held(error.__cause__ or error.__context__, depth),
            "explicit": error.__cause__ is not None,
        }
        self._around.pop()
        return {"args": plain, **{name: part for name, part in found.items() if part}}

    def _plain(self, arguments: Tuple[Any, ...]) -> Optional[Tuple[Any, ...]]:
        """Return arguments that every reader understands, or None where they are not such."""
        try:
            readable: Optional[Tuple[Any, ...]] = values.loads(self._bytes(arguments)) if _is_plain(arguments) else None
        except Exception:  # noqa: BLE001 -- one that is nested too deeply, or holds a secret
            return None
        return readable

    def _encoded_args(
        self, arguments: Tuple[Any, ...], depth: int, left_out: List[Tuple[str, str]], plainer: List[str]
    ) -> Iterator[Any]:
        for number, value in enumerate(arguments):
            name = f"args[{number}]"
            try:
                yield self._encoded(name, value, depth, plainer)
            except Exception:  # noqa: BLE001 -- an argument may be of any type
                left_out.append((name, _kind(value)))
                yield _text(value, str if len(arguments) == 1 else repr)  # as the exception itself shows it

    def _encoded_attributes(
        self, error: BaseException, depth: int, left_out: List[Tuple[str, str]], plainer: List[str]
    ) -> Iterator[Tuple[str, Any]]:
        for name, value in _attributes(error):
            try:
                yield name, self._encoded(name, value, depth, plainer)
            except Exception:  # noqa: BLE001 -- an attribute may be of any type
                left_out.append((name, _kind(value)))

    def _encoded(self, name: str, value: Any, depth: int, plainer: List[str]) -> Any:
        """Return a part as bytes, or as the facts of an exception; ``plainer`` learns what becomes plainer.

        Raises:
            NoCodecError: it cannot travel, is too large, or holds a secret.
        """
        if isinstance(value, BaseException):
            held = self._held(value, depth)
            if held is None:
                raise NoCodecError("", "an exception that holds this one, or one of too many")
            return held
        notes = Notes()
        data = self._bytes(value, min(PART_LIMIT, self._room), notes)
        plainer += notes.sentences(lambda path: name + path)
        return data

    def _held(self, error: Optional[BaseException], depth: int) -> Optional[Dict[str, Any]]:
        within = depth < LEVELS_LIMIT and self._count < EXCEPTIONS_LIMIT
        if error is None or not within or id(error) in self._around:
            return None
        return self._facts(error, depth + 1)

    def _bytes(self, value: Any, limit: Optional[int] = None, notes: Optional[Notes] = None) -> bytes:
        if self._mask is not None:
            from k8s_venv.wire.masking import masked_data

            value = masked_data(value, self._mask)
        parts = values.dump_parts(value, None, self._types, notes)
        size = sum(map(length, parts))
        if limit is not None:
            if size > limit:
                raise NoCodecError("", f"{size:,} bytes")
            self._room -= size
        data = b"".join(values.buffers(parts))
        if self._mask is not None and not self._is_clean(data, self._mask):
            raise NoCodecError("", "something that holds a secret")
        return data

    @staticmethod
    def _is_clean(data: bytes, mask: Callable[[str], str]) -> bool:
        """Return whether no secret stands in an encoded value; in arrays and frames none could be found."""
        text = data.decode("utf-8", "replace")
        return mask(text) == text and "libraries" not in values.document_of(data)


def is_group(error: Any) -> bool:
    """Return whether an exception is a group of others (PEP 654), of Python's own or of the backport."""
    return hasattr(type(error), "derive") and isinstance(getattr(error, "exceptions", None), tuple)


def _arguments(error: BaseException) -> Tuple[Any, ...]:
    """Return what an exception is made from; the members of a group travel by themselves."""
    if is_group(error):
        return error.args[:1]
    try:
        parts: Any = error.__reduce__()
        made_by, arguments = parts[0], tuple(parts[1])
    except BaseException:  # noqa: BLE001 -- an exception whose own methods fail
        made_by, arguments = None, ()
    return arguments if made_by is type(error) else error.args


def _attributes(error: BaseException) -> Iterator[Tuple[str, Any]]:
    """Yield what an exception's slots and its ``__dict__`` hold, by name."""
    from types import GetSetDescriptorType, MemberDescriptorType

    own = vars(error)
    for base in type(error).__mro__:
        of_python = base.__module__ == "builtins"
        for name, member in vars(base).items():
            kept = isinstance(member, MemberDescriptorType) or (of_python and isinstance(member, GetSetDescriptorType))
            if not kept or name.startswith("__") or name in own or (of_python and name in _FOLLOWING):
                continue
            try:
                value = member.__get__(error, type(error))
            except AttributeError:  # a slot that is not set
                continue
            if name != "args" and value is not None:
                yield name, value
    yield from ((str(name), value) for name, value in own.items() if name != "__notes__")


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Return whether a value is of types that every reader of the format knows."""
    kind = type(value)
    if kind in (list, tuple, set, frozenset) and depth < LEVELS_LIMIT:
        return all(_is_plain(item, depth + 1) for item in value)
    if kind is dict and depth < LEVELS_LIMIT:
        return _is_plain([*value, *value.values()], depth + 1)
    return value is None or kind in (str, int, float, bool, bytes, complex)


def _kind(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _text(value: Any, shown: Callable[[Any], str]) -> str:
    try:
        return str.__str__(shown(value))[:TEXT_LIMIT]
    except Exception:  # noqa: BLE001 -- whatever its own methods raise
        return f"<{_kind(value)}>"
