"""Values on the wire: one JSON document for the structure, raw buffers for the bulk.

A value becomes a *node*: what JSON can hold exactly stands as itself, everything else as an object with the key
``$`` that names its codec. Buffers (arrays, byte strings, plain JSON) follow the document in the order in which
nodes refer to them, each of them once. ``README.md`` beside this file is the specification.

A value can hold references to others, which are handed on encoded: the reader decodes them, with the types of
its own call.
"""

from __future__ import annotations

import os

from k8s_venv.wire import quickjson
from k8s_venv.wire.decoder import Decoder, UserError, field
from k8s_venv.wire.errors import MalformedError, MissingLibraryError, NoCodecError
from k8s_venv.wire.registry import Later

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Tuple, Union

    from k8s_venv.wire.decoder import ReferenceReader
    from k8s_venv.wire.encoder import Encoder
    from k8s_venv.wire.errors import Notes
    from k8s_venv.wire.registry import Buffer, Node, Piece, Types

MAGIC = b"K8SV\x01"
_STEP = 8 * 1024 * 1024  # bytes


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


# --- reading ----------------------------------------------------------------------------------------------


def loads(
    data: Buffer,
    unpickle: Optional[Callable[[memoryview], Any]] = None,
    types: Optional[Types] = None,
    notes: Optional[Notes] = None,
    references: Optional[ReferenceReader] = None,
) -> Any:
    """Decode what ``dumps`` wrote.

    Args:
        data: the encoded value; of a mapped file only the part at work takes memory.
        unpickle: loads pickled parts; without it they are refused. What it raises is passed on as it is.
        types: finds the types that travelled with the call; without it their instances are refused.
        notes: receives what arrives as something plainer because its type cannot be unpickled here.
        references: reads the values that this one refers to; without it, only those that stand in it.

    Raises:
        MalformedError: ``data`` is not an encoded value, or one that this side cannot hold.
        MissingLibraryError: a library that the value needs is not installed here.
    """
    try:
        document, view = _split_head(memoryview(data).cast("B"))
        pieces = _split_buffers(view, field(document, "buffers", list))
        libraries = field(document, "libraries", dict) if "libraries" in document else {}
        versions = {str(name): str(version) for name, version in libraries.items()}
        decoder = Decoder(pieces, unpickle, types, versions, lambda: forget(data), notes, references)
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


def _split_head(view: memoryview) -> Tuple[Any, memoryview]:
    start, end = _document_start(view)
    if end > len(view):
        raise MalformedError("the document is shorter than announced")
    return quickjson.loads(str(view[start:end], "utf-8")), view[end:]


def _split_buffers(view: memoryview, lengths: List[int]) -> List[memoryview]:
    if any(type(length) is not int or length < 0 for length in lengths) or sum(lengths) != view.nbytes:
        raise MalformedError("the buffers are not as long as announced")
    pieces, position = [], 0
    for length in lengths:
        pieces.append(view[position : position + length])
        position += length
    return pieces


# --- references to other values ---------------------------------------------------------------------------


class Reference:
    """An encoded value inside another one.

    Args:
        payload: what ``dumps`` wrote.
    """

    def __init__(self, payload: bytes) -> None:
        self.payload = self.start = payload


class KeptReference:
    """An encoded value that is kept somewhere; the sender knows where.

    Args:
        sha256: its digest, in hexadecimal.
        start: its beginning, up to the end of its JSON document.
    """

    def __init__(self, sha256: str, start: bytes) -> None:
        self.sha256 = sha256
        self.start = start


def encode(encoder: Encoder, value: Any, depth: int) -> Optional[Node]:
    """Return the node for a reference, or None for anything else of this package."""
    if not isinstance(value, (Reference, KeptReference)):
        return None
    if encoder.types is not None:
        # Its reader needs the types that it names: they have to travel with this call as well.
        for module, name in _types_in(document_of(value.start)["value"]):
            encoder.types(module, name)
    if isinstance(value, KeptReference):
        return {"$": "kept", "v": value.sha256}
    return {"$": "reference", "b": encoder.buffer(value.payload)}


def _types_in(node: Any) -> Iterator[Tuple[str, str]]:
    if isinstance(node, list):
        for item in node:
            yield from _types_in(item)
    elif isinstance(node, dict):
        if "$" in node and "module" in node:
            yield str(node["module"]), str(node["name"])
        yield from _types_in(list(node.values()))


def _decode_reference(decoder: Decoder, node: Node) -> Any:
    return _load_reference(decoder, decoder.buffer(node["b"]))


def _decode_kept(decoder: Decoder, node: Node) -> Any:
    digest = field(node, "v", str)
    payload = decoder.references.fetch(digest) if decoder.references is not None else None
    if payload is None:
        raise MalformedError("a value that is kept elsewhere, and delivery.json does not say where")
    return _load_reference(decoder, payload)


def _load_reference(decoder: Decoder, payload: Buffer) -> Any:
    reader = decoder.references
    return loads(payload, reader.unpickle if reader else None, decoder.types, references=reader)


DECODERS: Dict[str, Callable[[Decoder, Node], Any]] = {"reference": _decode_reference, "kept": _decode_kept}


# --- large values as mapped files -------------------------------------------------------------------------


def map_file(file: Union[str, int]) -> Buffer:
    """Return a file's content as a buffer that outlives the file's name; only the part in use takes memory.

    Args:
        file: its path, or its descriptor.

    Raises:
        OSError: it cannot be read.
    """
    import mmap

    descriptor = os.open(file, os.O_RDONLY) if isinstance(file, str) else file
    try:
        if os.fstat(descriptor).st_size == 0:
            return b""  # which no system maps
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    finally:
        if isinstance(file, str):
            os.close(descriptor)


def sha256_of(buffer: Buffer) -> str:
    """Return a buffer's digest, in hexadecimal."""
    from hashlib import sha256

    digest, view = sha256(), memoryview(buffer)
    for start in range(0, len(view), _STEP):
        digest.update(view[start : start + _STEP])
        forget(buffer)
    return digest.hexdigest()


def forget(buffer: Any) -> None:
    """Give the memory back into which a mapped file was read; what is needed again is read again."""
    if type(buffer).__module__ == "mmap":
        import mmap

        if hasattr(mmap, "MADV_DONTNEED"):  # which Windows lacks
            buffer.madvise(mmap.MADV_DONTNEED)
