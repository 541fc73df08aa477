"""``k8s-venv lock``."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import click
from packaging.utils import canonicalize_name

from k8s_venv.builders import GENERATIONS
from k8s_venv.cli.console import (
    console,
    counted,
    environments_argument,
    interruptible,
    open_project,
    progress,
    show_error,
)
from k8s_venv.errors import BuildError, K8sVenvError, LockError, StaleLockError, did_you_mean
from k8s_venv.locks import uv
from k8s_venv.locks.locking import check_lock, read_lock, read_older, write_lock
from k8s_venv.locks.resolving import Renewal
from k8s_venv.locks.uv import ignored_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from k8s_venv.config.environment import Environment
    from k8s_venv.locks.lockfile import LockedPackage
    from k8s_venv.locks.locking import OlderLock

_AT_ONCE = 4
_MOST_CHANGES = 6


@click.command()
@environments_argument
@click.option("--upgrade", "-U", is_flag=True, help="Take the newest versions instead of keeping those of the lock.")
@click.option(
    "--upgrade-package",
    "-P",
    "packages",
    multiple=True,
    metavar="NAME",
    help="Upgrade this package alone, such as pandas, or 'pandas<3'. Can be given several times.",
)
@click.option("--check", "only_check", is_flag=True, help="Write nothing; exit with 1 when a lock is missing or stale.")
@click.pass_obj
def lock(
    given: Path | None, environments: tuple[str, ...], upgrade: bool, packages: tuple[str, ...], only_check: bool
) -> None:
    """Lock environments to exact versions with hashes.

    All of the project's environments, or the named ones; each gets a file pylock.ENVIRONMENT.toml (PEP 751) beside
    k8s-venv.toml. Commit the locks: images and their tags are made from them. Versions of an older lock are kept where
    they still fit.

    \b
    Examples:
        k8s-venv lock                          lock what changed, keep the rest
        k8s-venv lock etl --upgrade            renew one environment
        k8s-venv lock -P requests -P urllib3   a security fix in all of them
        k8s-venv lock --check                  in CI: is every lock fresh?

    Packages come from PyPI, or from where the requirements (--index-url, --extra-index-url, --find-links), uv's
    variables (UV_INDEX_URL, …), pip's (PIP_INDEX_URL, …) or pip.conf say. Passwords are taken from there, from
    ~/.netrc and from keyring, and never written into a lock.
    """  # noqa: D301 -- click leaves the lines after a \b as they are
    if only_check and (upgrade or packages):
        raise click.UsageError("--check writes nothing, so there is nothing to upgrade.")
    chosen = open_project(given).select(environments)
    if only_check:
        _check(chosen)
        return
    with interruptible():
        lock_environments(chosen, Renewal(everything=upgrade, packages=packages))


def lock_environments(environments: Iterable[Environment], renewal: Renewal | None = None, *, pin: bool = True) -> None:
    """Lock environments, several at once, with progress; one failure does not stop the others.

    Args:
        environments: the environments.
        renewal: which versions of older locks are not kept.
        pin: whether registries are asked for the digests of the base images.

    Raises:
        K8sVenvError: an environment could not be locked; the errors of all but the last are printed before.
    """
    chosen = list(environments)
    older = {environment.name: read_older(environment) for environment in chosen}
    renewal = renewal or Renewal()
    _require_known(older, renewal.packages)
    for sentence in ignored_settings(os.environ):
        console().print(f"Note: {sentence}")
    with (
        progress(list(older)) as (report, finished),
        ThreadPoolExecutor(_AT_ONCE) as pool,
    ):

        def lock_one(environment: Environment) -> K8sVenvError | None:
            try:
                outcome, notes = _lock(
                    environment, older[environment.name], renewal, partial(report, environment.name), pin
                )
            except (LockError, BuildError) as error:
                finished(environment.name, "failed")
                return error
            finished(environment.name, outcome)
            for note in notes:
                console().print(f"Note: {environment.name}: {note}")
            return None

        try:
            failures = [failure for failure in pool.map(lock_one, chosen) if failure]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            uv.stop()  # else the threads wait for it
            raise
    for failure in failures[:-1]:
        show_error(failure)
    if failures:
        raise failures[-1]


def _lock(
    environment: Environment, older: OlderLock, renewal: Renewal, report: Callable[[str], None], pin: bool
) -> tuple[str, list[str]]:
    """Lock one environment, and return a summary, and notes for its user."""
    base, unpinned, own = "", "", None
    if pin and environment.image is None:
        from k8s_venv.builders.base import pin_base

        base, unpinned = pin_base(environment, older.base_digest, renew=renewal.everything)
    if environment.system_site_packages and environment.base and environment.image is None:
        from k8s_venv.builders.base import packages_of_base

        report(f"reading the packages of {environment.base}")
        own = packages_of_base(environment, base)
    notes: list[str] = []
    generation = GENERATIONS[environment.image_builder]
    written = write_lock(environment, report, renewal, base, notes.append, own, older, generation=generation)
    changes = _changes(older.packages, written.packages) if older.packages else ""
    count = counted(len(written.packages), "package")
    seen = f", beside {len(written.system)} that are there" if written.system else ""
    return f"locked {count} in {written.path.name}{seen}{changes}", [*notes, *filter(None, [unpinned])]


def lock_missing(environments: Iterable[Environment], *, pin: bool = True) -> None:
    """Lock the environments that were never locked; their owner renews stale locks.

    Args:
        environments: the environments.
        pin: see ``lock_environments``.
    """
    missing = [environment for environment in environments if not environment.lock_path.exists()]
    if missing:
        lock_environments(missing, pin=pin)


def lock_outdated(environments: Iterable[Environment]) -> None:
    """Lock the environments of this machine that were never locked, or whose requirements have changed since.

    A lock that was changed by hand, or by a merge, is left to its owner.

    Args:
        environments: the environments; those with an interpreter of their own need no lock.
    """
    chosen = [environment for environment in environments if environment.interpreter is None]
    lock_missing(chosen, pin=False)  # no image is made here
    for environment in chosen:
        try:
            read_lock(environment)
        except StaleLockError as error:
            console().print(f"{str(error).rpartition(' Run ')[0]} Locking it again.")
            # The base stays pinned where it was, since the lock is for images as well.
            lock_environments([environment], pin=bool(read_older(environment).base_digest))


def _check(environments: Sequence[Environment]) -> None:
    """Print a line for each lock that is missing or stale, and exit with 1 if there is one."""
    wrong = 0
    for environment in environments:
        if environment.made_elsewhere and not environment.lock_path.exists():
            continue  # a lock is only needed where its image or interpreter is not used
        try:
            check_lock(environment)
        except LockError as error:
            wrong += 1
            click.echo(str(error))
    console().print(f"{counted(len(environments), 'environment')}, {wrong} without a fresh lock")
    if wrong:
        raise click.exceptions.Exit(1)


def _require_known(older: Mapping[str, OlderLock], packages: Sequence[str]) -> None:
    """Refuse to upgrade a package that no lock has: the command would do nothing."""
    if not packages:
        return
    locked = {package.name for lock in older.values() for package in lock.packages}
    for package in packages:
        name = canonicalize_name(re.split(r"[\s\[<>=!~;@]", package.strip(), maxsplit=1)[0])
        if name not in locked:
            raise K8sVenvError(f"No lock of {', '.join(older)} has a package {name!r}.{did_you_mean(name, locked)}")


def _changes(before: Sequence[LockedPackage], after: Sequence[LockedPackage]) -> str:
    """Return the packages in which two locks differ, such as ``: idna 3.6 → 3.7, + certifi 2024.2.2``."""
    old, new = (_versions(packages) for packages in (before, after))
    changes = [f"{name} {old[name]} → {new[name]}" for name in sorted(old.keys() & new) if old[name] != new[name]]
    changes += [f"+ {name} {new[name]}" for name in sorted(new.keys() - old)]
    changes += [f"− {name}" for name in sorted(old.keys() - new)]
    if len(changes) > _MOST_CHANGES:
        changes[_MOST_CHANGES:] = [f"and {len(changes) - _MOST_CHANGES} more"]
    return ": " + ", ".join(changes) if changes else ", the same versions"


def _versions(packages: Sequence[LockedPackage]) -> dict[str, str]:
    versions: dict[str, list[str]] = {}
    for package in packages:
        versions.setdefault(package.name, []).append(package.version or "?")
    return {name: "/".join(sorted(each)) for name, each in versions.items()}
