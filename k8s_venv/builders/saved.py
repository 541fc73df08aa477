"""Images that BuildKit made, read back for the one archive of all images.

An engine writes what it has built as ``docker save`` does (https://github.com/moby/docker-image-spec), other builders
as an OCI image layout (https://github.com/opencontainers/image-spec/blob/v1.1.0/image-layout.md).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from typing import IO, TYPE_CHECKING, Any

from isal import igzip

from k8s_venv.builders.image import CONFIG_TYPE, MANIFEST_TYPE, Image
from k8s_venv.builders.layers import LAYER_TYPE, Layer
from k8s_venv.registry import Blob
from k8s_venv.registry.images import content_digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


def read_layout(folder: Path) -> list[Image]:
    """Read the image of an OCI image layout, for each of its platforms.

    Args:
        folder: the layout; the image's layers stay in it.
    """
    return [
        _image(_blob(folder, manifest["config"]).path.read_bytes(), manifest, folder)
        for manifest in _manifests(folder, json.loads((folder / "index.json").read_bytes()))
    ]


def read_saved(archive: Path, folder: Path) -> list[Image]:
    """Read the image that an engine saved, with its layers compressed.

    Args:
        archive: what ``docker save`` wrote.
        folder: is made, for the layers.
    """
    folder.mkdir()
    with tarfile.open(archive) as tar:
        (saved,) = json.loads(_member(tar, "manifest.json").read())
        config = _member(tar, saved["Config"]).read()
        layers = [_compress(_member(tar, name), folder) for name in saved["Layers"]]
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {"mediaType": CONFIG_TYPE, "digest": content_digest(config), "size": len(config)},
        "layers": layers,
    }
    return [_image(config, manifest, folder)]


def _manifests(folder: Path, index: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for entry in index["manifests"]:
        document = json.loads(_blob(folder, entry).path.read_bytes())
        if "manifests" in document:
            yield from _manifests(folder, document)
        else:
            yield document


def _image(config: bytes, manifest: Mapping[str, Any], folder: Path) -> Image:
    described = json.loads(config)
    diff_ids = described["rootfs"]["diff_ids"]
    layers = [
        Layer(_blob(folder, layer), diff_id, layer["mediaType"])
        for layer, diff_id in zip(manifest["layers"], diff_ids, strict=True)
    ]
    return Image(f"{described['os']}/{described['architecture']}", None, tuple(layers), config, manifest)


def _blob(folder: Path, descriptor: Mapping[str, Any]) -> Blob:
    digest = str(descriptor["digest"])
    return Blob(folder / "blobs" / digest.replace(":", "/"), digest, int(descriptor["size"]))


def _member(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    stream = tar.extractfile(name)
    assert stream is not None  # noqa: S101 -- what the manifest names is a file, or a link to one
    return stream


def _compress(layer: IO[bytes], folder: Path) -> dict[str, object]:
    """Compress a layer into a folder of blobs, and return its descriptor."""
    place = folder / "blobs" / "sha256"
    place.mkdir(parents=True, exist_ok=True)
    partial = place / "partial"
    with partial.open("wb") as out, igzip.IGzipFile("", "wb", 1, out, mtime=0) as packed:  # type: ignore[no-untyped-call]
        shutil.copyfileobj(layer, packed, 1 << 20)
    with partial.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    size = partial.stat().st_size
    partial.rename(place / digest)
    return {"mediaType": LAYER_TYPE, "digest": f"sha256:{digest}", "size": size}
