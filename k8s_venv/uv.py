"""The one door through which uv is called."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

CACHE_VARIABLE = "K8S_VENV_CACHE"


class UvError(Exception):
    """Uv ended with an error.

    Args:
        output: what it said, without its notes about interpreters that it passed over.

    """

    def __init__(self, output: str) -> None:
        self.output = output
        super().__init__(output)


def cache_folder() -> Path:
    """Return the folder of everything that k8s-venv keeps outside a project: ``K8S_VENV_CACHE`` or the user's."""
    configured = os.environ.get(CACHE_VARIABLE)
    return Path(configured).expanduser() if configured else Path(platformdirs.user_cache_dir("k8s-venv"))


def run(
    arguments: Sequence[str],
    *,
    stdin: str = "",
    cwd: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> str:
    """Run uv and return what it wrote to standard output.

    Args:
        arguments: the command line after ``uv``.
        stdin: is given to it as standard input.
        cwd: the folder to run in.
        progress: is called with each line of its progress.

    Raises:
        UvError: uv failed.

    """
    from uv import find_uv_bin

    settings = {"UV_CACHE_DIR": str(cache_folder() / "uv"), "UV_NO_PROGRESS": "1"}
    environ = {**settings, **os.environ}
    # An active virtual environment of the caller's must not be taken for the target.
    environ.pop("VIRTUAL_ENV", None)
    with subprocess.Popen(
        [find_uv_bin(), "--no-config", "--color", "never", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environ,
        cwd=cwd,
    ) as process:
        output, errors = _communicate(process, stdin, progress)
    if process.returncode:
        raise UvError(readable(errors or output))
    return output


def _communicate(process: subprocess.Popen[str], stdin: str, progress: Callable[[str], None] | None) -> tuple[str, str]:
    try:
        if progress is None:
            return process.communicate(stdin)
        assert process.stdin is not None  # noqa: S101 -- all three are pipes
        assert process.stdout is not None  # noqa: S101
        assert process.stderr is not None  # noqa: S101
        process.stdin.write(stdin)
        process.stdin.close()
        lines = []
        for line in process.stderr:
            lines.append(line)
            progress(line.strip())
        return process.stdout.read(), "".join(lines)
    except BaseException:
        process.kill()
        raise


def readable(errors: str) -> str:
    """Drop uv's warnings from what it says, and the labels before each reason."""
    kept, skipping = [], False
    for line in errors.splitlines():
        if line.startswith("warning:"):
            skipping = True
        elif skipping and (line.startswith((" ", "\t")) or not line.strip()):
            continue
        else:
            skipping = False
            kept.append(re.sub(r"^(\s*)(?:error|cause): ", r"\1", line))
    return "\n".join(kept).strip()


def find_interpreter(version: str) -> str | None:
    """Return the path of an installed Python of a minor version, or None.

    Beyond what uv looks at (its own, and PATH) this knows the versions that pyenv keeps off PATH.

    Args:
        version: the minor version, such as ``3.8``.

    """
    if version == "{}.{}".format(*sys.version_info):
        return getattr(sys, "_base_executable", sys.executable)
    try:
        return run(["python", "find", "--no-project", "--no-python-downloads", version]).strip()
    except UvError:
        return next(_pyenv_interpreters(version), None)


def _pyenv_interpreters(version: str) -> Iterator[str]:
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for folder in sorted(root.glob(f"versions/{version}.*"), reverse=True):
        found = shutil.which("python", path=str(folder / "bin"))
        if found:
            yield found
