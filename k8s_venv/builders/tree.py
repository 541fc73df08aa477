"""The files of an image, as its layers leave them (OCI image specification, layer.md)."""

from __future__ import annotations

import itertools
import posixpath
import shutil
import tarfile
import tempfile
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import re
    from pathlib import Path

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_MOST_LINKS = 40  # as Linux follows on one path


class Tree:
    """An image's files.

    Args:
        wanted: the names of files that are wanted.
        folder: where their content is kept.
        kept: how the names of those end whose content is of interest.
    """

    def __init__(self, wanted: re.Pattern[str], folder: Path, kept: tuple[str, ...]) -> None:
        self.files: dict[str, Path | None] = {}  # all that is no folder; with the content of those that are wanted
        self.folders: dict[str, int] = {}  # their modes
        self._links: dict[str, str] = {}
        self._wanted, self._kept = wanted, kept
        self._folder, self._numbers = folder, itertools.count()
        folder.mkdir()

    def add(self, stream: IO[bytes], media_type: str) -> None:
        """Add a layer.

        Args:
            stream: the layer.
            media_type: how it is compressed.
        """
        added: set[str] = set()
        with tempfile.TemporaryFile() as plain, _opened(stream, media_type, plain) as archive:
            for entry in archive:
                name = posixpath.normpath(entry.name).lstrip("/")
                folder, base = posixpath.split(name)
                if base == _OPAQUE:
                    self._remove(folder, added)
                elif base.startswith(_WHITEOUT):
                    self._remove(posixpath.join(folder, base.removeprefix(_WHITEOUT)), added)
                elif entry.isdir():
                    self.files.pop(name, None)
                    self._links.pop(name, None)
                    self.folders[name] = entry.mode
                else:
                    if name in self.folders:
                        self._remove(name, added)
                    self._links.pop(name, None)
                    if entry.issym():
                        self._links[name] = entry.linkname
                    wanted = name.endswith(self._kept) and self._wanted.fullmatch(name)
                    self.files[name] = self._content(archive, entry) if wanted else None
                    added.add(name)

    def has(self, name: str) -> bool:
        """Return whether there is a file or a folder of a name."""
        return name in self.files or any(one.startswith(f"{name}/") for one in self.files)

    def resolve(self, path: str) -> str:
        """Return where a path leads when its symbolic links are followed, without the leading slash."""
        waiting, at, followed = path.split("/")[::-1], "", 0
        while waiting and followed <= _MOST_LINKS:
            part = waiting.pop()
            if part == "..":
                at = posixpath.dirname(at)
            elif part not in ("", "."):
                at = posixpath.join(at, part)
            if at in self._links:
                target = self._links[at]
                at = "" if target.startswith("/") else posixpath.dirname(at)
                waiting += target.split("/")[::-1]
                followed += 1
        return at

    def _remove(self, hidden: str, added: set[str]) -> None:
        """Hide what lower layers have under a name; what the same layer has stays, in any order."""
        for name in [name for name in self.files if name == hidden or name.startswith(f"{hidden}/")]:
            if name not in added:
                del self.files[name]
                self._links.pop(name, None)
        self.folders.pop(hidden, None)

    def _content(self, archive: tarfile.TarFile, entry: tarfile.TarInfo) -> Path | None:
        if not (entry.isreg() or entry.islnk()):
            return None
        try:
            content = archive.extractfile(entry)
        except KeyError:  # a hard link to a file of a lower layer
            return None
        assert content is not None  # noqa: S101 -- it is a regular file
        path = self._folder / str(next(self._numbers))
        path.write_bytes(content.read())
        return path


def _opened(stream: IO[bytes], media_type: str, plain: IO[bytes]) -> tarfile.TarFile:
    """Open a layer, uncompressed into a file in which it is quick to skip what is not wanted."""
    if media_type.endswith("zstd"):
        import zstandard

        zstandard.ZstdDecompressor().copy_stream(stream, plain)
    elif media_type.endswith("gzip"):
        from isal import igzip  # the extra `build`: a lock needs it only for what a base image has installed

        with igzip.IGzipFile(fileobj=stream, mode="rb") as unpacked:  # type: ignore[no-untyped-call]
            shutil.copyfileobj(unpacked, plain, 1 << 20)
    else:
        return tarfile.open(fileobj=stream)
    plain.seek(0)
    return tarfile.open(fileobj=plain)
