"""``k8s-venv prune``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from k8s_venv.cache import cache_folder
from k8s_venv.cli.console import aligned, console, megabytes, show_error

if TYPE_CHECKING:
    from collections.abc import Iterable

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

    That is: layers and what is noted of them, layers of base images, and the local backend's virtual environments;
    those also where every lock that they were made for has changed or is gone, and what killed builds have left. What
    a build or a call uses just now stays. Nothing is lost: what is needed again is made or downloaded again.

    \b
    Examples:
        k8s-venv prune --dry-run           what would go, and how many bytes
        k8s-venv prune --older-than 7      on a build machine, every night

    The cache folder is the user's, or K8S_VENV_CACHE. Within it, uv keeps the packages and Pythons that it downloaded,
    which stay: `uv cache prune --cache-dir CACHE/uv` is for those.
    """  # noqa: D301 -- click leaves the lines after a \b as they are
    from k8s_venv.backends.local.unused import unused_environments
    from k8s_venv.builders.unused import unused_by_builds
    from k8s_venv.cache import alone_with, layers_folder

    failed = False
    with alone_with(layers_folder()) as alone, unused_environments(days * _DAY) as environments:
        found = [*(unused_by_builds(days * _DAY) if alone else ()), *environments]
        if not alone:
            console().print(f"A build uses {cache_folder()} now, so layers and base images stay.")
        total = _show(found)
        for one in () if dry_run else found:
            try:
                one.remove()
            except OSError as error:
                failed = True
                show_error(f"{error.filename} cannot be removed: {error.strerror}.")
    said = "Would remove" if dry_run else "Removed"
    click.echo(f"{said} {megabytes(total)} from {cache_folder()}.")
    if failed:
        raise click.exceptions.Exit(1)


def _show(found: Iterable[Unused]) -> int:
    """Print how much of what there is, and return the bytes of all."""
    sizes: dict[str, list[int]] = {}
    for one in found:
        sizes.setdefault(one.kind, []).append(one.size)
    rows = [(megabytes(sum(each)), str(len(each)), kind) for kind, each in sizes.items()]
    if rows:
        click.echo(aligned(("size", "number", "what"), rows))
    return sum(sum(each) for each in sizes.values())
