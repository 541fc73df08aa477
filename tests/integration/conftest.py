"""What tests of a real registry, or of a real Docker Engine, share."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from k8s_venv.registry import Blob
from tests.registry_proxy import Proxy, registry_proxy

if TYPE_CHECKING:
    from docker import DockerClient


@pytest.fixture
def upstream() -> str:
    registry = os.environ.get("K8S_VENV_TEST_REGISTRY")
    if not registry:
        pytest.skip("needs a registry: K8S_VENV_TEST_REGISTRY=localhost:5000")
    return registry


@pytest.fixture
def proxy(upstream: str) -> Iterator[Proxy]:
    with registry_proxy(upstream) as proxy:
        yield proxy


@pytest.fixture
def blob(tmp_path: Path) -> Blob:
    path = tmp_path / "blob"
    path.write_bytes(os.urandom(3_000_000))
    return Blob(path, f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}", path.stat().st_size)


@pytest.fixture
def repository() -> str:
    return f"test-{uuid.uuid4().hex[:8]}/blobs"


@pytest.fixture(scope="module")
def client() -> Iterator[DockerClient]:
    docker = pytest.importorskip("docker", reason="needs the docker extra")
    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException as error:
        pytest.skip(f"needs a Docker Engine: {error}")
    yield client
    client.close()
