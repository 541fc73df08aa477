"""``k8s-venv lock``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from k8s_venv.cli.console import console, open_project, progress
from k8s_venv.errors import LockError
from k8s_venv.locking import write_lock

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from k8s_venv.environment import Environment


@click.command()
@click.argument("environments", nargs=-1, metavar="[ENVIRONMENT]...")
@click.pass_obj
def lock(given: Path | None, environments: tuple[str, ...]) -> None:
    """Lock environments: write pylock.ENVIRONMENT.toml with exact versions and hashes.

    All of the project's environments, or the named ones. Versions of an older lock are kept where they still fit.
    Commit the locks: images and tags are made from them.
    """
    lock_environments(open_project(given).select(environments))


def lock_environments(environments: Iterable[Environment]) -> None:
    """Lock environments one after the other, with progress; one failure does not stop the others.

    Raises:
        LockError: one of them could not be locked, the first if they are several.

    """
    chosen = list(environments)
    failures: list[LockError] = []
    with progress([environment.name for environment in chosen]) as (report, finished):
        for environment in chosen:
            report(environment.name, f"resolving for Python {environment.python}")
            try:
                written = write_lock(environment)
            except LockError as error:
                failures.append(error)
                finished(environment.name, "failed")
            else:
                finished(environment.name, f"locked {len(written.packages)} packages in {written.path.name}")
    for failure in failures[1:]:
        console.print(f"Error: {failure}", markup=False)
    if failures:
        raise failures[0]


def lock_missing(environments: Iterable[Environment]) -> None:
    """Lock the environments that never were; a stale lock is left for its owner to renew."""
    missing = [environment for environment in environments if not environment.lock_path.exists()]
    if missing:
        lock_environments(missing)
