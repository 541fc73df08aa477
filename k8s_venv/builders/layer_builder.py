"""The layer builder: an image from a base and wheels, without a Docker daemon and without root.

On the base come three kinds of layers: the bytecode of the standard library, which official images do not have; a
virtual environment (PEP 405); and the packages. Each is made once and shared by all images that use it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import posixpath
import re
import subprocess
import tempfile
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from k8s_venv import cache
from k8s_venv.builders.base import (
    WrongBaseError,
    base_packages,
    base_reference,
    find_program,
    missing_packages_of_base,
    read_base,
    read_modules,
)
from k8s_venv.builders.layers import LAYER_FORMAT, File, Layer, digest_of, find_layer, make_layer
from k8s_venv.builders.oci import Image, assemble
from k8s_venv.builders.wheels import PREFIX, InstalledWheel, Target, Wheel, compile_files, install, select_wheels
from k8s_venv.errors import BuildError
from k8s_venv.locks import uv
from k8s_venv.locks.installed import lacking

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from k8s_venv.builders.base import Tree
    from k8s_venv.config.environment import Environment
    from k8s_venv.locks.lockfile import Lock
    from k8s_venv.registry import BaseImage

# A wheel that is at least this large when it is installed has a layer of its own; the others share a few.
_LARGE = 1 << 20  # bytes
_MOST_LARGE = 60
_BUCKETS = 24  # with the base's, the large ones and these, an image stays below Docker's limit of 127 layers
_NAMED = 4  # packages in a layer's title
# Of the standard library's folder: what no task imports, and what is not the standard library's.
_NOT_COMPILED = re.compile(r"/(test|tests|idlelib|lib2to3|turtledemo|site-packages|dist-packages)/")


# An image


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
    """Find what an image is made from; of the base, only its manifest is read if possible.

    Args:
        environment: what to build.
        lock: its lock.
        platform: such as ``linux/arm64``.

    Raises:
        BuildError: the base or a wheel does not fit, or the base cannot be reached.
    """
    base = read_base(environment, lock.base_digest, platform)
    if lock.system and (missing := lacking(lock.system, base_packages(environment, base))):
        raise BuildError(environment.name, missing_packages_of_base(environment, missing))
    python = base.environ.get("PYTHON_VERSION") or environment.python
    return Parts(platform, base, tuple(select_wheels(environment.name, lock, python, platform)))


def build(environment: Environment, lock: Lock, parts: Parts, progress: Callable[[str], None]) -> Image:
    """Make the image for one platform; layers that were made before are taken as they are.

    Args:
        environment: what to build.
        lock: its lock.
        parts: what the image is made from.
        progress: is called with the present step.

    Raises:
        BuildError: a wheel cannot be downloaded or installed, or the base does not fit.
    """
    python = environment.python
    try:
        interpreter = uv.find_interpreter(python)
        if interpreter is None:
            progress(f"downloading Python {python}, to compile with")
            interpreter = uv.install_python(python)
        target = Target(python, interpreter, parts.platform, lock.indexes)
        with ThreadPoolExecutor(1) as pool:
            base = pool.submit(_library_layer, environment, parts.base, interpreter)
            packages = make_layers(parts.wheels, target, progress)
            library = base.result()
    except uv.UvError as error:
        raise BuildError(environment.name, f"its packages cannot be installed.\n{error}") from None
    program = library.title  # as `_make_library_layer` found it
    skeleton = _environment_layer(python, program, sees_base=environment.system_site_packages)
    return assemble(parts.platform, parts.base, [library, skeleton, *packages], image_labels(environment, lock), PREFIX)


def image_labels(environment: Environment, lock: Lock) -> dict[str, str]:
    """Return the labels of an environment's image.

    Args:
        environment: what is built.
        lock: its lock.
    """
    revision = _git_revision(lock.path)
    return {
        "org.opencontainers.image.title": environment.name,
        "io.k8s-venv.environment": environment.name,
        "io.k8s-venv.python": environment.python,
        "io.k8s-venv.lock": lock.digest,
        **({"org.opencontainers.image.revision": revision} if revision else {}),
    }


def _git_revision(path: Path) -> str:
    """Return the last commit that changed a file; or an empty text if it was changed since, or git knows none.

    That commit is the same in every clone and after later commits, so the image's digest stays the same as well.
    """
    if _git(path, "status", "--porcelain", "--", path.name) != "":
        return ""
    return _git(path, "log", "-1", "--format=%H", "--", path.name) or ""


def _git(path: Path, *arguments: str) -> str | None:
    try:
        command = ["git", *arguments]
        ran = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return ran.stdout.strip() if ran.returncode == 0 else None


# The layer with the bytecode of the standard library


def known_library_layer(environment: Environment, base: BaseImage) -> Layer | None:
    """Return the layer with the bytecode of a base's standard library, if it was made before."""
    return find_layer(_library_key(environment, base))


def _library_key(environment: Environment, base: BaseImage) -> str:
    return digest_of(["stdlib", LAYER_FORMAT, environment.python, [layer["digest"] for layer in base.layers]])


def _library_layer(environment: Environment, base: BaseImage, interpreter: str) -> Layer:
    key = _library_key(environment, base)
    with cache.exclusive_lock(cache.base_lock(key)):
        return find_layer(key) or _make_library_layer(key, environment, base, interpreter)


def _make_library_layer(key: str, environment: Environment, base: BaseImage, interpreter: str) -> Layer:
    """Make the layer; its title is the path of the base's Python, which only the base's files tell."""
    with tempfile.TemporaryDirectory(prefix="k8s-venv-base-") as name:
        folder = Path(name)
        tree = read_modules(environment, base, folder)
        program = _real_program(environment, base, tree)
        _require_glibc(environment, tree)
        library = tree.resolve(f"{posixpath.dirname(posixpath.dirname(program))}/lib/python{environment.python}")
        modules = [
            File(name, path)
            for name, path in sorted(tree.files.items())
            if path is not None and name.startswith(f"{library}/") and not _NOT_COMPILED.search(name)
        ]
        compiled = compile_files(modules, environment.python, interpreter, folder / "bytecode")
        files = [file for file in compiled.values() if file.name not in tree.files]
        # Hide another environment there: none of its packages is in the lock.
        if any(f"{name}/".startswith(f"{PREFIX}/") for name in tree.files):
            files.append(File(f"{posixpath.dirname(PREFIX)}/.wh.{posixpath.basename(PREFIX)}", b""))
        return make_layer(key, program, files, folders=tree.folders)


def _real_program(environment: Environment, base: BaseImage, tree: Tree) -> str:
    """Return the path of a base's Python itself; beside a link to it, it would not find its library."""
    program = "/" + tree.resolve(find_program(environment, base, tree))
    if program.startswith(f"/{PREFIX}/"):
        raise WrongBaseError(
            environment.name,
            f"its base image {base_reference(environment)} has its Python {environment.python} in /{PREFIX}, where the "
            "environment's packages go. Use a base that has it elsewhere.",
        )
    return program


def _require_glibc(environment: Environment, tree: Tree) -> None:
    """Refuse a base on musl, which cannot load a lock's compiled packages.

    Raises:
        BuildError: it is one.
    """
    loaders = {posixpath.basename(name)[:8] for name in tree.files if "/ld-" in name}
    if "ld-musl-" in loaders and "ld-linux" not in loaders:
        raise BuildError(
            environment.name,
            f"its base image {base_reference(environment)} is built on musl (as Alpine is), but the wheels of its lock "
            "are for glibc. Use a base of Debian, or of another distribution with glibc.",
        )


# The layer with the virtual environment


def _environment_layer(python: str, program: str, *, sees_base: bool) -> Layer:
    """Return the layer that makes a virtual environment of the base's Python at a path."""
    key = digest_of(["venv", LAYER_FORMAT, python, program, *(["system"] if sees_base else [])])
    home = program.rpartition("/")[0]
    text = f"home = {home}\ninclude-system-site-packages = {str(sees_base).lower()}\nversion = {python}\n"
    links = {
        f"{PREFIX}/bin/python{python}": program,
        f"{PREFIX}/bin/python3": f"python{python}",
        f"{PREFIX}/bin/python": f"python{python}",
        f"{PREFIX}/lib64": "lib",
    }
    return find_layer(key) or make_layer(
        key, "virtual environment", [File(f"{PREFIX}/pyvenv.cfg", text.encode())], links
    )


# The layers with the packages


def known_layers(wheels: Sequence[Wheel], python: str) -> tuple[list[Layer], list[Wheel]]:
    """Return the layers that were made before, and the wheels that are in none of them.

    Args:
        wheels: the packages.
        python: the minor version.
    """
    sizes = _installed_sizes(wheels, python)
    missing = [wheel for wheel in wheels if wheel not in sizes]
    layers = []
    for group in _groups(sizes):
        if layer := find_layer(_group_key(group, python)):
            layers.append(layer)
        else:
            missing += group
    return layers, missing


@cache.writing_cache()
def make_layers(wheels: Sequence[Wheel], target: Target, progress: Callable[[str], None]) -> list[Layer]:
    """Return the layers of wheels after making those that are missing.

    Args:
        wheels: the packages.
        target: what they are for.
        progress: is called with the present step.

    Raises:
        UvError: uv cannot get or install a wheel.
        K8sVenvError: the cache folder cannot be written to.
    """
    layers, missing = known_layers(wheels, target.python)
    if not missing:
        return layers
    # One at a time: environments share layers, and the work for one uses every processor.
    lock = cache.layers_lock(target.python)
    with (
        cache.exclusive_lock(lock, lambda: progress("waiting for the packages of another image")),
        cache.install_folder(target.python) as folder,
    ):
        return _LayerMaker(target, folder, progress).layers(wheels)


class _LayerMaker:
    """Installs wheels and makes their layers."""

    def __init__(self, target: Target, folder: Path, progress: Callable[[str], None]) -> None:
        self._target, self._python, self._folder, self._progress = target, target.python, folder, progress
        self._installed: dict[Wheel, InstalledWheel] = {}

    def layers(self, wheels: Sequence[Wheel]) -> list[Layer]:
        sizes = _installed_sizes(wheels, self._python)
        self._install([wheel for wheel in wheels if wheel not in sizes])
        groups = _groups(_installed_sizes(wheels, self._python))
        known = [find_layer(_group_key(group, self._python)) for group in groups]
        missing = [wheel for group, layer in zip(groups, known, strict=True) if layer is None for wheel in group]
        self._install([wheel for wheel in missing if wheel not in self._installed])
        compiled = self._compile(missing)
        count = known.count(None)
        self._progress(f"packing {count} layer{'s' * (count != 1)}")
        with ThreadPoolExecutor() as pool:
            return list(pool.map(lambda group, layer: layer or self._pack(group, compiled), groups, known))

    def _install(self, wheels: Sequence[Wheel]) -> None:
        if not wheels:
            return
        self._progress(f"installing {len(wheels)} package{'s' * (len(wheels) != 1)}")
        folder = self._folder / f"installed{len(self._installed)}"
        installed = install(wheels, self._target, folder)
        for wheel, one in installed.items():
            cache.write_note(_size_note(wheel, self._python), {"size": sum(file.size for file in one.files)})
        self._installed.update(installed)

    def _compile(self, wheels: Sequence[Wheel]) -> dict[str, File]:
        self._progress("compiling")
        packages = f"{PREFIX}/lib/python{self._python}/site-packages"
        files = [file for wheel in wheels for file in self._installed[wheel].files if file.name.startswith(packages)]
        return compile_files(files, self._python, self._target.interpreter, self._folder / "bytecode")

    def _pack(self, group: list[Wheel], compiled: dict[str, File]) -> Layer:
        files = [file for wheel in group for file in self._installed[wheel].with_bytecode(compiled)]
        names = [wheel.name for wheel in group]
        rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return make_layer(_group_key(group, self._python), ", ".join(names[:_NAMED]) + rest, files)


def _groups(sizes: Mapping[Wheel, int]) -> list[list[Wheel]]:
    """Divide wheels into layers, the same for the same wheels.

    A wheel's place depends on itself alone (but for dozens of large ones), so that environments share layers, and a
    change of one wheel changes one layer.

    Args:
        sizes: the wheels' sizes when they are installed.
    """
    large = sorted((wheel for wheel in sizes if sizes[wheel] >= _LARGE), key=lambda wheel: -sizes[wheel])
    alone = set(large[:_MOST_LARGE])
    buckets: dict[int, list[Wheel]] = defaultdict(list)
    for wheel in sizes:
        if wheel not in alone:
            buckets[int(hashlib.sha256(wheel.name.encode()).hexdigest(), 16) % _BUCKETS].append(wheel)
    return [*(buckets[bucket] for bucket in sorted(buckets)), *([wheel] for wheel in sizes if wheel in alone)]


def _group_key(group: Iterable[Wheel], python: str) -> str:
    return digest_of(["wheels", LAYER_FORMAT, python, sorted(wheel.digest for wheel in group)])


def _installed_sizes(wheels: Iterable[Wheel], python: str) -> dict[Wheel, int]:
    """Return the sizes of wheels that were installed here before."""
    notes = {wheel: cache.read_note(_size_note(wheel, python), size=int) for wheel in wheels}
    return {wheel: note["size"] for wheel, note in notes.items() if note}


def _size_note(wheel: Wheel, python: str) -> Path:
    return cache.note_path("layers", digest_of(["size", LAYER_FORMAT, python, wheel.digest]))
