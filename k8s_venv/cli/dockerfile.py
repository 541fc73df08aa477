"""Read environments out of a Dockerfile with ``PYENV`` lines, as Astronomer's provider for venvs has them.

The instruction is ``PYENV <python-version> <venv-name> [<requirements-file>]``; everything else follows the Dockerfile
reference (https://docs.docker.com/reference/dockerfile/): comments, continuations, the ``escape`` directive and
here-documents.
"""

from __future__ import annotations

import dataclasses
import os
import re
from typing import TYPE_CHECKING

from k8s_venv.config.environment import DEBIAN_PACKAGE, NAME, python_version
from k8s_venv.errors import ProjectError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_DIRECTIVE = re.compile(r"#\s*(\w+)\s*=\s*(.*?)\s*$")
_HEREDOC = re.compile(r"<<-?\s*([\"']?)([A-Za-z_]\w*)\1")
_WITH_HEREDOCS = ("RUN", "COPY", "ADD")
_VERSION = re.compile(r"(\d+\.\d+)(?:\.\d+)?")
_USAGE = "PYENV <python-version> <venv-name> [<requirements-file>]"


@dataclasses.dataclass(frozen=True)
class Venv:
    """What one ``PYENV`` line declares.

    Args:
        name: a name that an environment can have, made from the line's.
        written: the name as it stands in the line.
        python: the minor version.
        requirements: the requirements file's path, from the Dockerfile's folder, or None.
        line: the line's number.
    """

    name: str
    written: str
    python: str
    requirements: str | None
    line: int


def read_venvs(path: Path) -> list[Venv]:
    """Return what the ``PYENV`` lines of a Dockerfile declare.

    Args:
        path: the Dockerfile.

    Raises:
        ProjectError: it cannot be read, has no such line, or a wrong one.
    """
    venvs: list[Venv] = []
    for number, text in _instructions(_read(path)):
        keyword, *words = text.split()
        if keyword.upper() != "PYENV":
            continue
        venv = _venv(path, number, words)
        for other in venvs:
            if other.name == venv.name:
                raise ProjectError(f"Two venvs are named {venv.name!r}, here and on line {other.line}.", path, number)
        venvs.append(venv)
    if not venvs:
        raise ProjectError(f"This file has no line {_USAGE}, so there is nothing to take from it.", path)
    return venvs


def read_packages(path: Path) -> list[str]:
    """Return the Debian packages that a ``packages.txt`` lists.

    Args:
        path: the file.

    Raises:
        ProjectError: it cannot be read, or lists something else.
    """
    found: dict[str, None] = {}
    for number, line in enumerate(_read(path).split("\n"), 1):
        for package in line.partition("#")[0].split():
            if not DEBIAN_PACKAGE.fullmatch(package):
                raise ProjectError(f"{package!r} is not a Debian package's name.", path, number)
            found[package] = None
    return list(found)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ProjectError(f"This file is not UTF-8 text ({error}).", path) from None
    except OSError as error:
        raise ProjectError(f"This file cannot be read: {error.strerror}.", path) from None


def _instructions(text: str) -> Iterator[tuple[int, str]]:
    """Yield each instruction on one line, with the number of its first."""
    lines = text.split("\n")
    escape = _escape(lines)
    started, parts = 0, list[str]()
    heredocs: list[str] = []
    for number, raw in enumerate(lines, 1):
        line = raw.strip()
        if heredocs:
            if line == heredocs[0]:
                del heredocs[0]
            continue
        if not line or line.startswith("#"):
            continue  # also between the parts of an instruction
        started = started or number
        parts.append(line.removesuffix(escape).strip())
        if line.endswith(escape):
            continue
        whole = " ".join(part for part in parts if part)
        started, parts, first = 0, [], started
        if whole:
            yield first, whole
            if whole.split()[0].upper() in _WITH_HEREDOCS:
                heredocs = [name for _, name in _HEREDOC.findall(whole)]
    if whole := " ".join(part for part in parts if part):
        yield started, whole


def _escape(lines: list[str]) -> str:
    """Return the character that continues lines; directives stand before anything else."""
    for line in lines:
        directive = _DIRECTIVE.match(line.strip())
        if not directive:
            break
        if directive[1].lower() == "escape" and directive[2] == "`":
            return "`"
    return "\\"


def _venv(path: Path, number: int, words: list[str]) -> Venv:
    if any("$" in word for word in words):
        raise ProjectError("A variable in a PYENV line has no value here. Write the value itself.", path, number)
    if len(words) not in (2, 3):
        raise ProjectError(f"This PYENV line has {len(words)} words after it; it is {_USAGE}.", path, number)
    version, written, *requirements = words
    minor = _VERSION.fullmatch(version)
    if not minor:
        hint = " The version comes first." if _VERSION.fullmatch(written) else ""
        raise ProjectError(f"{version!r} is not a Python version such as 3.8.{hint}", path, number)
    try:
        python = python_version(minor[1])
    except ValueError as error:
        raise ProjectError(f"The Python version {error}.", path, number) from None
    name = re.sub(r"[^a-z0-9]+", "-", written.lower()).strip("-")[:63].rstrip("-")
    name = written if NAME.fullmatch(written) else name
    if not NAME.fullmatch(name):
        raise ProjectError(f"{written!r} cannot be an environment's name.", path, number)
    file = requirements[0] if requirements else None
    if file is not None and not os.path.isfile(path.parent / file):  # noqa: PTH113 -- of any name
        near = did_you_mean(file, [found.name for found in path.parent.glob("*") if found.is_file()])
        raise ProjectError(f"The requirements file {file!r} does not exist in {path.parent}.{near}", path, number)
    return Venv(name, written, python, file, number)
