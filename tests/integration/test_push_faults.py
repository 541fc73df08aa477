"""Pushes through a registry that fails at each of their requests in turn."""

from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path

import pytest

from k8s_venv.builders.layers import Layer
from k8s_venv.builders.oci import Image, assemble, tagged_digest
from k8s_venv.builders.run import Pusher
from k8s_venv.registry import BaseImage, Blob, Reference, Registry, RegistryError, find_base, upload
from k8s_venv.registry.images import encoded, find_manifest, put_manifest
from tests.registry_proxy import Fault, Proxy

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_settings")]

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def written(folder: Path, content: bytes) -> Blob:
    digest = hashlib.sha256(content).hexdigest()
    (folder / digest).write_bytes(content)
    return Blob(folder / digest, f"sha256:{digest}", len(content))


def base_of(registry: Registry, repository: str, machine: str, folder: Path) -> BaseImage:
    """Push a small base."""
    layer = written(folder, gzip.compress(b"the base", mtime=0))
    config = {"os": "linux", "architecture": machine, "rootfs": {"type": "layers", "diff_ids": [layer.digest]}}
    blobs = [written(folder, encoded(config)), layer]
    for blob in blobs:
        upload(registry, repository, blob.digest, lambda blob=blob: blob)  # type: ignore[misc]
    parts = [{"mediaType": LAYER, "digest": one.digest, "size": one.size} for one in blobs]
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": parts[0], "layers": parts[1:]}
    put_manifest(registry, repository, machine, manifest)
    return find_base(registry, Reference(registry.host, repository, machine), f"linux/{machine}")


@pytest.fixture
def images(proxy: Proxy, repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Image]:
    """An image for two platforms: a base's layer, a shared one and one of its own each, and a configuration."""
    monkeypatch.setenv("K8S_VENV_CACHE", str(tmp_path / "cache"))
    registry, found = Registry(proxy.host), []
    shared = written(tmp_path, os.urandom(100_000))
    for machine in ("amd64", "arm64"):
        base = base_of(registry, f"{repository}-base", machine, tmp_path)
        layers = [Layer(blob, blob.digest) for blob in (shared, written(tmp_path, machine.encode()))]
        found.append(assemble(f"linux/{machine}", base, layers, {}, "opt/venv"))
    return found


@pytest.mark.parametrize("status", [0, 401, 429, 500])
def test_a_push_survives_a_fault_at_each_of_its_requests(
    proxy: Proxy,
    upstream: str,
    repository: str,
    images: list[Image],
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "config.json").write_text(f'{{"auths": {{"{proxy.host}": {{"username": "ada", "password": "x"}}}}}}')
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    proxy.users = {"ada": "x"}
    registry = Registry(proxy.host)  # which has been heard of, as in any push: the plan has asked it
    place = Reference(proxy.host, repository, "tag")
    del images[1:]  # one platform will do
    digest = tagged_digest(images)
    Pusher(registry).push(images, place, lambda count: None)
    requests = [request for request in proxy.requests if f"/v2/{repository}/" in request[1] and request[2] != 401]
    challenge = {"WWW-Authenticate": f'Bearer realm="http://{proxy.host}/token"'} if status == 401 else {}
    headers = {"Retry-After": "0", **challenge}

    for number in range(len(requests)):
        monkeypatch.setenv("K8S_VENV_CACHE", str(tmp_path / f"cache-{number}"))  # nothing to mount from
        fresh = Reference(proxy.host, f"{repository}-{number}", "tag")
        fault = Fault("", f"^/v2/{fresh.repository}/", status, headers, skip=number)
        proxy.faults = [fault]

        pushed = Pusher(registry).push(images, fresh, lambda count: None)

        assert fault.times == 0
        assert pushed == digest == find_manifest(Registry(upstream), fresh)


@pytest.mark.parametrize("status", [403, 503])
def test_a_push_that_fails_leaves_the_tag_alone_and_the_next_one_goes_on(
    proxy: Proxy,
    upstream: str,
    repository: str,
    images: list[Image],
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry, real = Registry(proxy.host, attempts=2), Registry(upstream)
    other = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": list[object]()}
    number, failed = 0, True
    while failed:
        monkeypatch.setenv("K8S_VENV_CACHE", str(tmp_path / f"cache-{number}"))  # nothing to mount from
        place = Reference(proxy.host, f"{repository}-{number}", "tag")
        before = put_manifest(real, place.repository, "tag", other)
        pattern = f"^/v2/{place.repository}/"
        proxy.faults = [Fault("PUT", pattern, status, {"Retry-After": "0"}, times=1_000, skip=number)]
        try:
            Pusher(registry).push(images, place, lambda count: None)
        except RegistryError as error:
            failed = error.status == status
        else:
            failed = False
        if failed:
            assert find_manifest(real, place) == before
        proxy.faults, sent = [], proxy.received

        Pusher(registry).push(images, place, lambda count: None)

        assert find_manifest(real, place) == tagged_digest(images)
        assert proxy.received - sent < 110_000
        number += 1
    assert number > 7  # each blob, each platform's manifest and the index


def test_what_platforms_share_is_sent_once(proxy: Proxy, repository: str, images: list[Image]) -> None:
    sent: list[int] = []

    Pusher(Registry(proxy.host)).push(images, Reference(proxy.host, repository, "tag"), sent.append)

    configurations = sum(len(image.config) for image in images)
    assert sum(sent) == 100_000 + len("amd64") + len("arm64") + configurations


def test_a_tag_that_cannot_be_written_twice_is_kept_where_it_is_there(
    proxy: Proxy, repository: str, images: list[Image]
) -> None:
    registry, place = Registry(proxy.host), Reference(proxy.host, repository, "tag")
    # Another build wrote it first, or the answer to our own writing got lost.
    body = b'{"errors":[{"code":"TAG_INVALID","message":"the tag already exists and the repository is immutable"}]}'
    proxy.faults = [Fault("PUT", "/manifests/tag", after=9_999), Fault("PUT", "/manifests/tag", 400, body=body)]

    assert Pusher(registry).push(images, place, lambda count: None) == tagged_digest(images)

    elsewhere = Reference(proxy.host, f"{repository}-elsewhere", "tag")
    proxy.faults = [Fault("PUT", "/manifests/tag", 400, body=body)]
    with pytest.raises(RegistryError, match="the repository is immutable"):
        Pusher(registry).push(images, elsewhere, lambda count: None)
