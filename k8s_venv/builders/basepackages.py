"""The packages that a base image's Python has by itself, for environments that see them.

They are read from the image's layers, of which nothing runs: once for each base, since its digest names its content.
"""

from __future__ import annotations

import dataclasses
import posixpath
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from k8s_venv import cache
from k8s_venv.builders.base import base_reference, check_version, read_base, read_layers
from k8s_venv.builders.basepython import find_program
from k8s_venv.builders.layers import digest_of
from k8s_venv.errors import BuildError
from k8s_venv.locks.installed import Installed, read_metadata
from k8s_venv.registry import RegistryError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k8s_venv.config.environment import Environment
    from k8s_venv.registry import BaseImage

# Raised whenever the same base would be read otherwise.
_EPOCH = 1
_METADATA = r"[^/]+\.(?:dist-info/METADATA|egg-info/PKG-INFO|egg-info)"


def packages_of_base(environment: Environment, digest: str) -> dict[str, Installed]:
    """Return what an environment's base image has by itself on each of its platforms, by name.

    Args:
        environment: whose base.
        digest: the digest of the base, where it is known.

    Raises:
        BuildError: the base does not exist, cannot be reached, or has no Python whose packages another sees.
    """
    bases = [read_base(environment, digest, platform) for platform in environment.image_platforms]
    found = [base_packages(environment, base) for base in bases]
    return {name: one for name, one in found[0].items() if all(other.get(name) == one for other in found[1:])}


def base_packages(environment: Environment, base: BaseImage) -> dict[str, Installed]:
    """Return what the Python of a base image has by itself, by name.

    Args:
        environment: for its version of Python.
        base: the base image.

    Raises:
        BuildError: its layers cannot be downloaded, or it has no Python whose packages another sees.
    """
    check_version(environment, base)
    key = digest_of(["packages", _EPOCH, environment.python, [layer["digest"] for layer in base.layers]])
    note = cache.note_path("layers", key)
    with cache.exclusive_lock(cache.base_lock(key)):
        known = cache.read_note(note, packages=list)
        if known is None:
            try:
                packages = _read(environment, base)
            except RegistryError as error:
                raise BuildError(environment.name, f"its base image cannot be read. {error}") from None
            known = {"packages": [dataclasses.astuple(package) for package in packages]}
            cache.write_note(note, known)
    return {
        name: Installed(name, version, tuple(requires), tuple(extras))
        for name, version, requires, extras in known["packages"]
    }


def lacking_packages(environment: Environment, without: str) -> str:
    """Return that a base image lacks packages that a lock counts on, and what to do.

    Args:
        environment: which one.
        without: each such package, and what the base has instead.
    """
    lock = f"`k8s-venv lock {environment.name}`"
    remedy = (
        f"Run {lock}."
        if environment.base
        else f"Name an image that has them as `base` of [environments.{environment.name}], and run {lock}."
    )
    return (
        f"its lock counts on packages of its base image {base_reference(environment)}, which lacks {without}. {remedy}"
    )


def _read(environment: Environment, base: BaseImage) -> Sequence[Installed]:
    minor = re.escape(environment.python)
    folders = rf"(?:lib/python{minor}/(?:site|dist)-packages|lib/python3/dist-packages)"
    wanted = re.compile(rf"(?:.*/)?(?:bin/python{minor}|pyvenv\.cfg|{folders}/{_METADATA})")
    with tempfile.TemporaryDirectory(prefix="k8s-venv-base-") as name:
        found = read_layers(base, wanted, Path(name), ("pyvenv.cfg", "METADATA", "PKG-INFO", ".egg-info"))
        program = find_program(environment, base, found)
        prefix = posixpath.dirname(posixpath.dirname(program))
        if f"{prefix}/pyvenv.cfg".lstrip("/") in found.files:
            raise BuildError(
                environment.name,
                f"its base image {base_reference(environment)} has its packages in a virtual environment, {prefix}, "
                "which no other one sees. Leave `system-site-packages` out, and require what is needed of them.",
            )
        prefix = posixpath.dirname(posixpath.dirname(f"/{found.resolve(program)}"))
        packages: dict[str, Installed] = {}
        for folder in _folders(prefix, environment.python):
            for path, source in sorted(found.files.items()):
                if source and path.startswith(folder) and (one := read_metadata(source.read_text("utf-8", "replace"))):
                    packages.setdefault(one.name, one)
    return [packages[name] for name in sorted(packages)]


def _folders(prefix: str, python: str) -> list[str]:
    """Return where a Python looks for its packages, the first place first; Debian's has its own (`site.py`)."""
    local = [f"/usr/local/lib/python{python}/dist-packages/"] if prefix == "/usr" else []
    own = [f"{prefix}/lib/python{python}/site-packages/", f"{prefix}/lib/python3/dist-packages/"]
    return [folder.lstrip("/") for folder in [*local, *own]]
