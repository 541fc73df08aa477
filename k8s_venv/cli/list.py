"""``k8s-venv list``."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from k8s_venv.cli.console import (
    aligned,
    console,
    counted,
    environments_argument,
    interruptible,
    megabytes,
    open_project,
    show_error,
)
from k8s_venv.errors import K8sVenvError, LockError, ProjectError
from k8s_venv.locks.locking import check_lock

if TYPE_CHECKING:
    from k8s_venv.backends.kubernetes.pool_status import PoolStatus
    from k8s_venv.config.environment import Environment
    from k8s_venv.config.project import Project

_AT_ONCE = 8


@dataclasses.dataclass
class Row:
    """The facts of an environment that a row of the table shows.

    Args:
        environment: its name.
        python: its minor version.
        platforms: where it can be installed.
        lock: ``fresh``, ``stale``, ``missing``, or ``none`` if its own image or interpreter needs none.
        why: why the lock is stale.
        packages: the number of locked packages.
        image: the reference of its image, if it is known.
        exists: whether the registry has the image, or None if no registry was asked.
        size: the bytes of the image's layers, compressed, on its first platform.
        created: when the image was made (RFC 3339); None for an image from layers, which does not depend on the time.
        tasks: the tasks that use it, or None if ``--tasks`` was not given.
        warm: its waiting pods, or None if ``--warm`` was not given or the cluster could not be asked.
        problem: the registry's or the cluster's error, if it could not be asked.
    """

    environment: str
    python: str
    platforms: tuple[str, ...]
    lock: str
    why: str | None
    packages: int | None
    image: str | None
    exists: bool | None = None
    size: int | None = None
    created: str | None = None
    tasks: list[str] | None = None
    warm: PoolStatus | None = None
    problem: str | None = None


@click.command("list")
@environments_argument
@click.option(
    "--tasks",
    type=click.Path(exists=True, path_type=Path),
    multiple=True,
    metavar="PATH",
    help="Also show which tasks of this DAG file or folder use each environment.",
)
@click.option("--registry", is_flag=True, help="Ask the registry for each image: is it there, how large, how old?")
@click.option("--warm", is_flag=True, help="Ask the cluster how many pods wait for calls, start, or run one.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list instead of a table.")
@click.pass_obj
def list_environments(
    given: Path | None,
    environments: tuple[str, ...],
    tasks: tuple[Path, ...],
    registry: bool,
    warm: bool,
    as_json: bool,
) -> None:
    """List the project's environments, or the named ones.

    For each: its Python, whether its lock is fresh (and why not), and the image that its tasks run in.

    \b
    Examples:
        k8s-venv list
        k8s-venv list --tasks dags            which task uses which environment?
        k8s-venv list --registry              which images exist, how large are they, and how old?
        k8s-venv list --warm                  how many pods wait for calls in the namespace of its tasks?
        k8s-venv list --json | jq -r '.[] | select(.lock == "stale") | .environment'
    """  # noqa: D301 -- click leaves the lines after a \b as they are
    click.get_current_context().with_resource(interruptible())
    project = open_project(given)
    chosen = project.select(environments)
    rows = [_row(project, environment) for environment in chosen]
    if registry:
        from k8s_venv.builders.plan import in_parallel

        in_parallel(lambda one: _ask_registry(*one), list(zip(rows, chosen, strict=True)), _AT_ONCE)
    if warm:
        _ask_cluster(project, rows, chosen)
    if tasks:
        _add_tasks(project, given, rows, tasks)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(row) for row in rows], indent=2))
    else:
        _show(rows, with_registry=registry, with_warm=warm, with_tasks=bool(tasks))
        if warm:
            _note_pools(rows, chosen)
    problems = dict.fromkeys(row.problem for row in rows if row.problem)
    for problem in problems:
        show_error(problem)
    if problems:
        raise click.exceptions.Exit(1)


def _row(project: Project, environment: Environment) -> Row:
    row = Row(environment.name, environment.python, environment.platforms, "fresh", None, None, environment.image)
    if not environment.lock_path.exists():
        row.lock = "none" if environment.made_elsewhere else "missing"
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


def _ask_registry(row: Row, environment: Environment) -> None:
    """Look up an image in its registry; note an error in its row."""
    try:
        if row.image is not None:
            _look_up(row, row.image, environment)
    except K8sVenvError as error:
        row.problem = str(error)


def _look_up(row: Row, image: str, environment: Environment) -> None:
    from k8s_venv.registry import Reference, find_base, registry_at
    from k8s_venv.registry.images import find_manifest

    wanted = Reference.parse(image)
    registry = registry_at(wanted.host)
    row.exists = find_manifest(registry, wanted) is not None
    if row.exists:
        found = find_base(registry, wanted, environment.image_platforms[0])
        row.size = sum(int(layer["size"]) for layer in found.layers)
        if environment.image is not None or environment.image_builder != "layers":  # layers keep their base's time
            row.created = found.config.get("created")


def _ask_cluster(project: Project, rows: list[Row], environments: list[Environment]) -> None:
    """Count the waiting pods of environments; note an error in the row of its environment."""
    from k8s_venv.backends.kubernetes.pool_status import Pools

    pools = Pools(project)
    for row, environment in zip(rows, environments, strict=True):
        try:
            row.warm = pools.status(environment)
        except K8sVenvError as error:
            row.problem = row.problem or str(error)


def _note_pools(rows: list[Row], environments: list[Environment]) -> None:
    """Print what should be done about an environment's waiting pods."""
    for row, environment in zip(rows, environments, strict=True):
        if row.warm is None:
            continue
        if row.warm.stale:
            console().print(
                f"{row.environment}: no call takes the stale pods, which are of an earlier image, pod options or "
                "`warm`. The chart replaces them after `k8s-venv helm-values` and `helm upgrade`."
            )
        if row.warm.problem:
            console().print(f"{row.environment}: pods cannot wait for calls: {row.warm.problem}")
        elif environment.warm and not (row.warm.waiting or row.warm.starting or row.warm.claimed):
            console().print(
                f"{row.environment}: no pod waits for its calls in namespace {row.warm.namespace!r}. Has the chart "
                "`warm.enabled` there, and the values of `k8s-venv helm-values`?"
            )


def _add_tasks(project: Project, given: Path | None, rows: list[Row], paths: tuple[Path, ...]) -> None:
    """Load DAG files, and note each isolated task of this project in the row of its environment."""
    from k8s_venv.cli.airflow_home import airflow_home, files_to_load

    used: dict[str, list[str]] = {row.environment: [] for row in rows}
    with airflow_home(paths[0], given):
        from k8s_venv.airflow.loading import load_tasks

        for file in files_to_load(paths):
            found, broken = load_tasks(file.resolve())
            for task in found:
                if task.project.path == project.path and task.environment.name in used:
                    used[task.environment.name].append(task.name)
            for finding in broken:
                console().print(f"Note: {finding.path}:{finding.line}: {finding.message}")
    for row in rows:
        row.tasks = sorted(used[row.environment])


def _show(rows: list[Row], *, with_registry: bool, with_warm: bool, with_tasks: bool) -> None:
    columns: dict[str, list[str]] = {
        "environment": [row.environment for row in rows],
        "Python": [row.python for row in rows],
        "lock": [row.lock for row in rows],
        "packages": ["" if row.packages is None else str(row.packages) for row in rows],
        "image": [row.image or "-" for row in rows],
    }
    if with_registry:
        built = {True: "exists", False: "to build", None: "-"}
        columns["built"] = ["unknown" if row.problem else built[row.exists] for row in rows]
        columns["size"] = ["-" if row.size is None else megabytes(row.size) for row in rows]
        columns["age"] = [_age(row.created) for row in rows]
    if with_warm:
        for name in ("waiting", "starting", "claimed", "stale"):
            columns[name] = ["unknown" if row.warm is None else str(getattr(row.warm, name)) for row in rows]
    if with_tasks:
        columns["tasks"] = ["\n".join(row.tasks or ()) or "-" for row in rows]
    click.echo(aligned(list(columns), list(zip(*columns.values(), strict=True))))
    for row in rows:
        if row.why:
            console().print(f"{row.environment}: {row.why}")


def _age(created: str | None) -> str:
    """Return the time since a moment in the largest unit that fits, such as ``3 days``."""
    try:
        seconds = (datetime.now(UTC) - datetime.fromisoformat(created or "")).total_seconds()
    except (ValueError, TypeError):  # no time, or one without a zone
        return "-"
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= length:
            return counted(int(seconds // length), unit)
    return "now"
