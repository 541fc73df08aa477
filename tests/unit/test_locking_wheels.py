"""Wheels that lie beside the project file, and what is no wheel."""

from __future__ import annotations

import hashlib
import tarfile
import tomllib
from pathlib import Path

import pytest

from k8s_venv.backends.local.environments import make_environment
from k8s_venv.config.environment import Environment
from k8s_venv.errors import LockError
from k8s_venv.locks.lockfile import Lock
from k8s_venv.locks.locking import check_lock, write_lock
from tests.faulty_index import answering
from tests.interpreters import run_code
from tests.wheels import make_wheel


def declare(root: Path, *lines: str) -> Environment:
    (root / "lists").mkdir(parents=True, exist_ok=True)
    (root / "lists" / "requirements.txt").write_text("\n".join(["--no-index", *lines]), "utf-8")
    return Environment(name="etl", root=root, python="3.12", requirements="lists/requirements.txt")


def paths(lock: Lock) -> list[str]:
    """Return the places of a lock's files."""
    packages = tomllib.loads(lock.path.read_text("utf-8"))["packages"]
    files = [file for package in packages for file in package.get("wheels") or [package["archive"]]]
    return [file["path"] for file in files]


# Ways to ask for the wheel in the folder `wheels` of the project.
WAYS = {
    "a path": ["./wheels/own-1.0-py3-none-any.whl"],
    "a name and a path": ["own @ ./wheels/own-1.0-py3-none-any.whl"],
    "a file's URL": ["file://{root}/wheels/own-1.0-py3-none-any.whl"],
    "an absolute path": ["{root}/wheels/own-1.0-py3-none-any.whl"],
    "a folder to look into": ["-f ../wheels", "own"],
    "its URL": ["--find-links file://{root}/wheels", "own==1.0"],
    "a continued line with the hash": ["--find-links=../wheels  # ours", "own==1.0 \\", "  --hash=sha256:{digest}"],
}


@pytest.mark.parametrize("lines", WAYS.values(), ids=WAYS)
def test_a_wheel_in_the_projects_folder_is_locked_by_its_path_from_there(tmp_path: Path, lines: list[str]) -> None:
    root = tmp_path / "project with spaces" if "{root}" not in "".join(lines) else tmp_path / "project"
    digest = hashlib.sha256(make_wheel(root / "wheels", "own").read_bytes()).hexdigest()

    lock = write_lock(declare(root, *(line.format(root=root, digest=digest) for line in lines)))

    assert paths(lock) == ["wheels/own-1.0-py3-none-any.whl"]
    assert list(lock.local_files) == ["wheels/own-1.0-py3-none-any.whl"]


def test_a_project_with_its_wheels_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K8S_VENV_CACHE", str(tmp_path / "cache"))
    make_wheel(tmp_path / "here" / "wheels", "own")
    write_lock(declare(tmp_path / "here", "./wheels/own-1.0-py3-none-any.whl"))

    (tmp_path / "here").rename(tmp_path / "there")
    moved = Environment(name="etl", root=tmp_path / "there", python="3.12", requirements="lists/requirements.txt")

    assert run_code(str(make_environment(moved)), "import own; print(own.VERSION)").strip() == "1.0"


def test_a_wheel_elsewhere_is_refused(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "elsewhere", "own")

    with pytest.raises(LockError, match=r"'own' comes from .*elsewhere/own-1\.0-.*, which only this machine has\. Co"):
        write_lock(declare(tmp_path / "project", str(wheel)))


def test_a_replaced_wheel_makes_a_lock_stale(tmp_path: Path) -> None:
    make_wheel(tmp_path / "wheels", "own")
    environment = declare(tmp_path, "./wheels/own-1.0-py3-none-any.whl")
    assert write_lock(environment) == check_lock(environment)

    make_wheel(tmp_path / "wheels", "own", requires=["idna"])

    with pytest.raises(LockError, match=r"its lock is stale: wheels/own-1\.0-.*\.whl is another file than the locked"):
        check_lock(environment)
    (tmp_path / "wheels" / "own-1.0-py3-none-any.whl").unlink()
    with pytest.raises(LockError, match=r"its lock is stale: wheels/own-1\.0-.*\.whl does not exist\. Run"):
        check_lock(environment)


def test_a_source_distribution_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "own-1.0.tar.gz").write_bytes(b"")

    with pytest.raises(LockError, match=r"'\./own-1\.0\.tar\.gz' in lists/requirements\.txt:2 is a source dist"):
        write_lock(declare(tmp_path, "./own-1.0.tar.gz"))


def test_a_folder_of_wheels_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(LockError, match=r"lists/requirements\.txt:2 cannot be locked (.|\n)*There is no folder"):
        write_lock(declare(tmp_path, "--find-links ./wheel", "own"))


def make_sdist(folder: Path, setup: str) -> None:
    """Write the source distribution of a package `own` with a `setup.py`."""
    (folder / "own-1.0").mkdir(parents=True)
    (folder / "own-1.0" / "setup.py").write_text(setup)
    (folder / "own-1.0" / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1.0\n")
    with tarfile.open(folder / "own-1.0.tar.gz", "w:gz") as archive:
        archive.add(folder / "own-1.0", "own-1.0")


def test_without_a_wheel_the_ways_out_are_said(tmp_path: Path) -> None:
    make_sdist(tmp_path / "wheels", "")

    with pytest.raises(LockError, match=r'own==1\.0 has no usable wheels (.|\n)*builder = "buildkit" in \[env'):
        write_lock(declare(tmp_path, "--find-links ../wheels", "own"))


@pytest.mark.usefixtures("package_index")
def test_a_failed_build_shows_the_end_of_its_log(tmp_path: Path) -> None:
    make_sdist(
        tmp_path / "wheels", "import sys\nfor number in range(99): print(number)\nsys.exit('foo.h: no such file')"
    )
    environment = Environment(
        name="etl",
        root=tmp_path,
        python="3.12",
        requirements=("--find-links ./wheels", "own"),
        builder="buildkit",
    )

    with pytest.raises(LockError) as raised:
        write_lock(environment)

    said = raised.value.problem
    assert "own==1.0 has no wheel, so its build is asked what it requires." in said
    assert "`packages` of [environments.etl]" in said
    assert "foo.h: no such file" in said
    assert "\n  10\n" not in said


def test_the_folder_of_a_package_in_an_archive_is_locked(tmp_path: Path) -> None:
    source = tmp_path / "repository" / "own"
    source.mkdir(parents=True)
    (source / "pyproject.toml").write_text('[project]\nname = "own"\nversion = "1.0"\n')
    with tarfile.open(tmp_path / "source.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "repository", "repository")
    with answering(200, (tmp_path / "source.tar.gz").read_bytes(), {}) as (url, _):
        line = f"own @ {url}/source.tar.gz#subdirectory=own"
        lock = write_lock(
            Environment(name="etl", root=tmp_path, python="3.12", requirements=(line,), builder="buildkit")
        )

    (package,) = tomllib.loads(lock.path.read_text("utf-8"))["packages"]
    assert package["archive"]["subdirectory"] == "own"
