"""``k8s-venv shell``: a shell inside an environment."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from k8s_venv.cli.console import environment_argument, locked_option, open_project
from k8s_venv.cli.run import ends_with_the_terminal, run_program
from k8s_venv.config import BackendName
from k8s_venv.errors import K8sVenvError

if TYPE_CHECKING:
    from collections.abc import Iterator

_IMAGES_SHELL = ("sh", "-c", "command -v bash >/dev/null && exec bash || exec sh")


@click.command()
@environment_argument
@click.option("--backend", type=click.Choice(get_args(BackendName)), help="Where it runs. By default as tasks do.")
@locked_option
@click.option("--with", "extra", multiple=True, metavar="PACKAGE", help="Add a package for this shell alone.")
@click.pass_obj
def shell(given: Path | None, environment: str, backend: str | None, locked: bool, extra: tuple[str, ...]) -> None:
    """Open a shell inside an environment.

    With --backend local it is your own shell: `python` and the programs of packages are the environment's. With Docker
    and on Kubernetes it is a shell of the image, in a container under the same restrictions as a task. The container is
    removed when the shell ends.

    \b
    Examples:
        k8s-venv shell etl --backend local
        k8s-venv shell snowpark --with ipython
    """  # noqa: D301 -- click leaves the lines after a \b as they are
    from k8s_venv.backends import choose_backend
    from k8s_venv.backends.program import Program

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise K8sVenvError("A shell needs a terminal. For a program use k8s-venv run ENVIRONMENT -- COMMAND.")
    project = open_project(given)
    chosen = project.environment(environment)
    own = choose_backend(backend, project) == "local"
    with ends_with_the_terminal(), _own_shell(environment) if own else contextlib.nullcontext(_IMAGES_SHELL) as command:
        code = run_program(Program(chosen, tuple(command), extra), project, backend, locked=locked)
    raise click.exceptions.Exit(code)


@contextlib.contextmanager
def _own_shell(environment: str) -> Iterator[tuple[str, ...]]:
    """Yield the command of the user's shell, whose settings come first: they may put other Pythons on the path."""
    program = os.environ.get("SHELL") or "/bin/sh"
    name = Path(program).name
    with tempfile.TemporaryDirectory(prefix="k8s-venv-shell-") as folder:
        restore = f'export PATH="$K8S_VENV_PATH"; PS1={shlex.quote(f"({environment}) ")}"$PS1"\n'
        if name == "bash":
            settings = Path(folder) / "bashrc"
            settings.write_text(f"[ -r ~/.bashrc ] && . ~/.bashrc\n{restore}", "utf-8")
            yield program, "--rcfile", str(settings), "-i"
        elif name == "zsh":
            settings = Path(folder) / ".zshrc"
            settings.write_text(f"[ -r ~/.zshrc ] && . ~/.zshrc\n{restore}", "utf-8")
            yield "env", f"ZDOTDIR={folder}", program, "-i"
        elif name == "fish":
            yield program, "-C", "set -x PATH (string split : $K8S_VENV_PATH)"
        else:
            yield program, "-i"
