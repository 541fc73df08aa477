"""The command line: thin commands over the rest of the package."""

from __future__ import annotations

import errno
import io
import logging
import signal
import sys
from pathlib import Path
from typing import Any

import click

from k8s_venv import __version__
from k8s_venv.cli.build import build_images
from k8s_venv.cli.check import check, explain
from k8s_venv.cli.console import console
from k8s_venv.cli.helm_values import helm_values
from k8s_venv.cli.init import init
from k8s_venv.cli.list import list_environments
from k8s_venv.cli.lock import lock
from k8s_venv.cli.prune import prune
from k8s_venv.cli.test import test
from k8s_venv.errors import K8sVenvError

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


class _Group(click.Group):
    """A group that shows our errors as one message, without a traceback."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # what its encoding lacks, as on standard error
        return super().main(*args, **kwargs)

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except K8sVenvError as error:
            raise click.ClickException(str(error)) from None
        except KeyboardInterrupt as error:
            number = error.args[0] if error.args else signal.SIGINT
            console.print("Interrupted.")
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
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # each retry is not news
    context.obj = project


for command in (build_images, check, explain, helm_values, init, list_environments, lock, prune, test):
    main.add_command(command)
