"""Images whose environments see the packages of their base: ``system-site-packages`` with ``base``."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from k8s_venv.builders.base import base_reference
from k8s_venv.config.environment import Environment
from k8s_venv.config.project import load_project
from k8s_venv.locks.locking import read_lock
from tests.conftest import Command
from tests.wheels import make_wheel

if TYPE_CHECKING:
    import docker
else:
    docker = pytest.importorskip("docker", reason="needs the docker extra")

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_settings", "package_index")]

# A build of a vendor's own, which no index has, of a package that requires another.
VERSION = "2.3.0a0+6ddf.nv24.04"
PROJECT = """
    [environments.etl]
    python = "3.11"
    base = "{base}"
    system-site-packages = true
    requirements = ["own-torch>=2.2", "certifi==2024.2.2"]
    builder = "{builder}"
"""
ORIGINS = "import json, own_torch, idna, certifi; print(json.dumps([m.__file__ for m in (own_torch, idna, certifi)]))"


@pytest.fixture
def no_images_left(client: docker.DockerClient, test_registry: str) -> Iterator[None]:
    yield
    for image in client.images.list():
        for tag in image.tags:
            if tag.startswith(test_registry):
                client.images.remove(tag, force=True)


@pytest.fixture
def base(client: docker.DockerClient, test_registry: str, tmp_path: Path) -> str:
    """Push a base image as vendors make them, with packages in its Python's own folder."""
    reference = f"{test_registry}/vendor:1"
    folder = tmp_path / "vendor"
    make_wheel(folder, "own-torch", VERSION, requires=["idna"])
    make_wheel(folder, "idna", "3.6")
    official = base_reference(Environment(name="x", root=tmp_path, python="3.11"))
    (folder / "Dockerfile").write_text(
        f"FROM {official}\nCOPY *.whl /tmp/\nRUN pip install --no-deps --no-index /tmp/*.whl && rm /tmp/*.whl\n"
    )
    client.images.build(path=str(folder), tag=reference, rm=True)
    client.images.push(reference)
    return reference


@pytest.fixture
def build(cli: Command, no_images_left: None, test_registry: str, tmp_path: Path) -> Command:
    def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return cli(*arguments, **{"K8S_VENV_REGISTRY": test_registry, **environ})

    return run


@pytest.mark.parametrize("builder", ["layers", "buildkit"])
def test_what_the_base_has_is_seen_and_not_installed(
    build: Command, client: docker.DockerClient, base: str, tmp_path: Path, builder: str
) -> None:
    (tmp_path / "k8s-venv.toml").write_text(PROJECT.format(base=base, builder=builder))

    locked = build("lock")
    ran = build("build-images")

    assert locked.returncode == 0, locked.stderr
    assert "locked 1 package in pylock.etl.toml, beside 2 that are there" in locked.stderr
    lock = read_lock(load_project(tmp_path / "k8s-venv.toml").environment("etl"))
    assert [(package.name, package.version) for package in lock.packages] == [("certifi", "2024.2.2")]
    assert lock.system == ("idna==3.6", "own-torch==2.3.0a0+6ddf.nv24.4")
    assert ran.returncode == 0, ran.stderr
    output = client.containers.run(ran.stdout.split()[1], ["python", "-c", ORIGINS], remove=True)
    torch, idna, certifi = json.loads(output)
    assert torch == "/usr/local/lib/python3.11/site-packages/own_torch.py"
    assert idna == "/usr/local/lib/python3.11/site-packages/idna.py"
    assert certifi.startswith("/opt/venv/lib/python3.11/site-packages/certifi/")
    # A base that lacks what the lock counts on is refused before anything is pushed.
    text = lock.path.read_text("utf-8")
    lock.path.write_text(re.sub(r"checksum = .*\n", "", text.replace('"idna==3.6"', '"idna==3.7"')), "utf-8")
    ran = build("build-images")
    assert ran.returncode == 1
    assert ran.stdout == ""
    assert (
        f"its lock counts on packages of its base image {base}, which lacks idna==3.7 (it has 3.6). "
        "Run `k8s-venv lock etl`." in ran.stderr
    )


def test_a_base_whose_packages_nobody_else_sees_is_refused(
    build: Command, client: docker.DockerClient, test_registry: str, tmp_path: Path
) -> None:
    official = base_reference(Environment(name="x", root=tmp_path, python="3.11"))
    (tmp_path / "vendor").mkdir()
    lines = f"FROM {official}\nRUN python -m venv --without-pip /opt/ml\nENV PATH=/opt/ml/bin:$PATH\n"
    (tmp_path / "vendor" / "Dockerfile").write_text(lines)
    client.images.build(path=str(tmp_path / "vendor"), tag=f"{test_registry}/in-venv:1", rm=True)
    client.images.push(f"{test_registry}/in-venv:1")
    (tmp_path / "k8s-venv.toml").write_text(PROJECT.format(base=f"{test_registry}/in-venv:1", builder="layers"))

    ran = build("lock")

    assert ran.returncode == 1
    assert "has its packages in a virtual environment, /opt/ml, which no other one sees. Leave" in ran.stderr
    assert not (tmp_path / "pylock.etl.toml").exists()
