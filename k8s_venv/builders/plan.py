"""What has to be built: each environment's reference, and whether the registry has it."""

from __future__ import annotations

import dataclasses
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from k8s_venv.builders.buildkit import BuildKit
from k8s_venv.builders.engine import image_exists
from k8s_venv.errors import BuildError, LockError
from k8s_venv.locking import BUILDER, EPOCH, Lock, read_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import docker

    from k8s_venv.environment import Environment
    from k8s_venv.project import Project


@dataclasses.dataclass(frozen=True)
class Step:
    """One environment of a plan.

    Args:
        environment: which one.
        lock: its lock.
        reference: the image's full reference.
        exists: whether the registry has it.
    """

    environment: Environment
    lock: Lock
    reference: str
    exists: bool


def make_plan(project: Project, environments: Iterable[Environment], client: docker.DockerClient) -> list[Step]:
    """Find out what has to be built; nothing is built before every question is answered.

    Args:
        project: the project, for its registry.
        environments: those to plan for.
        client: asks the registry.

    Raises:
        K8sVenvError: there is no registry, or it cannot be asked, or a lock is missing, stale or outdated.
    """
    registry = project.require_registry()
    chosen = list(environments)
    locks = [read_lock(environment) for environment in chosen]
    references = [env.image_reference(registry, lock.digest) for env, lock in zip(chosen, locks, strict=True)]
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(functools.partial(image_exists, client), references))
    steps = [Step(*parts) for parts in zip(chosen, locks, references, found, strict=True)]
    for step in steps:
        if not step.exists and (step.lock.builder, step.lock.epoch) != (BUILDER, EPOCH):
            raise LockError(
                step.environment.name,
                "its lock asks for an image that only another version of k8s-venv makes. Run "
                f"`k8s-venv lock {step.environment.name}`, which gives the image another tag.",
            )
    return steps


def run_plan(
    steps: Iterable[Step],
    jobs: int,
    progress: Callable[[Step, str], None],
    done: Callable[[Step, BuildError | None], None],
) -> list[BuildError]:
    """Build and push what is missing; one failure does not stop the others.

    Args:
        steps: the plan.
        jobs: how many images to build at once.
        progress: is called with a step and what it does now.
        done: is called with each finished step, and its error where it failed.

    Returns:
        The errors of those that failed.
    """
    builder = BuildKit()

    def build(step: Step) -> BuildError | None:
        failure = None
        try:
            builder.build_and_push(step.environment, step.lock, step.reference, lambda text: progress(step, text))
        except BuildError as error:
            failure = error
        done(step, failure)
        return failure

    with ThreadPoolExecutor(jobs) as pool:
        try:
            return [error for error in pool.map(build, [s for s in steps if not s.exists]) if error]
        except BaseException:
            builder.stop()
            raise
