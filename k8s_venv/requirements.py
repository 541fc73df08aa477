"""What an environment asks for: the lines of its requirements and constraints, those of included files in place."""

from __future__ import annotations

import dataclasses
import os
import re
from typing import TYPE_CHECKING

from k8s_venv.errors import LockError, without_credentials

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from k8s_venv.environment import Environment

_INCLUDE = re.compile(r"(-r|-c|--requirement\b|--constraint\b)[\s=]*(\S+)")
_EDITABLE = re.compile(r"(?:-e|--editable)\b")
_REPOSITORY = re.compile(r"(?:^|@\s*)(?:git|hg|svn|bzr)\+")
_PATH = re.compile(r"(?:^|@\s*)(?:file:(?://(?:localhost)?)?)?(~?\.{0,2}/[^;#]*|\.\.?(?=\s|$))")
_INDEX = re.compile(r"(-i|--index-url|--extra-index-url|-f|--find-links)(?:\s+|=)(\S+)")
_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")
_PASSWORD = re.compile(r"://[^\s/:@]*:(?!\$\{)[^\s/]+@")
_COMMENT = re.compile(r"(^|\s)#.*")
_INSTEAD = (
    "A lock holds finished packages: build a wheel of it (uv build --wheel -o wheels {source}) and require that "
    "(./wheels/NAME.whl). Modules beside the DAG travel by themselves."
)


@dataclasses.dataclass(frozen=True)
class Line:
    """A line that says something, without its comment.

    Args:
        text: the line, its continuations joined.
        place: where it stands, for messages.
        constraint: whether it only limits versions.
    """

    text: str
    place: str
    constraint: bool = False

    @property
    def recorded(self) -> str:
        """Return the text as a lock records it: passwords change, and are for no file."""
        return without_credentials(("-c: " if self.constraint else "") + self.text)


def requirement_lines(environment: Environment) -> list[Line]:
    """Return what an environment asks for.

    Raises:
        LockError: a file cannot be read, or includes itself.
    """
    lines: list[Line] = []
    if environment.requirements_file is not None:
        lines += _file_lines(environment, environment.requirements_file, (), constraint=False)
    for text in environment.requirements if isinstance(environment.requirements, tuple) else ():
        line = Line(text.strip(), environment.requirements_place)
        lines += [line, *_included(environment, line, environment.root, ())]
    if environment.constraints_file is not None:
        lines += _file_lines(environment, environment.constraints_file, (), constraint=True)
    elif environment.constraints is not None:
        lines.append(Line(environment.constraints, f"`constraints` of [environments.{environment.name}]", True))
    return lines


def refuse_sources(environment: Environment, lines: list[Line]) -> None:
    """Refuse what is no finished package: folders, repositories, editable installs.

    Raises:
        LockError: there is one; the message names its line.
    """
    for line in lines:
        found = _PATH.search(line.text)
        source = found[1].strip() if found else "FOLDER"
        if kind := _source_kind(environment, line.text, source):
            raise LockError(
                environment.name, f"{line.text!r} in {line.place} is {kind}. {_INSTEAD.format(source=source)}"
            )


def _source_kind(environment: Environment, text: str, source: str) -> str | None:
    if _EDITABLE.match(text):
        return "an editable install"
    if _REPOSITORY.search(text):
        return "a repository"
    if _INDEX.match(text) or _INCLUDE.match(text):
        return None
    if source.endswith((".tar.gz", ".zip")):
        return "a source distribution"
    path = os.path.expanduser(source)  # noqa: PTH111 -- also of users that do not exist
    return "a folder" if os.path.isdir(environment.root / path) else None  # noqa: PTH112 -- of any name


def written_passwords(lines: list[Line]) -> list[str]:
    """Return the places of lines that hold a password themselves, instead of the name of a variable."""
    return [line.place for line in lines if _PASSWORD.search(line.text)]


def index_settings(environment: Environment) -> dict[str, str]:
    """Return uv's variables for the indexes that an environment's requirements name, with their passwords.

    Installing from a lock needs them, since a lock has none. They are for a process's environment alone.
    """
    default, extra, links = "", list[str](), list[str]()
    for line in requirement_lines(environment):
        if not (found := _INDEX.match(line.text)):
            continue
        value = _VARIABLE.sub(lambda name: os.environ.get(name[1], name[0]), found[2])
        if found[1] in ("-i", "--index-url"):
            default = value
        elif found[1] == "--extra-index-url":
            extra.append(value)
        elif "://" in value:
            links.append(value)
    settings = {"UV_DEFAULT_INDEX": default, "UV_INDEX": " ".join(extra), "UV_FIND_LINKS": ",".join(links)}
    return {name: value for name, value in settings.items() if value}


def _included(environment: Environment, line: Line, folder: Path, including: tuple[Path, ...]) -> Iterator[Line]:
    included = _INCLUDE.match(line.text)
    if included and "://" not in included[2]:
        constraint = line.constraint or included[1] in ("-c", "--constraint")
        yield from _file_lines(environment, folder / included[2], including, constraint=constraint)


def _file_lines(
    environment: Environment, path: Path, including: tuple[Path, ...], *, constraint: bool
) -> Iterator[Line]:
    if path in including:
        raise LockError(environment.name, f"{path} includes itself.")
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise LockError(environment.name, f"{path} is not UTF-8 text: {error}.") from None
    except (OSError, ValueError) as error:
        by = f", which {including[-1]} includes," if including else ""
        reason = error.strerror if isinstance(error, OSError) else error
        raise LockError(environment.name, f"{path}{by} cannot be read: {reason}.") from None
    name = os.path.relpath(path, environment.root)
    for number, content in joined_lines(text):
        line = Line(content, f"{name}:{number}", constraint)
        yield line
        yield from _included(environment, line, path.parent, (*including, path))


def joined_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that say something with their numbers, continuations joined and comments dropped."""
    started, parts = 0, list[str]()
    for number, raw in enumerate(text.splitlines(), 1):
        line = _COMMENT.sub("", raw).rstrip()
        started = started or number
        goes_on = line.endswith("\\")
        parts.append(line.removesuffix("\\").strip())
        if goes_on:
            continue
        whole = " ".join(part for part in parts if part)
        if whole:
            yield started, whole
        started, parts = 0, []
    if whole := " ".join(part for part in parts if part):
        yield started, whole
