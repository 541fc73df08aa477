"""Find and read the project file: ``k8s-venv.toml``, or ``[tool.k8s-venv]`` in ``pyproject.toml``."""

from __future__ import annotations

import functools
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from k8s_venv.environment import NAME, Environment
from k8s_venv.errors import ProjectError, UnknownEnvironmentError, did_you_mean

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

FILE = "k8s-venv.toml"
PROJECT_VARIABLE = "K8S_VENV_PROJECT"
REGISTRY_VARIABLE = "K8S_VENV_REGISTRY"

BackendName = Literal["kubernetes", "local"]


class Project(BaseModel):
    """What a project file declares.

    Args:
        path: the file itself.
        registry: the registry and path prefix of the images.
        backend: where calls run unless the task, ``K8S_VENV_BACKEND`` or airflow.cfg say otherwise.
        environments: the environments by their names.

    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path = Field(exclude=True)
    registry: str | None = None
    backend: BackendName | None = None
    environments: Mapping[str, Environment] = Field(default_factory=dict)

    @property
    def root(self) -> Path:
        """Return the project file's folder."""
        return self.path.parent

    def environment(self, name: str) -> Environment:
        """Return an environment by its name.

        Raises:
            UnknownEnvironmentError: the project does not declare it.

        """
        if name not in self.environments:
            raise UnknownEnvironmentError(name, self.environments, self.path)
        return self.environments[name]

    def select(self, names: tuple[str, ...]) -> list[Environment]:
        """Return the named environments, or all of them when no name is given."""
        return [self.environment(name) for name in names or self.environments]

    def require_registry(self) -> str:
        """Return the registry, where ``K8S_VENV_REGISTRY`` wins over the file.

        Raises:
            ProjectError: neither names one.

        """
        registry = os.environ.get(REGISTRY_VARIABLE) or self.registry
        if not registry:
            raise ProjectError(
                'No registry is configured. Add registry = "registry.example.com/airflow" at the top of the '
                f"file, or set {REGISTRY_VARIABLE}.",
                self.path,
            )
        return registry


def find_project(start: Path) -> Path:
    """Return the project file for a DAG file or folder.

    ``K8S_VENV_PROJECT`` (a file or its folder) wins; else the nearest one upwards from ``start``.

    Raises:
        ProjectError: there is none.

    """
    configured = os.environ.get(PROJECT_VARIABLE)
    if configured:
        path = Path(configured)
        found = _project_in(path) if path.is_dir() else path if path.is_file() else None
        if found is None:
            raise ProjectError(f"{PROJECT_VARIABLE} names no project file: there is no {FILE} here.", path)
        return found.resolve()
    start = start.resolve()
    for folder in (start, *start.parents):
        found = _project_in(folder)
        if found is not None:
            return found
    raise ProjectError(
        f"No {FILE} (or [tool.k8s-venv] in pyproject.toml) here or in any folder above. Write one beside "
        f'your DAGs, with [environments.NAME] and python = "3.12" in it, or set {PROJECT_VARIABLE}.',
        start,
    )


def load_project(path: Path) -> Project:
    """Read a project file; one that did not change since is not read again.

    Raises:
        ProjectError: the file cannot be read, or something in it is wrong.

    """
    try:
        changed = path.stat().st_mtime_ns
    except OSError as error:
        raise ProjectError(f"cannot be read: {error.strerror}.", path) from None
    return _load(path, changed)


def _project_in(folder: Path) -> Path | None:
    if (folder / FILE).is_file():
        return folder / FILE
    shared = folder / "pyproject.toml"
    if shared.is_file() and re.search(r"^\[tool\.k8s-venv\b", shared.read_text("utf-8"), re.MULTILINE):
        return shared
    return None


@functools.lru_cache(maxsize=64)
def _load(path: Path, changed: int) -> Project:
    text = path.read_text("utf-8")
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProjectError(f"is not valid TOML: {error}.", path) from None
    if path.name == "pyproject.toml":
        content = content["tool"]["k8s-venv"]
    content = {**content, "path": path, "environments": _environments(content, path, text)}
    try:
        project = Project.model_validate(content)
    except ValidationError as error:
        raise _problem(error.errors()[0], path, text) from None
    for environment in project.environments.values():
        _check_files(environment, path, text)
    return project


def _environments(content: Mapping[str, Any], path: Path, text: str) -> dict[str, Any]:
    declared = content.get("environments", {})
    if not isinstance(declared, dict):
        raise ProjectError("`environments` must be tables: [environments.NAME].", path)
    for name, table in declared.items():
        line = _line_of(text, ("environments", name))
        if not NAME.fullmatch(name):
            raise ProjectError(
                f"{name!r} is not an environment's name: use small letters, digits, - and _, without dots.",
                path,
                line,
            )
        if not isinstance(table, dict):
            raise ProjectError(f"`{name}` must be a table: [environments.{name}].", path, line)
    return {name: {**table, "name": name, "root": path.parent} for name, table in declared.items()}


def _problem(error: ErrorDetails, path: Path, text: str) -> ProjectError:
    """Say what pydantic found wrong in the words of the file's author."""
    place = tuple(str(part) for part in error["loc"])
    table = f"[{'.'.join(place[:2])}]" if place[0] == "environments" else "the file"
    key = place[2] if place[0] == "environments" and len(place) > 2 else place[0]
    line = _line_of(text, place)
    if error["type"] == "extra_forbidden":
        model = Environment if place[0] == "environments" else Project
        known = sorted(set(model.model_fields) - {"name", "root", "path"})
        hint = did_you_mean(key, known)
        return ProjectError(f"Unknown key {key!r} in {table}.{hint} Known: {', '.join(known)}.", path, line)
    if error["type"] == "missing":
        return ProjectError(f'{table} lacks `{key}`, such as {key} = "3.12".', path, line)
    reason = error["msg"].removeprefix("Value error, ")
    return ProjectError(f"`{key}` in {table}: {reason[0].lower()}{reason[1:]}.", path, line)


def _check_files(environment: Environment, path: Path, text: str) -> None:
    requirements = environment.requirements_file
    if requirements is None or requirements.is_file():
        return
    near = did_you_mean(requirements.name, [file.name for file in requirements.parent.glob("*.txt")])
    line = _line_of(text, ("environments", environment.name, "requirements"))
    raise ProjectError(
        f"The requirements file {environment.requirements!r} of environment {environment.name!r} does not exist "
        f"in {requirements.parent}.{near}",
        path,
        line,
    )


def _line_of(text: str, place: tuple[str, ...]) -> int | None:
    """Return the line on which a key, or at least its table, stands."""
    lines = text.splitlines()
    header = 0
    if place[0] == "environments":
        pattern = re.compile(rf"\s*\[(?:tool\.k8s-venv\.)?environments\.[\"']?{re.escape(place[1])}[\"']?\]")
        header = next((number for number, line in enumerate(lines, 1) if pattern.match(line)), 0)
        place = place[2:]
    for number, line in enumerate(lines[header:], header + 1):
        if place and re.match(rf"\s*[\"']?{re.escape(place[0])}[\"']?\s*=", line):
            return number
        if line.lstrip().startswith("["):
            break
    return header or None
