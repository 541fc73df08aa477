"""``k8s-venv build-images``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from k8s_venv.builders.engine import connect
from k8s_venv.builders.plan import Step, make_plan, run_plan
from k8s_venv.cli.console import aligned, console, open_project, progress, show_error
from k8s_venv.cli.lock import lock_missing

if TYPE_CHECKING:
    from pathlib import Path


@click.command("build-images")
@click.argument("environments", nargs=-1, metavar="[ENVIRONMENT]...")
@click.option("--jobs", "-j", type=click.IntRange(1), default=2, show_default=True, help="Images to build at once.")
@click.option("--dry-run", is_flag=True, help="Show what would be built, and build nothing.")
@click.pass_obj
def build_images(given: Path | None, environments: tuple[str, ...], jobs: int, dry_run: bool) -> None:
    """Build the environments' images with BuildKit and push them.

    All of the project's environments, or the named ones. An image's tag is a digest of its environment and lock, so
    one that the registry has is skipped. Environments that were never locked are locked first. Standard output gets
    one line for each image: the environment's name and the reference.

    It needs a running Docker Engine with buildx, and a registry: `registry` in k8s-venv.toml, or K8S_VENV_REGISTRY.
    """
    project = open_project(given)
    selected = project.select(environments)
    chosen = [environment for environment in selected if environment.image is None]
    project.require_registry()
    client = connect()
    lock_missing(chosen)
    steps = make_plan(project, chosen, client)
    for environment in selected:
        if environment.image is not None:
            console.print(
                f"{environment.name} is not built: it has an image of its own, {environment.image}", markup=False
            )
    _show(steps)
    failed = set() if dry_run else _build(steps, jobs)
    for step in steps:
        if step.environment.name not in failed:
            click.echo(f"{step.environment.name} {step.reference}")
    if failed:
        raise click.exceptions.Exit(1)


def _show(steps: list[Step]) -> None:
    rows = [
        (
            step.environment.name,
            step.environment.python,
            str(len(step.lock.packages)),
            "exists" if step.exists else "to build",
        )
        for step in steps
    ]
    console.print(aligned(("environment", "Python", "packages", "image"), rows), markup=False)


def _build(steps: list[Step], jobs: int) -> set[str]:
    """Build what is missing; return the names of the environments that could not be built."""
    missing = [step.environment.name for step in steps if not step.exists]
    with progress(missing) as (report, finished):
        failures = run_plan(
            steps,
            jobs,
            lambda step, text: report(step.environment.name, text),
            lambda step, error: finished(step.environment.name, "failed" if error else "pushed"),
        )
    for failure in failures:
        show_error(failure)
    return {failure.environment for failure in failures}
