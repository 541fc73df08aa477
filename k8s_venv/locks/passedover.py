"""Which newer versions a lock passes over because they, or what they need, have no wheels for its Python."""

from __future__ import annotations

import re
import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.markers import Marker
from packaging.version import InvalidVersion, Version

from k8s_venv.locks import uv
from k8s_venv.locks.refusals import packages_without_wheels
from k8s_venv.locks.requirements import index_settings, requirement_lines
from k8s_venv.locks.resolving import uv_options, uv_platform
from k8s_venv.locks.uvinput import write_inputs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from k8s_venv.config.environment import Environment
    from k8s_venv.locks.requirements import Line

# Where wheels are looked for if there are none for an environment's own, the newest first.
_ALONE = ("--no-deps",)
_ALWAYS = "python_version > '0'"
_LINUX = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
_PYTHONS = tuple(f"3.{minor}" for minor in range(14, 7, -1))


def passed_over(environment: Environment, chosen: Mapping[str, str]) -> list[str]:
    """Return a note for each package of which a newer version fits that has no wheels for the environment's Python.

    Args:
        environment: which one; its packages come from wheels.
        chosen: the versions to look at, by the packages' names; those that no line asks for are left alone.
    """
    lines = requirement_lines(environment)
    asking = {line.package: line for line in lines if line.package in chosen and not line.constraint}
    if not asking:
        return []
    notes = []
    for name, newest in _newest(environment, lines).items():
        if name in asking and _is_newer(newest, chosen[name]):
            why = _why_not(environment, lines, name, newest)
            if why:
                notes.append(_note(environment, asking[name], chosen[name], newest, why))
    return notes


def _note(environment: Environment, line: Line, chosen: str, newest: str, why: str) -> str:
    name, target = line.package, f"Python {environment.python} on {environment.image_platforms[0]}"
    said = f"{name} is locked at {chosen}, and {newest} fits as well ({line.place}), but {why} for {target}."
    pin, ways = [f"{name}=={newest}"], []
    others = (python for python in _PYTHONS if python != environment.python)
    if other := next((python for python in others if _can_be_had(environment, python, pin)), None):
        ways.append(f'set python = "{other}", for which there are wheels')
    if _can_be_had(environment, environment.python, pin, options=_ALONE, wheels_only=False):
        table = f"[environments.{environment.name}]"
        ways.append(f'let the image\'s build compile it, with builder = "buildkit" in {table}')
    return f"{said} To have it, {', or '.join(ways)}." if ways else said


def _why_not(environment: Environment, lines: Sequence[Line], name: str, version: str) -> str:
    """Return which missing wheels keep a version out, or nothing where it is something else, such as an older lock."""
    try:
        _compile(environment, lines, environment.python, [f"{name}=={version}"])
    except uv.UvError as error:
        lacking = packages_without_wheels(error.output)
        needed = set(re.findall(rf"\b{re.escape(f'{name}=={version}')} depends? on ([\w.-]+)", error.output))
        if name in lacking:
            return "has no wheel"
        return " and ".join(f"needs {each}, which has no wheel that fits," for each in lacking if each in needed)
    return ""


def _can_be_had(
    environment: Environment, python: str, pin: Sequence[str], *, options: Sequence[str] = (), wheels_only: bool = True
) -> bool:
    lines = [line for line in requirement_lines(environment) if line.index or line.text == "--no-index"]
    try:
        _compile(environment, lines, python, pin, options=options, wheels_only=wheels_only)
    except uv.UvError:
        return False
    return True


def _newest(environment: Environment, lines: Sequence[Line]) -> dict[str, str]:
    """Return the newest versions that fit the lines, with whichever files; what they need is not looked at.

    For every system and, from the oldest on, every Python: so that wheels that are for others alone count as well.
    """
    newest: dict[str, str] = {}
    for python, forks in ((environment.python, "fewest"), (_PYTHONS[-1], "requires-python")):
        options = [*_ALONE, "--universal", "--fork-strategy", forks]
        try:
            found = _compile(environment, lines, python, [], options=options, wheels_only=False)
        except uv.UvError:
            continue
        for name, version in found.items():
            if name not in newest or _is_newer(version, newest[name]):
                newest[name] = version
    return newest


def _compile(
    environment: Environment,
    lines: Sequence[Line],
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
    with tempfile.TemporaryDirectory(prefix="k8s-venv-lock-") as folder:
        requirements, constraints = write_inputs(environment, lines, Path(folder)).items()
        command = ["pip", "compile", "-", "-c", constraints[0], *uv_options(environment, lines, python, wheels_only)]
        command += options
        if "--universal" not in options:
            command += ["--python-platform", uv_platform(environment.image_platforms[0])]
        stdin = "\n".join([requirements[1].text, *more])
        text = uv.run(command, stdin=stdin, cwd=environment.root, indexes=index_settings(environment))
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
