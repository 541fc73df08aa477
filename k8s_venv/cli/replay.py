"""``k8s-venv replay``: run a kept call again."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from k8s_venv.cli.console import console, interruptible, locked_option, open_project
from k8s_venv.errors import K8sVenvError, masked

if TYPE_CHECKING:
    from k8s_venv.calls import PackedCall, Result
    from k8s_venv.calls.kept import KeptCall
    from k8s_venv.config import BackendName
    from k8s_venv.config.environment import Environment
    from k8s_venv.config.project import Project


@click.command()
@click.argument("place")
@click.option("--show", is_flag=True, help="Show what the call holds, arguments included, and run nothing.")
@click.option(
    "--backend",
    type=click.Choice(["local", "docker", "kubernetes"]),
    default="local",
    show_default=True,
    help="Where to run it.",
)
@locked_option
@click.pass_obj
def replay(given: Path | None, place: str, show: bool, backend: BackendName, locked: bool) -> None:
    """Run a kept call again, with its own code and arguments.

    With keep = "failed" under [calls] in k8s-venv.toml, or on a task, the call of a task that fails is kept at the
    location for large values, and the task's log names its PLACE. It is run in the environment as it is declared and
    locked today. It gets connections and variables from the Airflow of this machine (AIRFLOW_CONN_…, AIRFLOW_VAR_…).
    They are never kept.

    What is run is the code of the call: replay only calls from a place that you trust.

    \b
    Examples:
        k8s-venv replay s3://bucket/values/sales.clean-1f0c….call
        k8s-venv replay --show /mnt/values/sales.clean-1f0c….call
    """  # noqa: D301 -- click leaves the lines after a \b as they are
    from k8s_venv.calls.kept import opened

    click.get_current_context().with_resource(interruptible())
    with opened(place) as kept:
        facts = kept.facts
        console().print(f"{facts.task}: {facts.function}() in {facts.environment!r} {facts.outcome}, {facts.kept}")
        if show:
            _show(kept)
            return
        project = open_project(given)
        environment = _environment(project, kept)
        secrets = _secrets(given, kept)
        with contextlib.closing(kept.call(environment, secrets)) as call:
            _finish(_run(project, call, backend, locked=locked), call)


def _environment(project: Project, kept: KeptCall) -> Environment:
    """Return the environment as it is declared today.

    Raises:
        K8sVenvError: it is not declared any more, or has another Python.
    """
    facts = kept.facts
    environment = project.environment(facts.environment)
    if environment.python != facts.python:
        raise K8sVenvError(
            f"The call was made for Python {facts.python}, and environment {facts.environment!r} has "
            f"{environment.python} now. Replay it with the k8s-venv.toml of that time."
        )
    return environment


def _secrets(given: Path | None, kept: KeptCall) -> dict[str, Any]:
    """Return the connections and variables of this machine's Airflow that the call had got."""
    facts = kept.facts
    if not facts.connections and not facts.variables:
        return {}
    from k8s_venv.cli.airflow_home import airflow_home

    with airflow_home(Path.cwd(), given):
        from k8s_venv.airflow.context import SecretNames, resolve_secrets

        names = SecretNames(connections=facts.connections, variables=facts.variables)
        return resolve_secrets(names, facts.task)


def _run(project: Project, call: PackedCall, backend: BackendName, *, locked: bool) -> Result:
    from k8s_venv.cli.lock import lock_outdated
    from k8s_venv.running import backend_named, show

    if backend == "local" and not locked:
        lock_outdated([call.environment])
    return backend_named(backend, project).run(call, show)


def _finish(result: Result, call: PackedCall) -> None:
    """Print what the call returned, or how it failed; a failure is the command's."""
    from k8s_venv.calls import open_result
    from k8s_venv.calls.exceptions import RemoteTraceback
    from k8s_venv.runtime import SkipTask

    try:
        value = open_result(result, call)
    except SkipTask as skipped:
        console().print(f"The call skipped its task: {skipped}")
    except K8sVenvError:
        raise
    except Exception as error:  # noqa: BLE001 -- the function's own
        if isinstance(error.__cause__, RemoteTraceback):
            click.echo(str(error.__cause__).strip(), err=True)
        console().print(f"{type(error).__name__}: {masked(str(error))}", style="red")
        raise click.exceptions.Exit(1) from None
    else:
        from k8s_venv.cli.shortened import Shortened

        click.echo(f"returned {Shortened().repr(value)}")


def _show(kept: KeptCall) -> None:
    """Print what a call holds."""
    from k8s_venv.wire import protocol

    facts = kept.facts
    with zipfile.ZipFile(io.BytesIO(kept.archive)) as archive:
        sources = json.loads(archive.read(protocol.SOURCES))
        arguments = archive.read(protocol.ARGUMENTS) if protocol.ARGUMENTS in archive.namelist() else None
    for label, text in (
        ("environment", f"{facts.environment}, Python {facts.python}"),
        ("transport", facts.transport),
        ("connections", ", ".join(facts.connections) or "none"),
        ("variables", ", ".join(facts.variables) or "none"),
        ("arguments", _arguments(arguments)),
    ):
        click.echo(f"{label:12} {text}")
    for file, text in sources.items():
        click.echo(f"\n--- {file}")
        click.echo(text.rstrip())


def _arguments(data: bytes | None) -> str:
    """Return the arguments as text, shortened; pickled ones and those of unknown types are not opened."""
    from k8s_venv.cli.shortened import Shortened, has_secret_name
    from k8s_venv.wire.values import loads

    if data is None:
        return "in a file of their own"
    try:
        packed = loads(data)
    except Exception:  # noqa: BLE001 -- a value's own type may raise anything
        return f"{len(data):,} bytes, of types that are not known here"
    shown = [Shortened().repr(each) for each in packed["args"]]
    shown += [
        f"{name}={'***' if has_secret_name(name) else Shortened().repr(each)}"
        for name, each in packed["kwargs"].items()
    ]
    return ", ".join(shown) or "none"
