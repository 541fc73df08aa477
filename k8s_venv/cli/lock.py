"""``k8s-venv lock``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from k8s_venv.cli.console import open_project, progress, show_error
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
    """Lock environments to exact versions with hashes.

    All of the project's environments, or the named ones; each gets a file pylock.ENVIRONMENT.toml beside
    k8s-venv.toml. Versions of an older lock are kept where they still fit: delete the file to renew them all. Commit
    the locks: images and their tags are made from them.
    """
    lock_environments(open_project(given).select(environments))


def lock_environments(environments: Iterable[Environment]) -> None:
    """Lock environments one after the other, with progress; one failure does not stop the others.

    Raises:
        LockError: one of them could not be locked; of several, the last, after the others were shown.
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
    for failure in failures[:-1]:
        show_error(failure)
    if failures:
        raise failures[-1]


def lock_missing(environments: Iterable[Environment]) -> None:
    """Lock the environments that never were; a stale lock is left for its owner to renew."""
    missing = [environment for environment in environments if not environment.lock_path.exists()]
    if missing:
        lock_environments(missing)
