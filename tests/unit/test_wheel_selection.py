"""Which of a lock's files goes into an image for a platform."""

from __future__ import annotations

from pathlib import Path

import pytest

from k8s_venv.builders.wheels import NoWheelError, select_wheels
from k8s_venv.config.environment import Environment
from k8s_venv.locks.lockfile import Lock, LockedFile, LockedPackage
from k8s_venv.locks.requirements import Requirements


def package(*files: str, name: str = "pkg", version: str = "1.0", marker: str = "") -> LockedPackage:
    """Return a package with wheels, whose digests are their numbers."""
    wheels = tuple(
        LockedFile(url=f"https://pypi.example.com/{file}", hashes={"sha256": str(number)})
        for number, file in enumerate(files)
    )
    return LockedPackage(name=name, version=version, marker=marker, wheels=wheels)


def locked(*packages: LockedPackage) -> Lock:
    path = Path("/project/pylock.etl.toml")
    requirements = Requirements(Environment(name="etl", root=path.parent, python="3.12"), ())
    return Lock(path=path, packages=packages, builder="layers", epoch=1, requirements=requirements)


def selected(*packages: LockedPackage, python: str = "3.12.4", platform: str = "linux/amd64") -> list[str]:
    lock = locked(*packages)
    return [wheel.source.filename for wheel in select_wheels("etl", lock, python, platform)]


@pytest.mark.parametrize(
    ("files", "best"),
    [
        (["pkg-1.0-py3-none-any.whl", "pkg-1.0-cp312-cp312-manylinux_2_17_x86_64.whl"], 1),  # compiled is quicker
        (["pkg-1.0-cp38-abi3-manylinux_2_17_x86_64.whl", "pkg-1.0-cp312-cp312-manylinux_2_17_x86_64.whl"], 1),
        (["pkg-1.0-cp312-cp312-manylinux_2_17_x86_64.whl", "pkg-1.0-cp312-cp312-manylinux_2_28_x86_64.whl"], 1),
        (["pkg-1.0-cp312-cp312-manylinux_2_39_x86_64.whl", "pkg-1.0-cp312-cp312-manylinux_2_28_x86_64.whl"], 1),
        (["pkg-1.0-cp312-cp312-musllinux_1_2_x86_64.whl", "pkg-1.0-py3-none-any.whl"], 1),
        (
            [
                "pkg-1.0-cp312-cp312-macosx_11_0_arm64.whl",
                "pkg-1.0-cp312-cp312-win_amd64.whl",
                "pkg-1.0-py3-none-any.whl",
            ],
            2,
        ),
        (["pkg-1.0-cp312-cp312-manylinux1_x86_64.whl"], 0),  # names from before PEP 600, which old wheels have alone
        (["pkg-1.0-cp312-cp312-manylinux2010_x86_64.whl"], 0),
        (["pkg-1.0-cp312-cp312-manylinux2014_x86_64.whl"], 0),
        (["pkg-1.0-cp312-cp312-linux_x86_64.whl"], 0),
    ],
)
def test_the_wheel_that_fits_best_is_chosen(files: list[str], best: int) -> None:
    assert selected(package(*files)) == [files[best]]


def test_each_platform_gets_its_own_wheel() -> None:
    files = [f"pkg-1.0-cp311-cp311-manylinux_2_17_{machine}.whl" for machine in ("x86_64", "aarch64")]

    assert selected(package(*files), python="3.11", platform="linux/amd64") == [files[0]]
    assert selected(package(*files), python="3.11", platform="linux/arm64") == [files[1]]


def test_a_package_for_another_platform_or_python_is_left_out() -> None:
    packages = [
        package("mac-1.0-py3-none-any.whl", name="mac", marker="sys_platform == 'darwin'"),
        package("arm-1.0-py3-none-any.whl", name="arm", marker="platform_machine == 'aarch64'"),
        package("old-1.0-py3-none-any.whl", name="old", marker="python_full_version < '3.12.4'"),
        package("all-1.0-py3-none-any.whl", name="all", marker="sys_platform == 'linux'"),
    ]

    assert selected(*packages) == ["all-1.0-py3-none-any.whl"]
    assert selected(*packages, python="3.12.3") == ["all-1.0-py3-none-any.whl", "old-1.0-py3-none-any.whl"]


def test_an_archive_counts_if_it_is_a_wheel() -> None:
    hashes = {"sha512": "b", "blake2b": "a"}
    wheel = LockedPackage(name="pkg", archive=LockedFile(path="wheels/pkg-2.0-py3-none-any.whl", hashes=hashes))
    sources = LockedPackage(name="pkg", archive=LockedFile(url="https://example.com/pkg-2.0.tar.gz", hashes=hashes))
    lock = locked(wheel)

    (found,) = select_wheels("etl", lock, "3.12", "linux/amd64")

    assert (found.version, found.digest, found.source.path) == (
        "2.0",
        "blake2b:a",
        "/project/wheels/pkg-2.0-py3-none-any.whl",
    )
    with pytest.raises(NoWheelError, match=r"pkg has no wheel for Python 3\.12\.4 on linux/amd64\. Run `k8s-venv lock"):
        selected(sources)
