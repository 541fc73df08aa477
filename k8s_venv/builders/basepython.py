"""The Python of a base image: where it is, and the bytecode that its standard library lacks."""

from __future__ import annotations

import posixpath
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from k8s_venv import cache
from k8s_venv.builders.base import WrongBaseError, base_reference, check_version, read_layers
from k8s_venv.builders.bytecode import compile_files
from k8s_venv.builders.install import PREFIX, File
from k8s_venv.builders.layers import EPOCH, Layer, digest_of, find_layer, make_layer
from k8s_venv.errors import BuildError

if TYPE_CHECKING:
    from k8s_venv.builders.tree import Tree
    from k8s_venv.config.environment import Environment
    from k8s_venv.registry import BaseImage

# What no task imports, and what is not the standard library's.
_LEFT_OUT = re.compile(r"/(test|tests|idlelib|lib2to3|turtledemo|site-packages|dist-packages)/")


def has_python(environment: Environment, base: BaseImage) -> bool:
    """Return whether a base image has the environment's Python; one that says so is not looked through.

    Raises:
        RegistryError: its layers cannot be downloaded.
    """
    if base.environ.get("PYTHON_VERSION"):
        return True
    with tempfile.TemporaryDirectory(prefix="k8s-venv-base-") as name:
        try:
            find_program(environment, base, read_layers(base, _python_files(environment.python), Path(name)))
        except WrongBaseError:
            return False
    return True


def inspect_base(environment: Environment, base: BaseImage, interpreter: str) -> tuple[str, Layer]:
    """Find the Python of a base image, and make the layer with its standard library's bytecode.

    Args:
        environment: the environment that is built on it.
        base: the base image.
        interpreter: a Python of the same minor version, here.

    Returns:
        The path of the base's Python, and the layer.

    Raises:
        BuildError: the base has no such Python.
    """
    check_version(environment, base)
    key = _library_key(environment, base)
    with cache.exclusive_lock(cache.base_lock(key)):
        made = find_layer(key) or _make(key, environment, base, interpreter)
    return made.title, made  # the title keeps what only the base's files could tell


def known_library(environment: Environment, base: BaseImage) -> Layer | None:
    """Return the layer with a base's bytecode of the standard library, where it is made already."""
    return find_layer(_library_key(environment, base))


def _library_key(environment: Environment, base: BaseImage) -> str:
    return digest_of(["stdlib", EPOCH, environment.python, [layer["digest"] for layer in base.layers]])


def _make(key: str, environment: Environment, base: BaseImage, interpreter: str) -> Layer:
    with tempfile.TemporaryDirectory(prefix="k8s-venv-base-") as name:
        folder = Path(name)
        found = read_layers(base, _python_files(environment.python), folder)
        program = _interpreter(environment, base, found)
        _require_glibc(environment, found)
        library = found.resolve(f"{posixpath.dirname(posixpath.dirname(program))}/lib/python{environment.python}")
        files = [
            File(name, path)
            for name, path in sorted(found.files.items())
            if path is not None and name.startswith(f"{library}/") and not _LEFT_OUT.search(name)
        ]
        compiled = compile_files(files, environment.python, interpreter, folder / "bytecode")
        lacking = [file for file in compiled.values() if file.name not in found.files]
        if found.has(PREFIX):  # another environment, none of whose packages are locked
            lacking.append(File(f"{posixpath.dirname(PREFIX)}/.wh.{posixpath.basename(PREFIX)}", b""))
        return make_layer(key, program, lacking, folders=found.folders)


def _python_files(python: str) -> re.Pattern[str]:
    minor = re.escape(python)
    return re.compile(rf"(.*/)?(bin/python{minor}|lib/python{minor}/.*)")


def find_program(environment: Environment, base: BaseImage, found: Tree) -> str:
    """Return the path of the environment's Python in a base image.

    Args:
        environment: which one.
        base: the base image.
        found: its files.

    Raises:
        WrongBaseError: its PATH has no Python.
    """
    folders = (base.environ.get("PATH") or "/usr/local/bin:/usr/bin:/bin").split(":")
    for folder in folders:
        if found.resolve(f"{folder}/python{environment.python}") in found.files:
            return f"{folder}/python{environment.python}"
    raise WrongBaseError(
        environment.name,
        f"its base image {base_reference(environment)} has no Python {environment.python} on its PATH. "
        "`k8s-venv build-images --builder buildkit` takes the interpreter from the official image.",
    )


def _interpreter(environment: Environment, base: BaseImage, found: Tree) -> str:
    """Return the path of a base's Python itself: no link, beside which it would not find its library."""
    program = "/" + found.resolve(find_program(environment, base, found))
    if program.startswith(f"/{PREFIX}/"):
        raise WrongBaseError(
            environment.name,
            f"its base image {base_reference(environment)} has its Python {environment.python} in /{PREFIX}, where the "
            "environment's packages go. Use a base that has it elsewhere.",
        )
    return program


def _require_glibc(environment: Environment, found: Tree) -> None:
    """Refuse a base on musl, which loads none of a lock's compiled packages.

    Raises:
        BuildError: it is one.
    """
    loaders = {posixpath.basename(name)[:8] for name in found.files if "/ld-" in name}
    if "ld-musl-" in loaders and "ld-linux" not in loaders:
        raise BuildError(
            environment.name,
            f"its base image {base_reference(environment)} is built on musl (as Alpine is), but the wheels of its lock "
            "are for glibc. Use a base of Debian, or of another distribution with glibc.",
        )
