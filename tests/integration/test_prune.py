"""``k8s-venv prune``: what goes, what stays, and that nothing is lost."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from k8s_venv.backends.local.environments import environment_in_use, make_environment
from k8s_venv.builders.layer_builder import make_layers
from k8s_venv.builders.wheels import Target, Wheel, select_wheels
from k8s_venv.cache import Unused, layers_folder, shared_lock, try_exclusive_lock
from k8s_venv.check.provides import provided_by
from k8s_venv.config.environment import Environment
from k8s_venv.locks.locking import read_lock, write_lock
from tests.conftest import Command
from tests.interpreters import interpreter
from tests.wheels import make_wheel

DAY = 86400


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("K8S_VENV_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def wheels(cache: Path, tmp_path: Path) -> list[Wheel]:
    path = make_wheel(tmp_path, "sales")
    environment = Environment(name="etl", root=tmp_path, python="3.12", requirements=(f"sales @ {path.as_uri()}",))
    return select_wheels("etl", write_lock(environment), "3.12", "linux/amd64")


def age(folder: Path, days: float) -> None:
    """Let all of a folder be as old as if it was last used so many days ago."""
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (time.time() - days * DAY,) * 2, follow_symlinks=False)


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


def pack(wheels: list[Wheel]) -> list[str]:
    target = Target("3.12", interpreter("3.12"), "linux/amd64", {})
    return [layer.blob.digest for layer in make_layers(wheels, target, lambda text: None)]


def test_what_was_not_used_for_long_goes_and_is_made_again(cli: Command, cache: Path, wheels: list[Wheel]) -> None:
    made = pack(wheels)
    (cache / "blobs" / "sha256" / ("0" * 64)).write_bytes(b"of a base" * 1_000_000)
    (cache / "install-3.12-killed" / "venv").mkdir(parents=True)
    for folder in ("layers", "blobs", "install-3.12-killed"):
        age(cache / folder, 31)
    before = files(cache / "blobs")

    shown = cli("prune", "--dry-run")
    assert files(cache / "blobs") == before
    ran = cli("prune")

    assert ran.returncode == 0, ran.stderr
    for kind in ("layers", "notes", "layers of base images", "left by interrupted builds"):
        assert f"  {kind}\n" in ran.stdout
    assert shown.stdout.replace("Would remove", "Removed") == ran.stdout
    assert "Removed 9.0 MB from" in ran.stdout
    assert not files(cache / "layers") | files(cache / "blobs")
    assert not list(cache.glob("install-*"))
    assert pack(wheels) == made


def test_what_was_used_of_late_stays(cli: Command, cache: Path, wheels: list[Wheel]) -> None:
    pack(wheels)
    age(cache / "layers", 31)
    pack(wheels)  # all of it is found, and so used

    cli("prune")

    assert files(cache / "blobs")
    assert cli("prune", "--older-than", "0").returncode == 0
    assert not files(cache / "blobs")


def test_the_list_of_modules_of_a_lock_that_is_checked_every_day_stays(
    cli: Command, cache: Path, bare_environment: Callable[[str], Environment]
) -> None:
    environment = bare_environment("3.12")
    provided_by(environment, read_lock(environment))
    age(cache / "modules", 31)
    provided_by(environment, read_lock(environment))

    cli("prune")

    assert files(cache / "modules")
    age(cache / "modules", 31)
    cli("prune")
    assert not files(cache / "modules")


def test_what_a_build_uses_stays(cli: Command, cache: Path, wheels: list[Wheel]) -> None:
    pack(wheels)

    with shared_lock(layers_folder()):
        ran = cli("prune", "--older-than", "0")

    assert "A build uses" in ran.stderr
    assert files(cache / "blobs")


def test_an_environment_goes_when_its_lock_does(
    cli: Command, cache: Path, bare_environment: Callable[[str], Environment]
) -> None:
    environment = bare_environment("3.12")
    folder = make_environment(environment).parent.parent
    age(folder, 0.5)
    cli("prune")
    assert folder.exists()

    environment.lock_path.unlink()
    with shared_lock(folder):
        cli("prune")
    assert folder.exists()  # a call runs in it
    ran = cli("prune")

    assert not folder.exists()
    assert "local environments whose locks changed or are gone" in ran.stdout
    write_lock(environment)
    assert make_environment(environment).parent.parent == folder


def test_an_environment_that_is_used_now_stays(
    cli: Command, cache: Path, bare_environment: Callable[[str], Environment]
) -> None:
    environment = bare_environment("3.12")
    folder = make_environment(environment).parent.parent
    age(folder, 31)

    with environment_in_use(environment):
        cli("prune", "--older-than", "0")
        assert folder.exists()
    cli("prune")
    assert folder.exists()  # it was used just now
    age(folder, 31)
    assert "local environments not used for long" in cli("prune").stdout
    assert not folder.exists()


def test_a_call_that_finds_its_environment_removed_makes_it_again(
    cache: Path, bare_environment: Callable[[str], Environment]
) -> None:
    environment = bare_environment("3.12")
    folder = make_environment(environment).parent.parent
    there = []

    def call() -> None:
        with environment_in_use(environment) as python:
            there.append(python.exists())

    with try_exclusive_lock(folder) as alone:
        caller = threading.Thread(target=call)
        caller.start()
        time.sleep(0.2)  # it waits for the folder
        assert there == []
        Unused("environments", (folder,)).remove()
    caller.join(60)

    assert alone
    assert there == [True]
