"""Push finished images: blobs first, each by the shortest way, the tag last."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from k8s_venv import cache
from k8s_venv.builders.base import base_blob
from k8s_venv.builders.image import whole
from k8s_venv.builders.layers import digest_of, is_intact
from k8s_venv.errors import K8sVenvError
from k8s_venv.registry import Blob, Reference, Registry, RegistryError, upload
from k8s_venv.registry.images import find_manifest, put_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from k8s_venv.builders.image import Image

_AT_ONCE = 4
# What registries answer where tags are immutable (ECR, Harbor, Quay, Artifact Registry).
_WRITTEN_ONCE = (400, 403, 409, 412)


@dataclasses.dataclass(frozen=True)
class Pushed:
    """What a push came to.

    Args:
        digest: of the image, or the index of its platforms, that the tag names now.
        sent: the bytes that were sent.
    """

    digest: str
    sent: int


class SpoiltLayerError(K8sVenvError):
    """A layer in the cache was changed since it was made."""


class Pusher:
    """Pushes images to one registry, and remembers which repositories have which layers, for mounting.

    Args:
        registry: where to push.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._bringing: dict[str, threading.Lock] = {}

    def push(self, images: Sequence[Image], reference: Reference, progress: Callable[[int], None]) -> Pushed:
        """Push an image's platforms under one tag; until the last request, the tag is what it was.

        Args:
            images: the image for each platform.
            reference: where to.
            progress: is called with each number of bytes that were sent.

        Raises:
            RegistryError: the registry cannot be reached or refuses.
        """
        sent: list[int] = []

        def count(number: int) -> None:
            sent.append(number)
            progress(number)

        with tempfile.TemporaryDirectory(prefix="k8s-venv-push-") as folder, ThreadPoolExecutor(_AT_ONCE) as pool:
            # Platforms share what is for any of them.
            parts = {
                str(descriptor["digest"]): (image, descriptor)
                for image in images
                for descriptor in [image.manifest["config"], *image.manifest["layers"]]
            }
            try:
                jobs = [
                    pool.submit(self._bring, reference.repository, *part, Path(folder), count)
                    for part in parts.values()
                ]
                for job in jobs:
                    job.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        if len(images) > 1:
            for image in images:
                put_manifest(self._registry, reference.repository, image.digest, image.manifest)
        return Pushed(self._tag(reference, whole(images)), sum(sent))

    def _tag(self, reference: Reference, manifest: Mapping[str, Any]) -> str:
        """Write the tag, the last request of a push; return the digest of what it names then."""
        try:
            return put_manifest(self._registry, reference.repository, reference.tag, manifest)
        except RegistryError as error:
            # A tag that cannot be written twice: another build was faster, or the answer to this one got lost.
            found = find_manifest(self._registry, reference) if error.status in _WRITTEN_ONCE else None
            if found is None:
                raise
            return found

    def _bring(
        self,
        repository: str,
        image: Image,
        descriptor: Mapping[str, Any],
        folder: Path,
        count: Callable[[int], None],
    ) -> None:
        digest = str(descriptor["digest"])
        fetch = functools.partial(find_blob, image, descriptor, folder)
        # What several images need is sent with one of them, and mounted for the others.
        with self._bringing.setdefault(digest, threading.Lock()):
            sources = known_repositories(self._registry.host, digest)
            if image.base and image.base.reference.host == self._registry.host and descriptor in image.base_layers:
                sources.insert(0, image.base.reference.repository)
            sources = [one for one in dict.fromkeys(sources) if one != repository]
            way = upload(self._registry, repository, digest, fetch, sources, count)
            if way == "sent" or not known_repositories(self._registry.host, digest):
                cache.write_note(_note(self._registry.host, digest), {"repository": repository})


def find_blob(image: Image, descriptor: Mapping[str, Any], folder: Path) -> Blob:
    """Return a part of an image as a file; a layer of the base is downloaded for it.

    Args:
        image: the image.
        descriptor: the part.
        folder: where the configuration is written.
    """
    digest = str(descriptor["digest"])
    if digest == image.config_digest:
        path = folder / digest.replace(":", "-")
        path.write_bytes(image.config)
        return Blob(path, digest, len(image.config))
    own = {layer.blob.digest: layer.blob for layer in image.layers}
    if digest in own:
        _require_intact(own[digest])
        return own[digest]
    assert image.base is not None  # noqa: S101 -- every other layer is one of a base's
    return base_blob(image.base, descriptor)


def require_intact(image: Image) -> None:
    """Refuse an image with layers of its own that were changed since they were made.

    Raises:
        SpoiltLayerError: one was.
    """
    for layer in image.layers:
        _require_intact(layer.blob)


def _require_intact(blob: Blob) -> None:
    if not is_intact(blob.path, blob.digest):
        raise SpoiltLayerError(f"{blob.path} is not what was once written there.")


def discard_spoilt(image: Image) -> None:
    """Remove an image's own layers that were changed since they were made, so that they are made again."""
    for layer in image.layers:
        if not is_intact(layer.blob.path, layer.blob.digest):
            layer.blob.path.unlink(missing_ok=True)


def known_repositories(host: str, digest: str) -> list[str]:
    """Return a repository that had a blob when it was last pushed there from here, if any did."""
    note = cache.read_note(_note(host, digest), repository=str)
    return [note["repository"]] if note else []


def _note(host: str, digest: str) -> Path:
    return cache.note_path("pushed", digest_of([host, digest]))
