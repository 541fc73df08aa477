"""An image's tag follows from committed files alone, and from the same files in every version of k8s-venv.

Workers compute it from the lock and the project file; another tag would be an image that nobody built.
"""

from __future__ import annotations

import pytest

from k8s_venv.locks.locking import read_lock
from tests.conftest import Command, ProjectWriter

LAYERS = """
lock-version = "1.0"
created-by = "k8s-venv"
environments = ["sys_platform == 'linux' and platform_machine == 'x86_64'"]

[[packages]]
name = "idna"
version = "3.6"

[[packages.wheels]]
url = "https://pypi.example.com/idna-3.6-py3-none-any.whl"
size = 61567
hashes = { sha256 = "c05567e9c24a6b9faaa835c4821bad0590fbb9d5779e7caa6e1cc4978e7eb24f" }

[tool.k8s-venv]
builder = "layers"
epoch = 1
base = "python:3.12-slim-bookworm@sha256:2b0079146a74e23bf4ae8f6a28e1b484c6292f6fb904cbb51825b4a19812fcd8"

[tool.k8s-venv.inputs]
python = "3.12"
platforms = ["linux/amd64"]
requirements = ["idna==3.6"]
"""
BUILDKIT = """
lock-version = "1.0"
created-by = "k8s-venv"
packages = []

[tool.k8s-venv]
builder = "buildkit"
epoch = 2
base = "registry.example.com/base:7@sha256:2b0079146a74e23bf4ae8f6a28e1b484c6292f6fb904cbb51825b4a19812fcd8"
system = ["numpy==1.26.4"]

[tool.k8s-venv.inputs]
python = "3.11"
platforms = ["linux/amd64", "linux/arm64"]
requirements = ["numpy"]
"""
PROJECT = """
registry = "registry.example.com/airflow/"

[environments.etl]
python = "3.12"
requirements = ["idna==3.6"]

[environments.vendor]
python = "3.11"
requirements = ["numpy"]
platforms = ["linux/arm64", "linux/amd64"]
base = "registry.example.com/base:7"
packages = ["libpq5", "git"]
dockerfile = ["RUN true"]
system-site-packages = true
"""


@pytest.mark.usefixtures("no_settings")
@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("etl", "registry.example.com/airflow/etl:3898ac245f5777926b98"),
        ("vendor", "registry.example.com/airflow/vendor:aa253d1b1f83fc054f3f"),
    ],
)
def test_the_tags_of_earlier_versions_stay(write_project: ProjectWriter, name: str, reference: str) -> None:
    project = write_project(PROJECT, **{"pylock.etl.toml": LAYERS, "pylock.vendor.toml": BUILDKIT})
    environment = project.environment(name)

    digest = read_lock(environment).digest

    assert environment.image_reference(project.require_registry(), digest) == reference


def test_a_lock_records_the_generation_of_its_builder(in_process: Command, write_project: ProjectWriter) -> None:
    project = write_project(
        '[environments.bare]\npython = "3.12"\n\n[environments.debian]\npython = "3.12"\npackages = ["jq"]\n'
    )

    ran = in_process("lock", K8S_VENV_BASE_REGISTRY="localhost:1")

    assert ran.returncode == 0, ran.stderr
    locks = [read_lock(project.environment(name)) for name in ("bare", "debian")]
    assert [(lock.builder, lock.epoch) for lock in locks] == [("layers", 1), ("buildkit", 2)]
