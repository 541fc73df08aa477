"""Uploads and downloads through what registries, and the proxies before them, do differently or wrong."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from k8s_venv.registry import Blob, Reference, Registry, RegistryError, blobs, download, upload
from k8s_venv.registry.blobs import has_blob
from k8s_venv.registry.images import find_manifest, list_tags, put_manifest
from tests.registry_proxy import Fault, Proxy

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_settings")]

UPLOADS = "/blobs/uploads/"
MANIFEST = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": list[object]()}


def said(code: str, message: str) -> bytes:
    return f'{{"errors":[{{"code":"{code}","message":"{message}"}}]}}'.encode()


@pytest.mark.parametrize("status", [0, 408, 502])
@pytest.mark.parametrize("method", ["HEAD", "POST", "PATCH", "PUT"])
def test_a_connection_that_breaks_is_taken_up_again(
    proxy: Proxy, blob: Blob, repository: str, method: str, status: int
) -> None:
    has_blob(registry := Registry(proxy.host), repository, blob.digest)
    proxy.faults = [Fault(method, "/blobs/", status, {"Retry-After": "0"})]

    assert upload(registry, repository, blob.digest, lambda: blob) == "sent"
    assert has_blob(registry, repository, blob.digest)


# A registry that restarted, or that cleans up, answers 404; one that got a piece twice, 416; Amazon's answers 400.
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
@pytest.mark.parametrize("status", [400, 404, 416])
def test_an_upload_that_the_registry_forgot_begins_again(
    proxy: Proxy, blob: Blob, repository: str, method: str, status: int
) -> None:
    proxy.faults = [Fault(method, UPLOADS, status), Fault("GET", UPLOADS, 404)]

    assert upload(Registry(proxy.host), repository, blob.digest, lambda: blob) == "sent"
    assert has_blob(Registry(proxy.host), repository, blob.digest)
    assert proxy.count("POST") == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405])
def test_a_registry_that_refuses_to_mount_gets_the_bytes(
    proxy: Proxy, blob: Blob, repository: str, status: int
) -> None:
    proxy.faults = [Fault("POST", "mount=", status)]

    assert upload(Registry(proxy.host), repository, blob.digest, lambda: blob, ["nobody/has-it"]) == "sent"


def test_an_upload_whose_last_answer_got_lost_is_not_sent_again(proxy: Proxy, blob: Blob, repository: str) -> None:
    proxy.faults = [Fault("PUT", UPLOADS, after=0)]  # the registry got it, and has the blob

    upload(Registry(proxy.host), repository, blob.digest, lambda: blob)

    assert proxy.received == blob.size


def test_a_file_that_is_gone_is_not_the_registrys_fault(proxy: Proxy, blob: Blob, repository: str) -> None:
    blob.path.unlink()

    with pytest.raises(RegistryError, match=f"^{blob.path} cannot be read: No such file or directory"):
        upload(Registry(proxy.host), repository, blob.digest, lambda: blob)


def test_a_busy_registry_that_is_asked_how_far_an_upload_got_does_not_lose_it(
    proxy: Proxy, blob: Blob, repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "_PIECE", 1_000_000)
    busy = Fault("GET", UPLOADS, 429, {"Retry-After": "0"}, skip=1)
    proxy.faults = [Fault("PATCH", UPLOADS, 413), Fault("PATCH", UPLOADS, 503, {"Retry-After": "0"}, skip=2), busy]

    upload(Registry(proxy.host), repository, blob.digest, lambda: blob)

    assert busy.times == 0
    assert proxy.received == blob.size  # what was answered was not sent again
    assert proxy.count("POST") == 2  # the whole blob was too large for the first


@pytest.mark.parametrize("date", [True, False])
def test_a_registry_that_is_busy_is_waited_for_as_long_as_it_asks(
    proxy: Proxy, repository: str, blob: Blob, date: bool
) -> None:
    now = datetime.now(UTC)
    due = now.replace(microsecond=0) + timedelta(seconds=3) if date else now + timedelta(seconds=1)
    proxy.faults = [Fault("HEAD", "/blobs/", 429, {"Retry-After": format_datetime(due, usegmt=True) if date else "1"})]

    has_blob(Registry(proxy.host), repository, blob.digest)

    assert datetime.now(UTC) >= due


def test_a_registry_that_asks_for_an_hour_is_not_waited_for(proxy: Proxy, repository: str, blob: Blob) -> None:
    body = said("TOOMANYREQUESTS", "You have reached your pull rate limit")
    proxy.faults = [Fault("GET", "/tags/", 429, {"Retry-After": "3600"}, body)]

    with pytest.raises(RegistryError, match=r"429: You have reached .* limit. It asks to come back in 3600 s."):
        list_tags(Registry(proxy.host), repository)


@pytest.mark.parametrize("when", ["9" * 400, "9" * 5000, "Fri, 31 Dec 99999 23:59:59 GMT", "soon"])
def test_a_time_to_wait_that_is_none_is_not_waited_for(proxy: Proxy, repository: str, when: str) -> None:
    body = said("TOOMANYREQUESTS", "word " * 1000)
    proxy.faults = [Fault("GET", "/tags/", 429, {"Retry-After": when}, body)]

    with pytest.raises(RegistryError, match=r"with 429: word .{480,520}…\."):
        list_tags(Registry(proxy.host, attempts=1), repository)


def test_an_upload_to_a_port_that_is_none_is_an_error_of_the_registry(
    proxy: Proxy, repository: str, blob: Blob
) -> None:
    proxy.changed = lambda headers: headers.update({"Location": "http://localhost:99999/upload"})

    with pytest.raises(RegistryError, match=r"cannot be reached"):
        upload(Registry(proxy.host, attempts=1), repository, blob.digest, lambda: blob)


@pytest.mark.parametrize("least", [None, 2_000_000])
def test_a_registry_that_refuses_a_whole_blob_gets_it_in_pieces(
    proxy: Proxy, blob: Blob, repository: str, least: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "_PIECE", 1_000_000)
    if least:
        proxy.changed = lambda headers: headers.update({"OCI-Chunk-Min-Length": str(least)})
    proxy.faults = [Fault("PATCH", UPLOADS, 413)]

    upload(Registry(proxy.host), repository, blob.digest, lambda: blob)

    assert has_blob(Registry(proxy.host), repository, blob.digest)
    assert proxy.count("PATCH") == 1 + (2 if least else 3)


def test_a_proxy_that_takes_little_at_a_time_gets_ever_smaller_pieces(
    proxy: Proxy, blob: Blob, repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "_PIECE", 2_000_000)
    proxy.faults = [Fault("PATCH", UPLOADS, 413, times=2)]

    upload(Registry(proxy.host), repository, blob.digest, lambda: blob)

    assert has_blob(Registry(proxy.host), repository, blob.digest)
    assert proxy.count("PATCH") == 2 + 6  # of half a megabyte


def test_an_upload_goes_on_where_the_registry_says(proxy: Proxy, blob: Blob, repository: str) -> None:
    # Relative, with parameters, or as the address that a registry behind a proxy takes for its own.
    ways = iter([f"http://{proxy.host}", "", f"http://{proxy.host}"])

    def change(headers: dict[str, str]) -> None:
        if "Location" in headers and "_state" in headers["Location"]:
            headers["Location"] = next(ways) + headers["Location"].removeprefix(f"http://{proxy.host}") + "&more=1"

    proxy.changed = change

    upload(Registry(proxy.host), repository, blob.digest, lambda: blob, [f"{repository}-elsewhere"])

    assert has_blob(Registry(proxy.host), repository, blob.digest)
    assert all("digest=" in path for method, path, _ in proxy.requests if method == "PUT")


def test_an_upload_that_leads_nowhere_is_named(proxy: Proxy, blob: Blob, repository: str) -> None:
    proxy.changed = lambda headers: headers.update({"Location": ""})

    with pytest.raises(RegistryError, match="began an upload, and does not say where it goes on"):
        upload(Registry(proxy.host), repository, blob.digest, lambda: blob)


@pytest.mark.parametrize("status", [405, 501])
def test_a_registry_without_head_is_asked_with_get(proxy: Proxy, blob: Blob, repository: str, status: int) -> None:
    registry = Registry(proxy.host)
    proxy.faults = [Fault("HEAD", "", status, times=99)]
    digest = put_manifest(registry, repository, "here", MANIFEST)

    assert not has_blob(registry, repository, blob.digest)
    upload(registry, repository, blob.digest, lambda: blob)
    assert has_blob(registry, repository, blob.digest)
    assert find_manifest(registry, Reference(proxy.host, repository, "here")) == digest
    assert find_manifest(registry, Reference(proxy.host, repository, "nowhere")) is None


def test_a_registry_that_tells_no_digest_is_believed_its_content(proxy: Proxy, repository: str) -> None:
    registry = Registry(proxy.host)
    digest = put_manifest(registry, repository, "here", MANIFEST)
    proxy.changed = lambda headers: headers.update({"Docker-Content-Digest": ""})

    assert find_manifest(registry, Reference(proxy.host, repository, "here")) == digest


def test_storage_that_knows_its_addresses_for_get_alone_has_the_blob(proxy: Proxy, blob: Blob, repository: str) -> None:
    upload(Registry(proxy.host), repository, blob.digest, lambda: blob)
    signed = f"http://{proxy.host}/v2/{repository}/blobs/{blob.digest}?signature=1"
    proxy.faults = [Fault("HEAD", "signature", 403), Fault("HEAD", "/blobs/", 307, {"Location": signed})]

    assert has_blob(Registry(proxy.host), repository, blob.digest)


def test_a_registry_that_keeps_another_manifest_is_named(proxy: Proxy, repository: str) -> None:
    proxy.changed = lambda headers: headers.update({"Docker-Content-Digest": f"sha256:{'0' * 64}"})

    with pytest.raises(RegistryError, match=r"kept sha256:0+ where it was given sha256:"):
        put_manifest(Registry(proxy.host), repository, "here", MANIFEST)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (
            Fault("PUT", "/manifests/", 403, body=said("DENIED", "adding 5 MiB would exceed the quota of 1 GiB.")),
            "The registry HOST denies pushing to REPOSITORY: adding 5 MiB would exceed the quota of 1 GiB.",
        ),
        (
            Fault("PUT", "/manifests/", 403, body=said("DENIED", "registry contains 1 repositories, limit is 1")),
            "The registry HOST denies pushing to REPOSITORY: registry contains 1 repositories, limit is 1.",
        ),
        (
            Fault("PUT", "/manifests/", 403, body=said("DENIED", "no")),
            "The registry HOST denies pushing to REPOSITORY: no. Does it exist, and may everybody do that? "
            "`docker login HOST` logs in.",
        ),
        (
            Fault("PUT", "/manifests/", 404, body=said("NAME_UNKNOWN", "The repository with that name is not there")),
            "The registry HOST has no repository REPOSITORY: The repository with that name is not there. Create it "
            "there, or let `registry` in k8s-venv.toml name another place.",
        ),
        (
            Fault("PUT", "/manifests/", 400, body=said("MANIFEST_INVALID", "")),
            "The registry HOST answered PUT /v2/REPOSITORY/manifests/here with 400: MANIFEST_INVALID.",
        ),
        (
            Fault("PUT", "/manifests/", 400, body=b"<html>a page</html>"),
            "The registry HOST answered PUT /v2/REPOSITORY/manifests/here with 400: Bad Request.",
        ),
    ],
)
def test_a_refusal_is_told_in_the_registrys_words(
    proxy: Proxy, repository: str, fault: Fault, sentence: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    proxy.faults = [fault]

    with pytest.raises(RegistryError) as raised:
        put_manifest(Registry(proxy.host), repository, "here", MANIFEST)

    fault.times = 1  # for the next of these tests
    assert str(raised.value) == sentence.replace("HOST", proxy.host).replace("REPOSITORY", repository)


def test_what_is_no_registry_is_named(proxy: Proxy, repository: str) -> None:
    proxy.faults = [Fault("GET", "/tags/", 200, {"Content-Type": "text/html"}, b"<html>log in</html>")]

    with pytest.raises(RegistryError, match=r"answered \S+ with text/html instead of a JSON document: is it a regist"):
        list_tags(Registry(proxy.host), repository)


def test_a_download_goes_on_where_it_broke_off(proxy: Proxy, blob: Blob, repository: str, tmp_path: Path) -> None:
    upload(Registry(proxy.host), repository, blob.digest, lambda: blob)
    proxy.faults = [Fault("GET", "/blobs/", answered=2_500_000), Fault("GET", "/blobs/", 503)]

    download(Registry(proxy.host), repository, blob.digest, tmp_path / "copy")

    assert (tmp_path / "copy").read_bytes() == blob.path.read_bytes()
    assert proxy.sent < blob.size + (1 << 20)  # what was read in part is read again


def test_a_download_of_other_content_is_refused(proxy: Proxy, blob: Blob, repository: str, tmp_path: Path) -> None:
    proxy.faults = [Fault("GET", "/blobs/", 200, body=b"something else")]

    with pytest.raises(RegistryError, match="gives other content than"):
        download(Registry(proxy.host), repository, blob.digest, tmp_path / "copy")


def test_a_client_that_is_stopped_waits_for_nothing(proxy: Proxy, blob: Blob, repository: str) -> None:
    proxy.faults = [Fault("HEAD", "/blobs/", 503, {"Retry-After": "60"}, times=99)]
    registry = Registry(proxy.host)
    threading.Timer(0.5, registry.stop).start()
    started = time.monotonic()

    with pytest.raises(RegistryError, match="was interrupted"):
        upload(registry, repository, blob.digest, lambda: blob)

    assert time.monotonic() - started < 60  # one wait


def test_a_registry_of_this_machine_is_asked_without_a_proxy(
    proxy: Proxy, blob: Blob, repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://localhost:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)

    assert not has_blob(Registry(proxy.host, attempts=1), repository, blob.digest)

    other = proxy.host.replace("localhost", "127.0.0.2")
    monkeypatch.setenv("K8S_VENV_PLAIN_HTTP", other)
    with pytest.raises(RegistryError, match=f"The registry {other} cannot be reached"):
        has_blob(Registry(other, attempts=1), repository, blob.digest)
    monkeypatch.setenv("NO_PROXY", "127.0.0.2")
    assert not has_blob(Registry(other, attempts=1), repository, blob.digest)
