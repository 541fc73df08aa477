"""Packages that stand somewhere already, and locks that count on them."""

from __future__ import annotations

from pathlib import Path

import pytest

from k8s_venv.check.provides import provided_by
from k8s_venv.config.environment import Environment
from k8s_venv.locks.installed import Installed, lacking, read_metadata
from k8s_venv.locks.locking import write_lock
from k8s_venv.locks.resolving import Renewal
from tests.wheels import make_wheel

TORCH = Installed("own-torch", "2.3.0a0+nv24.4", ("own-lib>=1",))


def test_metadata_is_read_as_locks_write_it() -> None:
    text = (
        "Metadata-Version: 2.1\nName: Own.Torch\nVersion: 2.3.0a0+NV24.04\nRequires-Dist: own-lib (>=1)\n"
        "Requires-Dist: nonsense ~> 2\nRequires-Dist: idna; extra == 'web'\nProvides-Extra: web\n\nNo: header\n"
    )

    assert read_metadata(text) == Installed(
        "own-torch", "2.3.0a0+nv24.4", ("own-lib (>=1)", "idna; extra == 'web'"), ("web",)
    )


@pytest.mark.parametrize("text", ["", "Name: x\nVersion: 1.0ubuntu-7\n", "Version: 1\n", "\0"])
def test_what_is_no_package_of_an_index_is_passed_over(text: str) -> None:
    assert read_metadata(text) is None


def test_what_is_lacking_is_named_with_what_is_there_instead() -> None:
    found = {"own-torch": TORCH, "idna": Installed("idna", "3.6")}

    assert lacking(["own-torch==2.3.0a0+nv24.4", "idna==3.6"], found) == ""
    assert lacking(["idna==3.7", "six==1.16.0"], found) == "idna==3.7 (it has 3.6), six==1.16.0 (it has none)"


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    make_wheel(tmp_path / "wheels", "own-torch", "2.4.0")
    make_wheel(tmp_path / "wheels", "own-lib", "1.0")
    (tmp_path / "requirements.txt").write_text("--no-index\n--find-links ./wheels\nown-torch>=2.2\n")
    return Environment(
        name="etl",
        root=tmp_path,
        python="3.12",
        requirements="requirements.txt",
        base="registry.example.com/ml:1",
        system_site_packages=True,
    )


@pytest.mark.parametrize("renewal", [Renewal(), Renewal(everything=True)])
def test_what_is_there_is_taken_before_what_an_index_has(environment: Environment, renewal: Renewal) -> None:
    lock = write_lock(environment, renewal=renewal, own={"own-torch": TORCH})

    assert lock.system == ("own-torch==2.3.0a0+nv24.4",)
    assert [(package.name, package.version) for package in lock.packages] == [("own-lib", "1.0")]


def test_what_is_there_and_too_old_is_installed_anew(environment: Environment, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("--no-index\n--find-links ./wheels\nown-torch>=2.4\n")

    lock = write_lock(environment, own={"own-torch": TORCH})

    assert lock.system == ()
    assert [(package.name, package.version) for package in lock.packages] == [("own-torch", "2.4.0")]


def test_one_package_can_be_renewed_over_what_is_there(environment: Environment) -> None:
    lock = write_lock(environment, renewal=Renewal(packages=("own-torch",)), own={"own-torch": TORCH})

    assert [(package.name, package.version) for package in lock.packages] == [("own-torch", "2.4.0")]


@pytest.mark.parametrize("sees_more", [False, True])
def test_only_what_nobody_can_tell_is_taken_for_there(environment: Environment, sees_more: bool) -> None:
    environment = environment.model_copy(update={"requirements": None, "system_site_packages": sees_more})
    provided = provided_by(environment, write_lock(environment, own={}))

    assert provided.has("json")
    assert provided.has("vendors_module") is sees_more
