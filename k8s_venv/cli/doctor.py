"""``k8s-venv doctor``."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from k8s_venv.cli.console import interruptible, open_project

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k8s_venv.check.doctor import Examined
    from k8s_venv.config import BackendName

# Each state has a sign and, for terminals that show them, a colour: no meaning stands in the colour alone.
_SIGNS = {"ok": "✓", "warning": "!", "failed": "✗", "skipped": "-"}
_PLAIN_SIGNS = {"ok": "ok  ", "warning": "note", "failed": "FAIL", "skipped": "-   "}
_COLOURS = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": None}
_SUBJECT = 22  # characters


@click.command()
@click.option(
    "--backend",
    type=click.Choice(["local", "docker", "kubernetes"]),
    help="Examine what this backend needs; by default where the project's calls run.",
)
@click.option("--pod", is_flag=True, help="Also run a small call in a pod of each environment.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
@click.pass_obj
def doctor(given: Path | None, backend: BackendName | None, pod: bool, as_json: bool) -> None:
    """Examine this machine, the registry and the cluster.

    Do they have what tasks need? The project file and its locks, uv, interpreters, Docker and buildx where an
    environment needs them, the registry (may it be read and written, does it have the images?), the cluster (as whom
    is it reached, which rights has this account?), and the versions of Airflow and its provider.

    Nothing is changed. Only --pod starts pods, which end with it. The exit code is 1 if something failed.

    \b
    Examples:
        k8s-venv doctor
        k8s-venv doctor --backend local       on a laptop, without registry and cluster
        k8s-venv doctor --pod                 also pull and run each image in the cluster
        k8s-venv doctor --json | jq -r '.[] | select(.state == "failed") | .subject'
    """  # noqa: D301 -- click leaves the lines after a \b as they are
    click.get_current_context().with_resource(interruptible())
    found = []
    for each in _examine(given, backend, pod=pod):
        found.append(each)
        if not as_json:
            _show(each)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(each) for each in found], indent=2))
    if any(each.state == "failed" for each in found):
        raise click.exceptions.Exit(1)


def _examine(given: Path | None, backend: BackendName | None, *, pod: bool) -> Iterator[Examined]:
    from k8s_venv.backends import choose_backend
    from k8s_venv.check import doctor as examination

    project = open_project(given)
    chosen = choose_backend(backend, project)
    yield from examination.examine_project(project)
    yield from examination.examine_machine(project, chosen)
    yield from examination.examine_versions()
    if importlib.util.find_spec("airflow") is not None:
        yield _airflow(given)
    if chosen == "local":
        return
    yield from examination.examine_registry(project)
    if chosen == "kubernetes":
        yield from examination.examine_clusters(project)
        for environment in project.environments.values() if pod else ():
            yield examination.examine_pod(project, environment)


def _airflow(given: Path | None) -> Examined:
    """Return whether Airflow knows this provider: it may be installed for another Python."""
    from k8s_venv.check.doctor import Examined
    from k8s_venv.cli.airflow_home import airflow_home

    with airflow_home(Path.cwd(), given):
        from k8s_venv.airflow.provider import knows_decorator

        if knows_decorator():
            return Examined("provider", "ok", "Airflow knows @task.isolated")
    remedy = "pip install --force-reinstall 'k8s-venv[airflow]' in Airflow's own environment"
    return Examined("provider", "failed", "Airflow does not know @task.isolated", remedy)


def _show(examined: Examined) -> None:
    """Print what was found on a line, and what to do about it on lines of its own below."""
    signs = _SIGNS if _shows_signs() else _PLAIN_SIGNS
    sign = click.style(signs[examined.state], fg=_COLOURS[examined.state])
    text, *more = [line for part in (examined.text, examined.remedy) for line in part.splitlines()]
    click.echo(f"{sign} {examined.subject:{_SUBJECT}} {text}")
    margin = " " * (len(signs[examined.state]) + _SUBJECT + 2)
    for line in more:
        click.echo(f"{margin}{line}")


def _shows_signs() -> bool:
    try:
        "".join(_SIGNS.values()).encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
