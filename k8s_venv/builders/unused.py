"""What builds keep in the cache folder and none used for long: all of it is made or downloaded again when needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k8s_venv.builders.layers import blob_path, read_note
from k8s_venv.cache import HOUR, Unused, cache_folder, is_older

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def unused_by_builds(seconds: float) -> Iterator[Unused]:
    """Yield what no build used for some time. It is safe to remove while one holds ``layers_folder`` alone.

    Args:
        seconds: how long.
    """
    cache = cache_folder()
    kept: set[Path] = set()
    known: set[Path] = set()
    old = []
    for note in _files(cache / "layers", ".json"):
        layer = read_note(note, digest=str, diff_id=str)
        blob = blob_path(layer["digest"]) if layer else None
        known |= {blob} if blob else set()
        if not is_older(note, seconds):
            kept |= {blob} if blob else set()
        else:
            old.append((note, blob))
    for note, blob in old:
        if blob is None:
            yield Unused("notes", (note,))
        else:
            yield Unused("layers", (note,) if blob in kept else (note, blob))
    for blob in _files(cache / "blobs" / "sha256"):
        if blob not in known and is_older(blob, seconds):
            yield Unused("layers of base images", (blob, blob.with_name(f".{blob.name}.lock")))
    for folder in ("pushed", "modules"):
        yield from (Unused("notes", (note,)) for note in _files(cache / folder, ".json") if is_older(note, seconds))
    yield from _left(cache)


def _files(folder: Path, suffix: str = "") -> list[Path]:
    return sorted(path for path in folder.glob(f"[!.]*{suffix}") if path.is_file())


def _left(cache: Path) -> Iterator[Unused]:
    """Yield what builds that were killed have left; the locks beside blobs are none of it."""
    hidden = [path for name in ("layers", "blobs/sha256", "pushed", "modules") for path in (cache / name).glob(".*")]
    folders = [*cache.glob("install-*"), *(path for path in (cache / "modules").glob("tmp*") if path.is_dir())]
    for path in [*folders, *(path for path in hidden if path.suffix != ".lock")]:
        if is_older(path, HOUR):
            yield Unused("left by interrupted builds", (path,))
