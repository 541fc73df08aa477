"""Carry out a plan: build what is missing, several images at once, and bring each to its destination.

That is a registry, one archive of all images, or Docker Engine. To a registry, blobs are pushed first, each in the
shortest way, and the tag last.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from k8s_venv.builders.buildkit import BuildKit
from k8s_venv.builders.engine import connect, load_image
from k8s_venv.builders.layer_builder import build
from k8s_venv.builders.layers import known_repositories, note_repository
from k8s_venv.builders.oci import DamagedLayerError, tagged_digest, tagged_document, write_archive
from k8s_venv.builders.plan import in_parallel
from k8s_venv.errors import BuildError, K8sVenvError
from k8s_venv.registry import Reference, Registry, RegistryError, registry_at, upload
from k8s_venv.registry.images import find_manifest, put_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from k8s_venv.builders.oci import Image
    from k8s_venv.builders.plan import Step

Destination = Literal["push", "load"]

_BLOBS_AT_ONCE = 4
# How registries answer if tags are immutable (ECR, Harbor, Quay, Artifact Registry).
_WRITTEN_ONCE = (400, 403, 409, 412)


@dataclasses.dataclass(frozen=True)
class Done:
    """How a step ended.

    Args:
        step: the step.
        sent: the bytes that were uploaded.
        digest: the image's digest, if it is known.
        error: why it failed.
    """

    step: Step
    sent: int = 0
    digest: str = ""
    error: K8sVenvError | None = None


class Run:
    """Builds images until it is stopped.

    Args:
        destination: a registry, the local Docker Engine, or the path of an archive.
        progress: is called with a step and what it does now.
        sent: is called with a step and how many bytes of it were sent so far.
        done: is called with each finished step.
    """

    def __init__(
        self,
        destination: Destination | Path,
        progress: Callable[[Step, str], None],
        sent: Callable[[Step, int], None],
        done: Callable[[Done], None],
    ) -> None:
        self._destination, self._progress, self._sent, self._done = destination, progress, sent, done
        self._stopped = False
        self._folder = ""
        self._buildkit = BuildKit()
        self._images: dict[str, list[Image]] = {}
        self._pushers: dict[str, Pusher] = {}

    def all(self, steps: Iterable[Step], jobs: int) -> list[Done]:
        """Build every step; one failure does not stop the others.

        Args:
            steps: what to build.
            jobs: how many images to build at once.

        Raises:
            K8sVenvError: the archive of all images cannot be written.
        """
        # The folder keeps images for an archive until all of them are there.
        with tempfile.TemporaryDirectory(prefix="k8s-venv-images-") as self._folder:
            ended = in_parallel(self._one, steps, jobs, self._stop)
            if isinstance(self._destination, Path) and self._images:
                try:
                    write_archive(self._images, self._destination)
                except OSError as error:
                    raise K8sVenvError(
                        f"The archive {self._destination} cannot be written: {error.strerror}."
                    ) from None
        return ended

    def _stop(self) -> None:
        self._stopped = True
        self._buildkit.stop()

    def _one(self, step: Step) -> Done:
        try:
            if self._stopped:
                raise BuildError(step.environment.name, "its build was interrupted.")
            if step.problem:
                raise step.problem
            ended = self._build(step)
        except BuildError as error:
            ended = Done(step, error=error)
        except K8sVenvError as error:
            ended = Done(step, error=BuildError(step.environment.name, f"its image could not be built. {error}"))
        except OSError as error:  # of temporary files: those of the cache and of requests are explained where they are
            place = f" ({error.filename or tempfile.gettempdir()})"
            problem = f"its image could not be built here: {error.strerror or error}{place}."
            if error.errno == errno.ENOSPC:
                problem += " Set TMPDIR to a folder with more space."
            ended = Done(step, error=BuildError(step.environment.name, problem))
        if not self._stopped:
            self._done(ended)
        return ended

    def _build(self, step: Step) -> Done:
        report = functools.partial(self._progress, step)
        if step.builder == "buildkit":
            return self._build_with_buildkit(step, report)
        images = _build_from_layers(step, report)
        try:
            return self._bring(step, images, report)
        except DamagedLayerError:
            for image in images:
                image.discard_damaged()
            report("making layers again that were changed in the cache folder")
            return self._bring(step, _build_from_layers(step, report), report)

    def _build_with_buildkit(self, step: Step, report: Callable[[str], None]) -> Done:
        if isinstance(self._destination, Path):
            folder = Path(tempfile.mkdtemp(dir=self._folder))
            images = self._buildkit.export(step, folder, report)
            self._images[step.reference] = images
        else:
            self._buildkit.build(step, self._destination, report)
        return Done(step)

    def _bring(self, step: Step, images: list[Image], report: Callable[[str], None]) -> Done:
        if self._destination == "push":
            report("pushing")
            return self._push(step, images)
        if self._destination == "load":
            report("loading into Docker Engine")
            with contextlib.closing(connect()) as client:
                load_image(client, step.reference, images)
        else:
            for image in images:
                image.require_intact()
            self._images[step.reference] = images
        return Done(step, 0, tagged_digest(images))

    def _push(self, step: Step, images: list[Image]) -> Done:
        reference = Reference.parse(step.reference)
        total, counting = 0, threading.Lock()

        def count(number: int) -> None:
            nonlocal total
            with counting:  # blobs are sent by several threads
                total += number
            self._sent(step, total)

        pusher = self._pushers.setdefault(reference.host, Pusher(registry_at(reference.host)))
        digest = pusher.push(images, reference, count)
        return Done(step, total, digest)


def _build_from_layers(step: Step, report: Callable[[str], None]) -> list[Image]:
    return [build(step.environment, step.lock, parts, report) for parts in step.parts]


class Pusher:
    """Pushes images to one registry, and remembers which repositories have which layers, for mounting.

    Args:
        registry: where to push.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._sending: dict[str, threading.Lock] = {}

    def push(self, images: Sequence[Image], reference: Reference, progress: Callable[[int], None]) -> str:
        """Push an image's platforms under one tag; until the last request, the tag is what it was.

        Args:
            images: the image for each platform.
            reference: where to.
            progress: is called with each number of bytes that were sent.

        Returns:
            The digest of the image, or of the index of its platforms, that the tag names now.

        Raises:
            RegistryError: the registry cannot be reached or refuses.
        """
        with tempfile.TemporaryDirectory(prefix="k8s-venv-push-") as folder, ThreadPoolExecutor(_BLOBS_AT_ONCE) as pool:
            # Platforms share what is for any of them.
            parts = {str(descriptor["digest"]): (image, descriptor) for image in images for descriptor in image.parts}
            try:
                jobs = [
                    pool.submit(self._push_blob, reference.repository, *part, Path(folder), progress)
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
        return self._tag(reference, tagged_document(images))

    def _push_blob(
        self,
        repository: str,
        image: Image,
        descriptor: Mapping[str, Any],
        folder: Path,
        progress: Callable[[int], None],
    ) -> None:
        digest, host = str(descriptor["digest"]), self._registry.host
        fetch = functools.partial(image.blob, descriptor, folder)
        # What several images need is sent with one of them, and mounted for the others.
        with self._sending.setdefault(digest, threading.Lock()):
            sources = known_repositories(host, digest)
            base = image.base
            if base and base.reference.host == host and digest in (layer["digest"] for layer in base.layers):
                sources.insert(0, base.reference.repository)
            sources = [source for source in dict.fromkeys(sources) if source != repository]
            way = upload(self._registry, repository, digest, fetch, sources, progress)
            if way == "sent" or not known_repositories(host, digest):
                note_repository(host, digest, repository)

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
