"""What went wrong in a call, as plain data that the sender can raise again.

What an exception holds beside its text, its arguments and attributes, is encoded each by itself. What cannot travel is
left out, with its name: a failure is never lost to what it holds, and no secret goes with it.
"""

from __future__ import annotations

import traceback

from k8s_venv.runtime import FailTask, SkipTask
from k8s_venv.wire import protocol, values
from k8s_venv.wire.encoder import length
from k8s_venv.wire.errors import NoCodecError, Notes
from k8s_venv.wire.masking import masked_data

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

    from k8s_venv.wire.registry import Types

    Facts = Callable[[BaseException, int], Dict[str, Any]]

# Bounds on what a failure may carry, so that it always arrives.
PART_LIMIT = 64 * 1024  # bytes of one attribute
ALL_LIMIT = 256 * 1024  # bytes of all attributes of an exception, its causes and its members
EXCEPTIONS_LIMIT = 100  # members, causes and exceptions that others hold
LEVELS_LIMIT = 30  # of exceptions that hold others
TEXT_LIMIT = 500  # characters of what is left out
TRACEBACK_LIMIT = 256 * 1024  # characters
SHORT_LIMIT = 1500  # characters of a failure that has to fit into a pod's status

_OWN = ("k8s_venv.runner", "k8s_venv.wire")
_AIRFLOW_OUTCOMES = {"AirflowSkipException": protocol.SKIP, "AirflowFailException": protocol.FAIL}
# Of Python's own types these follow from the arguments, hold the caller's objects, or are for who shows the exception.
_FOLLOWING = frozenset(
    ("characters_written", "encoding", "end", "end_lineno", "end_offset", "errno", "exceptions", "filename",
     "filename2", "lineno", "msg", "name_from", "obj", "object", "offset", "print_file_and_line", "reason", "start",
     "strerror", "text", "value")
)  # fmt: skip


def outcome(error: BaseException) -> str:
    """Return the outcome that an exception stands for."""
    if isinstance(error, SkipTask):
        return protocol.SKIP
    if isinstance(error, FailTask):
        return protocol.FAIL
    for kind in type(error).__mro__:
        if str(kind.__module__).partition(".")[0] == "airflow" and kind.__name__ in _AIRFLOW_OUTCOMES:
            return _AIRFLOW_OUTCOMES[kind.__name__]
    return protocol.FAILURE


def describe(
    error: BaseException, types: Optional[Types] = None, mask: Optional[Callable[[str], str]] = None
) -> Dict[str, Any]:
    """Return an exception as plain data: what ``_facts`` returns, and the traceback of all causes as text.

    The traceback begins at the user's own first line and shows lines of the DAG file, whose source the call brought.

    Args:
        error: the exception, with its traceback.
        types: finds the types that travelled with the call.
        mask: hides secrets in what the exception holds; the texts are still to be masked.
    """
    error.__traceback__ = _without_runner(error.__traceback__)
    try:
        lines = traceback.format_exception(type(error), error, error.__traceback__)
    except BaseException as broken:  # noqa: BLE001 -- an exception whose own methods fail
        name = type(error).__qualname__
        lines = [*traceback.format_tb(error.__traceback__), f"{name}: <{broken!r} while printing it>\n"]
    parts = Parts(types, mask, lambda held, depth: _facts(held, parts, depth))
    return {**_facts(error, parts, 0), "traceback": _shortened("".join(lines))}


def bare(error: BaseException) -> Dict[str, Any]:
    """Return the least that is known about an exception whose own methods fail."""
    name, message = type(error).__qualname__, _text(error)
    return {
        "module": str(type(error).__module__),
        "name": name,
        "message": message,
        "args": None,
        "missing": None,
        "notes": [],
        "group": None,
        "traceback": _shortened(f"{_frames(error)}{name}: {message}\n"),
    }


def short(error: BaseException) -> Dict[str, Any]:
    """Return what of an exception fits into a pod's status: its type, its message's beginning, its last frames."""
    known = bare(error)
    whole = known["message"]
    message = whole if len(whole) <= SHORT_LIMIT // 3 else f"{whole[: SHORT_LIMIT // 3]}[…]"
    holds = bool(getattr(error, "__dict__", None)) or error.__cause__ or error.__context__ or error.args != (whole,)
    return {
        **known,
        "message": message,
        "args": (message,) if error.args == (whole,) else None,
        "notes": ["What it holds beside its message did not fit into the pod's status."] if holds else [],
        "traceback": f"{_frames(error)[-SHORT_LIMIT:]}{known['name']}: {message}\n",
    }


def _facts(error: BaseException, parts: Parts, depth: int) -> Dict[str, Any]:
    """Return what is known of an exception but for its traceback, with the members of a group (PEP 654).

    Args:
        error: the exception.
        parts: encodes what it holds.
        depth: how many exceptions hold it.
    """
    kind = type(error)
    held = parts.of(error, depth)
    members: Any = error.exceptions if is_group(error) else ()  # type: ignore[attr-defined]
    notes = vars(error).get("__notes__", ())
    texts = [str(note) for note in notes] if isinstance(notes, (list, tuple)) else []
    if len(members) > EXCEPTIONS_LIMIT:
        texts.append(f"{len(members) - EXCEPTIONS_LIMIT} more exceptions of this group stand in the traceback alone.")
    shown = members[:EXCEPTIONS_LIMIT] if depth < LEVELS_LIMIT else ()
    return {
        "module": str(kind.__module__),
        "name": kind.__qualname__,
        "message": _text(error),
        "missing": str(error.name) if isinstance(error, ImportError) and error.name else None,
        "notes": texts,
        "group": [_facts(member, parts, depth + 1) for member in shown] or None,
        **held,
    }


def _text(error: BaseException) -> str:
    """Return an exception's text as a plain str; where its own method fails, what Python's shows of its arguments."""
    try:
        return str.__str__(str(error))
    except BaseException as broken:  # noqa: BLE001 -- an exception whose own methods fail
        failed = f"<{type(broken).__name__} while reading the message>"
    try:
        return f"{failed} {BaseException.__str__(error)}".rstrip()
    except BaseException:  # noqa: BLE001 -- and so do those of its arguments
        return failed


def _frames(error: BaseException) -> str:
    return "".join(traceback.format_tb(_without_runner(error.__traceback__)))


def _shortened(text: str) -> str:
    if len(text) <= TRACEBACK_LIMIT:
        return text
    half = TRACEBACK_LIMIT // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters …]\n{text[-half:]}"


def _without_runner(frames: Optional[TracebackType]) -> Optional[TracebackType]:
    """Drop the runner's own frames from the start of a traceback."""
    while frames is not None and str(frames.tb_frame.f_globals.get("__name__")).startswith(_OWN):
        frames = frames.tb_next
    return frames


# --- what an exception holds ------------------------------------------------------------------------------


class Parts:
    """Encode what exceptions hold, as long as there is room; ``facts`` describes one that another one holds."""

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
            ``args``, the arguments if they are plain data, else None; and what there is of: ``encoded_args``, each
            argument as bytes, as facts of an exception, or as its mere text; ``attributes``, pairs of a name and
            bytes or facts; ``left_out``, the names and types of what cannot travel; ``plainer``, sentences about what
            arrives as a plainer type; ``previous``, the cause or the context, and whether it is the ``explicit`` cause.
        """
        self._around.append(id(error))
        self._count += 1
        left_out: List[Tuple[str, str]] = []
        plainer: List[str] = []

        def encoded(name: str, value: Any) -> Any:
            try:
                return self._encoded(name, value, depth, plainer)
            except Exception:  # noqa: BLE001 -- a part may be of any type
                left_out.append((name, _kind(value)))
                return None

        arguments = _arguments(error)
        plain = self._plain(arguments)
        shown = str if len(arguments) == 1 else repr  # as the exception itself shows them
        encodable = enumerate(arguments if plain is None else ())
        encoded_args = [encoded(f"args[{number}]", value) or _shown(value, shown) for number, value in encodable]
        attributes = [(name, encoded(name, value)) for name, value in _attributes(error)]
        found = {
            "encoded_args": encoded_args,
            "attributes": [(name, part) for name, part in attributes if part is not None],
            "left_out": left_out,
            "plainer": plainer,
            "previous": self._held(error.__cause__ or error.__context__, depth),
            "explicit": error.__cause__ is not None,
        }
        self._around.pop()
        return {"args": plain, **{name: part for name, part in found.items() if part}}

    def _plain(self, arguments: Tuple[Any, ...]) -> Optional[Tuple[Any, ...]]:
        """Return arguments that every reader understands, or None for others."""
        try:
            readable: Optional[Tuple[Any, ...]] = values.loads(self._bytes(arguments)) if _is_plain(arguments) else None
        except Exception:  # noqa: BLE001 -- one that is nested too deeply, or holds a secret
            return None
        return readable

    def _encoded(self, name: str, value: Any, depth: int, plainer: List[str]) -> Any:
        """Return a part as bytes, or as the facts of an exception; ``plainer`` receives what becomes plainer."""
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
        parts = values.dump_parts(masked_data(value, self._mask), None, self._types, notes)
        size = sum(map(length, parts))
        if limit is not None:
            if size > limit:
                raise NoCodecError("", f"{size:,} bytes")
            self._room -= size
        data = b"".join(values.buffers(parts))
        if self._mask is not None:
            text = data.decode("utf-8", "replace")
            # In arrays and frames no secret could be found.
            if self._mask(text) != text or "libraries" in values.document_of(data):
                raise NoCodecError("", "something that holds a secret")
        return data


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


def _shown(value: Any, shown: Callable[[Any], str]) -> str:
    try:
        return str.__str__(shown(value))[:TEXT_LIMIT]
    except Exception:  # noqa: BLE001 -- its own methods may raise anything
        return f"<{_kind(value)}>"
