"""Locks for several platforms, and what a platform does that a lock does not cover."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from k8s_venv.backends.local.environments import make_environment
from k8s_venv.config.environment import Environment
from k8s_venv.errors import BackendError, LockError
from k8s_venv.locks.locking import read_lock, write_lock
from tests.interpreters import run_code
from tests.wheels import make_wheel

BOTH = ("linux/amd64", "linux/arm64")
AMD64, ARM64 = "cp312-cp312-manylinux_2_28_x86_64", "cp312-cp312-manylinux_2_28_aarch64"
MACOS = "cp312-cp312-macosx_11_0_arm64"


def environment(root: Path, *requirements: str, platforms: tuple[str, ...] = BOTH) -> Environment:
    """Return an environment whose packages come from the folder of wheels beside it."""
    lines = ["--no-index", "--find-links ./wheels", *requirements]
    return Environment(name="etl", root=root, python="3.12", requirements=tuple(lines), platforms=platforms)


def locked(environment: Environment) -> dict[tuple[str, str], dict[str, object]]:
    """Lock an environment and return its packages: the marker and the wheels' paths of each."""
    write_lock(environment)
    packages = tomllib.loads(environment.lock_path.read_text("utf-8"))["packages"]
    return {
        (package["name"], package["version"]): {
            "marker": package.get("marker"),
            "wheels": [wheel["path"].removeprefix("wheels/") for wheel in package["wheels"]],
        }
        for package in packages
    }


def test_each_platform_has_its_wheels_and_no_others(tmp_path: Path) -> None:
    for tag in (AMD64, ARM64, MACOS, "cp311-cp311-manylinux_2_28_x86_64"):
        make_wheel(tmp_path / "wheels", "fast", tag=tag)

    assert locked(environment(tmp_path, "fast")) == {
        ("fast", "1.0"): {"marker": None, "wheels": [f"fast-1.0-{ARM64}.whl", f"fast-1.0-{AMD64}.whl"]}
    }


def test_what_one_platform_alone_needs_has_a_marker(tmp_path: Path) -> None:
    make_wheel(tmp_path / "wheels", "top", requires=["only-arm; platform_machine == 'aarch64'"])
    make_wheel(tmp_path / "wheels", "only-arm")

    found = locked(environment(tmp_path, "top"))

    assert found[("top", "1.0")]["marker"] is None
    assert "platform_machine == 'aarch64'" in str(found[("only-arm", "1.0")]["marker"])


def test_all_platforms_get_the_version_that_all_have(tmp_path: Path) -> None:
    for version, tags in {"1.0": (AMD64, ARM64), "2.0": (AMD64,), "0.9": (ARM64, AMD64)}.items():
        for tag in tags:
            make_wheel(tmp_path / "wheels", "fast", version, tag=tag)

    assert list(locked(environment(tmp_path, "fast"))) == [("fast", "1.0")]


def test_versions_differ_where_nothing_else_fits(tmp_path: Path) -> None:
    make_wheel(tmp_path / "wheels", "fast", "1.0", tag=ARM64)
    make_wheel(tmp_path / "wheels", "fast", "2.0", tag=AMD64)

    found = locked(environment(tmp_path, "fast"))

    assert {version: "aarch64" in str(each["marker"]) for (_, version), each in found.items()} == {
        "1.0": True,
        "2.0": False,
    }
    assert "x86_64" in str(found[("fast", "2.0")]["marker"])


def test_a_platform_without_a_wheel_is_named(tmp_path: Path) -> None:
    make_wheel(tmp_path / "wheels", "fast", tag=AMD64)

    with pytest.raises(LockError, match=r"for Python 3\.12 on linux/arm64:\n(.|\n)*fast\S* has no wheels"):
        write_lock(environment(tmp_path, "fast"))


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    for tag in (AMD64, ARM64):
        make_wheel(tmp_path / "wheels", "fast", tag=tag)
    written = [
        write_lock(environment(tmp_path, "fast", platforms=order)).path.read_bytes() for order in (BOTH, BOTH[::-1])
    ]

    assert written[0] == written[1]
    assert str(tmp_path).encode() not in written[0]


def test_other_platforms_make_a_lock_stale_and_its_image_another(tmp_path: Path) -> None:
    make_wheel(tmp_path / "wheels", "pure")
    one = environment(tmp_path, "pure", platforms=BOTH[:1])
    both = environment(tmp_path, "pure")
    lock = write_lock(one)

    with pytest.raises(LockError, match=r"its platforms were linux/amd64 when it was locked, and now linux/amd64, li"):
        read_lock(both)

    assert one.image_tag(lock.digest) != both.image_tag(lock.digest)
    mac = one.model_copy(update={"platforms": ("linux/amd64", "macos/arm64")})
    assert mac.image_tag(lock.digest) == one.image_tag(lock.digest)


@pytest.fixture
def uncovered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """Return an environment whose lock covers every platform but this machine's."""
    monkeypatch.setenv("K8S_VENV_CACHE", str(tmp_path / "cache"))
    from k8s_venv.locks.resolving import host_platform

    other = "linux/amd64" if host_platform() == "linux/arm64" else "linux/arm64"
    return environment(tmp_path, "top", platforms=(other,))


def test_an_uncovered_platform_gets_the_locked_versions_and_what_it_needs_itself(
    tmp_path: Path, uncovered: Environment
) -> None:
    here = "x86_64" if uncovered.platforms == ("linux/arm64",) else "aarch64"
    make_wheel(tmp_path / "wheels", "top", requires=["pure", f"only-here; platform_machine == '{here}'"])
    make_wheel(tmp_path / "wheels", "only-here")
    make_wheel(tmp_path / "wheels", "pure", "1.0")
    assert {package.name for package in write_lock(uncovered).packages} == {"top", "pure"}
    make_wheel(tmp_path / "wheels", "pure", "2.0")
    said: list[str] = []

    python = make_environment(uncovered, said.append)

    code = "import pure, only_here; print(pure.VERSION)"
    assert run_code(str(python), code).strip() == "1.0"
    assert any(line.startswith(f"The lock is for {uncovered.platforms[0]}; resolving its versions") for line in said)


def test_a_locked_version_that_an_uncovered_platform_lacks_is_an_error(tmp_path: Path, uncovered: Environment) -> None:
    tags = {"linux/arm64": (ARM64, AMD64), "linux/amd64": (AMD64, ARM64)}[uncovered.platforms[0]]
    make_wheel(tmp_path / "wheels", "top", "2.0", tag=tags[0])
    make_wheel(tmp_path / "wheels", "top", "1.0", tag=tags[1])
    write_lock(uncovered)

    with pytest.raises((BackendError, LockError), match=r"its versions cannot be had for .* add \"linux/.*\" to `pla"):
        make_environment(uncovered)
