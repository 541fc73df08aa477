"""The command line: thin commands over the rest of the package."""

from __future__ import annotations

import errno
import importlib
import io
import logging
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

import click

from k8s_venv import __version__
from k8s_venv.errors import K8sVenvError, did_you_mean, not_installed

# click leaves the lines after a \b as they are.
_HELP = """Run Airflow tasks in their own Python environments.

Environments are declared in k8s-venv.toml, beside the DAGs:

\b
    registry = "registry.example.com/airflow"
    [environments.snowpark]
    python = "3.8"
    requirements = "snowpark-requirements.txt"

A task names one: @task.isolated("snowpark").
"""
_FIRST_STEPS = """First steps:

\b
    k8s-venv init                              write k8s-venv.toml and a DAG to begin with
    k8s-venv lock                              fix exact versions
    k8s-venv test --backend local DAG_FILE     run a DAG here
    k8s-venv build-images                      build and push its images
    k8s-venv test DAG_FILE                     run it on Kubernetes

Exit codes: 0, 1 when something failed or a check found something, 2 when the command line is wrong.
"""

# Packages that a worker does not need, and the extra with each.
_EXTRAS = {
    "isal": "build",
    "kubernetes": "airflow",
    "rich": "local",
    "ruff": "local",
    "stdlib_list": "local",
    "tomli_w": "local",
    "uv": "local",
    "zstandard": "build",
}


class _Listed(NamedTuple):
    module: str
    attribute: str
    summary: str


# A command's module is imported when the command is used, so that help and short commands start at once.
_COMMANDS = {
    "build-images": _Listed("build", "build_images", "Build the environments' images and push them."),
    "check": _Listed("check", "check", "Check the isolated tasks of DAG files without running them."),
    "doctor": _Listed("doctor", "doctor", "Examine this machine, the registry and the cluster."),
    "explain": _Listed("check", "explain", "Show what would travel for one task."),
    "helm-values": _Listed("helm_values", "helm_values", "Print the environments as values of the Helm chart."),
    "init": _Listed("init", "init", "Write a project to begin with."),
    "list": _Listed("list", "list_environments", "List the project's environments, or the named ones."),
    "lock": _Listed("lock", "lock", "Lock environments to exact versions with hashes."),
    "prune": _Listed("prune", "prune", "Remove from the cache folder what was not used for long."),
    "replay": _Listed("replay", "replay", "Run a kept call again, with its own code and arguments."),
    "run": _Listed("run", "run", "Run a program inside an environment."),
    "shell": _Listed("shell", "shell", "Open a shell inside an environment."),
    "sync": _Listed("sync", "sync", "Make environments on this machine, at paths that stay."),
    "test": _Listed("test", "test", "Run a DAG file's DAG once, in this process."),
}


class _Group(click.Group):
    """A group that imports its commands when they are used, and shows our errors as one message."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        listed = _COMMANDS.get(cmd_name)
        if listed is None:
            return None
        command: click.Command = getattr(importlib.import_module(f"k8s_venv.cli.{listed.module}"), listed.attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in _COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"There is no command {args[0]!r}.{did_you_mean(args[0], _COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, listed.summary) for name, listed in _COMMANDS.items()])

    def main(self, *args: Any, **kwargs: Any) -> Any:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # for characters that its encoding lacks
        return super().main(*args, **kwargs)

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except K8sVenvError as error:
            raise click.ClickException(str(error)) from None
        except ModuleNotFoundError as error:
            extra = _EXTRAS.get(error.name or "")
            if extra is None:
                raise
            raise click.ClickException(not_installed(str(error.name), extra)) from None
        except KeyboardInterrupt as error:
            number = error.args[0] if error.args else signal.SIGINT
            from k8s_venv.cli.console import console

            console().print("Interrupted.")
            raise click.exceptions.Exit(128 + number) from None
        except click.NoSuchOption as error:
            if error.option_name == "--project":
                where = "--project stands before the command: k8s-venv --project PATH COMMAND."
                raise click.UsageError(where, error.ctx) from None
            raise
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            what = error.filename or "The output"
            raise click.ClickException(f"{what} cannot be written: {error.strerror}.") from None


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_FIRST_STEPS,
    help=_HELP,
)
@click.version_option(__version__, prog_name="k8s-venv")
@click.option(
    "--project",
    type=click.Path(exists=True, path_type=Path),
    help="The project file or its folder. By default the nearest k8s-venv.toml here or above.",
    envvar="K8S_VENV_PROJECT",
    show_envvar=True,
)
@click.pass_context
def main(context: click.Context, project: Path | None) -> None:
    """Run the command line."""
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # not each retry
    context.obj = project
