"""``k8s-venv run``: a program inside an environment."""

from __future__ import annotations

import contextlib
import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from k8s_venv.cli.console import console, environment_argument, locked_option, open_project
from k8s_venv.config import BackendName
from k8s_venv.errors import K8sVenvError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from k8s_venv.backends.program import Program
    from k8s_venv.config.project import Project

_HINTS = {
    "connection": 'AIRFLOW_CONN_ID=\'{"conn_type": "http", …}\'',
    "variable": "AIRFLOW_VAR_KEY=value",
}


class Command(click.Command):
    """A command whose arguments are another program's command line."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line, and name the sign that separates the two where it is missing."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if "--" in args:
                raise
            message = f"There is no option {error.option_name}. Put -- before the program: run ENVIRONMENT -- COMMAND."
            raise click.UsageError(message, ctx) from None


@click.command(cls=Command)
@environment_argument
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND [ARGUMENT]...")
@click.option("--backend", type=click.Choice(get_args(BackendName)), help="Where it runs. By default as tasks do.")
@locked_option
@click.option("--with", "extra", multiple=True, metavar="PACKAGE", help="Add a package for this run alone.")
@click.option("--connection", "connections", multiple=True, metavar="ID", help="Give it a connection of Airflow.")
@click.option("--variable", "variables", multiple=True, metavar="KEY", help="Give it a variable of Airflow.")
@click.pass_obj
def run(
    given: Path | None,
    environment: str,
    command: tuple[str, ...],
    backend: str | None,
    locked: bool,
    extra: tuple[str, ...],
    connections: tuple[str, ...],
    variables: tuple[str, ...],
) -> None:
    """Run a program inside an environment.

    It is the environment in which the tasks run: made here from its lock with --backend local, else its image. The
    program has this terminal, and its exit code becomes that of the command. A command that begins with an option, such
    as -m pytest, is for the environment's Python.

    Connections and variables of Airflow are handed over as Airflow reads them: in variables of the process such as
    AIRFLOW_CONN_WAREHOUSE, as JSON, and AIRFLOW_VAR_REGION. They stand in no pod and no file.

    With Docker and on Kubernetes the files and folders of this folder that the command names travel along.

    \b
    Examples:
        k8s-venv run etl --backend local -- python
        k8s-venv run etl --backend local --with pytest -- -m pytest tests/
        k8s-venv run snowpark -- python report.py --day 2026-01-01
        k8s-venv run snowpark --connection warehouse -- python try.py
    """  # noqa: D301 -- click leaves the lines after a \b as they are
    from k8s_venv.backends.program import Program

    project = open_project(given)
    chosen = project.environment(environment)
    program = Program(
        environment=chosen,
        command=("python", *command) if command[0].startswith("-") else command,
        extra=extra,
        variables=_from_airflow(given, environment, connections, variables),
    )
    with ends_with_the_terminal():
        code = run_program(program, project, backend, locked=locked)
    raise click.exceptions.Exit(code)


def run_program(program: Program, project: Project, backend: str | None, *, locked: bool) -> int:
    """Run a program where the command line, the variable or the project say, and return its exit code.

    Args:
        program: the program.
        project: its environment's project.
        backend: what the command line says.
        locked: whether a missing or stale lock is refused on this machine, as it is elsewhere.
    """
    from k8s_venv.backends import choose_backend
    from k8s_venv.backends.pod_options import options_without_pod, plain_variables
    from k8s_venv.cli.lock import lock_outdated

    chosen = choose_backend(backend, project)
    environment = program.environment
    if chosen == "kubernetes":
        from k8s_venv.backends.kubernetes.program import run_in_pod

        return run_in_pod(program, project, _progress)
    options, _ = options_without_pod(chosen, environment, {}, project)
    if chosen == "docker":
        from k8s_venv.backends.docker.program import run_in_container

        return run_in_container(program, project, options, _progress)
    from k8s_venv.backends.local.environments import environment_in_use
    from k8s_venv.backends.local.program import run_here
    from k8s_venv.cli.sync import follow_lock

    if not locked:
        lock_outdated([environment])
    with environment_in_use(environment, _progress) as python:
        follow_lock(environment, python)
        return run_here(program, python, plain_variables(environment, options.get("env_vars"), "local"), _progress)


@contextlib.contextmanager
def ends_with_the_terminal() -> Iterator[None]:
    """Let the signals that end a program, or its terminal, end it in order: its pod or container goes with it."""

    def interrupt(number: int, _frame: object) -> None:
        raise KeyboardInterrupt(number)

    heeded = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _progress(line: str) -> None:
    console().print(line, style="dim")


def _from_airflow(
    project: Path | None, environment: str, connections: Sequence[str], variables: Sequence[str]
) -> dict[str, str]:
    """Return connections and variables of Airflow as variables of a process, in the form that Airflow itself reads."""
    if not connections and not variables:
        return {}
    from k8s_venv.cli.airflow_home import airflow_home

    with airflow_home(Path.cwd(), project):
        from k8s_venv.airflow.context import SecretNames, resolve_secrets

        names = SecretNames(optional_connections=tuple(connections), optional_variables=tuple(variables))
        found = resolve_secrets(names, environment)
    for kind, wanted in (("connection", connections), ("variable", variables)):
        for name in wanted:
            if name not in found.get(f"{kind}s", ()):
                raise K8sVenvError(
                    f"--{kind} {name}: Airflow has no such {kind} here. Define it, as in {_HINTS[kind]}."
                )
    given = {f"AIRFLOW_CONN_{name.upper()}": json.dumps(fields) for name, fields in found["connections"].items()}
    return {**given, **{f"AIRFLOW_VAR_{name.upper()}": text for name, text in found["variables"].items()}}
