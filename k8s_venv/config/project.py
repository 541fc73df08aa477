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

from k8s_venv._version import __version__
from k8s_venv.config import FILE, PROJECT_VARIABLE, BackendName
from k8s_venv.config.environment import NAME, Environment
from k8s_venv.config.value_settings import CallSettings, ValueSettings
from k8s_venv.config.warm import WarmPool
from k8s_venv.errors import ProjectError, UnknownEnvironmentError, did_you_mean

REGISTRY_VARIABLE = "K8S_VENV_REGISTRY"

# Fields of the models that come from where the file is, not from what stands in it.
_OWN = {"name", "root", "path"}
# Fields that have another name in the file.
_ALIASED = {name for name, field in Environment.model_fields.items() if field.alias}
# What each key takes, for values of another type.
_TAKES = {
    "registry": 'must be text, such as registry = "registry.example.com/airflow"',
    "requirements": 'must be the name of a file ("requirements.txt") or a list of requirements (["pandas>=2"])',
    "constraints": 'must be the name or URL of a file, such as constraints = "constraints.txt"',
    "platforms": 'must be a list of platforms, such as platforms = ["linux/amd64", "linux/arm64"]',
    "packages": 'must be a list of Debian packages, such as packages = ["libgomp1"]',
    "dockerfile": 'must be a list of lines, such as dockerfile = ["RUN locale-gen"]',
    "base": 'must be the name of an image, such as base = "python:3.12-slim"',
    "image": 'must be the name of an image, such as image = "registry.example.com/ours:1"',
    "interpreter": 'must be the path of a Python, such as interpreter = "/opt/venvs/etl/bin/python"',
    "system-site-packages": "must be true or false",
    "pod": "must be a table of options of KubernetesPodOperator",
    "values": 'must be a table, such as values = { location = "s3://bucket/prefix" }',
    "calls": 'must be a table, such as calls = { keep = "failed" }',
    "transport": 'must be "source" or "cloudpickle"',
    "files": 'must be a list of patterns, such as files = ["sql/*.sql", "dbt/**"]',
    "warm": "must be a table, such as warm = { min = 1, max = 8 }",
    "location": 'must be text, such as location = "s3://bucket/prefix"',
    "above": 'must be a size, such as above = "64 MiB"',
    "exec": "must be true or false",
    "status": "must be true or false",
}
# The settings that are tables themselves.
_TABLES: Mapping[str, type[BaseModel]] = {"calls": CallSettings, "values": ValueSettings, "warm": WarmPool}

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
        backend: where calls run unless the task, ``K8S_VENV_BACKEND`` or airflow.cfg choose another.
        pod: options of ``KubernetesPodOperator`` for all pods; an environment's own options win.
        values: how arguments and results travel; an environment's own settings win.
        calls: which calls are kept; an environment's own settings win.
        transport: how functions travel; an environment's own choice wins, and a task's over both.
        environments: the environments by their names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path = Field(exclude=True)
    registry: Annotated[str, AfterValidator(_registry)] | None = None
    backend: BackendName | None = None
    pod: Mapping[str, Any] = Field(default_factory=dict)
    values: ValueSettings = Field(default_factory=ValueSettings)
    calls: CallSettings = Field(default_factory=CallSettings)
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
        """Return the registry: that of ``K8S_VENV_REGISTRY``, else that of the file.

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
        # Bytes, since the file of another tool may not even be text.
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
        raise _unknown_key("path", Project, "the project", path, None)
    content = {**content, "path": path, "environments": _environment_tables(content, path, text)}
    try:
        project = Project.model_validate(content)
    except ValidationError as error:
        raise _explained(error, path, text) from None
    for environment in project.environments.values():
        for key in ("requirements", "constraints"):
            file = getattr(environment, f"{key}_file")
            if file is not None and not os.path.isfile(file):  # noqa: PTH113 -- also of names too long for any file
                raise _missing_file(environment, key, file, path, text)
    return project


def setting_line(project: Project, *place: str) -> int | None:
    """Return the line of the project file on which a setting stands, or at least its table.

    Args:
        project: the project.
        place: the names of the tables, and the key.
    """
    try:
        return _line_of(project.path.read_text("utf-8-sig"), place)
    except (OSError, ValueError):  # it was changed meanwhile
        return None


# --- errors in the project file, in the words of its author, with the line ------------------------------------


def _environment_tables(content: Mapping[str, Any], path: Path, text: str) -> dict[str, Any]:
    """Return the tables under ``environments`` with each one's name and folder in them; refuse unusable ones."""
    declared = content.get("environments", {})
    if not isinstance(declared, dict):
        raise ProjectError(
            "`environments` must be tables: [environments.NAME].", path, _line_of(text, ("environments",))
        )
    for name, table in declared.items():
        line = _line_of(text, ("environments", name))
        if not NAME.fullmatch(name):
            better = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63].rstrip("-")
            hint = f" How about {better!r}?" if better else ""
            raise ProjectError(
                f"{name!r} cannot be an environment's name: use up to 63 small letters and digits, with single "
                f"- or _ between them, without dots.{hint}",
                path,
                line,
            )
        if not isinstance(table, dict):
            raise ProjectError(f"`{name}` must be a table: [environments.{name}].", path, line)
        for key in (_OWN | _ALIASED) & table.keys():
            raise _unknown_key(key, Environment, f"[environments.{name}]", path, line)
    return {
        name: {**table, **_with_shared(content, table), "name": name, "root": path.parent}
        for name, table in declared.items()
    }


def _with_shared(content: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """Return an environment's own transport, pod options and settings over the project's."""
    merged = {"transport": table.get("transport", content.get("transport"))}
    for key in ("calls", "pod", "values"):
        shared, own = content.get(key, {}), table.get(key, {})
        if isinstance(shared, dict) and isinstance(own, dict):
            merged[key] = {**shared, **own}
    return merged


def _explained(error: ValidationError, path: Path, text: str) -> ProjectError:
    """Return the error for what pydantic found wrong: the first misspelt key, else the first of all."""
    problem = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    place = tuple(str(part) for part in problem["loc"])
    line = _line_of(text, place)
    model: type[BaseModel]
    if place[0] == "environments":
        model, table, inside = Environment, f"[environments.{place[1]}]", place[2:]
    else:
        model, table, inside = Project, "the project", place
    key = inside[0]
    if key in _TABLES and inside[1:]:
        model, table, key = _TABLES[key], f"[{'.'.join(place[: 1 - len(inside)])}]", inside[1]
    if problem["type"] == "extra_forbidden":
        return _unknown_key(key, model, table, path, line)
    if problem["type"] == "missing":
        return ProjectError(f'{table} lacks `{key}`, such as {key} = "3.12".', path, line)
    if problem["type"] == "literal_error":
        known = re.findall(r"'([^']+)'", problem["msg"])
        hint = did_you_mean(str(problem["input"]), known)
        return ProjectError(f"Unknown {key} {problem['input']!r}.{hint} Known: {', '.join(known)}.", path, line)
    ours = problem["type"] == "value_error" or key not in _TAKES
    reason = problem["msg"].removeprefix("Value error, ") if ours else f"{_TAKES[key]}, not {problem['input']!r}"
    return ProjectError(f"`{key}` of {table}: {reason}.", path, line)


def _unknown_key(key: str, model: type[BaseModel], table: str, path: Path, line: int | None) -> ProjectError:
    known = sorted(field.alias or name for name, field in model.model_fields.items() if name not in _OWN)
    hint = did_you_mean(key, known) or f" Does a newer k8s-venv know it? This is {__version__}."
    if model is Project and key in Environment.model_fields.keys() - _OWN:
        hint = " It is a key of [environments.NAME]."
    return ProjectError(f"Unknown key {key!r} in {table}.{hint} Known: {', '.join(known)}.", path, line)


def _missing_file(environment: Environment, key: str, file: Path, path: Path, text: str) -> ProjectError:
    """Return the error for a requirements or constraints file that does not exist, or is a folder."""
    named = getattr(environment, key)
    line = _line_of(text, ("environments", environment.name, key))
    if os.path.isdir(file):  # noqa: PTH112 -- of any name
        return ProjectError(f"The {key} file {named!r} of environment {environment.name!r} is a folder.", path, line)
    hint = did_you_mean(file.name, [found.name for found in file.parent.glob("*") if found.is_file()])
    if not hint and key == "requirements":
        hint = f' A requirement itself goes into a list: requirements = ["{named}"].'
    return ProjectError(
        f"The {key} file {named!r} of environment {environment.name!r} does not exist in {file.parent}.{hint}",
        path,
        line,
    )


def _line_of(text: str, place: tuple[str, ...]) -> int | None:
    """Return the line on which a key, or at least its table, stands."""
    lines = text.split("\n")
    depth, header = next(
        (depth, number)
        for depth in range(len(place), -1, -1)
        for number, line in [*enumerate(lines, 1), (0, "")]
        if (re.match(_header(place[:depth]), line) if number else depth == 0)
    )
    for number, line in enumerate(lines[header:], header + 1):
        if depth < len(place) and re.match(rf"\s*[\"']?{re.escape(place[depth])}[\"']?\s*=", line):
            return number
        if line.lstrip().startswith("["):
            break
    return header or None


def _header(table: tuple[str, ...]) -> str:
    """Return the pattern of a table's first line, in a file of ours or in pyproject.toml."""
    names = r"\s*\.\s*".join(rf"[\"']?{re.escape(name)}[\"']?" for name in table)
    return rf"\s*\[\s*(?:tool\.[\"']?k8s-venv[\"']?{'[.]' if table else ''})?{names}\s*\]"
