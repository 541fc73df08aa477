"""The registry client against a real registry, through a proxy that fails half-way and asks for passwords."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import ssl
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from k8s_venv.errors import K8sVenvError
from k8s_venv.registry import Blob, Registry, RegistryError, upload, uploads
from k8s_venv.registry.uploads import has_blob
from tests.registry_proxy import Fault, Proxy, registry_proxy

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_settings")]

UPLOADS = "/blobs/uploads/"


@pytest.fixture
def proxy(upstream: str) -> Iterator[Proxy]:
    with registry_proxy(upstream) as proxy:
        yield proxy


@pytest.fixture
def upstream() -> str:
    registry = os.environ.get("K8S_VENV_TEST_REGISTRY")
    if not registry:
        pytest.skip("needs a registry: K8S_VENV_TEST_REGISTRY=localhost:5000")
    return registry


@pytest.fixture
def blob(tmp_path: Path) -> Blob:
    path = tmp_path / "blob"
    path.write_bytes(os.urandom(3_000_000))
    return Blob(path, f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}", path.stat().st_size)


@pytest.fixture
def repository() -> str:
    return f"test-{uuid.uuid4().hex[:8]}/blobs"


def test_a_blob_is_sent_once_and_mounted_elsewhere(proxy: Proxy, blob: Blob, repository: str) -> None:
    registry = Registry(proxy.host)
    sent: list[int] = []

    ways = [
        upload(registry, repository, blob.digest, lambda: blob, progress=sent.append),
        upload(registry, repository, blob.digest, lambda: blob, progress=sent.append),
        upload(registry, f"{repository}2", blob.digest, lambda: blob, [repository], progress=sent.append),
    ]

    assert ways == ["sent", "exists", "mounted"]
    assert sum(sent) == proxy.received == blob.size


def test_a_blob_that_cannot_be_mounted_is_sent(proxy: Proxy, blob: Blob, repository: str) -> None:
    way = upload(Registry(proxy.host), repository, blob.digest, lambda: blob, ["nobody/has-it"])

    assert way == "sent"
    assert has_blob(Registry(proxy.host), repository, blob.digest)


def test_an_upload_that_breaks_off_goes_on_after_the_last_whole_piece(
    proxy: Proxy, blob: Blob, repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "_PIECE", 1_000_000)
    cut, refused = Fault("PATCH", UPLOADS, after=500_000), Fault("PATCH", UPLOADS, 503, skip=1)
    proxy.faults = [cut, refused]

    upload(Registry(proxy.host), repository, blob.digest, lambda: blob)

    assert has_blob(Registry(proxy.host), repository, blob.digest)
    assert cut.times == refused.times == 0
    # Half a megabyte was lost with the first try; the refused second piece was sent again, the first was not.
    assert proxy.received == 500_000 + blob.size


@pytest.mark.parametrize("method", ["HEAD", "POST", "PATCH", "PUT"])
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_or_failing_registry_is_asked_again(
    proxy: Proxy, blob: Blob, repository: str, method: str, status: int
) -> None:
    proxy.faults = [Fault(method, "/blobs/", status, {"Retry-After": "0"}, times=2)]

    upload(Registry(proxy.host), repository, blob.digest, lambda: blob)

    assert has_blob(Registry(proxy.host), repository, blob.digest)


def test_a_registry_that_keeps_failing_is_named(proxy: Proxy, blob: Blob, repository: str) -> None:
    proxy.faults = [Fault("PATCH", UPLOADS, 500, times=100)]

    with pytest.raises(RegistryError, match=rf"The registry {proxy.host} answered PATCH /v2/{repository}/.* with 500"):
        upload(Registry(proxy.host, attempts=2), repository, blob.digest, lambda: blob)

    assert not has_blob(Registry(proxy.host), repository, blob.digest)


def test_other_content_than_its_digest_is_refused(proxy: Proxy, blob: Blob, repository: str) -> None:
    wrong = Blob(blob.path, f"sha256:{'0' * 64}", blob.size)

    with pytest.raises(RegistryError, match="with 400: provided digest did not match"):
        upload(Registry(proxy.host, attempts=2), repository, wrong.digest, lambda: wrong)


@pytest.mark.parametrize("scheme", ["Bearer", "Basic"])
def test_credentials_of_docker_login_are_used(
    proxy: Proxy, blob: Blob, repository: str, scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.users, proxy.scheme = {"ada": "s3cret"}, scheme
    auth = base64.b64encode(b"ada:s3cret").decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {proxy.host: {"auth": auth}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    registry = Registry(proxy.host)

    ways = [
        upload(registry, repository, blob.digest, lambda: blob),
        upload(registry, f"{repository}2", blob.digest, lambda: blob, [repository]),
    ]

    assert ways == ["sent", "mounted"]


def test_credentials_of_a_helper_are_used(
    proxy: Proxy, blob: Blob, repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.users = {"ada": "s3cret"}
    helper = tmp_path / "docker-credential-ours"
    helper.write_text(f"""#!/bin/sh
host=$(cat); [ "$1" = get ] && [ "$host" = {proxy.host} ] && echo '{{"Username": "ada", "Secret": "s3cret"}}'
""")
    helper.chmod(0o755)
    (tmp_path / "config.json").write_text(json.dumps({"credHelpers": {proxy.host: "ours"}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    assert upload(Registry(proxy.host), repository, blob.digest, lambda: blob) == "sent"


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({}, "refused a request without credentials: incorrect username or password. Run `docker login"),
        ({"auths": {"HOST": {"username": "ada", "password": "s3cret?"}}}, "refused those credentials: incorrect"),
        ({"credHelpers": {"HOST": "of-nobody"}}, "credential helper docker-credential-of-nobody cannot be run"),
        ({"auths": {"HOST": {"auth": "garbled"}}}, "are garbled: run `docker login` again"),
    ],
)
def test_what_is_wrong_with_credentials_is_said_and_no_secret(
    proxy: Proxy, tmp_path: Path, config: object, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.users = {"ada": "s3cret"}
    (tmp_path / "config.json").write_text(json.dumps(config).replace("HOST", proxy.host))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))

    with pytest.raises(K8sVenvError) as raised:
        has_blob(Registry(proxy.host), "some/thing", "sha256:0")

    assert sentence in str(raised.value)
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_a_private_authority_is_trusted_when_it_is_named(
    upstream: str, tmp_path: Path, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.2").configure_cert(context)
    with registry_proxy(upstream, context) as proxy:
        host = proxy.host.replace("localhost", "127.0.0.2")

        with pytest.raises(RegistryError, match=rf"The registry {host} cannot be reached: .*certificate verify failed"):
            has_blob(Registry(host, attempts=1), "some/thing", f"sha256:{'0' * 64}")

        monkeypatch.setenv(variable, str(tmp_path / "ca.pem"))
        assert not has_blob(Registry(host), "some/thing", f"sha256:{'0' * 64}")


def test_plain_http_is_spoken_to_others_on_request_alone(
    proxy: Proxy, repository: str, blob: Blob, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = proxy.host.replace("localhost", "127.0.0.2")
    with pytest.raises(RegistryError, match="cannot be reached"):
        has_blob(Registry(host, attempts=1), repository, blob.digest)

    monkeypatch.setenv("K8S_VENV_PLAIN_HTTP", f"another:5000, {host}")

    assert upload(Registry(host), repository, blob.digest, lambda: blob) == "sent"
