"""The layer builder: images from wheels, without a Docker daemon and without root."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from k8s_venv.builders.base import check_version, read_base
from k8s_venv.builders.basepackages import base_packages, lacking_packages
from k8s_venv.builders.basepython import inspect_base
from k8s_venv.builders.image import Image, assemble
from k8s_venv.builders.install import PREFIX, Target
from k8s_venv.builders.revision import source_revision
from k8s_venv.builders.selection import Wheel, select_wheels
from k8s_venv.builders.wheel_layers import make_layers, skeleton_layer
from k8s_venv.errors import BuildError
from k8s_venv.locks import uv
from k8s_venv.locks.installed import lacking
from k8s_venv.locks.requirements import index_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from k8s_venv.config.environment import Environment
    from k8s_venv.locks.lockfile import Lock
    from k8s_venv.registry import BaseImage


@dataclasses.dataclass(frozen=True)
class Parts:
    """What an image for one platform is made from.

    Args:
        platform: such as ``linux/arm64``.
        base: the base image.
        wheels: the packages.
    """

    platform: str
    base: BaseImage
    wheels: tuple[Wheel, ...]


def find_parts(environment: Environment, lock: Lock, platform: str) -> Parts:
    """Find out what an image is made from; nothing is downloaded but descriptions.

    Args:
        environment: what to build.
        lock: its lock.
        platform: such as ``linux/arm64``.

    Raises:
        BuildError: the base or a wheel does not fit, or the base cannot be reached.
    """
    base = read_base(environment, lock.base_digest, platform)
    check_version(environment, base)
    if lock.system and (without := lacking(lock.system, base_packages(environment, base))):
        raise BuildError(environment.name, lacking_packages(environment, without))
    python = base.environ.get("PYTHON_VERSION") or environment.python
    return Parts(platform, base, tuple(select_wheels(environment.name, lock, python, platform)))


def build(environment: Environment, lock: Lock, parts: Parts, progress: Callable[[str], None]) -> Image:
    """Make the image for one platform, from layers that are made already as far as possible.

    Args:
        environment: what to build.
        lock: its lock.
        parts: what the image is made from.
        progress: is called with what is done now.

    Raises:
        BuildError: a wheel cannot be had or installed, or the base does not fit.
    """
    python = environment.python
    try:
        interpreter = uv.find_interpreter(python)
        if interpreter is None:
            progress(f"downloading Python {python}, to compile with")
            interpreter = uv.install_python(python)
        target = Target(python, interpreter, parts.platform, index_settings(environment))
        with ThreadPoolExecutor(1) as pool:
            base = pool.submit(inspect_base, environment, parts.base, interpreter)
            layers = make_layers(parts.wheels, target, progress)
            program, library = base.result()
    except uv.UvError as error:
        raise BuildError(environment.name, f"its packages cannot be installed.\n{error}") from None
    labels = image_labels(environment, lock)
    skeleton = skeleton_layer(python, program, sees_base=environment.system_site_packages)
    return assemble(parts.platform, parts.base, [library, skeleton, *layers], labels, PREFIX)


def image_labels(environment: Environment, lock: Lock) -> dict[str, str]:
    """Return the labels of an environment's image.

    Args:
        environment: what is built.
        lock: its lock.
    """
    revision = source_revision(lock.path)
    return {
        "org.opencontainers.image.title": environment.name,
        "io.k8s-venv.environment": environment.name,
        "io.k8s-venv.python": environment.python,
        "io.k8s-venv.lock": lock.digest,
        **({"org.opencontainers.image.revision": revision} if revision else {}),
    }
