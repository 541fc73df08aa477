"""How commands speak: progress per environment, live on a terminal and as plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from k8s_venv.project import Project, find_project, load_project

# Progress goes to standard error, results to standard output.
console = Console(stderr=True, highlight=False, soft_wrap=True)

Report = Callable[[str, str], None]


def open_project(given: Path | None, start: Path | None = None) -> Project:
    """Load the project that a command works on.

    Args:
        given: what ``--project`` says: a file or a folder.
        start: where to look otherwise; by default here.

    """
    if given is not None and given.is_file():
        return load_project(given.resolve())
    return load_project(find_project(given or start or Path.cwd()))


@contextlib.contextmanager
def progress(names: list[str]) -> Iterator[tuple[Report, Report]]:
    """Show what happens to each of several environments.

    Args:
        names: the environments.

    Yields:
        A function that says what happens to one now, and one that says how it ended.

    """
    started = time.monotonic()
    width = max((len(name) for name in names), default=0)
    if not console.is_terminal:

        def line(name: str, text: str) -> None:
            console.print(f"{name:{width}}  {text}", markup=False)

        def last(name: str, text: str) -> None:
            line(name, f"{text} ({time.monotonic() - started:.1f} s)")

        yield line, last
        return
    columns = (SpinnerColumn(finished_text="✓"), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[now]}", markup=False), console=console) as bars:
        tasks = {name: bars.add_task(f"{name:{width}}", total=1, now="waiting") for name in names}
        yield (
            lambda name, text: bars.update(tasks[name], now=text[:80]),
            lambda name, text: bars.update(tasks[name], now=text, completed=1),
        )
