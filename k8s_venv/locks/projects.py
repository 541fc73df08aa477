"""Files that say what a project needs and are no requirements files: one is read, of the others the way is named."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    return next((f"{said}." for pattern, said in _OTHERS.items() if re.fullmatch(pattern, name.lower())), "")


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
