"""The layers of an environment's packages: made once for each wheel, shared by all that use it."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from k8s_venv import cache
from k8s_venv.builders.bytecode import compile_files
from k8s_venv.builders.install import PREFIX, File, InstalledWheel, Target, install, site_packages
from k8s_venv.builders.layers import EPOCH, Layer, digest_of, find_layer, make_layer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from k8s_venv.builders.selection import Wheel

# A wheel of at least this many bytes, as installed, has a layer of its own; the others share few.
_LARGE = 1 << 20
_MOST_LARGE = 60
_BUCKETS = 24  # with the base's, the largest and these, an image stays under the 127 layers of Docker
_NAMED = 4


def skeleton_layer(python: str, program: str, *, sees_base: bool = False) -> Layer:
    """Return the layer that makes a virtual environment of the base's Python (PEP 405).

    Args:
        python: the minor version.
        program: the path of the base's Python.
        sees_base: whether it sees the packages that the base's Python has by itself.
    """
    key = digest_of(["venv", EPOCH, python, program, *(["system"] if sees_base else [])])
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


def find_layers(wheels: Sequence[Wheel], python: str) -> list[Layer] | None:
    """Return the layers of wheels when all of them are made, else None.

    Args:
        wheels: the packages.
        python: the minor version.
    """
    groups = _groups(wheels, python)
    layers = [find_layer(_key(group, python)) for group in groups or ()]
    return None if groups is None or None in layers else [layer for layer in layers if layer]


def known_layers(wheels: Sequence[Wheel], python: str) -> tuple[list[Layer], list[Wheel]]:
    """Return the layers that are made already, and the wheels that are in none of them.

    Args:
        wheels: the packages.
        python: the minor version.
    """
    sized = [wheel for wheel in wheels if _size(wheel, python) is not None]
    lacking = [wheel for wheel in wheels if wheel not in sized]
    layers = []
    for group in _groups(sized, python) or ():
        layer = find_layer(_key(group, python))
        if layer:
            layers.append(layer)
        else:
            lacking += group
    return layers, lacking


@cache.writing_cache()
def make_layers(wheels: Sequence[Wheel], target: Target, progress: Callable[[str], None]) -> list[Layer]:
    """Return the layers of wheels, making those that are not there.

    Args:
        wheels: the packages.
        target: what they are for.
        progress: is called with what is done now.

    Raises:
        UvError: uv cannot get or install a wheel.
        K8sVenvError: the cache folder cannot be written to.
    """
    if (found := find_layers(wheels, target.python)) is not None:
        return found
    # One at a time: environments share layers, and the work for one uses every processor.
    lock = cache.layers_lock(target.python)
    with (
        cache.exclusive_lock(lock, lambda: progress("waiting for the packages of another image")),
        cache.install_folder(target.python) as folder,
    ):
        return _Workshop(target, folder, progress).layers(wheels)


class _Workshop:
    """Wheels that are installed for their layers to be made."""

    def __init__(self, target: Target, folder: Path, progress: Callable[[str], None]) -> None:
        self._target, self._python, self._folder, self._progress = target, target.python, folder, progress
        self._installed: dict[Wheel, InstalledWheel] = {}

    def layers(self, wheels: Sequence[Wheel]) -> list[Layer]:
        self._install(wheel for wheel in wheels if _size(wheel, self._python) is None)
        groups = _groups(wheels, self._python)
        assert groups is not None  # noqa: S101 -- every size is known now
        missing = [group for group in groups if find_layer(_key(group, self._python)) is None]
        self._install(wheel for group in missing for wheel in group)
        files = [file for group in missing for wheel in group for file in self._installed[wheel].files]
        self._progress("compiling")
        packages = site_packages(self._python)
        modules = [file for file in files if file.name.startswith(packages)]
        compiled = compile_files(modules, self._python, self._target.interpreter, self._folder / "bytecode")
        self._progress(f"packing {len(missing)} layer{'s' * (len(missing) != 1)}")
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda group: self._pack(group, compiled), missing))
        found = [find_layer(_key(group, self._python)) for group in groups]
        return [layer for layer in found if layer]

    def _install(self, wheels: Iterable[Wheel]) -> None:
        wanted = [wheel for wheel in wheels if wheel not in self._installed]
        if not wanted:
            return
        self._progress(f"installing {len(wanted)} package{'s' * (len(wanted) != 1)}")
        folder = self._folder / f"installed{len(self._installed)}"
        installed = install(wanted, self._target, folder)
        for wheel, one in installed.items():
            cache.write_note(_size_note(wheel, self._python), {"size": sum(file.size for file in one.files)})
        self._installed.update(installed)

    def _pack(self, group: list[Wheel], compiled: dict[str, File]) -> None:
        files = [file for wheel in group for file in self._installed[wheel].with_bytecode(compiled)]
        names = [wheel.name for wheel in group]
        rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        make_layer(_key(group, self._python), ", ".join(names[:_NAMED]) + rest, files)


def _groups(wheels: Sequence[Wheel], python: str) -> list[list[Wheel]] | None:
    """Divide wheels into layers, the same for the same wheels; None where the size of one is not known yet.

    A wheel's place depends on nothing but itself (but for dozens of large ones), so that environments share layers
    and a change of one wheel changes one layer.
    """
    sizes = {wheel: _size(wheel, python) for wheel in wheels}
    if None in sizes.values():
        return None
    large = sorted((wheel for wheel in wheels if (sizes[wheel] or 0) >= _LARGE), key=lambda one: -(sizes[one] or 0))
    alone = set(large[:_MOST_LARGE])
    buckets: dict[int, list[Wheel]] = defaultdict(list)
    for wheel in wheels:
        if wheel not in alone:
            buckets[int(hashlib.sha256(wheel.name.encode()).hexdigest(), 16) % _BUCKETS].append(wheel)
    return [*(buckets[bucket] for bucket in sorted(buckets)), *([wheel] for wheel in wheels if wheel in alone)]


def _key(group: Iterable[Wheel], python: str) -> str:
    return digest_of(["wheels", EPOCH, python, sorted(wheel.digest for wheel in group)])


def _size(wheel: Wheel, python: str) -> int | None:
    """Return how large an installed wheel is, if it ever was."""
    note = cache.read_note(_size_note(wheel, python), size=int)
    return None if note is None else int(note["size"])


def _size_note(wheel: Wheel, python: str) -> Path:
    return cache.note_path("layers", digest_of(["size", EPOCH, python, wheel.digest]))
