"""The output of commands: progress per environment, live on a terminal and as plain lines elsewhere."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import click

from k8s_venv.errors import K8sVenvError

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from k8s_venv.config.project import Project

_GRACE = 10.0  # seconds that an interrupted command has to end

Report = Callable[[str, str], None]


@functools.cache
def console() -> Console:
    """Return the console of progress, notes and errors; results go to standard output."""
    from rich.console import Console  # a command that only prints its result does without

    return Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)


def open_project(given: Path | None) -> Project:
    """Load the project that a command works on.

    Args:
        given: the file or folder that ``--project`` names; by default the project is looked for from here upwards.
    """
    from k8s_venv.config import PROJECT_VARIABLE
    from k8s_venv.config.project import find_project, load_project, project_at  # it imports pydantic

    return load_project(project_at(given, f"--project (or {PROJECT_VARIABLE})") if given else find_project())


def _environment_names(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Return the environments to which a shell can complete a word."""
    try:
        project = open_project(context.find_root().params.get("project"))
    except K8sVenvError:
        return []
    return [name for name in project.environments if name.startswith(incomplete)]


environments_argument = click.argument(
    "environments", nargs=-1, metavar="[ENVIRONMENT]...", shell_complete=_environment_names
)

locked_option = click.option("--locked", is_flag=True, help="On this machine, refuse a missing or stale lock.")
environment_argument = click.argument("environment", shell_complete=_environment_names)


def show_error(error: K8sVenvError | str) -> None:
    """Print an error of a command that continues."""
    console().print(f"Error: {error}", style="red")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 package``, ``2 packages``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def megabytes(size: int) -> str:
    """Return a number of bytes in megabytes."""
    return f"{size / 1e6:.1f} MB"


def aligned(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table as text; unlike rich's it is never cut to a width, since users copy names from it.

    Args:
        header: the columns' names.
        rows: the cells; those of the last column may have several lines.
    """
    table = [header, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(header) - 1)]
    margin = "\n" + " " * (sum(widths) + 2 * len(widths))
    lines = []
    for *cells, last in table:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        lines.append("  ".join([*padded, last.replace("\n", margin)]))
    return "\n".join(lines)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does, with its threads and processes.

    A second signal ends the command at once, as does a thread that waits for longer than ten seconds.
    """
    interrupted = False

    def leave(number: int) -> None:
        # Not through the console, whose lock the interrupted thread may hold.
        os.write(2, b"\x1b[?25hInterrupted.\n" if os.isatty(2) else b"Interrupted.\n")
        os._exit(128 + number)

    def interrupt(number: int, frame: object) -> None:
        nonlocal interrupted
        if interrupted:
            leave(number)
        interrupted = True
        timer = threading.Timer(_GRACE, leave, [number])
        timer.daemon = True
        timer.start()
        raise KeyboardInterrupt(number)

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if interrupted else handler)


@contextlib.contextmanager
def progress(names: list[str]) -> Iterator[tuple[Report, Report]]:
    """Show the progress of several environments.

    Args:
        names: the environments.

    Yields:
        A function that shows what an environment does now, and one that shows how it ended.
    """
    started = time.monotonic()
    width = max((len(name) for name in names), default=0)
    if not console().is_terminal:

        def line(name: str, text: str) -> None:
            console().print(f"{name:{width}}  {text}")

        def last(name: str, text: str) -> None:
            line(name, f"{text} ({time.monotonic() - started:.1f} s)")

        yield line, last
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.table import Column

    columns = (SpinnerColumn(finished_text="✓"), TextColumn("{task.description}"), TimeElapsedColumn())
    now = TextColumn("{task.fields[now]}", markup=False, table_column=Column(ratio=1))
    with Progress(*columns, now, console=console(), expand=True) as bars:
        tasks = {name: bars.add_task(f"{name:{width}}", total=1, now="waiting") for name in names}
        yield (
            lambda name, text: bars.update(tasks[name], now=text[:80]),
            lambda name, text: bars.update(tasks[name], now=text, completed=1),
        )
