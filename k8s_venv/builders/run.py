"""Carry out a plan: build what is missing, several images at once, and bring each where it belongs."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from k8s_venv.builders.archive import write_archive
from k8s_venv.builders.buildkit import BuildKit
from k8s_venv.builders.dockerengine import connect
from k8s_venv.builders.engine import load_archive
from k8s_venv.builders.image import digest_of_whole
from k8s_venv.builders.layered import build
from k8s_venv.builders.parallel import in_parallel
from k8s_venv.builders.push import Pushed, Pusher, SpoiltLayerError, discard_spoilt, require_intact
from k8s_venv.errors import BuildError, K8sVenvError
from k8s_venv.registry import Reference, registry_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from k8s_venv.builders.image import Image
    from k8s_venv.builders.plan import Step

Destination = Literal["push", "load"]


@dataclasses.dataclass(frozen=True)
class Done:
    """How a step ended.

    Args:
        step: the step.
        sent: the bytes that were uploaded.
        digest: the image's digest, where it is known.
        error: why it failed.
    """

    step: Step
    sent: int = 0
    digest: str = ""
    error: K8sVenvError | None = None


class Run:
    """Builds images until it is told to stop.

    Args:
        destination: a registry, or the local Docker Engine.
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
        chosen = list(steps)
        # Where images for an archive are kept until all of them are there.
        with tempfile.TemporaryDirectory(prefix="k8s-venv-images-") as self._folder:
            ended = in_parallel(self._one, chosen, jobs, self._stop)
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
            if isinstance(self._destination, Path):
                folder = Path(tempfile.mkdtemp(dir=self._folder))
                made = self._buildkit.export(step.environment, step.lock, step.reference, folder, report)
                self._images[step.reference] = made
            else:
                self._buildkit.build(step.environment, step.lock, step.reference, self._destination, report)
            return Done(step)
        images = [build(step.environment, step.lock, parts, report) for parts in step.parts]
        try:
            return self._bring(step, images, report)
        except SpoiltLayerError:
            for image in images:
                discard_spoilt(image)
            report("making layers again that were changed in the cache folder")
            images = [build(step.environment, step.lock, parts, report) for parts in step.parts]
            return self._bring(step, images, report)

    def _bring(self, step: Step, images: list[Image], report: Callable[[str], None]) -> Done:
        digest = digest_of_whole(images)
        if isinstance(self._destination, Path):
            for image in images:
                require_intact(image)
            self._images[step.reference] = images
            return Done(step, 0, digest)
        if self._destination == "load":
            report("loading into Docker Engine")
            with contextlib.closing(connect()) as client:
                load_archive(client, step.reference, images)
            return Done(step, 0, digest)
        report("pushing")
        pushed = self._push(step, images)
        return Done(step, pushed.sent, pushed.digest)

    def _push(self, step: Step, images: list[Image]) -> Pushed:
        reference = Reference.parse(step.reference)
        sent = 0

        def count(number: int) -> None:
            nonlocal sent
            sent += number
            self._sent(step, sent)

        pusher = self._pushers.setdefault(reference.host, Pusher(registry_at(reference.host)))
        return pusher.push(images, reference, count)
