"""What has to be built: each environment's reference, and whether the registry has it."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from k8s_venv.builders.buildkit import build_and_push
from k8s_venv.builders.engine import image_exists
from k8s_venv.errors import BuildError
from k8s_venv.locking import Lock, read_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

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


def make_plan(project: Project, environments: Iterable[Environment]) -> list[Step]:
    """Find out what has to be built; nothing is built before every question is answered.

    Args:
        project: the project, for its registry.
        environments: those to plan for. Those with an `image` of their own are left out.

    Raises:
        K8sVenvError: there is no registry, or it cannot be asked, or a lock is missing or stale.

    """
    registry = project.require_registry()
    own = [environment for environment in environments if environment.image is None]
    locks = [read_lock(environment) for environment in own]
    references = [env.image_reference(registry, lock.digest) for env, lock in zip(own, locks, strict=True)]
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(image_exists, references))
    return [Step(*parts) for parts in zip(own, locks, references, found, strict=True)]


def run_plan(
    steps: Iterable[Step], jobs: int, progress: Callable[[Step, str], None], done: Callable[[Step], None]
) -> list[BuildError]:
    """Build and push what is missing; one failure does not stop the others.

    Args:
        steps: the plan.
        jobs: how many images to build at once.
        progress: is called with a step and what it does now.
        done: is called with each finished step.

    Returns:
        The errors of those that failed.

    """

    def build(step: Step) -> BuildError | None:
        try:
            build_and_push(step.environment, step.lock, step.reference, lambda text: progress(step, text))
        except BuildError as error:
            return error
        done(step)
        return None

    with ThreadPoolExecutor(jobs) as pool:
        try:
            return [error for error in pool.map(build, [s for s in steps if not s.exists]) if error]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
