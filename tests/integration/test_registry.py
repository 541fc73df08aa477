"""The registry client against a real registry, through a proxy that fails half-way and asks for passwords."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from k8s_venv.errors import K8sVenvError
from k8s_venv.registry import Blob, Registry, RegistryError, blobs, upload
from k8s_venv.registry.blobs import has_blob
from tests.registry_proxy import Fault, Proxy, registry_proxy

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_settings")]

UPLOADS = "/blobs/uploads/"


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


@pytest.mark.parametrize("unit", ["", "bytes="])
def test_an_upload_that_breaks_off_goes_on_after_the_last_whole_piece(
    proxy: Proxy, blob: Blob, repository: str, unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "_PIECE", 1_000_000)
    proxy.changed = lambda headers: headers.update({"Range": unit + headers["Range"]} if "Range" in headers else {})
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


def test_a_registry_has_certificates_of_its_own_as_with_docker(
    upstream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.2").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    ours = authority.issue_cert("ada@example.com")
    with registry_proxy(upstream, context) as proxy:
        host = proxy.host.replace("localhost", "127.0.0.2")
        folder = tmp_path / ".config/docker/certs.d" / host
        folder.mkdir(parents=True)
        authority.cert_pem.write_to_path(str(folder / "ca.crt"))
        with pytest.raises(RegistryError, match="cannot be reached: "):
            has_blob(Registry(host, attempts=1), "some/thing", f"sha256:{'0' * 64}")

        (folder / "client.cert").write_bytes(b"".join(pem.bytes() for pem in ours.cert_chain_pems))
        ours.private_key_pem.write_to_path(str(folder / "client.key"))
        assert not has_blob(Registry(host), "some/thing", f"sha256:{'0' * 64}")

        (folder / "client.key").write_text("garbled")
        with pytest.raises(K8sVenvError, match=f"The certificates in {folder} cannot be used"):
            has_blob(Registry(host), "some/thing", f"sha256:{'0' * 64}")


def test_plain_http_is_spoken_to_others_on_request_alone(
    proxy: Proxy, repository: str, blob: Blob, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = proxy.host.replace("localhost", "127.0.0.2")
    with pytest.raises(RegistryError, match="cannot be reached"):
        has_blob(Registry(host, attempts=1), repository, blob.digest)

    monkeypatch.setenv("K8S_VENV_PLAIN_HTTP", f"another:5000, {host}")

    assert upload(Registry(host), repository, blob.digest, lambda: blob) == "sent"
