"""``k8s-venv prune``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from k8s_venv import cache
from k8s_venv.cli.console import aligned, console, megabytes, show_error

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from k8s_venv.cache import Unused

_DAY = 86400.0


@click.command()
@click.option(
    "--older-than",
    "days",
    type=click.FloatRange(0),
    default=30,
    show_default=True,
    metavar="DAYS",
    help="Remove what was not used for so many days.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be removed, and remove nothing.")
def prune(days: float, dry_run: bool) -> None:
    """Remove from the cache folder what was not used for long.

    It removes layers and the notes about them, layers of base images, and virtual environments of the local backend.
    Such an environment goes earlier if every lock that it was made for has changed or is gone. What killed builds have
    left goes, too. What a build or a call uses now stays. Nothing is lost: it is made or downloaded again when it is
    needed.

    \b
    Examples:
        k8s-venv prune --dry-run           what would go, and how many bytes
        k8s-venv prune --older-than 7      on a build machine, every night

    The cache folder is the user's, or K8S_VENV_CACHE. The packages and Pythons that uv downloaded stay there:
    `uv cache prune --cache-dir CACHE/uv` removes packages.
    """  # noqa: D301 -- click leaves the lines after a \b as they are
    failed = False
    with (
        cache.try_exclusive_lock(cache.layers_folder()) as alone,
        cache.unused_environments(days * _DAY, _lock_digest) as environments,
    ):
        found = [*(cache.unused_by_builds(days * _DAY) if alone else ()), *environments]
        if not alone:
            console().print(f"A build uses {cache.cache_folder()} now, so layers and base images stay.")
        total = _show(found)
        for one in () if dry_run else found:
            try:
                one.remove()
            except OSError as error:
                failed = True
                show_error(f"{error.filename} cannot be removed: {error.strerror}.")
    done = "Would remove" if dry_run else "Removed"
    click.echo(f"{done} {megabytes(total)} from {cache.cache_folder()}.")
    if failed:
        raise click.exceptions.Exit(1)


def _lock_digest(path: Path) -> str | None:
    from k8s_venv.locks.lockfile import parse_lock

    try:
        return parse_lock(path).digest
    except (OSError, ValueError):
        return None


def _show(found: Iterable[Unused]) -> int:
    """Print how much there is of each kind, and return the bytes of all."""
    sizes: dict[str, list[int]] = {}
    for one in found:
        sizes.setdefault(one.kind, []).append(one.size)
    rows = [(megabytes(sum(each)), str(len(each)), kind) for kind, each in sizes.items()]
    if rows:
        click.echo(aligned(("size", "number", "what"), rows))
    return sum(sum(each) for each in sizes.values())
