"""Which newer versions a lock passes over because they, or what they need, have no wheels for its Python."""

from __future__ import annotations

import dataclasses
import re
import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.markers import Marker
from packaging.version import InvalidVersion, Version

from k8s_venv.locks import uv
from k8s_venv.locks.requirements import write_inputs
from k8s_venv.locks.resolving import uv_options, uv_platform
from k8s_venv.locks.uv_errors import packages_without_wheels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from k8s_venv.locks.requirements import Line, Requirements

# Where wheels are looked for if there are none for an environment's own, the newest first.
_ALONE = ("--no-deps",)
_ALWAYS = "python_version > '0'"
_LINUX = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
_PYTHONS = tuple(f"3.{minor}" for minor in range(14, 7, -1))


def passed_over(requirements: Requirements, chosen: Mapping[str, str]) -> list[str]:
    """Return a note for each package of which a newer version fits that has no wheels for the environment's Python.

    Args:
        requirements: what the environment asks for; its packages come from wheels.
        chosen: the versions to look at, by the packages' names; those that no line asks for are left alone.
    """
    asking = {line.package: line for line in requirements.lines if line.package in chosen and not line.constraint}
    if not asking:
        return []
    notes = []
    for name, newest in _newest(requirements).items():
        if name in asking and _is_newer(newest, chosen[name]):
            why = _why_not(requirements, name, newest)
            if why:
                notes.append(_note(requirements, asking[name], chosen[name], newest, why))
    return notes


def _note(requirements: Requirements, line: Line, chosen: str, newest: str, why: str) -> str:
    environment = requirements.environment
    name, target = line.package, f"Python {environment.python} on {environment.image_platforms[0]}"
    note = f"{name} is locked at {chosen}, and {newest} fits as well ({line.place}), but {why} for {target}."
    pin, ways = [f"{name}=={newest}"], []
    others = (python for python in _PYTHONS if python != environment.python)
    if other := next((python for python in others if _can_be_had(requirements, python, pin)), None):
        ways.append(f'set python = "{other}", for which there are wheels')
    if _can_be_had(requirements, environment.python, pin, options=_ALONE, wheels_only=False):
        table = f"[environments.{environment.name}]"
        ways.append(f'let the image\'s build compile it, with builder = "buildkit" in {table}')
    return f"{note} To have it, {', or '.join(ways)}." if ways else note


def _why_not(requirements: Requirements, name: str, version: str) -> str:
    """Return which missing wheels keep a version out, or nothing where it is something else, such as an older lock."""
    try:
        _compile(requirements, requirements.environment.python, [f"{name}=={version}"])
    except uv.UvError as error:
        lacking = packages_without_wheels(error.output)
        needed = set(re.findall(rf"\b{re.escape(f'{name}=={version}')} depends? on ([\w.-]+)", error.output))
        if name in lacking:
            return "has no wheel"
        return " and ".join(f"needs {each}, which has no wheel that fits," for each in lacking if each in needed)
    return ""


def _can_be_had(
    requirements: Requirements,
    python: str,
    pin: Sequence[str],
    *,
    options: Sequence[str] = (),
    wheels_only: bool = True,
) -> bool:
    indexes = tuple(line for line in requirements.lines if line.index or line.text == "--no-index")
    try:
        _compile(
            dataclasses.replace(requirements, lines=indexes), python, pin, options=options, wheels_only=wheels_only
        )
    except uv.UvError:
        return False
    return True


def _newest(requirements: Requirements) -> dict[str, str]:
    """Return the newest versions that fit the lines, with whichever files; what they need is not looked at.

    For every system and, from the oldest on, every Python: so that wheels that are for others alone count as well.
    """
    newest: dict[str, str] = {}
    for python, forks in ((requirements.environment.python, "fewest"), (_PYTHONS[-1], "requires-python")):
        options = [*_ALONE, "--universal", "--fork-strategy", forks]
        try:
            found = _compile(requirements, python, [], options=options, wheels_only=False)
        except uv.UvError:
            continue
        for name, version in found.items():
            if name not in newest or _is_newer(version, newest[name]):
                newest[name] = version
    return newest


def _compile(
    requirements: Requirements,
    python: str,
    more: Sequence[str],
    *,
    options: Sequence[str] = (),
    wheels_only: bool = True,
) -> dict[str, str]:
    """Return the versions that uv chooses for lines and more requirements.

    Raises:
        UvError: there are none.
    """
    environment = requirements.environment
    with tempfile.TemporaryDirectory(prefix="k8s-venv-lock-") as folder:
        given, constraints = write_inputs(requirements, Path(folder)).items()
        command = ["pip", "compile", "-", "-c", constraints[0], *uv_options(requirements, python, wheels_only)]
        command += options
        if "--universal" not in options:
            command += ["--python-platform", uv_platform(environment.image_platforms[0])]
        stdin = "\n".join([given[1].text, *more])
        text = uv.run(command, stdin=stdin, cwd=environment.root, indexes=requirements.indexes)
    here = {"python_version": environment.python, "python_full_version": f"{environment.python}.99"}
    return {
        package["name"]: package.get("version", "")
        for package in tomllib.loads(text).get("packages", [])
        if "--universal" not in options or Marker(package.get("marker", _ALWAYS)).evaluate({**_LINUX, **here})
    }


def _is_newer(version: str, than: str) -> bool:
    try:
        return Version(version) > Version(than)
    except InvalidVersion:
        return False
