"""The base image: which one, and what is in it."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k8s_venv import cache
from k8s_venv.builders.layers import is_intact
from k8s_venv.builders.tree import Tree
from k8s_venv.errors import BuildError
from k8s_venv.locks.locking import locked_base
from k8s_venv.registry import BaseImage, Blob, Reference, RegistryError, download, find_base, registry_at, resolve_base

if TYPE_CHECKING:
    import re
    from collections.abc import Mapping

    from k8s_venv.config.environment import Environment

BASE_REGISTRY_VARIABLE = "K8S_VENV_BASE_REGISTRY"


class WrongBaseError(BuildError):
    """The base image does not have the environment's Python."""


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
        raise BuildError(environment.name, missing_base(environment, str(error).rstrip("."))) from None


def _find_base(reference: Reference, platform: str) -> BaseImage:
    return find_base(registry_at(reference.host), reference, platform)


_pinned_base = functools.cache(_find_base)


def missing_base(environment: Environment, reason: str) -> str:
    """Return that an environment's base image cannot be read, and what names another.

    Args:
        environment: whose base.
        reason: what the registry said.
    """
    said = f"its base image {base_reference(environment)} does not exist or cannot be reached ({reason})."
    if (pinned := locked_base(environment)) and pinned in reason:
        said += f" Where what its lock pins is gone, `k8s-venv lock --upgrade {environment.name}` pins today's."
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


@cache.writing_cache()
def base_blob(base: BaseImage, descriptor: Mapping[str, Any]) -> Blob:
    """Return one of the base's layers as a file, downloaded once.

    Raises:
        K8sVenvError: it cannot be downloaded, or the cache folder not be written to.
    """
    digest, size = str(descriptor["digest"]), int(descriptor["size"])
    path = cache.blob_path(digest)
    with cache.exclusive_lock(cache.blob_lock(digest)):
        if not is_intact(path, digest):
            with cache.new_file(path.parent) as partial:
                download(registry_at(base.reference.host), base.reference.repository, digest, Path(partial.name))
                Path(partial.name).replace(path)
    cache.mark_used(path)
    return Blob(path, digest, size)


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
    with cache.shared_lock(cache.layers_folder()):
        for descriptor in base.layers:
            with base_blob(base, descriptor).path.open("rb") as stream:
                found.add(stream, str(descriptor["mediaType"]))
    return found
