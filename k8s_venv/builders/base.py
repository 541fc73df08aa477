"""The base image of an environment: which one it is, its layers, its Python, and the packages of that Python.

A base is read from the files of its layers, and nothing in it runs. The cache folder keeps what was read of it, since a
base's digest names its content.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import posixpath
import re
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from k8s_venv import cache
from k8s_venv.builders.layers import digest_of, is_intact
from k8s_venv.errors import BuildError
from k8s_venv.locks.installed import Installed, read_metadata
from k8s_venv.registry import BaseImage, Blob, Reference, RegistryError, download, find_base, registry_at, resolve_base

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from k8s_venv.config.environment import Environment

BASE_REGISTRY_VARIABLE = "K8S_VENV_BASE_REGISTRY"
# A part of the keys of notes about a base's packages. Raise it if the same base is read differently than before.
_PACKAGES_FORMAT = 1
_METADATA = r"[^/]+\.(?:dist-info/METADATA|egg-info/PKG-INFO|egg-info)"
# Layers mark what they hide of lower layers by names (OCI image specification, layer.md).
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_MOST_LINKS = 40  # as Linux follows on one path


class WrongBaseError(BuildError):
    """The base image does not have the environment's Python."""


def base_reference(environment: Environment, digest: str = "") -> str:
    """Return the base image to pull; ``K8S_VENV_BASE_REGISTRY`` may name a mirror of the official ones.

    Args:
        environment: whose base.
        digest: the digest in the environment's lock, if it has one.
    """
    mirror = os.environ.get(BASE_REGISTRY_VARIABLE)
    name = environment.base_image
    if mirror and environment.base is None:
        name = f"{mirror.rstrip('/')}/{name}"
    return f"{name}@{digest}" if digest and "@" not in name else name


def pin_base(environment: Environment, locked: str, *, renew: bool) -> tuple[str, str]:
    """Find the digest of its base image to write into an environment's lock.

    Args:
        environment: which one.
        locked: the digest in an older lock, or nothing.
        renew: whether to take today's base even if an older lock has a digest.

    Returns:
        The digest, and an empty text; or, if no registry could be asked, the older lock's digest, if it has one, and
        otherwise the reason.
    """
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
        digest: the digest in the lock, if it has one.
        platform: such as ``linux/arm64``.

    Raises:
        WrongBaseError: it says that it has another Python.
        BuildError: it does not exist there, or cannot be reached.
    """
    reference = Reference.parse(base_reference(environment, digest))
    try:
        # What a digest names is the same for all environments.
        base = _pinned_base(reference, platform) if reference.digest else _find_base(reference, platform)
    except RegistryError as error:
        raise BuildError(environment.name, missing_base(environment, digest, str(error).rstrip("."))) from None
    found = base.environ.get("PYTHON_VERSION", "")
    minor = ".".join(found.split(".")[:2])
    if found and minor != environment.python:
        raise WrongBaseError(
            environment.name,
            wrong_python(environment, f"The base image has Python {minor} instead of {environment.python}."),
        )
    return base


def _find_base(reference: Reference, platform: str) -> BaseImage:
    return find_base(registry_at(reference.host), reference, platform)


_pinned_base = functools.cache(_find_base)


def missing_base(environment: Environment, digest: str, reason: str) -> str:
    """Return the message that an environment's base image cannot be read, and what to do.

    Args:
        environment: whose base.
        digest: the digest in the lock, if it has one.
        reason: the registry's answer.
    """
    message = f"its base image {base_reference(environment)} does not exist or cannot be reached ({reason})."
    if digest and digest in reason:
        message += f" If the digest in its lock is gone, `k8s-venv lock --upgrade {environment.name}` pins today's."
    mirror = os.environ.get(BASE_REGISTRY_VARIABLE, "").rstrip("/")
    if mirror and environment.base is None:
        library = "" if mirror.endswith("/library") else f" Many mirrors keep official images under {mirror}/library."
        return f"{message} {BASE_REGISTRY_VARIABLE} says to look for it there.{library}"
    return (
        f"{message} Is there a Python {environment.python}? `base` of [environments.{environment.name}], or "
        f"{BASE_REGISTRY_VARIABLE} for a mirror of the official images, names another."
    )


def wrong_python(environment: Environment, difference: str) -> str:
    """Return the message that a base image has another Python than the environment.

    Args:
        environment: whose base.
        difference: a sentence with both versions.
    """
    return f"its base image {base_reference(environment)} does not fit. {difference}"


def missing_packages_of_base(environment: Environment, missing: str) -> str:
    """Return the message that a base image does not have packages that a lock needs there, and what to do.

    Args:
        environment: whose base.
        missing: each such package, and what the base has instead.
    """
    lock = f"`k8s-venv lock {environment.name}`"
    remedy = (
        f"Run {lock}."
        if environment.base
        else f"Name an image that has them as `base` of [environments.{environment.name}], and run {lock}."
    )
    return (
        f"its lock counts on packages of its base image {base_reference(environment)}, which lacks {missing}. {remedy}"
    )


@cache.writing_cache()
def base_blob(base: BaseImage, descriptor: Mapping[str, Any]) -> Blob:
    """Return one of the base's layers as a file, downloaded once.

    Raises:
        K8sVenvError: it cannot be downloaded, or the cache folder cannot be written to.
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


def has_python(environment: Environment, base: BaseImage) -> bool:
    """Return whether a base image has the environment's Python; one that says so is not searched.

    Raises:
        RegistryError: its layers cannot be downloaded.
    """
    if base.environ.get("PYTHON_VERSION"):
        return True
    with tempfile.TemporaryDirectory(prefix="k8s-venv-base-") as name:
        try:
            find_program(environment, base, read_modules(environment, base, Path(name)))
        except WrongBaseError:
            return False
    return True


def find_program(environment: Environment, base: BaseImage, tree: Tree) -> str:
    """Return the path of the environment's Python in a base image.

    Args:
        environment: which one.
        base: the base image.
        tree: its files.

    Raises:
        WrongBaseError: its PATH has no such Python.
    """
    folders = (base.environ.get("PATH") or "/usr/local/bin:/usr/bin:/bin").split(":")
    for folder in folders:
        if tree.resolve(f"{folder}/python{environment.python}") in tree.files:
            return f"{folder}/python{environment.python}"
    raise WrongBaseError(
        environment.name,
        f"its base image {base_reference(environment)} has no Python {environment.python} on its PATH. "
        "`k8s-venv build-images --builder buildkit` takes the interpreter from the official image.",
    )


def packages_of_base(environment: Environment, digest: str) -> dict[str, Installed]:
    """Return the packages that an environment's base image has on each of its platforms, by name.

    Args:
        environment: whose base.
        digest: the digest of the base, if it is known.

    Raises:
        BuildError: the base does not exist, cannot be reached, or has no Python whose packages another one sees.
    """
    bases = [read_base(environment, digest, platform) for platform in environment.image_platforms]
    found = [base_packages(environment, base) for base in bases]
    return {name: one for name, one in found[0].items() if all(other.get(name) == one for other in found[1:])}


def base_packages(environment: Environment, base: BaseImage) -> dict[str, Installed]:
    """Return the packages of a base image's Python, by name.

    Args:
        environment: for its version of Python.
        base: the base image.

    Raises:
        BuildError: its layers cannot be downloaded, or it has no Python whose packages another one sees.
    """
    key = digest_of(["packages", _PACKAGES_FORMAT, environment.python, [layer["digest"] for layer in base.layers]])
    note = cache.note_path("layers", key)
    with cache.exclusive_lock(cache.base_lock(key)):
        known = cache.read_note(note, packages=list)
        if known is None:
            try:
                packages = _read_packages(environment, base)
            except RegistryError as error:
                raise BuildError(environment.name, f"its base image cannot be read. {error}") from None
            known = {"packages": [dataclasses.astuple(package) for package in packages]}
            cache.write_note(note, known)
    return {
        name: Installed(name, version, tuple(requires), tuple(extras))
        for name, version, requires, extras in known["packages"]
    }


def _read_packages(environment: Environment, base: BaseImage) -> Sequence[Installed]:
    minor = re.escape(environment.python)
    folders = rf"(?:lib/python{minor}/(?:site|dist)-packages|lib/python3/dist-packages)"
    wanted = re.compile(rf"(?:.*/)?(?:bin/python{minor}|pyvenv\.cfg|{folders}/{_METADATA})")
    with tempfile.TemporaryDirectory(prefix="k8s-venv-base-") as name:
        tree = _read_tree(base, wanted, Path(name), ("pyvenv.cfg", "METADATA", "PKG-INFO", ".egg-info"))
        program = find_program(environment, base, tree)
        prefix = posixpath.dirname(posixpath.dirname(program))
        if f"{prefix}/pyvenv.cfg".lstrip("/") in tree.files:
            raise BuildError(
                environment.name,
                f"its base image {base_reference(environment)} has its packages in a virtual environment, {prefix}, "
                "which no other one sees. Leave `system-site-packages` out, and require those that you need.",
            )
        prefix = posixpath.dirname(posixpath.dirname(f"/{tree.resolve(program)}"))
        packages: dict[str, Installed] = {}
        for folder in _package_folders(prefix, environment.python):
            for path, source in sorted(tree.files.items()):
                if source and path.startswith(folder) and (one := read_metadata(source.read_text("utf-8", "replace"))):
                    packages.setdefault(one.name, one)
    return [packages[name] for name in sorted(packages)]


def _package_folders(prefix: str, python: str) -> list[str]:
    """Return where a Python looks for its packages, the first place first; Debian's has its own (`site.py`)."""
    local = [f"/usr/local/lib/python{python}/dist-packages/"] if prefix == "/usr" else []
    own = [f"{prefix}/lib/python{python}/site-packages/", f"{prefix}/lib/python3/dist-packages/"]
    return [folder.lstrip("/") for folder in [*local, *own]]


def read_modules(environment: Environment, base: BaseImage, folder: Path) -> Tree:
    """Read a base's files, with the content of the modules of the environment's Python.

    Args:
        environment: for its version of Python.
        base: the base image.
        folder: where the modules are kept.

    Raises:
        RegistryError: a layer cannot be downloaded.
    """
    minor = re.escape(environment.python)
    return _read_tree(base, re.compile(rf"(.*/)?(bin/python{minor}|lib/python{minor}/.*)"), folder, (".py",))


def _read_tree(base: BaseImage, wanted: re.Pattern[str], folder: Path, endings: tuple[str, ...]) -> Tree:
    tree = Tree(wanted, folder / "files", endings)
    with cache.shared_lock(cache.layers_folder()):
        for descriptor in base.layers:
            with base_blob(base, descriptor).path.open("rb") as stream:
                tree.add(stream, str(descriptor["mediaType"]))
    return tree


class Tree:
    """An image's files, as its layers leave them.

    Args:
        wanted: the names of the files whose content is kept, without the leading slash.
        folder: where it is kept.
        endings: how these names end, which is quicker to compare.
    """

    def __init__(self, wanted: re.Pattern[str], folder: Path, endings: tuple[str, ...]) -> None:
        self.files: dict[str, Path | None] = {}  # everything but folders; the content of wanted ones
        self.folders: dict[str, int] = {}  # their modes
        self._links: dict[str, str] = {}
        self._wanted, self._endings = wanted, endings
        self._folder, self._numbers = folder, itertools.count()
        folder.mkdir()

    def add(self, stream: IO[bytes], media_type: str) -> None:
        """Add a layer.

        Args:
            stream: the layer.
            media_type: how it is compressed.
        """
        added: set[str] = set()
        with tempfile.TemporaryFile() as plain, _open_layer(stream, media_type, plain) as archive:
            for entry in archive:
                name = posixpath.normpath(entry.name).lstrip("/")
                folder, base = posixpath.split(name)
                if base == _OPAQUE:
                    self._remove(folder, added)
                elif base.startswith(_WHITEOUT):
                    self._remove(posixpath.join(folder, base.removeprefix(_WHITEOUT)), added)
                elif entry.isdir():
                    self.files.pop(name, None)
                    self._links.pop(name, None)
                    self.folders[name] = entry.mode
                else:
                    if name in self.folders:
                        self._remove(name, added)
                    self._links.pop(name, None)
                    if entry.issym():
                        self._links[name] = entry.linkname
                    wanted = name.endswith(self._endings) and self._wanted.fullmatch(name)
                    self.files[name] = self._content(archive, entry) if wanted else None
                    added.add(name)

    def resolve(self, path: str) -> str:
        """Return where a path leads if its symbolic links are followed, without the leading slash."""
        waiting, at, followed = path.split("/")[::-1], "", 0
        while waiting and followed <= _MOST_LINKS:
            part = waiting.pop()
            if part == "..":
                at = posixpath.dirname(at)
            elif part not in ("", "."):
                at = posixpath.join(at, part)
            if at in self._links:
                target = self._links[at]
                at = "" if target.startswith("/") else posixpath.dirname(at)
                waiting += target.split("/")[::-1]
                followed += 1
        return at

    def _remove(self, hidden: str, added: set[str]) -> None:
        """Hide what lower layers have under a name; what the same layer has stays, in any order."""
        for name in [name for name in self.files if name == hidden or name.startswith(f"{hidden}/")]:
            if name not in added:
                del self.files[name]
                self._links.pop(name, None)
        self.folders.pop(hidden, None)

    def _content(self, archive: tarfile.TarFile, entry: tarfile.TarInfo) -> Path | None:
        if not (entry.isreg() or entry.islnk()):
            return None
        try:
            content = archive.extractfile(entry)
        except KeyError:  # a hard link to a file of a lower layer
            return None
        assert content is not None  # noqa: S101 -- it is a regular file
        path = self._folder / str(next(self._numbers))
        path.write_bytes(content.read())
        return path


def _open_layer(stream: IO[bytes], media_type: str, plain: IO[bytes]) -> tarfile.TarFile:
    """Open a layer, uncompressed into a file in which it is quick to skip unwanted files."""
    if media_type.endswith("zstd"):
        import zstandard

        zstandard.ZstdDecompressor().copy_stream(stream, plain)
    elif media_type.endswith("gzip"):
        from isal import igzip  # of the extra `build`: a lock needs it only to read a base's packages

        with igzip.IGzipFile(fileobj=stream, mode="rb") as unpacked:  # type: ignore[no-untyped-call]
            shutil.copyfileobj(unpacked, plain, 1 << 20)
    else:
        return tarfile.open(fileobj=stream)
    plain.seek(0)
    return tarfile.open(fileobj=plain)
