"""A project with a fault in it, and what the command line makes of that."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from click.testing import CliRunner, Result

from k8s_venv.cli import main

SECRET = "s3cret"
# An image that no registry is asked for.
BASE = f"python:3.12-slim-bookworm@sha256:{'0' * 64}"
OLDER = Path(__file__).parent / "golden" / "older-lock.toml"

Files = Mapping[str, "str | bytes | None"]
Run = Callable[..., Result]


def project_text(python: str = "3.12", more: str = "") -> str:
    """Return a project file with one environment, `etl`, whose requirements stand in a file."""
    return f'[environments.etl]\npython = "{python}"\nbase = "{BASE}"\nrequirements = "requirements.txt"\n{more}'


def plant(folder: Path, files: Files) -> None:
    """Write a project with an older lock into a folder; a file that is None becomes a folder of that name."""
    given = {"k8s-venv.toml": project_text(), "pylock.etl.toml": OLDER.read_bytes(), **files}
    for name, content in given.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir()
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)


def rewrite_lock(path: Path, old: str, new: str) -> None:
    """Replace text in a lock as if it had been written so: without the checksum, by which an edited one is told."""
    text = re.sub(r"(?m)^checksum = .*\n", "", path.read_text("utf-8"))
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


def contents(folder: Path) -> dict[str, bytes | None]:
    """Return everything in a folder."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def run(folder: Path, *arguments: str, **environ: str) -> Result:
    """Run a command on the project in a folder, in this process."""
    return CliRunner().invoke(main, ["--project", str(folder), *arguments], env={"UV_HTTP_RETRIES": "0", **environ})


def check_refused(folder: Path, sentence: str, *arguments: str, **environ: str) -> None:
    """Run a command and hold it to one message with a sentence (a pattern), exit code 1, and an untouched folder."""
    before = contents(folder)

    ran = run(folder, *(arguments or ("lock",)), **environ)

    assert isinstance(ran.exception, SystemExit), ran.exc_info  # anything else would have been a traceback
    assert ran.exit_code == 1, ran.output
    assert ran.stderr.count("Error: ") == 1, ran.output
    assert re.search(sentence, ran.stderr), ran.stderr
    assert SECRET not in ran.output
    assert "\x1b" not in ran.output
    assert contents(folder) == before
