"""Run a program in an environment of the local backend, with this process's own terminal."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from k8s_venv.backends.local.environments import variables
from k8s_venv.backends.overlay import overlay
from k8s_venv.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from k8s_venv.backends.program import Program

_TERMINAL = ("TERM", "COLORTERM", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "EDITOR", "PAGER")


def run_here(program: Program, python: Path, given: Mapping[str, str], progress: Callable[[str], None]) -> int:
    """Run a program in an environment of this machine and return its exit code.

    Args:
        program: what to run.
        python: its environment's interpreter, which is kept from being removed meanwhile.
        given: the variables that the environment's options name.
        progress: is called with what happens before it starts.

    Raises:
        BackendError: the environment has no such program.
    """
    with overlay(program.environment, program.extra, progress, python=python) as added:
        terminal = {name: os.environ[name] for name in _TERMINAL if name in os.environ}
        own = variables(python)
        env = {**own, **terminal, **given, **program.variables, "PATH": own["PATH"]}
        if added is not None:
            env |= {"PATH": os.pathsep.join([f"{added}/bin", env["PATH"]]), "PYTHONPATH": str(added)}
        env["K8S_VENV_PATH"] = env["PATH"]  # for a shell, whose settings may change the other
        command = [_found(program, python, added, env["PATH"]), *program.command[1:]]
        with subprocess.Popen(command, env=env) as process, _signals_passed_on(process):
            code = process.wait()
    return code if code >= 0 else 128 - code


def _found(program: Program, python: Path, added: Path | None, path: str) -> str:
    """Return the path of a program; a script of another Python would not see the environment's packages."""
    name = program.command[0]
    found = shutil.which(name, path=path)
    if found is None:
        raise BackendError(program.environment.name, f"it has no program {name!r}. {_remedy(name)}")
    folders = [python.parent, *([added / "bin"] if added else [])]
    if os.sep not in name and Path(found).parent not in folders and _is_python(Path(found)):
        raise BackendError(
            program.environment.name, f"it has no program {name!r}; {found} belongs to another Python. {_remedy(name)}"
        )
    return found


def _is_python(path: Path) -> bool:
    with contextlib.suppress(OSError), path.open("rb") as file:
        return path.name.startswith("python") or b"python" in file.readline(256)
    return False


def _remedy(name: str) -> str:
    return f"Add the package that brings it, for this run with --with {name}, or to its requirements."


@contextlib.contextmanager
def _signals_passed_on(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Leave Ctrl-C to the program, which gets it from the terminal, and pass on the other signals that end programs."""

    def pass_on(number: int, _frame: object) -> None:
        process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGHUP)}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
