"""Images as documents and as files (OCI image specification).

An image's configuration, manifest and index are made from its layers. Images are written as one archive, an OCI image
layout that Docker Engine, containerd and kind read alike
(https://github.com/opencontainers/image-spec/blob/v1.1.0/image-layout.md), and read back from what BuildKit or
``docker save`` (https://github.com/moby/docker-image-spec) wrote.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import io
import json
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from isal import igzip

from k8s_venv.builders.base import base_blob
from k8s_venv.builders.layers import LAYER_TYPE, Layer, is_intact
from k8s_venv.errors import K8sVenvError
from k8s_venv.registry import Blob
from k8s_venv.registry.images import content_digest, encoded

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from k8s_venv.registry import BaseImage

_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
# OCI's names for Docker's types of layers; the bytes are the same.
_LAYER_TYPES = {
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.diff.tar": "application/vnd.oci.image.layer.v1.tar",
}
_DOCKER_KEYS = ("container", "container_config", "docker_version", "moby.buildkit.buildinfo.v1")
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class DamagedLayerError(K8sVenvError):
    """A layer in the cache was changed since it was made."""


@dataclasses.dataclass(frozen=True)
class Image:
    """A finished image for one platform.

    Args:
        platform: such as ``linux/arm64``.
        base: the image under it, which has the layers that are not here.
        layers: its layers that are here.
        config: its configuration.
        manifest: its manifest.
    """

    platform: str
    base: BaseImage | None
    layers: tuple[Layer, ...]
    config: bytes
    manifest: Mapping[str, Any]

    @property
    def parts(self) -> list[Mapping[str, Any]]:
        """Return the descriptors of its configuration and of all its layers."""
        return [self.manifest["config"], *self.manifest["layers"]]

    @property
    def digest(self) -> str:
        """Return the digest of its manifest."""
        return content_digest(encoded(self.manifest))

    def blob(self, descriptor: Mapping[str, Any], folder: Path) -> Blob:
        """Return one of its parts as a file; a layer of the base is downloaded.

        Args:
            descriptor: the part.
            folder: where the configuration is written.

        Raises:
            DamagedLayerError: a layer in the cache was changed since it was made.
            K8sVenvError: a layer of the base cannot be downloaded.
        """
        digest = str(descriptor["digest"])
        if digest == self.manifest["config"]["digest"]:
            path = folder / digest.replace(":", "-")
            path.write_bytes(self.config)
            return Blob(path, digest, len(self.config))
        for layer in self.layers:
            if layer.blob.digest == digest:
                _require_intact(layer)
                return layer.blob
        assert self.base is not None  # noqa: S101 -- every other layer is one of a base's
        return base_blob(self.base, descriptor)

    def require_intact(self) -> None:
        """Check that none of its own layers was changed since it was made.

        Raises:
            DamagedLayerError: one was.
        """
        for layer in self.layers:
            _require_intact(layer)

    def discard_damaged(self) -> None:
        """Remove its own layers that were changed, so that they are made again."""
        for layer in self.layers:
            if not is_intact(layer.blob.path, layer.blob.digest):
                layer.blob.path.unlink(missing_ok=True)


def _require_intact(layer: Layer) -> None:
    if not is_intact(layer.blob.path, layer.blob.digest):
        raise DamagedLayerError(f"{layer.blob.path} was changed since k8s-venv wrote it.")


def assemble(platform: str, base: BaseImage, layers: Sequence[Layer], labels: Mapping[str, str], prefix: str) -> Image:
    """Put layers on a base.

    Args:
        platform: such as ``linux/arm64``.
        base: the image under them.
        layers: the layers, the lowest first.
        labels: the image's labels.
        prefix: the environment's folder; its `python` is first on PATH.
    """
    config = encoded(_config(base, layers, labels, prefix))
    base_layers = [{**one, "mediaType": _LAYER_TYPES.get(one["mediaType"], one["mediaType"])} for one in base.layers]
    annotations = {
        "org.opencontainers.image.base.name": str(dataclasses.replace(base.reference, digest="")),
        "org.opencontainers.image.base.digest": base.reference.digest,
    }
    manifest = {
        **_manifest(config, [*base_layers, *(layer.descriptor for layer in layers)]),
        "annotations": annotations,
    }
    return Image(platform, base, tuple(layers), config, manifest)


def _config(base: BaseImage, layers: Sequence[Layer], labels: Mapping[str, str], prefix: str) -> dict[str, Any]:
    config = {key: value for key, value in copy.deepcopy(dict(base.config)).items() if key not in _DOCKER_KEYS}
    run = config["config"] = dict(config.get("config") or {})
    path = base.environ.get("PATH") or _DEFAULT_PATH
    environ = {**base.environ, "PATH": f"/{prefix}/bin:{path}", "HOME": "/tmp", "PYTHONUNBUFFERED": "1"}  # noqa: S108
    run["Env"] = [f"{name}={value}" for name, value in environ.items()]
    # Any other numeric user works as well: nothing in the image belongs to this one.
    run.update(User="50000:0", WorkingDir="/tmp", Cmd=["python"])  # noqa: S108
    run["Labels"] = {**(run.get("Labels") or {}), **labels}
    diff_ids = [*config["rootfs"]["diff_ids"], *(layer.diff_id for layer in layers)]
    config["rootfs"] = {"type": "layers", "diff_ids": diff_ids}
    created = {"created": config["created"]} if config.get("created") else {}
    history = [{**created, "created_by": "k8s-venv", "comment": layer.title} for layer in layers]
    config["history"] = [*(config.get("history") or ()), *history]
    return config


def _manifest(config: bytes, layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": _MANIFEST_TYPE,
        "config": {"mediaType": _CONFIG_TYPE, "digest": content_digest(config), "size": len(config)},
        "layers": layers,
    }


def tagged_document(images: Sequence[Image]) -> Mapping[str, Any]:
    """Return what an image's tag names: its manifest, or the index of its platforms."""
    return images[0].manifest if len(images) == 1 else _index(images)


def tagged_digest(images: Sequence[Image]) -> str:
    """Return the digest of what an image's tag names."""
    return content_digest(encoded(tagged_document(images)))


def _index(images: Sequence[Image]) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": _INDEX_TYPE, "manifests": [_index_entry(image) for image in images]}


def _index_entry(image: Image) -> dict[str, Any]:
    system, _, machine = image.platform.partition("/")
    return {
        "mediaType": _MANIFEST_TYPE,
        "digest": image.digest,
        "size": len(encoded(image.manifest)),
        "platform": {"os": system, "architecture": machine},
    }


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
            _ArchiveWriter(archive, Path(folder)).write(images)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class _ArchiveWriter:
    def __init__(self, archive: tarfile.TarFile, folder: Path) -> None:
        self._archive, self._folder = archive, folder
        self._written: set[str] = set()

    def write(self, images: Mapping[str, Sequence[Image]]) -> None:
        self._add("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        entries, saved = [], []
        for reference, platforms in images.items():
            for image in platforms:
                self._add_image(image)
            if len(platforms) > 1:
                index = encoded(_index(platforms))
                entry = {"mediaType": _INDEX_TYPE, "digest": self._add_document(index), "size": len(index)}
            else:
                entry = _index_entry(platforms[0])
            tag = reference.rpartition(":")[2]
            names = {"io.containerd.image.name": reference, "org.opencontainers.image.ref.name": tag}
            entries.append({**entry, "annotations": names})
            saved.append(_saved_entry(reference, platforms[0]))
        self._add("index.json", encoded({"schemaVersion": 2, "mediaType": _INDEX_TYPE, "manifests": entries}))
        self._add("manifest.json", encoded(saved))  # what `docker load` looks for

    def _add_image(self, image: Image) -> None:
        for descriptor in image.parts:
            name = _blob_name(descriptor["digest"])
            if name not in self._written:
                blob = image.blob(descriptor, self._folder)
                with blob.path.open("rb") as stream:
                    self._add_stream(name, stream, blob.size)
        self._add_document(encoded(image.manifest))

    def _add_document(self, content: bytes) -> str:
        digest = content_digest(content)
        self._add(_blob_name(digest), content)
        return digest

    def _add(self, name: str, content: bytes) -> None:
        if name not in self._written:
            self._add_stream(name, io.BytesIO(content), len(content))

    def _add_stream(self, name: str, stream: IO[bytes], size: int) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = size
        self._archive.addfile(entry, stream)
        self._written.add(name)


def _saved_entry(reference: str, image: Image) -> dict[str, Any]:
    config, *layers = (_blob_name(descriptor["digest"]) for descriptor in image.parts)
    return {"Config": config, "RepoTags": [reference], "Layers": layers}


def _blob_name(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def read_layout(folder: Path) -> list[Image]:
    """Read the image of an OCI image layout, for each of its platforms.

    Args:
        folder: the layout; the image's layers stay in it.
    """
    return [
        _image_in(folder, _blob_in(folder, manifest["config"]).path.read_bytes(), manifest)
        for manifest in _manifests_in(folder, json.loads((folder / "index.json").read_bytes()))
    ]


def read_saved(archive: Path, folder: Path) -> list[Image]:
    """Read the image that an engine saved, and compress its layers.

    Args:
        archive: what ``docker save`` wrote.
        folder: is made, for the layers.
    """
    with tarfile.open(archive) as tar:
        (saved,) = json.loads(_member(tar, "manifest.json").read())
        config = _member(tar, saved["Config"]).read()
        layers = [_compress(_member(tar, name), folder) for name in saved["Layers"]]
    return [_image_in(folder, config, _manifest(config, layers))]


def _manifests_in(folder: Path, index: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for entry in index["manifests"]:
        document = json.loads(_blob_in(folder, entry).path.read_bytes())
        if "manifests" in document:
            yield from _manifests_in(folder, document)
        else:
            yield document


def _image_in(folder: Path, config: bytes, manifest: Mapping[str, Any]) -> Image:
    described = json.loads(config)
    layers = [
        Layer(_blob_in(folder, layer), diff_id, layer["mediaType"])
        for layer, diff_id in zip(manifest["layers"], described["rootfs"]["diff_ids"], strict=True)
    ]
    return Image(f"{described['os']}/{described['architecture']}", None, tuple(layers), config, manifest)


def _blob_in(folder: Path, descriptor: Mapping[str, Any]) -> Blob:
    digest = str(descriptor["digest"])
    return Blob(folder / _blob_name(digest), digest, int(descriptor["size"]))


def _member(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    stream = tar.extractfile(name)
    assert stream is not None  # noqa: S101 -- what the manifest names is a file, or a link to one
    return stream


def _compress(layer: IO[bytes], folder: Path) -> dict[str, object]:
    """Compress a layer into a layout's blobs, and return its descriptor."""
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
