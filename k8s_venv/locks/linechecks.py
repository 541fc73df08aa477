"""What of an environment's lines cannot be locked, or is not what it seems, known before any index is asked."""

from __future__ import annotations

import os
import re
import shlex
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from k8s_venv.errors import LockError, did_you_mean
from k8s_venv.locks.requirements import UNSET, in_python, unset_variables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k8s_venv.config.environment import Environment
    from k8s_venv.locks.requirements import Line

_OPTIONS = (
    *("-r", "--requirement", "-c", "--constraint", "-e", "--editable", "-i", "--index-url", "--extra-index-url"),
    *("-f", "--find-links", "--no-index", "--no-binary", "--only-binary", "--prefer-binary", "--pre"),
    *("--require-hashes", "--trusted-host", "--use-feature"),
)
_OPTION = re.compile(r"--[\w-]*|-\w?")
_WITHOUT_VALUE = ("--no-index", "--prefer-binary", "--pre", "--require-hashes")
_INCLUDE = ("-r", "--requirement", "-c", "--constraint")
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


def refuse_lines(environment: Environment, lines: list[Line]) -> None:
    """Refuse what cannot be locked: folders, repositories, options that are none, variables without a value.

    Raises:
        LockError: there is such a line; the message names it.
    """
    for line in lines:
        problem = next(_problems(environment, line), None)
        if problem:
            raise LockError(environment.name, f"{line.text!r} in {line.place} {problem}")


def line_notes(environment: Environment, lines: list[Line]) -> list[str]:
    """Return what the author of the lines would want to know, though they can be locked."""
    said = []
    for line in lines:
        if _PASSWORD.search(line.text):
            said.append(
                f"{line.place} has a password in it for everybody to read. Write https://${{USER}}:${{PASSWORD}}@… "
                "with variables of yours, or keep it in ~/.netrc."
            )
        if line.package and not line.constraint and in_python(line.package, environment.python):
            said.append(
                f"{line.place} asks for {line.package!r}, which is a module of Python {environment.python} itself. The "
                "package of this name is not needed, and may be somebody else's: leave the line out."
            )
        if line.note:
            said.append(f"{line.place}: {line.note}.")
        if line.text.startswith("--use-feature"):
            said.append(f"{line.text!r} in {line.place} has no effect on a lock.")
    return said


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
        yield f"names no index: {str(error)[:1].lower()}{str(error)[1:]}."
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
