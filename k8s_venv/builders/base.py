"""The base image: which one, where its Python is, and the bytecode that its standard library lacks."""

from __future__ import annotations

import dataclasses
import functools
import os
import posixpath
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from k8s_venv import uv
from k8s_venv.builders.bytecode import compile_files
from k8s_venv.builders.install import PREFIX, File
from k8s_venv.builders.layers import EPOCH, Layer, blob_path, digest_of, find_layer, is_intact, make_layer
from k8s_venv.builders.tree import Tree
from k8s_venv.errors import BuildError
from k8s_venv.keeping import layers_folder, mark_used, using
from k8s_venv.locking import locked_base
from k8s_venv.registry import BaseImage, Blob, Reference, RegistryError, download, find_base, registry_at, resolve_base

if TYPE_CHECKING:
    from collections.abc import Mapping

    from k8s_venv.environment import Environment

BASE_REGISTRY_VARIABLE = "K8S_VENV_BASE_REGISTRY"
# What no task imports, and what is not the standard library's.
_LEFT_OUT = re.compile(r"/(test|tests|idlelib|lib2to3|turtledemo|site-packages|dist-packages)/")


class WrongBaseError(BuildError):
    """The base image does not have the environment's Python."""


@dataclasses.dataclass(frozen=True)
class Python:
    """The Python of a base image.

    Args:
        version: its version, as exact as the image tells.
        program: its path in the image.
    """

    version: str
    program: str


def base_reference(environment: Environment, digest: str = "") -> str:
    """Return the base image to pull, where ``K8S_VENV_BASE_REGISTRY`` may name a mirror of the official ones.

    Args:
        environment: whose base.
        digest: the digest that the environment's lock records, if it does.
    """
    mirror = os.environ.get(BASE_REGISTRY_VARIABLE)
    name = environment.base_image
    if mirror and environment.base is None:
        name = f"{mirror.rstrip('/')}/{name}"
    return f"{name}@{digest}" if digest and "@" not in name else name


def pin_base(environment: Environment, *, renew: bool) -> tuple[str, str]:
    """Find the digest that an environment's lock shall record for its base image.

    Args:
        environment: which one.
        renew: whether to ask for the base of today, where an older lock has one.

    Returns:
        The digest, or nothing where no registry could be asked; and then why.
    """
    locked = locked_base(environment)
    if locked and not renew:
        return locked, ""
    try:
        return resolve_base(base_reference(environment), attempts=1), ""
    except RegistryError as error:
        return locked, "" if locked else f"the base {environment.base_image} is not pinned: {error}"


def read_base(environment: Environment, digest: str, platform: str) -> BaseImage:
    """Find an environment's base image in its registry.

    Args:
        environment: whose base.
        digest: the digest that the lock records, if it does.
        platform: such as ``linux/arm64``.

    Raises:
        BuildError: it does not exist there, or cannot be reached.
    """
    reference = Reference.parse(base_reference(environment, digest))
    try:
        # What a digest names is the same for all environments.
        return _pinned_base(reference, platform) if reference.digest else _find_base(reference, platform)
    except RegistryError as error:
        reason = str(error).rstrip(".")
        raise BuildError(
            environment.name,
            missing_base(environment, reason),
        ) from None


def _find_base(reference: Reference, platform: str) -> BaseImage:
    return find_base(registry_at(reference.host), reference, platform)


_pinned_base = functools.cache(_find_base)


def missing_base(environment: Environment, reason: str) -> str:
    """Say that an environment's base image cannot be read, and what names another.

    Args:
        environment: whose base.
        reason: what the registry said.
    """
    said = f"its base image {base_reference(environment)} does not exist or cannot be reached ({reason})."
    mirror = os.environ.get(BASE_REGISTRY_VARIABLE, "").rstrip("/")
    if mirror and environment.base is None:
        library = "" if mirror.endswith("/library") else f" Many mirrors keep official images under {mirror}/library."
        return f"{said} {BASE_REGISTRY_VARIABLE} says to look for it there.{library}"
    return (
        f"{said} Is there a Python {environment.python}? `base` of [environments.{environment.name}], or "
        f"{BASE_REGISTRY_VARIABLE} for a mirror of the official images, names another."
    )


def check_version(environment: Environment, base: BaseImage) -> None:
    """Refuse a base image that says it has another Python.

    Raises:
        WrongBaseError: it does.
    """
    found = base.environ.get("PYTHON_VERSION", "")
    minor = ".".join(found.split(".")[:2])
    if found and minor != environment.python:
        raise WrongBaseError(
            environment.name,
            f"its base image {base_reference(environment)} does not fit. The base image has Python {minor} instead of "
            f"{environment.python}.",
        )


def has_python(environment: Environment, base: BaseImage) -> bool:
    """Tell whether a base image has the environment's Python; one that says so is not looked through.

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


def base_blob(base: BaseImage, descriptor: Mapping[str, Any]) -> Blob:
    """Return one of the base's layers as a file, downloaded once.

    Raises:
        RegistryError: it cannot be downloaded.
    """
    digest, size = str(descriptor["digest"]), int(descriptor["size"])
    path = blob_path(digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.parent / f".{path.name}.lock"):
        if not is_intact(path, digest):
            partial = path.with_name(f".{path.name}.part")
            try:
                download(registry_at(base.reference.host), base.reference.repository, digest, partial)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
    mark_used(path)
    return Blob(path, digest, size)


def inspect_base(environment: Environment, base: BaseImage, interpreter: str) -> tuple[Python, Layer]:
    """Find the Python of a base image, and make the layer with its standard library's bytecode.

    Args:
        environment: the environment that is built on it.
        base: the base image.
        interpreter: a Python of the same minor version, here.

    Raises:
        BuildError: the base has no such Python.
    """
    check_version(environment, base)
    key = _library_key(environment, base)
    with FileLock(uv.require_cache() / f"base-{key[:12]}.lock"):  # made once, even when several images ask at once
        made = find_layer(key) or _make(key, environment, base, interpreter)
    # The layer's title carries what only the base's files could tell.
    return Python((base.environ.get("PYTHON_VERSION") or environment.python), made.title), made


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


def read_layers(base: BaseImage, wanted: re.Pattern[str], folder: Path, kept: tuple[str, ...] = (".py",)) -> Tree:
    """Read the names of a base's files, and some of them whole.

    Args:
        base: the base image.
        wanted: the names of files that are read, without the leading slash.
        folder: where their content is kept.
        kept: how the names of those end whose content is of interest.

    Raises:
        RegistryError: a layer cannot be downloaded.
    """
    found = Tree(wanted, folder / "files", kept)
    with using(layers_folder()):
        for descriptor in base.layers:
            with base_blob(base, descriptor).path.open("rb") as stream:
                found.add(stream, str(descriptor["mediaType"]))
    return found


def find_program(environment: Environment, base: BaseImage, found: Tree) -> str:
    """Return the path of the environment's Python in a base image.

    Args:
        environment: which one.
        base: the base image.
        found: its files.

    Raises:
        WrongBaseError: there is none on its PATH.
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
