"""Values on the wire: one JSON document for the structure, raw buffers for the bulk.

A value becomes a *node*: what JSON can say exactly stands as itself, everything else as an object with the key
``$`` that names its codec. Buffers (arrays, byte strings, plain JSON) follow the document in the order in which
nodes refer to them, each of them once. ``README.md`` beside this file is the specification.
"""

from __future__ import annotations

from k8s_venv.wire import quickjson
from k8s_venv.wire.decoder import Decoder, UserError, field
from k8s_venv.wire.errors import MalformedError, MissingLibraryError, NoCodecError
from k8s_venv.wire.registry import Later

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Tuple

    from k8s_venv.wire.notes import Notes
    from k8s_venv.wire.registry import Buffer, Piece, Types

MAGIC = b"K8SV\x01"


def dump_parts(
    value: Any,
    pickle: Optional[Callable[[Any], bytes]] = None,
    types: Optional[Types] = None,
    notes: Optional[Notes] = None,
) -> List[Piece]:
    """Encode a value as consecutive pieces for ``buffers``, so that large ones need no copy.

    Args:
        value: what to encode; it must not change before the pieces are written.
        pickle: pickles what has no codec; without it such a value is refused.
        types: finds the types that travel with the call; without it their instances have no codec.
        notes: receives what will arrive as something plainer; without it such a part has no codec.

    Raises:
        NoCodecError: a part of the value has no codec.
    """
    from k8s_venv.wire.encoder import Encoder  # a call begins without it

    encoder = Encoder(pickle, types, notes)
    try:
        node = encoder.node(value)
        document: Dict[str, Any] = {"value": node, "buffers": encoder.lengths}
        if encoder.libraries:
            document["libraries"] = encoder.libraries
        text = quickjson.dumps(document)
    except RecursionError:
        raise NoCodecError("", "nested too deeply") from None
    head = text.encode("utf-8")
    return [MAGIC + len(head).to_bytes(8, "big") + head, *encoder.pieces]


def dumps(value: Any, pickle: Optional[Callable[[Any], bytes]] = None, types: Optional[Types] = None) -> bytes:
    """Encode a value as one byte string; see ``dump_parts``."""
    return b"".join(buffers(dump_parts(value, pickle, types)))


def buffers(pieces: Iterable[Piece]) -> Iterator[Buffer]:
    """Yield the pieces of an encoded value, each made when its turn comes."""
    for piece in pieces:
        yield piece.make() if isinstance(piece, Later) else piece


def loads(
    data: Buffer,
    unpickle: Optional[Callable[[memoryview], Any]] = None,
    types: Optional[Types] = None,
    notes: Optional[Notes] = None,
) -> Any:
    """Decode what ``dumps`` wrote.

    Args:
        data: the encoded value; of a mapped file only the part at work takes memory.
        unpickle: loads pickled parts; without it they are refused. What it raises is passed on as it is.
        types: finds the types that travelled with the call; without it their instances are refused.
        notes: receives what arrives as something plainer because its type cannot be unpickled here.

    Raises:
        MalformedError: ``data`` is not an encoded value, or one that this side cannot hold.
        MissingLibraryError: a library that the value needs is not installed here.
    """
    try:
        document, view = _split_head(memoryview(data).cast("B"))
        pieces = _split_buffers(view, field(document, "buffers", list))
        libraries = field(document, "libraries", dict) if "libraries" in document else {}
        versions = {str(name): str(version) for name, version in libraries.items()}
        decoder = Decoder(pieces, unpickle, types, versions, _forgetting(data), notes)
        return decoder.value(document["value"])
    except (MalformedError, MissingLibraryError):
        raise
    except UserError as failed:
        raise failed.error from failed.error.__cause__
    except RecursionError:
        raise MalformedError("nested too deeply") from None
    except Exception as error:
        raise MalformedError(f"{type(error).__name__}: {error}") from error


def document_of(data: Buffer) -> Any:
    """Return the JSON document of an encoded value.

    Args:
        data: the encoded value.

    Raises:
        MalformedError: ``data`` is not an encoded value.
    """
    try:
        return _split_head(memoryview(data).cast("B"))[0]
    except (ValueError, TypeError, RecursionError) as error:
        raise MalformedError(f"{type(error).__name__}: {error}") from error


def head_length(data: Buffer) -> int:
    """Return how long an encoded value is up to the end of its document.

    Raises:
        MalformedError: ``data`` is not the beginning of an encoded value.
    """
    return _document_start(memoryview(data).cast("B"))[1]


def _document_start(view: memoryview) -> Tuple[int, int]:
    start = len(MAGIC) + 8
    if bytes(view[: len(MAGIC)]) != MAGIC or len(view) < start:
        raise MalformedError("not a value of this format")
    length = int.from_bytes(view[len(MAGIC) : start], "big")
    return start, start + length


def _forgetting(data: Buffer) -> Callable[[], None]:
    if type(data).__module__ != "mmap":
        return lambda: None
    from k8s_venv.wire.mapped import forget

    return lambda: forget(data)


def _split_head(view: memoryview) -> Tuple[Any, memoryview]:
    start, end = _document_start(view)
    if end > len(view):
        raise MalformedError("the document is shorter than announced")
    return quickjson.loads(str(view[start:end], "utf-8")), view[end:]


def _split_buffers(view: memoryview, lengths: List[int]) -> List[memoryview]:
    if any(type(length) is not int or length < 0 for length in lengths) or sum(lengths) != view.nbytes:
        raise MalformedError("the buffers are not as long as announced")
    buffers, position = [], 0
    for length in lengths:
        buffers.append(view[position : position + length])
        position += length
    return buffers
