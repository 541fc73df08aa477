"""The files that say what a project needs: requirements files as pip reads them, and ``pyproject.toml``.

Of other tools' files the way to a requirements file is named.
"""

from __future__ import annotations

import codecs
import re
import tomllib
from typing import TYPE_CHECKING, Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterator

# Those of UTF-32 first: its mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_COOKIE = re.compile(rb"coding[:=]\s*([-\w.]+)")
_COMMENT = re.compile(r"(^|\s+)#.*")
_SAVE = "Save it as UTF-8, or name its encoding in the first line, such as # -*- coding: latin-1 -*-."


def decoded(data: bytes) -> str:
    """Return the text of a requirements file: by its byte-order mark, else by its coding cookie (PEP 263), else UTF-8.

    Where there is neither, pip goes on to the encoding of the machine's locale; a lock follows from files alone.

    Args:
        data: the file's content.

    Raises:
        ValueError: it is no such text; the message continues the file's name.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _decoded_as(data[len(mark) :], encoding, "its byte-order mark says")
    for number, line in enumerate(data.split(b"\n")[:2], 1):
        if line.startswith(b"#") and (cookie := _COOKIE.search(line)):
            return _decoded_as(data, cookie[1].decode(), f"line {number} says")
    if b"\0" in data[:4]:
        raise ValueError(
            "is not UTF-8 text: it looks like UTF-16 or UTF-32 without a byte-order mark. Save it as UTF-8."
        )
    return _decoded_as(data, "utf-8", "")


def _decoded_as(data: bytes, encoding: str, source: str) -> str:
    name = encoding.upper() if encoding.startswith("utf") else encoding
    source = source and f", as {source}"
    try:
        return data.decode(encoding)
    except LookupError:
        raise ValueError(f"is not {name} text{source}: Python has no such encoding. {_SAVE}") from None
    except UnicodeDecodeError as error:
        line = data[: error.start].decode(encoding, "ignore").count("\n") + 1
        wrong = " ".join(f"0x{byte:02X}" for byte in data[error.start : max(error.end, error.start + 1)])
        raise ValueError(f"is not {name} text{source}: line {line} has {wrong} ({error.reason}). {_SAVE}") from None
    except UnicodeError as error:
        raise ValueError(f"is not {name} text{source}: {error}. {_SAVE}") from None


def joined_lines(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield the lines that say something: the number of each, its text, and what in its form is worth a note.

    Continuations are joined and comments dropped, in pip's order: a backslash at the end of a comment that stands
    behind something continues the comment; at the end of one on a line of its own it does nothing.

    Args:
        text: the file's text.
    """
    parts: list[str] = []
    started, note = 0, ""
    for number, line in _numbered(text):
        started = started if parts else number
        alone = re.match(r"\s*#", line) is not None
        parts.append(f" {line}" if alone else line.rstrip("\\"))
        if line.endswith("\\") and not alone:
            continued = _COMMENT.search("".join(parts))
            if continued:
                note = f"the comment in line {number} ends with a backslash, so the next line belongs to it"
            continue
        if whole := _without_comment(parts):
            yield started, whole, note
        parts, note = [], ""
    if whole := _without_comment(parts):
        yield started, whole, note


def _numbered(text: str) -> Iterator[tuple[int, str]]:
    """Yield lines as pip ends them, at form feeds too, with the numbers that an editor shows."""
    number = 1
    for line in text.splitlines(keepends=True):
        (content,) = line.splitlines()
        yield number, content
        number += line.endswith(("\n", "\r"))


def _without_comment(parts: list[str]) -> str:
    """Return joined parts without a comment, one space where there are some at a joint."""
    whole = ""
    for part in parts:
        space = " " if whole[-1:].isspace() or part[:1].isspace() else ""
        whole = f"{whole.rstrip()}{space}{part.lstrip()}" if whole else part
    return _COMMENT.sub("", whole).strip()


PROJECT = "pyproject.toml"
_FROM = "Name a requirements file instead, which `{}` writes"
_BY_HAND = "Write what it names into a requirements file, or into [project] of a pyproject.toml, and name that"
# Other tools' files, by their names in small letters, and what to do.
_OTHERS = {
    r"setup\.py|setup\.cfg": f"is for setuptools. {_BY_HAND}",
    r"pipfile(\.lock)?": f"is pipenv's. {_FROM.format('pipenv requirements > requirements.txt')}",
    r"poetry\.lock": f"is Poetry's. {_FROM.format('poetry export --without-hashes --output requirements.txt')}",
    r"uv\.lock": f"is uv's. {_FROM.format('uv export --no-hashes --no-emit-project --output-file requirements.txt')}",
    r"pdm\.lock": f"is PDM's. {_FROM.format('pdm export --no-hashes --output requirements.txt')}",
    r"pylock(\..+)?\.toml": "is a lock already, and `k8s-venv lock` writes its own. Name what it was made from",
    r".*\.ya?ml": "is not a requirements file. Of a conda environment, write what a package index has into one",
    r".*\.(whl|tar\.gz|tgz|zip)": 'is a package. Write requirements = ["./…/NAME.whl"], a list',
    r".*\.(toml|json|cfg|ini|py)": f"is not a requirements file. {_BY_HAND}",
}
# Keys of [tool.uv] that change what uv installs for a project.
_UV_KEYS = (
    *("sources", "index", "index-url", "extra-index-url", "find-links", "constraint-dependencies"),
    *("override-dependencies", "exclude-dependencies"),
)
_PATCHES = 100


def other_kind(name: str) -> str:
    """Return what another tool's file is, and what to do, after its name; nothing where it may hold requirements.

    Args:
        name: the file's name.
    """
    return next((f"{advice}." for pattern, advice in _OTHERS.items() if re.fullmatch(pattern, name.lower())), "")


def project_dependencies(text: str, python: str) -> Iterator[tuple[int, str]]:
    """Yield what a ``pyproject.toml`` names as ``dependencies`` of its ``[project]``, and the line of each.

    Args:
        text: the file's text.
        python: the environment's minor version.

    Raises:
        ValueError: it names none that can be read; the message continues the file's name.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"is not TOML: {error}.") from None
    project = content.get("project")
    if not isinstance(project, dict):
        poetry = _at(content, "tool", "poetry", "dependencies") is not None
        why = " Poetry's own table [tool.poetry.dependencies] is not read." if poetry else ""
        raise ValueError(f"has no table [project], whose `dependencies` would be locked.{why} {_BY_HAND}.")
    dynamic = project.get("dynamic", [])
    if isinstance(dynamic, list) and "dependencies" in dynamic:
        raise ValueError(
            "says that its dependencies are dynamic, so only its build knows them. Write them into `dependencies` of "
            "[project], or name the requirements file that they come from."
        )
    _check_python(project.get("requires-python"), python)
    dependencies = project.get("dependencies", [])
    if not isinstance(dependencies, list):
        raise ValueError("has `dependencies` in [project] that are not a list.")
    lines = text.splitlines()
    for dependency in dependencies:
        quoted = (f'"{dependency}"', f"'{dependency}'")
        number = next((number for number, line in enumerate(lines, 1) if any(each in line for each in quoted)), 1)
        _check_source(content, _requirement(dependency, number).name)
        yield number, " ".join(dependency.split())


def unread_settings(text: str) -> list[str]:
    """Return which settings of uv stand in a ``pyproject.toml`` and do not count for a lock.

    Args:
        text: the file's text, which is TOML.
    """
    given = _at(tomllib.loads(text), "tool", "uv")
    return [key for key in _UV_KEYS if isinstance(given, dict) and given.get(key)]


def _requirement(dependency: Any, number: int) -> Requirement:
    try:
        return Requirement(dependency)
    except (InvalidRequirement, TypeError):
        place = f"among its dependencies in line {number}" if isinstance(dependency, str) else "among its dependencies"
        raise ValueError(f"has {dependency!r} {place}, which is not a requirement.") from None


def _check_python(requires: Any, python: str) -> None:
    if requires is None:
        return
    try:
        versions = SpecifierSet(requires)
    except (InvalidSpecifier, TypeError, AttributeError):
        raise ValueError(f"has a requires-python that is not a version specifier: {requires!r}.") from None
    if not any(versions.contains(f"{python}.{patch}", prereleases=True) for patch in range(_PATCHES)):
        raise ValueError(f"requires Python {requires}, and the environment runs Python {python}.")


def _check_source(content: dict[str, Any], name: str) -> None:
    sources = _at(content, "tool", "uv", "sources")
    for each in sources if isinstance(sources, dict) else ():
        if canonicalize_name(each) == canonicalize_name(name):
            raise ValueError(
                f"takes {name} from [tool.uv.sources], which a lock does not read. Name its wheel, or its index "
                "(--index-url), in a requirements file instead."
            )


def _at(content: Any, *keys: str) -> Any:
    """Return what stands in nested tables, or None."""
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content
