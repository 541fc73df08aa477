"""``k8s-venv sync``: environments at stable paths, for editors and for people."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from k8s_venv.cli.console import aligned, environments_argument, locked_option, open_project, progress
from k8s_venv.errors import K8sVenvError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from k8s_venv.config.environment import Environment

FOLDER = ".k8s-venv"
_EDITORS = ("vscode", "pycharm", "pyright")


@click.command()
@environments_argument
@click.option("--editor", type=click.Choice(_EDITORS), help="Print the settings that let an editor use an environment.")
@locked_option
@click.pass_obj
def sync(given: Path | None, environments: tuple[str, ...], editor: str | None, locked: bool) -> None:
    """Make environments on this machine, at paths that stay.

    All of the project's environments, or the named ones. Each is made from its lock, which is renewed if its
    requirements changed. The path .k8s-venv/ENVIRONMENT beside the project file leads to it, and follows the lock with
    each `k8s-venv sync`, `test` or `run`. Git ignores the folder.

    An editor uses one interpreter for a folder, so --editor takes one environment. Where a file has tasks of several
    environments, the editor knows the packages of that one alone; `k8s-venv check` looks at each task with its own.

    \b
    Examples:
        k8s-venv sync
        k8s-venv sync etl --editor vscode > .vscode/settings.json
        .k8s-venv/etl/bin/python -m pytest
    """  # noqa: D301 -- click leaves the lines after a \b as they are
    project = open_project(given)
    chosen = project.select(environments)
    if editor and len(chosen) != 1:
        names = ", ".join(environment.name for environment in chosen)
        raise K8sVenvError(f"An editor uses one interpreter for a folder. Name one environment of {names}.")
    if not locked:
        from k8s_venv.cli.lock import lock_outdated

        lock_outdated(chosen)
    pythons = make_environments(chosen)
    rows = []
    for environment in chosen:
        link = _link(environment, pythons[environment.name].parent.parent)
        rows.append((environment.name, environment.python, str(link / "bin" / "python")))
    if editor is None:
        click.echo(aligned(("environment", "python", "interpreter"), rows))
    else:
        click.echo(_settings(editor, chosen[0]))


def make_environments(environments: Iterable[Environment]) -> dict[str, Path]:
    """Make environments on this machine, with progress, and return the Python of each by its name.

    The paths of ``sync`` that exist lead to them afterwards.
    """
    from k8s_venv.backends.local.environments import make_environment

    by_name = {environment.name: environment for environment in environments}
    pythons = {}
    with progress(list(by_name)) as (report, finished):
        for name, environment in by_name.items():

            def tell(line: str, name: str = name) -> None:
                report(name, line)

            pythons[name] = python = make_environment(environment, tell)
            finished(name, f"ready: Python {environment.python} in {python.parent.parent}")
            follow_lock(environment, python)
    return pythons


def follow_lock(environment: Environment, python: Path) -> None:
    """Let the path that ``sync`` made, if it did, lead to the environment of today's lock.

    Args:
        environment: which one.
        python: its interpreter.
    """
    if (environment.root / FOLDER / environment.name).is_symlink():
        _link(environment, python.parent.parent)


def _link(environment: Environment, target: Path) -> Path:
    """Return the stable path of an environment, which leads to a folder from now on."""
    folder = environment.root / FOLDER
    folder.mkdir(exist_ok=True)
    (folder / ".gitignore").write_text("*\n", "utf-8")
    link = folder / environment.name
    if link.is_symlink() and link.readlink() == target:
        return link
    partial = folder / f".{environment.name}.part"
    partial.unlink(missing_ok=True)
    partial.symlink_to(target)
    try:
        partial.replace(link)
    except OSError:
        partial.unlink()
        raise K8sVenvError(f"{link} is a folder of somebody else's making. Move it away, then run it again.") from None
    return link


def _settings(editor: str, environment: Environment) -> str:
    """Return an editor's settings for an environment."""
    link = environment.root / FOLDER / environment.name
    if editor == "pycharm":
        return (
            "Settings > Project > Python Interpreter > Add Interpreter > Add Local Interpreter > Select existing:\n"
            f"{link / 'bin' / 'python'}"
        )
    settings: Mapping[str, str] = (
        {"python.defaultInterpreterPath": f"${{workspaceFolder}}/{FOLDER}/{environment.name}/bin/python"}
        if editor == "vscode"
        else {"venvPath": FOLDER, "venv": environment.name, "pythonVersion": environment.python}
    )
    return json.dumps(settings, indent=2)
