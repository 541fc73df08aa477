"""``k8s-venv build-images``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich.table import Table

from k8s_venv.builders.engine import engine
from k8s_venv.builders.plan import Step, make_plan, run_plan
from k8s_venv.cli.console import console, open_project, progress
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
    chosen = project.select(environments)
    project.require_registry()
    engine()
    lock_missing([environment for environment in chosen if environment.image is None])
    steps = make_plan(project, chosen)
    _show(steps)
    if dry_run:
        return
    missing = [step.environment.name for step in steps if not step.exists]
    with progress(missing) as (report, finished):
        failures = run_plan(
            steps,
            jobs,
            lambda step, text: report(step.environment.name, text),
            lambda step: finished(step.environment.name, "pushed"),
        )
    for failure in failures:
        console.print(f"Error: {failure}", markup=False, style="red")
    failed = {failure.environment for failure in failures}
    for step in steps:
        if step.environment.name not in failed:
            click.echo(f"{step.environment.name} {step.reference}")
    if failures:
        raise click.exceptions.Exit(1)


def _show(steps: list[Step]) -> None:
    table = Table("environment", "Python", "packages", "image", box=None, pad_edge=False)
    for step in steps:
        state = "exists" if step.exists else "to build"
        table.add_row(step.environment.name, step.environment.python, str(len(step.lock.packages)), state)
    console.print(table)
