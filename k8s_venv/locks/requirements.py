"""What an environment asks for: the lines of its requirements and constraints, those of included files in place."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from packaging.utils import canonicalize_name

from k8s_venv.errors import CREDENTIALS, LockError, did_you_mean, without_credentials
from k8s_venv.locks.requirement_files import (
    PROJECT,
    decoded,
    joined_lines,
    other_kind,
    project_dependencies,
    unread_settings,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from k8s_venv.config.environment import Environment

_INCLUDED = re.compile(r"(-r|-c|--requirement\b|--constraint\b)[\s=]*(\"[^\"]+\"|'[^']+'|\S+)")
_INDEX = re.compile(r"(-i|--index-url|--extra-index-url|-f|--find-links|--trusted-host)(?:\s+|=)(\S+)")
_NAMED = re.compile(r"([A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)\s*(?:[\[<>=!~;@(\s]|$)")
_WHEEL = re.compile(r"(?:^|/)([A-Za-z0-9][\w.]*)-[^/\s]*\.whl(?=[\s#;?]|$)")
_HASH = re.compile(r"\s--hash(?:\s*=\s*|\s+)(\S*)")
_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")

_OPTIONS = (
    *("-r", "--requirement", "-c", "--constraint", "-e", "--editable", "-i", "--index-url", "--extra-index-url"),
    *("-f", "--find-links", "--no-index", "--no-binary", "--only-binary", "--prefer-binary", "--pre"),
    *("--require-hashes", "--trusted-host", "--use-feature"),
)
_OPTION = re.compile(r"--[\w-]*|-\w?")
_WITHOUT_VALUE = ("--no-index", "--prefer-binary", "--pre", "--require-hashes")
_INCLUDE = ("-r", "--requirement", "-c", "--constraint")
_LINKS = ("-f", "--find-links")
_EDITABLE = ("-e", "--editable")
_REPOSITORY = re.compile(r"(?:^|@\s*)(?:git|hg|svn|bzr)\+")
_PATH = re.compile(r"(?:^|@\s*)(?:file:(?://(?:localhost)?)?)?(~?\.{0,2}/[^;#]*|\.\.?(?=\s|$))")
_DIRECT = re.compile(r"(?:^|@\s*)(https?://[^\s;#]+)")
_SOURCE_FILES = (".tar.gz", ".zip", ".tar.bz2", ".tgz")
_PASSWORD = re.compile(r"://[^\s/:@]*:(?!\$\{)[^\s/]+@")
# The lengths of the digests that a lock can be held to, in hexadecimal digits.
_DIGESTS = {"sha256": 64, "sha384": 96, "sha512": 128}
_CONFLICT = re.compile(r"<<<<<<<|=======|>>>>>>>|\|\|\|\|\|\|\|")
# What such a line installs from.
_SOURCE = re.compile(r"(?:(?:-e|--editable)[\s=]+|[\w.\[\],-]+\s*@\s*)?(.+?)(?:\s+;.*)?$")
_INSTEAD = (
    "A lock holds finished packages: build a wheel of it (pip wheel --no-deps -w wheels {source}) and require that "
    "(./wheels/NAME.whl). Modules beside the DAG travel by themselves."
)
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
        found = _INCLUDED.match(self.text)
        return (found[1], with_variables(found[2].strip("\"'"))) if found else None

    @property
    def index(self) -> tuple[str, str] | None:
        """Return the option about indexes that it is, and the value, with variables filled in."""
        found = _INDEX.match(self.text)
        return (found[1], with_variables(found[2])) if found else None


@dataclasses.dataclass(frozen=True)
class Requirements:
    """What an environment asks for: its lines, read once.

    Args:
        environment: whose they are.
        lines: the lines of its requirements and constraints.
    """

    environment: Environment
    lines: tuple[Line, ...]

    @property
    def recorded(self) -> list[str]:
        """Return the lines as a lock records them."""
        return [line.recorded for line in self.lines]

    @property
    def indexes(self) -> dict[str, str]:
        """Return uv's variables for the indexes that the lines name, with their passwords.

        Installing from a lock needs them, since a lock has none. They are for a process's environment alone.
        """
        found = [line.index for line in self.lines if line.index]
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

    @property
    def secrets(self) -> set[str]:
        """Return the names of the variables that the lines have as users and passwords of URLs."""
        credentials = [each for line in self.lines for each in CREDENTIALS.findall(line.text)]
        return {name for each in credentials for name in _VARIABLE.findall(each)}

    def place_of(self, package: str) -> str:
        """Return where a package is asked for, as file and line; of one that others need, the whole list's place.

        Args:
            package: the package's name.
        """
        name = canonicalize_name(package)
        places = (line.place for line in self.lines if line.package == name and not line.constraint)
        return next(places, self.environment.requirements_place)


def read_requirements(environment: Environment) -> Requirements:
    """Read what an environment asks for.

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
    return Requirements(environment, tuple(lines))


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


def refuse_lines(requirements: Requirements) -> None:
    """Refuse what cannot be locked: folders, repositories, options that are none, variables without a value.

    Raises:
        LockError: there is such a line; the message names it.
    """
    environment = requirements.environment
    for line in requirements.lines:
        problem = next(_problems(environment, line), None)
        if problem:
            raise LockError(environment.name, f"{line.text!r} in {line.place} {problem}")


def line_notes(requirements: Requirements) -> list[str]:
    """Return what the author of the lines would want to know, though they can be locked."""
    notes = []
    python = requirements.environment.python
    for line in requirements.lines:
        if _PASSWORD.search(line.text):
            notes.append(
                f"{line.place} has a password in it for everybody to read. Write https://${{USER}}:${{PASSWORD}}@… "
                "with variables of yours, or keep it in ~/.netrc."
            )
        if line.package and not line.constraint and in_python(line.package, python):
            notes.append(
                f"{line.place} asks for {line.package!r}, which is a module of Python {python} itself. The "
                "package of this name is not needed, and may be somebody else's: leave the line out."
            )
        if line.note:
            notes.append(f"{line.place}: {line.note}.")
        if line.text.startswith("--use-feature"):
            notes.append(f"{line.text!r} in {line.place} has no effect on a lock.")
    return notes


def _problems(environment: Environment, line: Line) -> Iterator[str]:
    """Yield what is wrong with a line, after its text and place."""
    if _CONFLICT.match(line.text):
        yield "is left from a merge. Resolve the conflict."
    if line.text.endswith("\\"):
        yield "ends with a backslash that joins no lines, since spaces or a comment follow it. Take them out."
    for name in unset_variables(line.text):
        yield UNSET.format(name)
    option = _OPTION.match(line.text)
    if option:
        yield from _option_problems(environment, line, option[0])
    yield from _index_problems(line)
    if kind := _source_kind(environment, line):
        source = _SOURCE.match(line.text)
        yield f"is {kind}. {_INSTEAD.format(source=shlex.quote(source[1]) if source else 'FOLDER')}"
    for value in line.hashes:
        algorithm, _, digest = value.partition(":")
        if not re.fullmatch(rf"[0-9a-fA-F]{{{_DIGESTS.get(algorithm, 0)}}}", digest) or not digest:
            yield f"has {value!r}, which is not a hash. Write --hash=sha256: and 64 hexadecimal digits."


def _option_problems(environment: Environment, line: Line, option: str) -> Iterator[str]:
    if option not in _OPTIONS:
        hint = did_you_mean(option, _OPTIONS) if option.startswith("--") else ""
        yield f"is no option of requirements.{hint} Known: {', '.join(_OPTIONS)}."
    if line.text == option and option not in _WITHOUT_VALUE:
        yield "lacks its value."
    if option == "--no-binary" and environment.builder != "buildkit" and ":none:" not in line.text:
        yield (
            "asks for packages that would have to be compiled, and a lock takes none. Leave the line out; or let the "
            f'image\'s build compile them, with builder = "buildkit" in [environments.{environment.name}].'
        )


def _index_problems(line: Line) -> Iterator[str]:
    if line.index is None:
        return
    option, value = line.index
    if option in ("-f", "--find-links", "--trusted-host") or value.startswith((".", "/", "~")):
        return
    try:
        url = urlsplit(value)
        fits = url.scheme == "file" or (url.scheme in ("http", "https") and url.hostname)
        _ = url.port
    except ValueError as error:
        reason = f"{str(error)[:1].lower()}{str(error)[1:]}"
        if "Port could not be cast" in str(error):  # which quotes a part of what may be a password
            reason = "its port is no number. In a user and a password, write / as %2F, # as %23 and @ as %40"
        yield f"names no index: {reason}."
        return
    if not fits:
        yield "names no index: write its whole URL, such as https://pypi.example.com/simple."


def _source_kind(environment: Environment, line: Line) -> str | None:
    text = line.text
    if text.startswith(_EDITABLE):
        return "an editable install"
    if _REPOSITORY.search(text):
        return "a repository"
    if line.index or text.startswith(_INCLUDE):
        return None
    direct = _DIRECT.search(text)
    if direct and environment.builder != "buildkit" and urlsplit(direct[1]).path.endswith(_SOURCE_FILES):
        return "a source distribution"
    found = _PATH.search(text)
    if found is None:
        return None
    path = os.path.expanduser(found[1].strip())  # noqa: PTH111 -- also of users that do not exist
    if path.endswith(_SOURCE_FILES):
        return "a source distribution"
    return "a folder" if os.path.isdir(environment.root / path) else None  # noqa: PTH112 -- of any name


@dataclasses.dataclass(frozen=True)
class UvInput:
    """A file for uv, and from where each of its lines comes.

    Args:
        lines: the lines.
    """

    lines: tuple[Line, ...]

    @classmethod
    def of(cls, lines: Sequence[Line], *, constraint: bool) -> UvInput:
        """Return what uv reads as requirements, or as constraints.

        Args:
            lines: an environment's lines.
            constraint: which of them.
        """
        return cls(tuple(line for line in lines if line.constraint is constraint and not _is_read(line)))

    @property
    def text(self) -> str:
        """Return the file's text, with the values of variables, which uv itself fills in in URLs alone."""
        return "".join(f"{_as_uv_reads(line)}\n" for line in self.lines)

    def line_at(self, number: int) -> Line | None:
        """Return the line with a number, counted from 1."""
        return self.lines[number - 1] if 0 < number <= len(self.lines) else None

    def line_at_byte(self, position: int) -> Line | None:
        """Return the line at an offset in bytes."""
        data = self.text.encode("utf-8", "backslashreplace")
        return self.line_at(data[:position].count(b"\n") + 1)


def write_inputs(requirements: Requirements, folder: Path) -> dict[str, UvInput]:
    """Write an environment's constraints into a folder, and return what uv reads, by the name that it calls each file.

    Args:
        requirements: what the environment asks for.
        folder: where to.

    Returns:
        The requirements, which are for uv's standard input (``-``), and the constraints.
    """
    # Where `constraints` is a URL, uv fetches it.
    local = [line for line in requirements.lines if line.text != requirements.environment.constraints]
    limits = folder / "constraints.txt"
    constraints = UvInput.of(local, constraint=True)
    limits.write_text(constraints.text, "utf-8", "backslashreplace")
    return {"-": UvInput.of(local, constraint=False), str(limits): constraints}


def _is_read(line: Line) -> bool:
    """Return whether it names a file whose lines stand behind it already."""
    return line.includes is not None and "://" not in line.includes[1]


def _as_uv_reads(line: Line) -> str:
    if line.index and line.index[0] in _LINKS and line.folder and "://" not in line.index[1]:
        folder = line.folder / Path(line.index[1].strip("\"'")).expanduser()
        if folder.exists():  # else from the project's folder, as pip does
            return f"{line.index[0]} {folder}"
    return " ".join(with_variables(line.text).splitlines())
