"""Resolve an environment's requirements with uv, and say in our words why uv could not."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from k8s_venv import uv
from k8s_venv.errors import LockError

if TYPE_CHECKING:
    from collections.abc import Callable

    from k8s_venv.environment import Environment

# Images are Linux; the wheels' tags are those of Debian bookworm's glibc.
PLATFORM = "x86_64-manylinux_2_36"
_NOT_FOUND = re.compile(r"\b(\S+) was not found in the package registry")
_NO_WHEEL = re.compile(r"^hint: Wheels are required for `([^`]+)`.*$", re.MULTILINE)
_NO_SOLUTION = "No solution found when resolving dependencies\n"
# uv also mentions missing wheels when versions without any were only some of those that it passed over.
_CONFLICT = re.compile(r"\bdepends? on\b")
_NOT_PARSED = re.compile(r"Couldn't parse requirement in `([^`]+)` at position (\d+)\n\s*(.+)")
_NOT_FETCHED = re.compile(r"Failed to fetch: `?([^`\s]+)`?\n(?:.*\n)*\s*(.+)")
# Names that Debian gives and the package index hardly ever: headers, and libraries with their ABI's number.
_DEBIAN_NAME = re.compile(r"lib[a-z0-9.+-]*\d|.*-dev|build-essential")


def resolve(environment: Environment, older: Path | None, progress: Callable[[str], None] | None = None) -> str:
    """Return the text of a PEP 751 lock for an environment's requirements.

    Args:
        environment: whose requirements to resolve.
        older: a lock whose versions are kept where they still fit.
        progress: is called with each line of uv's progress.

    Raises:
        LockError: the requirements cannot be resolved.
    """
    file = environment.requirements_file
    stdin = "" if file else "\n".join(environment.requirements or ())
    with tempfile.TemporaryDirectory(prefix="k8s-venv-lock-") as folder:
        output = Path(folder) / "pylock.toml"
        if older is not None:
            shutil.copyfile(older, output)
        try:
            uv.run(
                [
                    *("pip", "compile", str(file or "-"), "--output-file", str(output)),
                    *("--format", "pylock.toml", "--no-header"),
                    *("--python-version", environment.python, "--python-platform", PLATFORM),
                    "--no-python-downloads",
                    # A source distribution would be built here, on another Python and platform than the target's.
                    *("--only-binary", ":all:"),
                ],
                stdin=stdin,
                cwd=environment.root,
                progress=progress,
            )
        except uv.UvError as error:
            raise LockError(environment.name, _explain(environment, stdin, error.output)) from None
        return output.read_text("utf-8")


def _explain(environment: Environment, stdin: str, output: str) -> str:
    place, output = environment.requirements_place, output.removeprefix(_NO_SOLUTION)
    if found := _NOT_PARSED.search(output):
        return _not_parsed(environment, stdin, *found.groups())
    if found := _NOT_FETCHED.search(output):
        return f"the package index cannot be reached: {found[1]} ({found[2].strip()})."
    if names := sorted(set(_NOT_FOUND.findall(output))):
        return f"{_not_found(environment, names)}\n{output}"
    names = sorted(set(_NO_WHEEL.findall(output)))
    if names and not _CONFLICT.search(output):
        return (
            f"{', '.join(names)} in {place} has no wheel for Python {environment.python} on Linux "
            "(x86-64, glibc 2.36), and a lock takes nothing that would have to be compiled. Choose a version, or a "
            f"Python, that has one.\n{_NO_WHEEL.sub('', output).strip()}"
        )
    return f"{place} cannot be met on Python {environment.python}:\n{_NO_WHEEL.sub('', output).rstrip()}"


def _not_found(environment: Environment, names: list[str]) -> str:
    debian = [name for name in names if _DEBIAN_NAME.fullmatch(name)]
    quoted = ", ".join(repr(name) for name in names)
    sentence = f"the package index has no distribution {quoted}, which {environment.requirements_place} asks for."
    if not debian:
        return f"{sentence} Check the spelling."
    stanza = "packages = [" + ", ".join(f'"{name}"' for name in debian) + "]"
    return f"{sentence} Debian packages belong in `packages` of [environments.{environment.name}]: {stanza}."


def _not_parsed(environment: Environment, stdin: str, file: str, position: str, reason: str) -> str:
    """Name the line for the offset in bytes that uv gives."""
    data = stdin.encode() if file == "-" else (environment.root / file).read_bytes()
    number = data[: int(position)].count(b"\n")
    line = data.splitlines()[number].decode("utf-8", "replace").strip()
    where = environment.requirements_place if file == "-" else f"{file}:{number + 1}"
    return f"{line!r} in {where} is not a requirement: {reason[0].lower()}{reason[1:].strip()}."
