"""Packages beside an environment, for one run of a program: a folder on its path, never a change of the environment."""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from k8s_venv.errors import BackendError
from k8s_venv.locks import uv
from k8s_venv.locks.locking import read_older
from k8s_venv.locks.requirements import read_requirements

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from k8s_venv.config.environment import Environment

# uv's names for the platforms of images.
_UV_PLATFORMS = {"linux/amd64": "x86_64-manylinux_2_28", "linux/arm64": "aarch64-manylinux_2_28"}
_SHEBANG = re.compile(rb"#!.*python.*\n")


@contextlib.contextmanager
def overlay(
    environment: Environment,
    requirements: Sequence[str],
    progress: Callable[[str], None],
    *,
    python: Path | None = None,
    platform: str | None = None,
) -> Iterator[Path | None]:
    """Yield a folder with further packages for an environment's Python, which is removed afterwards.

    What the environment has is not installed again, and no package may need another version of it.

    Args:
        environment: which one.
        requirements: what is added, such as ``pytest`` or ``pytest<9``; the folder is None when nothing is.
        progress: is called with what happens.
        python: the environment's interpreter, when it is on this machine.
        platform: else the platform of its image.

    Raises:
        BackendError: the packages do not exist, or do not fit the environment.
    """
    if not requirements:
        yield None
        return
    if platform is None:
        target = ["--python", str(python)]
    else:
        target = ["--python-version", environment.python, "--python-platform", _UV_PLATFORMS[platform]]
        target += ["--only-binary", ":all:"]
    with tempfile.TemporaryDirectory(prefix="k8s-venv-with-") as name:
        folder = Path(name)
        progress(f"Adding {', '.join(requirements)}")
        try:
            there = _installed_in(python) if python is not None else _locked_in(environment)
            _install(environment, requirements, there, target, folder)
        except uv.UvError as error:
            raise BackendError(
                environment.name,
                f"--with {' '.join(requirements)} cannot be added to its locked packages.\n{error.output}",
            ) from None
        yield folder / "packages"


def _installed_in(python: Path) -> dict[str, str]:
    """Return the versions of the packages that an interpreter sees, by name."""
    return {
        each["name"]: each["version"]
        for each in json.loads(uv.run(["pip", "list", "--format", "json", "--python", str(python)]))
    }


def _locked_in(environment: Environment) -> dict[str, str]:
    """Return the versions of an environment's locked packages, by name."""
    return {package.name: package.version for package in read_older(environment).packages if package.version}


def _install(
    environment: Environment,
    requirements: Sequence[str],
    there: Mapping[str, str],
    target: Sequence[str],
    folder: Path,
) -> None:
    """Install in a folder what requirements need beside the packages that are there."""
    indexes = read_requirements(environment).indexes
    pins = folder / "pins.txt"
    pins.write_text("".join(f"{name}=={version}\n" for name, version in there.items()), "utf-8")
    resolved = uv.run(
        ["pip", "compile", "--no-annotate", "--no-header", "--constraints", str(pins), *target, "-"],
        stdin="".join(f"{requirement}\n" for requirement in requirements),
        indexes=indexes,
    )
    new = [line for line in resolved.splitlines() if re.split(r"[ =@;\[]", line, maxsplit=1)[0] not in there]
    packages = folder / "packages"
    packages.mkdir()
    if new:
        wanted = folder / "wanted.txt"
        wanted.write_text("\n".join([*new, ""]), "utf-8")
        uv.run(
            ["pip", "install", "--no-deps", "--target", str(packages), *target, "--requirements", str(wanted)],
            indexes=indexes,
        )
    for script in (packages / "bin").glob("*"):
        # uv writes the path of this machine's Python; in an image it is another one.
        text = script.read_bytes()
        if _SHEBANG.match(text):
            script.write_bytes(_SHEBANG.sub(b"#!/usr/bin/env python\n", text, count=1))
