"""Images as one file: an OCI image layout in a tar archive, which Docker Engine, containerd and kind read alike.

The layout: https://github.com/opencontainers/image-spec/blob/v1.1.0/image-layout.md. ``manifest.json`` beside it is
what ``docker load`` looks for (https://github.com/moby/docker-image-spec).
"""

from __future__ import annotations

import io
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k8s_venv.builders.image import Image, index_of
from k8s_venv.builders.push import find_blob
from k8s_venv.registry.images import content_digest, encoded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def write_archive(images: Mapping[str, Sequence[Image]], path: Path) -> None:
    """Write images as one archive; it appears under its name when it is complete.

    Args:
        images: the image for each platform, by their references.
        path: the archive.

    Raises:
        RegistryError: a layer of a base cannot be downloaded.
        OSError: the archive cannot be written.
    """
    partial = path.with_name(f".{path.name}.part")
    try:
        with tarfile.open(partial, "w") as archive, tempfile.TemporaryDirectory(prefix="k8s-venv-archive-") as folder:
            _Writer(archive, Path(folder)).write(images)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class _Writer:
    def __init__(self, archive: tarfile.TarFile, folder: Path) -> None:
        self._archive, self._folder = archive, folder
        self._written: set[str] = set()

    def write(self, images: Mapping[str, Sequence[Image]]) -> None:
        self._add("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        entries, saved = [], []
        for reference, platforms in images.items():
            for image in platforms:
                self._image(image)
            index = index_of(platforms)
            if len(platforms) > 1:
                document = encoded(index)
                entry = {"mediaType": index["mediaType"], "digest": self._blob(document), "size": len(document)}
            else:
                entry = dict(index["manifests"][0])
            tag = reference.rpartition(":")[2]
            names = {"io.containerd.image.name": reference, "org.opencontainers.image.ref.name": tag}
            entries.append({**entry, "annotations": names})
            saved.append(_saved(reference, platforms[0]))
        self._add("index.json", encoded({"schemaVersion": 2, "mediaType": index["mediaType"], "manifests": entries}))
        self._add("manifest.json", encoded(saved))

    def _image(self, image: Image) -> None:
        for descriptor in [image.manifest["config"], *image.manifest["layers"]]:
            name = _name(descriptor["digest"])
            if name in self._written:
                continue
            blob = find_blob(image, descriptor, self._folder)
            with blob.path.open("rb") as stream:
                entry = tarfile.TarInfo(name)
                entry.size = blob.size
                self._archive.addfile(entry, stream)
            self._written.add(name)
        self._blob(encoded(image.manifest))

    def _blob(self, content: bytes) -> str:
        digest = content_digest(content)
        self._add(_name(digest), content)
        return digest

    def _add(self, name: str, content: bytes) -> None:
        if name not in self._written:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            self._archive.addfile(entry, io.BytesIO(content))
            self._written.add(name)


def _saved(reference: str, image: Image) -> dict[str, Any]:
    return {
        "Config": _name(image.config_digest),
        "RepoTags": [reference],
        "Layers": [_name(layer["digest"]) for layer in image.manifest["layers"]],
    }


def _name(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"
