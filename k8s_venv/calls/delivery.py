"""What goes along with a call's archive: secrets, large arguments, and where a large result is wanted."""

from __future__ import annotations

import contextlib
import json
import zlib
from typing import TYPE_CHECKING, Any

from k8s_venv.calls.locations import Kept, Location, location_at
from k8s_venv.calls.results import Result
from k8s_venv.errors import CallError
from k8s_venv.wire import protocol
from k8s_venv.wire.values import map_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from k8s_venv.calls.packed import PackedCall, SentCall
    from k8s_venv.calls.spool import Spool
    from k8s_venv.wire.registry import Buffer

_ROOM = 4096  # bytes of `delivery.json` that say where the arguments are
_BLOCK = 1024 * 1024


class Delivery:
    """How one call's bulk goes into its environment by way of a location, and out of it.

    Args:
        call: the call.
        name: what its values are called where they are kept; no other call has it.
    """

    def __init__(self, call: SentCall, name: str) -> None:
        self._call = call
        self._name = name

    @property
    def location(self) -> Location | None:
        """Return where large values are kept, if anywhere."""
        url = self._call.environment.values.location
        return location_at(url) if url else None

    @property
    def arguments_name(self) -> str:
        """Return what the arguments are called at the location."""
        return f"{self._name}.arguments"

    @property
    def result_name(self) -> str:
        """Return what the result is called at the location."""
        return f"{self._name}.result"

    def result(self, document: protocol.Document) -> Result:
        """Return a result that the environment has put where it was asked to.

        Raises:
            CallError: it was asked for nothing like it.
        """
        if self.location is None:
            raise CallError(f"{self._call.function}() put its result at a location that it was not given.")
        return Result(document, b"", Kept(self.location, self.result_name))

    @property
    def kept_arguments(self) -> tuple[str, str] | None:
        """Return the location where the arguments may lie, and their name there, for whoever ends the call."""
        url = self._call.environment.values.location
        return (url, self.arguments_name) if url and self._call.arguments_apart else None

    def close(self) -> None:
        """Remove the arguments from the location; the call has ended.

        Raises:
            CallError: the location refuses that.
        """
        if self.kept_arguments is not None:
            remove_arguments(self.kept_arguments)


def call_files(call: PackedCall) -> dict[str, Buffer]:
    """Return all files of a call for a backend of this machine, except the secrets.

    Args:
        call: the call.

    Raises:
        CallError: an argument that is kept somewhere cannot be read.
    """
    files: dict[str, Buffer] = {protocol.ARCHIVE: call.archive}
    settings: dict[str, Any] = {}
    if call.arguments is not None:
        spool = call.arguments
        files[_part(0)] = map_file(str(spool.path))
        settings["arguments"] = {"size": spool.size, "sha256": spool.sha256, "parts": [_part(0)]}
    for digest, (size, kept) in call.references.items():
        name = f"reference.{digest}"
        files[name] = kept.location.fetch(kept.name, size)
        settings.setdefault("references", {})[digest] = {"size": size, "sha256": digest, "parts": [name]}
    if settings:
        files[protocol.DELIVERY] = json.dumps(settings).encode()
    return files


def write_files(call: PackedCall, folder: Path) -> None:
    """Write ``call_files`` into a folder that only its owner may read.

    Args:
        call: the call.
        folder: the folder.

    Raises:
        OSError: they cannot be written.
    """
    for name, data in call_files(call).items():
        if name == _part(0) and call.arguments is not None:
            with contextlib.suppress(OSError):  # another file system
                (folder / name).hardlink_to(call.arguments.path)
                continue
        (folder / name).write_bytes(data)


def secret_contents(call: PackedCall, name: str, size: int, count: int) -> list[dict[str, bytes]]:
    """Return all files of a call, split over Secrets; arguments that are too large for them go to the location.

    Args:
        call: the call.
        name: as for ``Delivery``.
        size: what a Secret holds, in bytes.
        count: how many there may be.

    Raises:
        CallError: they hold too little, and there is no location.
    """
    delivery = Delivery(call, name)
    files, settings = _small_files(call), _settings(call, delivery)
    room = size - sum(map(len, files.values())) - (_ROOM + len(json.dumps(settings)) if settings else 0)
    if room < (_ROOM if call.arguments else 0):
        raise CallError(
            f"{call.function}() with the values that it uses takes {size - room:,} bytes packed; a Secret holds "
            f"{size:,}. Pass the data as an argument, or a reference to it (a path, a table, a URL)."
        )
    parts: list[bytes] = []
    if call.arguments is not None:
        spool, location = call.arguments, delivery.location
        entry: dict[str, Any] = {"size": spool.size, "sha256": spool.sha256}
        if location is not None and spool.size > call.environment.values.above:
            location.put(delivery.arguments_name, spool.path)
            entry.update(location.entry(delivery.arguments_name))
        else:
            parts = _compressed(call.function, spool, room - _ROOM, size, count)
            entry.update({"encoding": "zlib", "parts": [_part(number) for number in range(len(parts))]})
        settings["arguments"] = entry
    if settings:
        files[protocol.DELIVERY] = json.dumps(settings).encode()
    named = [{_part(number): part} for number, part in enumerate(parts)] or [{}]
    return [{**files, **named[0]}, *named[1:]]


def _small_files(call: PackedCall) -> dict[str, bytes]:
    files = {protocol.ARCHIVE: call.archive}
    if call.secrets:
        files[protocol.SECRETS] = call.secrets_document
    return files


def _settings(call: PackedCall, delivery: Delivery) -> dict[str, Any]:
    """Return what the runner of a pod is told, apart from its arguments."""
    values, settings = call.environment.values, dict[str, Any]()
    entries = {
        digest: {"size": size, "sha256": digest, **kept.location.entry(kept.name)}
        for digest, (size, kept) in call.references.items()
    }
    if entries:
        settings["references"] = entries
    if delivery.location is not None:
        entry = delivery.location.entry(delivery.result_name, writing=True)
        settings["result"] = {"above": int(values.above), **entry}
    if not values.exec:
        settings["hand_over"] = False
    if not values.status:
        settings["inline"] = False
    return settings


def _compressed(function: str, arguments: Spool, first: int, size: int, count: int) -> list[bytes]:
    """Return the arguments in parts of at most ``size`` bytes, the first of at most ``first``.

    Raises:
        CallError: they are more than ``count`` parts.
    """
    parts: list[bytes] = []
    rest = bytearray()
    for piece in _deflated(arguments.path):
        rest += piece
        while len(rest) > (size if parts else first):
            length = size if parts else first
            parts.append(bytes(rest[:length]))
            del rest[:length]
        if len(parts) >= count:
            raise CallError(
                f"The arguments of {function}() take {arguments.size:,} bytes, more than "
                f"{count} Secrets hold ({count * size:,} bytes, compressed). Name a `location` under [values] in "
                "the project file, or pass a reference to the data (a path, a table, a URL)."
            )
    return [*parts, bytes(rest)]


def remove_arguments(kept: Sequence[str]) -> None:
    """Remove a call's arguments from the location for large values.

    Args:
        kept: what ``Delivery.kept_arguments`` says.

    Raises:
        CallError: the location refuses that.
    """
    url, name = kept
    location_at(url).delete(name)


def _deflated(path: Path) -> Iterator[bytes]:
    deflate = zlib.compressobj(1)
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            yield deflate.compress(block)
    yield deflate.flush()


def _part(number: int) -> str:
    return f"arguments.{number}"
