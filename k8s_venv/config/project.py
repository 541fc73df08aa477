"""Find and read the project file: ``k8s-venv.toml``, or ``[tool.k8s-venv]`` in ``pyproject.toml``."""

from __future__ import annotations

import functools
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from k8s_venv.config import FILE, PROJECT_VARIABLE, BackendName
from k8s_venv.config.environment import Environment
from k8s_venv.config.projectfile import environment_tables, explain, missing_file, unknown_key
from k8s_venv.config.value_settings import ValueSettings
from k8s_venv.errors import ProjectError, UnknownEnvironmentError

REGISTRY_VARIABLE = "K8S_VENV_REGISTRY"

_REGISTRY = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::\d+)?(?:/[a-z0-9._/-]+)?/?")


def _registry(value: str) -> str:
    if not _REGISTRY.fullmatch(value):
        raise ValueError(
            f"{value!r} is not a registry: write its host and path, such as registry.example.com/airflow, "
            "without https:// and without a tag"
        )
    return value


class Project(BaseModel):
    """What a project file declares.

    Args:
        path: the file itself.
        registry: the registry and path prefix of the images.
        backend: where calls run unless the task, ``K8S_VENV_BACKEND`` or airflow.cfg say otherwise.
        pod: options of ``KubernetesPodOperator`` for all pods; an environment's own options win.
        values: how arguments and results travel, where an environment says nothing else.
        transport: how functions travel, where an environment or a task says nothing else.
        environments: the environments by their names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path = Field(exclude=True)
    registry: Annotated[str, AfterValidator(_registry)] | None = None
    backend: BackendName | None = None
    pod: Mapping[str, Any] = Field(default_factory=dict)
    values: ValueSettings = Field(default_factory=ValueSettings)
    transport: Literal["source", "cloudpickle"] | None = None
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
        """Return the named environments, or all of them when no name is given.

        Raises:
            UnknownEnvironmentError: the project does not declare one of them.
            ProjectError: it declares none at all.
        """
        if not self.environments and not names:
            raise ProjectError('No environment is declared. Add [environments.NAME] and python = "3.12".', self.path)
        return [self.environment(name) for name in dict.fromkeys(names or self.environments)]

    def require_registry(self) -> str:
        """Return the registry, where ``K8S_VENV_REGISTRY`` wins over the file.

        Raises:
            ProjectError: neither names one.
        """
        configured = os.environ.get(REGISTRY_VARIABLE)
        if configured:
            try:
                return _registry(configured)
            except ValueError as error:
                raise ProjectError(f"{REGISTRY_VARIABLE}: {error}.") from None
        if not self.registry:
            raise ProjectError(
                'No registry is configured. Add registry = "registry.example.com/airflow" at the top of the '
                f"file, or set {REGISTRY_VARIABLE}.",
                self.path,
            )
        return self.registry


def find_project(*starts: str | Path) -> Path:
    """Return the project file for a DAG file or folder.

    ``K8S_VENV_PROJECT`` (a file or its folder) wins; else the nearest one upwards from the first of ``starts``
    that has one; by default, from the working folder.

    Args:
        starts: the folders.

    Raises:
        ProjectError: there is no project file.
    """
    configured = os.environ.get(PROJECT_VARIABLE)
    if configured:
        return project_at(Path(configured), PROJECT_VARIABLE)
    # Text, since every task of a DAG file asks, and paths as objects take longer than the question.
    places = dict.fromkeys(map(os.path.abspath, starts or (Path.cwd(),)))
    return _nearest(tuple((place, _changed(place)) for place in places))


def _changed(place: str) -> int:
    """Return when something was last made or removed in a folder, in nanoseconds."""
    try:
        return os.stat(place).st_mtime_ns  # noqa: PTH116 -- as above
    except OSError:
        return 0


@functools.lru_cache(maxsize=64)
def _nearest(places: tuple[tuple[str, int], ...]) -> Path:
    """Return the nearest project file upwards; remembered until something is made or removed in one of the places."""
    for place, _ in places:
        start = Path(place).resolve()
        for folder in (start, *start.parents):
            found = _project_in(folder)
            if found is not None:
                return found
    raise ProjectError(
        f"No {FILE} (or [tool.k8s-venv] in pyproject.toml) here or in any folder above. `k8s-venv init` writes one; "
        f"{PROJECT_VARIABLE} names one elsewhere.",
        Path(places[0][0]).resolve(),
    )


def has_project(folder: Path) -> bool:
    """Return whether a folder has a project file."""
    return _project_in(folder) is not None


def project_at(path: Path, setting: str) -> Path:
    """Return the project file that a setting names.

    Args:
        path: the file or its folder.
        setting: what named it, for messages.

    Raises:
        ProjectError: there is no project file.
    """
    found = _project_in(path) if path.is_dir() else path if path.is_file() else None
    if found is None:
        raise ProjectError(f"{setting} names no project file: there is no {FILE} here.", path)
    return found.resolve()


def load_project(path: Path) -> Project:
    """Read a project file; one that did not change since is not read again.

    Raises:
        ProjectError: the file cannot be read, or something in it is wrong.
    """
    try:
        changed = path.stat().st_mtime_ns
        return _load(path, changed)
    except OSError as error:
        raise ProjectError(f"This file cannot be read: {error.strerror}.", path) from None


def _project_in(folder: Path) -> Path | None:
    own, shared = folder / FILE, folder / "pyproject.toml"
    try:
        # Bytes, since a file of somebody else's need not even be text.
        declares = re.search(rb"^\s*\[\s*tool\.[\"']?k8s-venv\b", shared.read_bytes(), re.MULTILINE)
    except OSError:
        declares = None
    if not own.is_file():
        return shared if declares else None
    if declares:
        raise ProjectError("[tool.k8s-venv] in pyproject.toml beside this file is a project too. Keep one.", own)
    return own


@functools.lru_cache(maxsize=64)
def _load(path: Path, changed: int) -> Project:
    try:
        text = path.read_text("utf-8-sig")
        content: Any = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise ProjectError(f"This file is not UTF-8 text ({error}).", path) from None
    except RecursionError:
        raise ProjectError("This file is nested too deeply.", path) from None
    except tomllib.TOMLDecodeError as error:
        if conflict := re.search(r"^<{7}( |$)", text, re.MULTILINE):
            line = text.count("\n", 0, conflict.start()) + 1
            raise ProjectError("A conflict of a merge is left in this file. Resolve it.", path, line) from None
        place = re.search(r"at line (\d+)", str(error))
        raise ProjectError(f"This file is not valid TOML: {error}.", path, int(place[1]) if place else None) from None
    if path.name == "pyproject.toml":
        tool = content.get("tool")
        content = tool.get("k8s-venv") if isinstance(tool, dict) else None
        if not isinstance(content, dict):
            raise ProjectError("This file has no table [tool.k8s-venv].", path)
    if "path" in content:
        raise unknown_key("path", Project, "the project", path, None)
    content = {**content, "path": path, "environments": environment_tables(content, path, text)}
    try:
        project = Project.model_validate(content)
    except ValidationError as error:
        raise explain(error, Project, path, text) from None
    for environment in project.environments.values():
        for key in ("requirements", "constraints"):
            file = getattr(environment, f"{key}_file")
            if file is not None and not os.path.isfile(file):  # noqa: PTH113 -- also of names too long for any file
                raise missing_file(environment, key, file, path, text)
    return project
