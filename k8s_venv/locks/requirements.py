"""What an environment asks for: the lines of its requirements and constraints, those of included files in place."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from k8s_venv.errors import LockError, without_credentials
from k8s_venv.locks.projects import PROJECT, other_kind, project_dependencies, unread_settings
from k8s_venv.locks.textfiles import decoded, joined_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k8s_venv.config.environment import Environment

_INCLUDE = re.compile(r"(-r|-c|--requirement\b|--constraint\b)[\s=]*(\"[^\"]+\"|'[^']+'|\S+)")
_INDEX = re.compile(r"(-i|--index-url|--extra-index-url|-f|--find-links|--trusted-host)(?:\s+|=)(\S+)")
_NAMED = re.compile(r"([A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)\s*(?:[\[<>=!~;@(\s]|$)")
_WHEEL = re.compile(r"(?:^|/)([A-Za-z0-9][\w.]*)-[^/\s]*\.whl(?=[\s#;?]|$)")
_HASH = re.compile(r"\s--hash(?:\s*=\s*|\s+)(\S*)")
_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")

# What is wrong with a line with such a variable, after its text and place.
UNSET = "names the variable {}, which is not set here, or is empty. Set it where this command runs."


@dataclasses.dataclass(frozen=True)
class Line:
    """A line that says something, without its comment.

    Args:
        text: the line, its continuations joined.
        place: where it stands, for messages.
        constraint: whether it only limits versions.
        folder: the folder of the file that it stands in, where that is not the project's.
        note: what in its form is worth a note.
    """

    text: str
    place: str
    constraint: bool = False
    folder: Path | None = None
    note: str = ""

    @property
    def recorded(self) -> str:
        """Return the text as a lock records it: passwords change, and are for no file."""
        return without_credentials(("-c: " if self.constraint else "") + self.text)

    @property
    def package(self) -> str:
        """Return the name of the package that it asks for (as PEP 503 writes names), or nothing."""
        found = _NAMED.match(self.text) or _WHEEL.search(self.text)
        return canonicalize_name(found[1]) if found else ""

    @property
    def hashes(self) -> list[str]:
        """Return the hashes that its package's file may have, each as ``sha256:…``."""
        return [value.lower() for value in _HASH.findall(self.text)]

    @property
    def includes(self) -> tuple[str, str] | None:
        """Return the option that names a file here to be read in its place, and the file's path or URL."""
        found = _INCLUDE.match(self.text)
        return (found[1], with_variables(found[2].strip("\"'"))) if found else None

    @property
    def index(self) -> tuple[str, str] | None:
        """Return the option about indexes that it is, and the value, with variables filled in."""
        found = _INDEX.match(self.text)
        return (found[1], with_variables(found[2])) if found else None


def requirement_lines(environment: Environment) -> list[Line]:
    """Return what an environment asks for.

    Raises:
        LockError: a file cannot be read, or includes itself.
    """
    lines: list[Line] = []
    if environment.requirements_file is not None:
        lines += _file_lines(environment, environment.requirements_file, (), constraint=False)
    for text in environment.requirements if isinstance(environment.requirements, tuple) else ():
        for _, content, note in joined_lines(text):
            line = Line(content, environment.requirements_place, note=note)
            lines += [line, *_included(environment, line, environment.root, ())]
    if environment.constraints_file is not None:
        lines += _file_lines(environment, environment.constraints_file, (), constraint=True)
    elif environment.constraints is not None:
        lines.append(Line(environment.constraints, f"`constraints` of [environments.{environment.name}]", True))
    return lines


def index_settings(environment: Environment) -> dict[str, str]:
    """Return uv's variables for the indexes that an environment's requirements name, with their passwords.

    Installing from a lock needs them, since a lock has none. They are for a process's environment alone.
    """
    found = [line.index for line in requirement_lines(environment) if line.index]
    values = {option: [value for each, value in found if each == option] for option, _ in found}
    default = [*values.get("-i", ()), *values.get("--index-url", ())]
    links = [value for value in (*values.get("-f", ()), *values.get("--find-links", ())) if "://" in value]
    settings = {
        "UV_DEFAULT_INDEX": default[-1] if default else "",
        "UV_INDEX": " ".join(values.get("--extra-index-url", ())),
        "UV_FIND_LINKS": ",".join(links),
        "UV_INSECURE_HOST": " ".join(values.get("--trusted-host", ())),
    }
    return {name: value for name, value in settings.items() if value}


def place_of(environment: Environment, package: str) -> str:
    """Return where a package is asked for, as file and line; where that is not known, what asks for packages at all.

    Args:
        environment: which one.
        package: the package's name.
    """
    name = canonicalize_name(package)
    places = (line.place for line in requirement_lines(environment) if line.package == name and not line.constraint)
    return next(places, environment.requirements_place)


def in_python(package: str, python: str) -> bool:
    """Return whether a package has the name of a module that Python brings along.

    Args:
        package: the package's name.
        python: the minor version, such as ``3.12``.
    """
    from stdlib_list import in_stdlib, short_versions

    return in_stdlib(package, python if python in short_versions else short_versions[-1])


def unset_variables(text: str) -> list[str]:
    """Return the names of variables in a line that have no value."""
    return [name for name in _VARIABLE.findall(text) if not os.environ.get(name)]


def with_variables(text: str) -> str:
    """Return a text with the values of its variables; only ``${NAME}`` is one, as in pip."""
    return _VARIABLE.sub(lambda name: os.environ.get(name[1]) or name[0], text)


def _included(environment: Environment, line: Line, folder: Path, including: tuple[Path, ...]) -> Iterator[Line]:
    if line.includes and "://" not in line.includes[1]:
        option, file = line.includes
        for name in unset_variables(line.text):
            raise LockError(environment.name, f"{line.text!r} in {line.place} {UNSET.format(name)}")
        path = Path(os.path.normpath(folder / file))
        yield from _file_lines(environment, path, including, constraint=option in ("-c", "--constraint"))


def _file_lines(
    environment: Environment, path: Path, including: tuple[Path, ...], *, constraint: bool
) -> Iterator[Line]:
    if path in including:
        raise LockError(environment.name, f"{path} includes itself.")
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        by = f", which {including[-1]} includes," if including else ""
        reason = error.strerror if isinstance(error, OSError) else error
        raise LockError(environment.name, f"{path}{by} cannot be read: {reason}.") from None
    name = os.path.relpath(path, environment.root)
    try:
        if path.name == PROJECT and not constraint:
            yield from _project_lines(environment, data, name)
            return
        if kind := other_kind(path.name):
            raise ValueError(kind)
        text = decoded(data)
    except ValueError as error:
        raise LockError(environment.name, f"{path} {error}") from None
    for number, content, note in joined_lines(text):
        line = Line(content, f"{name}:{number}", constraint, path.parent, note)
        yield line
        yield from _included(environment, line, path.parent, (*including, path))


def _project_lines(environment: Environment, data: bytes, name: str) -> Iterator[Line]:
    text = decoded(data)
    dependencies = list(project_dependencies(text, environment.python))
    unread = ", ".join(unread_settings(text))
    note = f"{unread} of [tool.uv] does not count for a lock: name indexes by uv's or pip's variables" if unread else ""
    for position, (number, dependency) in enumerate(dependencies):
        yield Line(dependency, f"{name}:{number}", note="" if position else note)
