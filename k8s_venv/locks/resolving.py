"""Resolve an environment's requirements with uv, each platform by itself, into one lock (PEP 751)."""

from __future__ import annotations

import dataclasses
import os
import platform as platform_module
import re
import sys
import tempfile
import tomllib
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from k8s_venv.config import MACHINES
from k8s_venv.errors import LockError, without_credentials
from k8s_venv.locks import uv
from k8s_venv.locks.installed import write_stubs
from k8s_venv.locks.lockfile import LockedFile, LockedPackage, checksum, package_table, read_package
from k8s_venv.locks.requirements import write_inputs
from k8s_venv.locks.uv_errors import explain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from k8s_venv.config.environment import Environment
    from k8s_venv.locks.installed import Installed
    from k8s_venv.locks.requirements import Line, Requirements

# What uv calls a platform, and its marker (PEP 508). The wheels' tags are those of Debian bookworm's glibc.
_PLATFORMS = {
    "linux/amd64": ("x86_64-manylinux_2_36", "sys_platform == 'linux' and platform_machine == 'x86_64'"),
    "linux/arm64": ("aarch64-manylinux_2_36", "sys_platform == 'linux' and platform_machine == 'aarch64'"),
    "macos/amd64": ("x86_64-apple-darwin", "sys_platform == 'darwin' and platform_machine == 'x86_64'"),
    "macos/arm64": ("aarch64-apple-darwin", "sys_platform == 'darwin' and platform_machine == 'arm64'"),
}
_ROUNDS = 3
# What of uv's warnings is about the packages: of a version that its authors took back, and of a misspelt extra.
_WARNING = re.compile(r"^warning: .* (is yanked|does not have an extra named)")


@dataclasses.dataclass(frozen=True)
class Renewal:
    """Which versions of an older lock are not kept.

    Args:
        everything: none are kept.
        packages: these packages' are not, each a name or a requirement such as ``pandas<3``.
    """

    everything: bool = False
    packages: tuple[str, ...] = ()


def resolve(
    requirements: Requirements,
    older: Sequence[LockedPackage],
    renewal: Renewal,
    progress: Callable[[str], None] | None,
    note: Callable[[str], None],
    own: Mapping[str, Installed],
) -> list[LockedPackage]:
    """Return the packages of an environment as a lock lists them.

    Each platform is resolved by itself, exactly as it would be alone, with the versions of the one before where they
    fit; once more, when a later platform needed another version, so that all get the same where that can be.

    Args:
        requirements: what the environment asks for.
        older: the packages of an older lock, whose versions are kept where they still fit.
        renewal: what of it is not kept.
        progress: is called with what happens.
        note: is called with what uv warns of in the packages.
        own: what the environment sees without installing it, by name. It is taken where it fits, as pip does, whether
            or not an index has it, and is in the result without any files.

    Raises:
        LockError: the requirements cannot be resolved.
    """
    environment = requirements.environment
    found: dict[str, list[LockedPackage]] = {}
    kept = [LockedPackage(name=package.name, version=package.version) for package in own.values()]
    kept = _preferring(kept, [] if renewal.everything else older)
    upgrades: Iterable[str] = renewal.packages
    warned: dict[str, None] = {}
    for _ in range(_ROUNDS if len(environment.platforms) > 1 else 1):
        before = dict(found)
        for platform in environment.platforms:
            arguments = ["--python-platform", _PLATFORMS[platform][0]]
            arguments += [part for name in upgrades for part in ("--upgrade-package", name)]
            if progress:
                progress(f"resolving for Python {environment.python} on {platform}")
            found[platform] = _compile(requirements, platform, arguments, kept, warned, own)
            kept = _preferring(found[platform], kept)
            upgrades = ()
        if found == before or _agree(found):
            break
    for warning in warned:
        note(f"{warning.rstrip('.')}.")
    return _merged(found)


def resolve_here(requirements: Requirements, python: str, locked: Sequence[LockedPackage]) -> list[LockedPackage]:
    """Return the packages for this machine, in the versions of a lock for other platforms.

    Args:
        requirements: what the environment asks for.
        python: the interpreter that the packages are for.
        locked: the lock's packages.

    Raises:
        LockError: a locked version does not exist for this machine, or the index cannot be asked.
    """
    versions: dict[str, set[str]] = {}
    for package in locked:
        versions.setdefault(package.name, set()).add(package.version)
    exact = [f"{name}=={next(iter(each))}" for name, each in versions.items() if len(each) == 1 and "" not in each]
    with tempfile.TemporaryDirectory(prefix="k8s-venv-lock-") as folder:
        constraints = Path(folder) / "locked.txt"
        constraints.write_text("\n".join(exact), "utf-8")
        return _compile(requirements, host_platform(), ["--python", python, "-c", str(constraints)], locked)


def uv_platform(platform: str) -> str:
    """Return what uv calls a platform such as ``linux/amd64``."""
    return _PLATFORMS[platform][0]


def host_platform() -> str:
    """Return this machine's platform; also one that no lock covers, such as ``linux/amd64 without glibc``."""
    system = {"darwin": "macos"}.get(sys.platform, sys.platform)
    machine = MACHINES.get(platform_module.machine(), platform_module.machine())
    glibc = system != "linux" or platform_module.libc_ver()[0] == "glibc"
    return f"{system}/{machine}" if glibc else f"{system}/{machine} without glibc"


def lock_text(
    packages: Sequence[LockedPackage],
    platforms: Sequence[str] = (),
    tool: Mapping[str, Any] | None = None,
) -> str:
    """Return packages as the text of a lock.

    Args:
        packages: the packages.
        platforms: where they can be installed; without any, everywhere.
        tool: the content of the table ``[tool.k8s-venv]``, to which the checksum is added.
    """
    import tomli_w  # reading a lock does without

    content: dict[str, Any] = {"lock-version": "1.0", "created-by": "k8s-venv"}
    if platforms:
        content["environments"] = [_PLATFORMS[platform][1] for platform in platforms]
    content["packages"] = [package_table(package) for package in packages]
    if tool is not None:
        content["tool"] = {"k8s-venv": tool}
        content["tool"] = {"k8s-venv": {"checksum": checksum(content), **tool}}
    return tomli_w.dumps(content)


def _compile(
    requirements: Requirements,
    platform: str,
    arguments: Sequence[str],
    kept: Sequence[LockedPackage],
    warned: dict[str, None] | None = None,
    own: Mapping[str, Installed] = MappingProxyType({}),
) -> list[LockedPackage]:
    environment = requirements.environment
    progress: list[str] = []
    with tempfile.TemporaryDirectory(prefix="k8s-venv-lock-") as folder:
        output = Path(folder).resolve() / "pylock.toml"
        given = write_inputs(requirements, output.parent)
        indexes = requirements.indexes
        if own:
            write_stubs(own.values(), output.parent)
            links = uv.environ(indexes).get("UV_FIND_LINKS")
            indexes["UV_FIND_LINKS"] = f"{links},{output.parent}" if links else str(output.parent)
        if kept:
            output.write_text(lock_text(kept), "utf-8")
        command = ["pip", "compile", "-", "-c", *(file for file in given if file != "-"), "--output-file", str(output)]
        command += [*uv_options(requirements), *arguments]
        stdin, secrets, root = given["-"].text, requirements.secrets, environment.root
        try:
            uv.run(command, stdin=stdin, cwd=root, indexes=indexes, progress=progress.append, secrets=secrets)
        except uv.UvError as error:
            raise LockError(environment.name, explain(requirements, platform, given, error.output)) from None
        tables = tomllib.loads(output.read_text("utf-8")).get("packages", [])
        packages = [read_package(table) for table in tables]
        if warned is not None:
            warned.update(dict.fromkeys(line.removeprefix("warning: ") for line in progress if _WARNING.search(line)))
        present = [LockedPackage(name=each.name, version=each.version) for each in packages if is_own(each, own)]
        packages = [_portable(requirements, each, output.parent) for each in packages if not is_own(each, own)]
    return present + _held_to_hashes(requirements, packages)


def is_own(package: LockedPackage, own: Mapping[str, Installed]) -> bool:
    """Return whether a package is there already, in this version.

    Args:
        package: a package of a lock.
        own: what is there, by name.
    """
    found = own.get(package.name)
    return found is not None and found.version == package.version


def uv_options(requirements: Requirements, python: str | None = None, wheels_only: bool = True) -> list[str]:
    """Return the options with which uv resolves an environment's lines into a lock.

    Args:
        requirements: what the environment asks for.
        python: the minor version; by default its own.
        wheels_only: whether versions without wheels are passed over where nothing can compile them.
    """
    environment = requirements.environment
    options = ["--format", "pylock.toml", "--no-header", "--python-version", python or environment.python]
    options.append("--no-python-downloads")
    if environment.constraints is not None and environment.constraints_file is None:
        options += ["-c", environment.constraints]
    if any(line.text == "--pre" for line in requirements.lines):
        options += ["--prerelease", "allow"]
    if environment.builder != "buildkit":
        # They would be built here, on another Python and platform than the target's.
        return [*options, "--only-binary", ":all:"] if wheels_only else options
    # Some say what they require only when their build is begun: by the target's Python, where it is here.
    interpreter = uv.find_interpreter(environment.python)
    return [*options, "--python", interpreter] if interpreter else options


def _portable(requirements: Requirements, package: LockedPackage, folder: Path) -> LockedPackage:
    """Return a package as every machine with the project's files can install it."""
    environment = requirements.environment
    name, files = package.name, package.wheels or package.archive
    sdist = package.sdist if environment.builder == "buildkit" and not files else None
    if not files and not sdist:
        raise LockError(
            environment.name,
            f"{name!r} in {requirements.place_of(name)} comes from a folder or a repository, which an image's build "
            "cannot install. Build a wheel of it, and require that; modules beside the DAG travel by themselves.",
        )
    return dataclasses.replace(
        package,
        archive=package.archive and _portable_file(environment, name, package.archive, folder),
        sdist=sdist and _portable_file(environment, name, sdist, folder),
        wheels=tuple(_portable_file(environment, name, wheel, folder) for wheel in package.wheels),
    )


def _portable_file(environment: Environment, name: str, file: LockedFile, folder: Path) -> LockedFile:
    if file.url and not file.url.startswith("file:"):
        return dataclasses.replace(file, url=without_credentials(file.url))
    path = Path(os.path.normpath(folder / (unquote(urlsplit(file.url).path) or file.path)))
    root = environment.root.resolve()
    if not path.resolve().is_relative_to(root):
        raise LockError(
            environment.name,
            f"{name!r} comes from {path}, which only this machine has. Copy the wheel into {environment.root} (or a "
            "folder in it), and commit it.",
        )
    return dataclasses.replace(file, url="", path=path.resolve().relative_to(root).as_posix())


def _preferring(packages: Sequence[LockedPackage], others: Sequence[LockedPackage]) -> list[LockedPackage]:
    known = {package.name for package in packages}
    return [*packages, *(package for package in others if package.name not in known)]


def _agree(found: Mapping[str, Sequence[LockedPackage]]) -> bool:
    """Return whether no package has different versions on different platforms."""
    versions = {(package.name, package.version) for packages in found.values() for package in packages}
    return len(versions) == len({name for name, _ in versions})


def _merged(found: Mapping[str, Sequence[LockedPackage]]) -> list[LockedPackage]:
    """Return the packages of several platforms as one list, with a marker where a platform lacks one."""
    packages: dict[tuple[str, str, str], dict[str, LockedPackage]] = {}
    for platform, each in found.items():
        for package in each:
            key = (package.name, package.version, package.marker)
            packages.setdefault(key, {})[platform] = package
    merged = []
    for (_, _, marker), by_platform in sorted(packages.items()):
        if len(by_platform) < len(found):
            only = " or ".join(f"({_PLATFORMS[platform][1]})" for platform in by_platform)
            marker = f"({marker}) and ({only})" if marker else only
        first, *others = by_platform.values()
        wheels = {wheel for each in by_platform.values() for wheel in each.wheels}
        # A platform without wheels takes the source distribution.
        sdist = next((each.sdist for each in (first, *others) if each.sdist), None)
        merged.append(dataclasses.replace(first, marker=marker, sdist=sdist, wheels=tuple(sorted(wheels, key=_place))))
    return merged


def _place(file: LockedFile) -> tuple[str, str]:
    return file.url, file.path


def _held_to_hashes(requirements: Requirements, packages: Sequence[LockedPackage]) -> list[LockedPackage]:
    """Keep of each package the files that have a hash among its lines, where they give one, as pip does.

    Raises:
        LockError: a package has no such file, or no hash where `--require-hashes` asks for them.
    """
    environment, lines = requirements.environment, requirements.lines
    pinned = _pinned_hashes(lines)
    required = next((line for line in lines if line.text == "--require-hashes"), None)
    held = []
    for package in packages:
        allowed = pinned.get(package.name, {})
        if required and not allowed:
            raise LockError(
                environment.name, f"{required.place} asks for hashes, and no line gives one for {package.name!r}."
            )
        held.append(_held_package(environment, package, allowed) if allowed else package)
    return held


def _held_package(environment: Environment, package: LockedPackage, allowed: Mapping[str, str]) -> LockedPackage:
    def fits(file: LockedFile | None) -> bool:
        return file is not None and any(f"{kind}:{digest}" in allowed for kind, digest in file.hashes.items())

    kept = dataclasses.replace(
        package,
        archive=package.archive if fits(package.archive) else None,
        sdist=package.sdist if fits(package.sdist) else None,
        wheels=tuple(filter(fits, package.wheels)),
    )
    if not kept.files:
        raise LockError(
            environment.name,
            f"no file of {package.name} {package.version} for Python {environment.python} has a hash "
            f"that {next(iter(allowed.values()))} allows. Write the hashes of this version (of the file for this "
            "platform), or leave them out: a lock has its own.",
        )
    return kept


def _pinned_hashes(lines: Sequence[Line]) -> dict[str, dict[str, str]]:
    """Return the hashes that lines allow for packages, as ``sha256:…``, each with its line's place."""
    pinned: dict[str, dict[str, str]] = {}
    for line in lines:
        for value in line.hashes:
            pinned.setdefault(line.package, {})[value] = line.place
    return pinned
