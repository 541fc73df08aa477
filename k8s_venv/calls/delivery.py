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
from k8s_venv.wire.mapped import map_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from k8s_venv.calls.packed import PackedCall
    from k8s_venv.wire.registry import Buffer

_ROOM = 4096  # bytes of `delivery.json` that say where the arguments are
_BLOCK = 1024 * 1024


class Delivery:
    """How one call's bulk goes into its environment, and out of it.

    Args:
        call: the call.
        name: what its values are called where they are kept; no other call has it.
    """

    def __init__(self, call: PackedCall, name: str) -> None:
        self._call = call
        self._name = name

    @property
    def location(self) -> Location | None:
        """Return where large values are kept, if anywhere."""
        url = self._call.environment.values.location
        return location_at(url) if url else None

    def files(self) -> dict[str, Buffer]:
        """Return all files of the call for a backend of this machine, except the secrets.

        Raises:
            CallError: an argument that is kept somewhere cannot be read.
        """
        files: dict[str, Buffer] = {protocol.ARCHIVE: self._call.archive}
        settings: dict[str, Any] = {}
        if self._call.arguments is not None:
            spool = self._call.arguments
            files[_part(0)] = map_file(str(spool.path))
            settings["arguments"] = {"size": spool.size, "sha256": spool.sha256, "parts": [_part(0)]}
        for digest, (size, kept) in self._call.references.items():
            name = f"reference.{digest}"
            files[name] = kept.location.fetch(kept.name, size)
            settings.setdefault("references", {})[digest] = {"size": size, "sha256": digest, "parts": [name]}
        if settings:
            files[protocol.DELIVERY] = json.dumps(settings).encode()
        return files

    def write(self, folder: Path) -> None:
        """Write ``files`` into a folder that only its owner may read.

        Raises:
            OSError: they cannot be written.
        """
        for name, data in self.files().items():
            if name == _part(0) and self._call.arguments is not None:
                with contextlib.suppress(OSError):  # another file system
                    (folder / name).hardlink_to(self._call.arguments.path)
                    continue
            (folder / name).write_bytes(data)

    def parcels(self, size: int, count: int, *, put: bool = True) -> list[dict[str, bytes]]:
        """Return all files of the call in parcels; arguments that are too large for them go to the location.

        Args:
            size: what a parcel holds, in bytes.
            count: how many there may be.
            put: whether to put the arguments there; they may be there already.

        Raises:
            CallError: they hold too little, and there is no location.
        """
        files, settings, call = self._small_files(), self._settings(), self._call
        room = size - sum(map(len, files.values())) - (_ROOM + len(json.dumps(settings)) if settings else 0)
        if room < (_ROOM if call.arguments else 0):
            raise CallError(
                f"{call.function}() with the values that it uses takes {size - room:,} bytes packed; a Secret holds "
                f"{size:,}. Pass the data as an argument, or a reference to it (a path, a table, a URL)."
            )
        parts: list[bytes] = []
        if call.arguments is not None:
            spool, location = call.arguments, self.location
            entry: dict[str, Any] = {"size": spool.size, "sha256": spool.sha256}
            if location is not None and spool.size > call.environment.values.above:
                if put:
                    location.put(self._arguments_name, spool.path)
                entry.update(location.entry(self._arguments_name))
            else:
                parts = self._compressed(room - _ROOM, size, count)
                entry.update({"encoding": "zlib", "parts": [_part(number) for number in range(len(parts))]})
            settings["arguments"] = entry
        if settings:
            files[protocol.DELIVERY] = json.dumps(settings).encode()
        named = [{_part(number): part} for number, part in enumerate(parts)] or [{}]
        return [{**files, **named[0]}, *named[1:]]

    def result(self, document: protocol.Document) -> Result:
        """Return a result that the environment has put where it was asked to.

        Raises:
            CallError: it was asked for nothing like it.
        """
        if self.location is None:
            raise CallError(f"{self._call.function}() put its result at a location that it was not given.")
        return Result(document, b"", Kept(self.location, self._result_name))

    @property
    def kept_arguments(self) -> tuple[str, str] | None:
        """Return the location where the arguments may lie, and their name there, for whoever ends the call."""
        url = self._call.environment.values.location
        return (url, self._arguments_name) if url and self._call.arguments is not None else None

    def close(self) -> None:
        """Remove the arguments from the location; the call has ended.

        Raises:
            CallError: the location refuses that.
        """
        if self.kept_arguments is not None:
            remove_arguments(self.kept_arguments)

    @property
    def _arguments_name(self) -> str:
        return f"{self._name}.arguments"

    @property
    def _result_name(self) -> str:
        return f"{self._name}.result"

    def _small_files(self) -> dict[str, bytes]:
        files = {protocol.ARCHIVE: self._call.archive}
        if self._call.secrets:
            files[protocol.SECRETS] = self._call.secrets_document
        return files

    def _settings(self) -> dict[str, Any]:
        """Return what the runner of a pod is told, apart from its arguments."""
        values, settings = self._call.environment.values, dict[str, Any]()
        entries = {
            digest: {"size": size, "sha256": digest, **kept.location.entry(kept.name)}
            for digest, (size, kept) in self._call.references.items()
        }
        if entries:
            settings["references"] = entries
        if self.location is not None:
            entry = self.location.entry(self._result_name, writing=True)
            settings["result"] = {"above": int(values.above), **entry}
        if not values.exec:
            settings["hand_over"] = False
        if not values.status:
            settings["inline"] = False
        return settings

    def _compressed(self, first: int, size: int, count: int) -> list[bytes]:
        """Return the arguments in parts of at most ``size`` bytes, the first of them smaller.

        Raises:
            CallError: they are more than ``count`` parts.
        """
        assert self._call.arguments is not None  # noqa: S101 -- the caller looked
        parts: list[bytes] = []
        rest = bytearray()
        for piece in _deflated(self._call.arguments.path):
            rest += piece
            while len(rest) > (size if parts else first):
                length = size if parts else first
                parts.append(bytes(rest[:length]))
                del rest[:length]
            if len(parts) >= count:
                raise CallError(
                    f"The arguments of {self._call.function}() take {self._call.arguments.size:,} bytes, more than "
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
