"""What is wrong in a project file, in the words of its author, with the line."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from k8s_venv._version import __version__
from k8s_venv.config.environment import NAME, Environment
from k8s_venv.config.value_settings import ValueSettings
from k8s_venv.errors import ProjectError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pydantic import BaseModel, ValidationError

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
    "transport": 'must be "source" or "cloudpickle"',
    "location": 'must be text, such as location = "s3://bucket/prefix"',
    "above": 'must be a size, such as above = "64 MiB"',
    "exec": "must be true or false",
    "status": "must be true or false",
}


def environment_tables(content: Mapping[str, Any], path: Path, text: str) -> dict[str, Any]:
    """Return the tables under ``environments`` with each one's name and folder in them.

    Args:
        content: the project file's content.
        path: the file.
        text: its text.

    Raises:
        ProjectError: they are no tables, or have names that cannot be used.
    """
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
            raise unknown_key(key, Environment, f"[environments.{name}]", path, line)
    return {
        name: {**table, **_with_shared(content, table), "name": name, "root": path.parent}
        for name, table in declared.items()
    }


def _with_shared(content: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """Return an environment's own transport, pod options and settings for values over the project's."""
    pairs = {key: (content.get(key, {}), table.get(key, {})) for key in ("pod", "values")}
    merged = {
        key: {**shared, **own}
        for key, (shared, own) in pairs.items()
        if isinstance(shared, dict) and isinstance(own, dict)
    }
    return {**merged, "transport": table.get("transport", content.get("transport"))}


def explain(error: ValidationError, project: type[BaseModel], path: Path, text: str) -> ProjectError:
    """Return the error for what pydantic found wrong: the first misspelt key, else the first of all.

    Args:
        error: pydantic's.
        project: the model of the whole file.
        path: the file.
        text: its text.
    """
    problem = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    place = tuple(str(part) for part in problem["loc"])
    in_environment = place[0] == "environments"
    table = f"[environments.{place[1]}]" if in_environment else "the project"
    key = place[2] if in_environment else place[0]
    line = _line_of(text, place)
    model: type[BaseModel] = Environment if in_environment else project
    inside = place[3:] if in_environment else place[1:]
    if key == "values" and inside:
        key, model = inside[0], ValueSettings
        table = f"[environments.{place[1]}.values]" if in_environment else "[values]"
    if problem["type"] == "extra_forbidden":
        return unknown_key(key, model, table, path, line)
    if problem["type"] == "missing":
        return ProjectError(f'{table} lacks `{key}`, such as {key} = "3.12".', path, line)
    if problem["type"] == "literal_error":
        known = re.findall(r"'([^']+)'", problem["msg"])
        hint = did_you_mean(str(problem["input"]), known)
        return ProjectError(f"Unknown {key} {problem['input']!r}.{hint} Known: {', '.join(known)}.", path, line)
    ours = problem["type"] == "value_error" or key not in _TAKES
    reason = problem["msg"].removeprefix("Value error, ") if ours else f"{_TAKES[key]}, not {problem['input']!r}"
    return ProjectError(f"`{key}` of {table}: {reason}.", path, line)


def unknown_key(key: str, model: type[BaseModel], table: str, path: Path, line: int | None) -> ProjectError:
    """Return the error for a key that a table does not have.

    Args:
        key: the unknown key.
        model: the model of the table.
        table: what to call it.
        path: the project file.
        line: the key's line.
    """
    known = sorted(field.alias or name for name, field in model.model_fields.items() if name not in _OWN)
    hint = did_you_mean(key, known) or f" Does a newer k8s-venv know it? This is {__version__}."
    return ProjectError(f"Unknown key {key!r} in {table}.{hint} Known: {', '.join(known)}.", path, line)


def missing_file(environment: Environment, key: str, file: Path, path: Path, text: str) -> ProjectError:
    """Return the error for a requirements or constraints file that does not exist.

    Args:
        environment: the environment that names it.
        key: under which key it does.
        file: where it should be.
        path: the project file.
        text: its text.
    """
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
