"""``k8s-venv list``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from k8s_venv.cli.console import aligned, console, open_project
from k8s_venv.errors import LockError, ProjectError
from k8s_venv.locking import check_lock

if TYPE_CHECKING:
    from k8s_venv.environment import Environment
    from k8s_venv.project import Project


@dataclasses.dataclass
class Row:
    """What is known of an environment.

    Args:
        environment: its name.
        python: its minor version.
        platforms: where it can be installed.
        lock: ``fresh``, ``stale``, ``missing``, or ``none`` where an image of one's own needs none.
        why: what is wrong with the lock.
        packages: how many packages are locked.
        image: the reference of its image, where that is known.
        tasks: which tasks use it, or None where nobody asked.
    """

    environment: str
    python: str
    platforms: tuple[str, ...]
    lock: str
    why: str | None
    packages: int | None
    image: str | None
    tasks: list[str] | None = None


@click.command("list")
@click.argument("environments", nargs=-1, metavar="[ENVIRONMENT]...")
@click.option(
    "--tasks",
    type=click.Path(exists=True, path_type=Path),
    multiple=True,
    metavar="PATH",
    help="Also show which tasks of this DAG file or folder use each environment.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list instead of a table.")
@click.pass_obj
def list_environments(
    given: Path | None, environments: tuple[str, ...], tasks: tuple[Path, ...], as_json: bool
) -> None:
    """List the project's environments, or the named ones.

    For each: its Python, whether its lock is fresh (and why not), and the image that its tasks run in.

    \b
    Examples:
        k8s-venv list
        k8s-venv list --tasks dags            which task uses which environment?
        k8s-venv list --json | jq -r '.[] | select(.lock == "stale") | .environment'
    """  # noqa: D301 -- click leaves the lines after a \b as they are
    project = open_project(given)
    chosen = project.select(environments)
    rows = [_row(project, environment) for environment in chosen]
    if tasks:
        _add_tasks(project, rows, tasks)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(row) for row in rows], indent=2))
    else:
        _show(rows, with_tasks=bool(tasks))


def _row(project: Project, environment: Environment) -> Row:
    row = Row(environment.name, environment.python, environment.platforms, "fresh", None, None, environment.image)
    if not environment.lock_path.exists():
        row.lock = "missing" if environment.image is None else "none"
        return row
    try:
        lock = check_lock(environment)
    except LockError as error:
        row.lock, row.why = "stale", error.problem
        return row
    row.packages = len(lock.packages)
    try:
        row.image = environment.image or environment.image_reference(project.require_registry(), lock.digest)
    except ProjectError:
        row.image = None  # no registry is configured, which building says
    return row


def _add_tasks(project: Project, rows: list[Row], paths: tuple[Path, ...]) -> None:
    """Load DAG files, and note each isolated task of this project at its environment."""
    from k8s_venv.checking import files_to_load
    from k8s_venv.cli.airflow_home import airflow_home, require_airflow

    require_airflow()
    start = paths[0].resolve()
    used: dict[str, list[str]] = {row.environment: [] for row in rows}
    with airflow_home(start if start.is_dir() else start.parent, log_level="CRITICAL"):
        from k8s_venv.airflow.loading import load_tasks

        for file in files_to_load(paths):
            found, broken = load_tasks(file.resolve())
            for task in found:
                if task.project.path == project.path and task.environment.name in used:
                    used[task.environment.name].append(task.name)
            for finding in broken:
                console.print(f"Note: {finding.path}:{finding.line}: {finding.message}", markup=False)
    for row in rows:
        row.tasks = sorted(used[row.environment])


def _show(rows: list[Row], *, with_tasks: bool) -> None:
    header = ["environment", "Python", "lock", "packages", "image"]
    cells = [
        [row.environment, row.python, row.lock, "" if row.packages is None else str(row.packages), row.image or "-"]
        for row in rows
    ]
    if with_tasks:
        header.append("tasks")
        for row, line in zip(rows, cells, strict=True):
            line.append("\n".join(row.tasks or ()) or "-")
    click.echo(aligned(header, cells))
    for row in rows:
        if row.why:
            console.print(f"{row.environment}: {row.why}", markup=False)
