"""What has to be built: each environment's reference, whether the registry has it, and what building it takes."""

from __future__ import annotations

import dataclasses
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from k8s_venv import cache
from k8s_venv.builders import GENERATIONS
from k8s_venv.builders.base import has_python
from k8s_venv.builders.engine import EngineError, find_buildx
from k8s_venv.builders.layer_builder import Parts, find_parts, known_layers, known_library_layer
from k8s_venv.builders.layers import known_repositories
from k8s_venv.builders.wheels import NoWheelError
from k8s_venv.errors import BuildError, LockError
from k8s_venv.locks import uv
from k8s_venv.locks.locking import read_lock
from k8s_venv.registry import DENIED, Reference, RegistryError, registry_at, stop_registries
from k8s_venv.registry.images import find_manifest, list_tags

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from k8s_venv.config.environment import Environment
    from k8s_venv.config.project import Project
    from k8s_venv.locks.lockfile import Lock
    from k8s_venv.registry import Registry

Thing = TypeVar("Thing")
Outcome = TypeVar("Outcome")

_AT_ONCE = 8


@dataclasses.dataclass(frozen=True)
class Step:
    """One environment of a plan.

    Args:
        environment: which one.
        lock: its lock.
        reference: the image's full reference.
        digest: the image's digest in the registry, or None if it has to be built.
        state: whether it exists, or why not.
        builder: what builds it.
        why: the reason for that builder.
        parts: what the layer builder makes it from, for each platform.
        problem: why it cannot be built.
    """

    environment: Environment
    lock: Lock
    reference: str
    digest: str | None
    state: str
    builder: str = ""
    why: str = ""
    parts: tuple[Parts, ...] = ()
    problem: BuildError | None = None

    @property
    def exists(self) -> bool:
        """Return whether the registry has it."""
        return self.digest is not None

    @property
    def packages(self) -> int:
        """Return the number of packages."""
        return len({package.name for package in self.lock.packages})


def make_plan(
    project: Project,
    environments: Iterable[Environment],
    builder: str | None = None,
    *,
    details: bool = True,
    rebuild: bool = False,
    load: bool = False,
) -> list[Step]:
    """Find what has to be built; nothing is built before every question is answered.

    Args:
        project: the project, for its registry.
        environments: those to plan for.
        builder: the builder to use instead of what an environment needs.
        details: whether to find out what building takes.
        rebuild: whether to build everything, without asking the registry for it.
        load: whether only the platform of the local engine is needed.

    Raises:
        K8sVenvError: there is no registry, or it cannot be asked, or a lock is missing, stale or outdated.
    """
    place = project.require_registry()
    locks = [(environment, read_lock(environment)) for environment in environments]
    begun = [
        Step(environment, lock, environment.image_reference(place, lock.digest), None, "to build", lock.builder)
        for environment, lock in locks
    ]
    choice = _BuilderChoice(builder, load)

    def plan(step: Step) -> Step:
        if not rebuild:
            step = _look_up(step, details)
        return choice.choose(step) if details and not step.exists and not step.problem else step

    steps = in_parallel(plan, begun, _AT_ONCE)
    for step in steps:
        _require_known_generation(step)
    return steps


def in_parallel(
    function: Callable[[Thing], Outcome],
    things: Iterable[Thing],
    jobs: int,
    stop: Callable[[], None] | None = None,
) -> list[Outcome]:
    """Call a function for each thing, in threads, and return the outcomes in order.

    The first failure is raised after the calls that run have ended; an interrupt ends these calls, too.

    Args:
        function: what to call.
        things: its arguments.
        jobs: how many calls may run at once.
        stop: ends the calls that run.
    """
    with ThreadPoolExecutor(jobs) as pool:
        try:
            return list(pool.map(function, things))
        except BaseException as error:
            if not isinstance(error, Exception):
                cache.stop_waiting()
                stop_registries()
                uv.stop()
            if stop is not None:
                stop()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _look_up(step: Step, details: bool) -> Step:
    """Ask the registry for a step's image."""
    reference = Reference.parse(step.reference)
    registry = registry_at(reference.host)
    try:
        digest = find_manifest(registry, reference)
    except RegistryError as error:
        if error.status != DENIED:  # any other error is the same for all images
            raise
        problem = BuildError(step.environment.name, f"its registry does not say whether its image exists. {error}")
        return dataclasses.replace(step, state="denied", problem=problem)
    if digest is not None:
        return dataclasses.replace(step, digest=digest, state="exists", builder="")
    return dataclasses.replace(step, state=_state_of_missing(registry, reference)) if details else step


def _state_of_missing(registry: Registry, reference: Reference) -> str:
    try:
        tags = list_tags(registry, reference.repository)
    except RegistryError:  # some may push and not list
        return "to build"
    return "to build, since it changed" if tags else "to build, for the first time"


def _require_known_generation(step: Step) -> None:
    if not step.exists and GENERATIONS.get(step.lock.builder) != step.lock.epoch:
        raise LockError(
            step.environment.name,
            "its lock asks for an image that only another version of k8s-venv makes. Run "
            f"`k8s-venv lock {step.environment.name}`, which gives the image another tag.",
        )


class _BuilderChoice:
    """Chooses how images are built.

    Args:
        forced: the builder to use instead of what an environment needs.
        load: whether only the platform of the local engine is needed.
    """

    def __init__(self, forced: str | None, load: bool) -> None:
        self._forced, self._load = forced, load
        self._buildx = functools.cache(find_buildx)

    def choose(self, step: Step) -> Step:
        """Choose the builder, and find the parts of an image for the layer builder."""
        environment = step.environment
        if self._forced == "buildkit":
            return self._with_buildkit(step, "--builder")
        if environment.image_builder == "buildkit" and self._forced is None:
            return self._with_buildkit(step, environment.buildkit_reason or "the environment's `builder`")
        step = dataclasses.replace(step, builder="layers", why="--builder" if self._forced else "wheels suffice")
        if environment.image_builder == "buildkit":
            what = environment.buildkit_reason or "its `builder`"
            problem = BuildError(environment.name, f"{what} need BuildKit: leave out --builder layers.")
            return dataclasses.replace(step, problem=problem)
        try:
            parts = tuple(find_parts(environment, step.lock, platform) for platform in environment.image_platforms)
            if self._forced is None and not all(has_python(environment, one.base) for one in parts):
                return self._with_buildkit(step, f"its base has no Python {environment.python}")
        except NoWheelError as error:
            if self._forced is None:
                return self._with_buildkit(step, "a package without wheels")
            return dataclasses.replace(step, problem=error)
        except BuildError as error:
            return dataclasses.replace(step, problem=error)
        return dataclasses.replace(step, parts=parts)

    def _with_buildkit(self, step: Step, why: str) -> Step:
        """Choose BuildKit, which is not there everywhere, and not for every platform."""
        wanted = step.environment.image_platforms
        try:
            buildx = self._buildx()
            reason = buildx.problem([buildx.engine] if self._load and buildx.engine in wanted else wanted)
        except EngineError as error:
            reason = str(error)
        problem = BuildError(step.environment.name, f"its image needs BuildKit ({why}). {reason}") if reason else None
        return dataclasses.replace(step, builder="buildkit", why=why, problem=problem)


@dataclasses.dataclass(frozen=True)
class Volume:
    """How much of an image has to be uploaded.

    Args:
        upload: the bytes of layers that are made and that the registry lacks.
        shared: the bytes of those that it has, or gets with an image before this one.
        unmade: the packages whose layers have yet to be made.
        unmade_bytes: their wheels' sizes, or None if the index did not give all of them.
    """

    upload: int
    shared: int
    unmade: int
    unmade_bytes: int | None


def volumes(steps: Sequence[Step]) -> dict[str, Volume]:
    """Return how much the layer builder has to upload for each step of a plan, by the environment's name.

    Args:
        steps: the plan.
    """
    seen: set[str] = set()
    return {step.environment.name: _volume(step, seen) for step in steps if step.parts and not step.exists}


def _volume(step: Step, seen: set[str]) -> Volume:
    """Return how much a step has to upload in addition to the steps before it."""
    host = Reference.parse(step.reference).host
    upload = shared = 0
    missing = set()
    for parts in step.parts:
        layers, unmade = known_layers(parts.wheels, step.environment.python)
        library = known_library_layer(step.environment, parts.base)
        missing |= {(wheel.digest, wheel.source.size) for wheel in unmade}
        base = [(str(one["digest"]), int(one["size"])) for one in parts.base.layers]
        at_hand = parts.base.reference.host == host
        own = [*([library] if library else ()), *layers]
        for digest, size in [*base, *((layer.blob.digest, layer.blob.size) for layer in own)]:
            has = digest in seen or (at_hand and (digest, size) in base) or bool(known_repositories(host, digest))
            shared, upload = (shared + size, upload) if has else (shared, upload + size)
            seen.add(digest)
    new = {one for one in missing if one[0] not in seen}
    seen |= {digest for digest, _ in new}
    sizes = [size for _, size in new]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    return Volume(upload, shared, len(new), total)
