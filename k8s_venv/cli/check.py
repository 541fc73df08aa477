"""``k8s-venv check`` and ``k8s-venv explain``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from k8s_venv.cli.airflow_home import airflow_home, files_to_load
from k8s_venv.cli.console import console, counted
from k8s_venv.cli.shortened import Shortened, has_secret_name
from k8s_venv.errors import K8sVenvError, masked

if TYPE_CHECKING:
    from collections.abc import Callable

    from k8s_venv.calls.capturing import Captured
    from k8s_venv.check.tasks import Finding, Task

_LONGEST_VALUE = 100  # characters
_NAMED_TASKS = 3  # of those that one finding is about


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path), metavar="[PATH]...")
@click.option("--registry", is_flag=True, help="Ask the registry whether each image was built.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "github"]),
    default="text",
    show_default=True,
    help="How findings are printed: a line each, one JSON list, or annotations for GitHub's checks.",
)
@click.pass_obj
def check(given: Path | None, paths: tuple[Path, ...], registry: bool, form: str) -> None:
    """Check the isolated tasks of DAG files without running them.

    Files and folders; by default the working folder. Each file is loaded as Airflow loads it. For each isolated task:
    is its environment declared and its lock fresh, can the environment's Python parse the source that travels, can all
    that it uses travel, and does the lock, or the folder of the DAG, provide every import?

    One line for each place and message, as path:line: tasks: message; JSON has an object for each task. The exit code
    is 1 when there are findings.

    \b
    Examples:
        k8s-venv check dags
        k8s-venv check --registry --format github dags    in CI, before a deployment
    """  # noqa: D301 -- click leaves the lines after a \b as they are
    exists: Callable[[str], bool] | None = None
    if registry:
        from k8s_venv.registry import image_exists

        exists = image_exists
    places = paths or (Path.cwd(),)
    files = list(files_to_load(places))
    with airflow_home(places[0], given):
        from k8s_venv.airflow.loading import load_tasks
        from k8s_venv.check.tasks import check_tasks

        tasks: list[Task] = []
        findings: list[Finding] = []
        for file in files:
            found, broken = load_tasks(file.resolve())
            tasks += found
            findings += broken
        findings = sorted({*findings, *check_tasks(tasks, exists)})
    by_place = _by_place(findings)
    _print(findings, by_place, form)
    read = f"{counted(len(tasks), 'isolated task')} in {counted(len(files), 'file')}"
    console().print(f"{read}, {counted(len(by_place), 'finding')}")
    if findings:
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("dag_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("task")
@click.pass_obj
def explain(given: Path | None, dag_file: Path, task: str) -> None:
    """Show what would travel for one task.

    Nothing is run. TASK is the task's id, or DAG.TASK where several DAGs have it.

    \b
    Example:
        k8s-venv explain dags/sales.py clean
    """  # noqa: D301 -- click leaves the lines after a \b as they are
    with airflow_home(dag_file, given):
        from k8s_venv.airflow.loading import load_tasks
        from k8s_venv.calls.capturing import capture

        tasks, broken = load_tasks(dag_file.resolve())
        if broken:
            raise K8sVenvError(f"{broken[0].path}:{broken[0].line}: {broken[0].message}")
        chosen = [each for each in tasks if task in (each.name, each.name.partition(".")[2])]
        if len(chosen) != 1:
            names = ", ".join(each.name for each in tasks) or "none"
            raise K8sVenvError(f"{dag_file} has {len(chosen) or 'no'} isolated tasks {task!r}. It has: {names}.")
        _explain(chosen[0], capture(chosen[0].function, chosen[0].environment, chosen[0].transport))


def _explain(task: Task, captured: Captured) -> None:
    environment = task.environment
    click.echo(f"task         {task.name}")
    click.echo(f"environment  {environment.name}, Python {environment.python}")
    if task.needs_lock:
        _explain_image(task)
    else:
        image = environment.pod.get("image") or environment.image
        image = "an image that the task names" if task.brings_image else image
        own = environment.interpreter if task.backend == "local" else image
        click.echo(f"lock         not used: it runs in {own}")
    if environment.warm is not None and task.backend == "kubernetes":
        _explain_start(task)
    click.echo(f"transport    {captured.transport}, because {captured.why}")
    click.echo("archive      the runner, the arguments, and:")
    for name, data in sorted(captured.entries.items()):
        click.echo(f"             {name}, {len(data):,} bytes")
    state = captured.slicer.sent_state() if captured.slicer else {}
    if state:
        click.echo("values       as they are now, shortened; secrets, by their names or form, are not shown:")
    for name, value in sorted(state.items()):
        text = "***" if _is_secret(name) else masked(Shortened(_is_secret).repr(value))
        click.echo(f"             {name} = {text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + '…'}")
    for file, line, text in captured.source:
        click.echo(f"\n--- {file}:{line}")
        click.echo(text.rstrip())


def _explain_image(task: Task) -> None:
    from k8s_venv.locks.locking import read_lock

    try:
        lock = read_lock(task.environment)
        click.echo(f"lock         {lock.path.name}, {counted(len(lock.packages), 'package')}")
        image = task.environment.image_reference(task.project.require_registry(), lock.digest)
        click.echo(f"image        {image}")
    except K8sVenvError as error:
        click.echo(f"image        not known: {error}")


def _explain_start(task: Task) -> None:
    from k8s_venv.check.pools import differing_options

    differing = differing_options(task.environment, task.declared.pod)
    why = f"in a pod of its own, since it differs from those that wait: {', '.join(differing)}"
    click.echo(f"start        {why if differing else 'at a pod that waits, if one is free'}")


def _is_secret(name: str) -> bool:
    from k8s_venv.airflow.compat import is_sensitive

    return is_sensitive(name) or has_secret_name(name)


def _by_place(findings: list[Finding]) -> dict[tuple[str, int, str], list[str]]:
    """Return the tasks of each path, line and message: one line may be at fault in many tasks."""
    tasks: dict[tuple[str, int, str], list[str]] = {}
    for each in findings:
        tasks.setdefault((each.path, each.line, each.message), []).append(each.task)
    return tasks


def _print(findings: list[Finding], by_place: dict[tuple[str, int, str], list[str]], form: str) -> None:
    if form == "json":
        fields = ("path", "line", "task", "message")
        click.echo(json.dumps([{field: getattr(each, field) for field in fields} for each in findings], indent=2))
        return
    for (path, line, message), tasks in by_place.items():
        subject = f"{_some(tasks)}: " if any(tasks) else ""
        if form == "github":
            # As GitHub's own toolkit writes what its workflow commands hold.
            escaped = (subject + message).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
            click.echo(f"::error file={path},line={line}::{escaped}")
        else:
            click.echo(f"{path}:{line}: {subject}{' '.join(message.split())}")


def _some(tasks: list[str]) -> str:
    named = ", ".join(tasks[:_NAMED_TASKS])
    return named if len(tasks) <= _NAMED_TASKS else f"{named} and {len(tasks) - _NAMED_TASKS} more"
