"""Who we are on a registry: what ``docker login`` and ``podman login`` keep, helpers and tokens; no secret anywhere."""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path

import pytest

from k8s_venv.errors import K8sVenvError
from k8s_venv.registry import Blob, Registry, RegistryError, upload
from k8s_venv.registry.blobs import has_blob
from k8s_venv.registry.credentials import find_credentials
from tests.registry_proxy import Fault, Proxy, registry_proxy

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_settings", "nobody")]

NOTHING = f"sha256:{'0' * 64}"


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start as somebody who is logged in nowhere."""
    for name in ("DOCKER_AUTH_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))


def log_in(folder: Path, host: str, password: str = "s3cret") -> None:
    (folder / "config.json").write_text(json.dumps(auths(host, password)))


def auths(host: str, password: str = "s3cret") -> dict[str, object]:
    return {"auths": {host: {"auth": base64.b64encode(f"ada:{password}".encode()).decode()}}}


def helper(folder: Path, script: str) -> Path:
    path = folder / "docker-credential-ours"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


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
        ({"auths": {"HOST": {"username": "ada", "password": "s3cret?"}}}, "refused the credentials of ada (in "),
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


@pytest.mark.parametrize(
    "place", ["DOCKER_AUTH_CONFIG", "REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_RUNTIME_DIR", "the home folder"]
)
def test_credentials_are_found_where_docker_and_podman_keep_them(
    proxy: Proxy, blob: Blob, repository: str, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.users = {"ada": "s3cret"}
    text = json.dumps(auths(proxy.host))
    files = {
        "REGISTRY_AUTH_FILE": "auth.json",
        "DOCKER_CONFIG": "config.json",
        "XDG_RUNTIME_DIR": "containers/auth.json",
        "the home folder": "home/.config/containers/auth.json",
    }
    if place in files:
        (tmp_path / files[place]).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / files[place]).write_text(text)
    if place == "DOCKER_AUTH_CONFIG":
        monkeypatch.setenv(place, text)
    elif place == "REGISTRY_AUTH_FILE":
        monkeypatch.setenv(place, str(tmp_path / files[place]))
    elif place == "XDG_RUNTIME_DIR":
        monkeypatch.setenv(place, str(tmp_path))

    assert upload(Registry(proxy.host), repository, blob.digest, lambda: blob) == "sent"


@pytest.mark.parametrize(
    "key", ["https://index.docker.io/v1/", "docker.io", "index.docker.io", "https://registry-1.docker.io/v2/"]
)
def test_docker_hub_is_known_by_all_of_its_names(tmp_path: Path, key: str) -> None:
    log_in(tmp_path, key)

    found = find_credentials("docker.io")

    assert found is not None
    assert (found.user, found.password) == ("ada", "s3cret")


def test_the_entry_of_a_registry_goes_before_that_of_a_namespace(tmp_path: Path) -> None:
    both = {"quay.io/team": {"username": "robot", "password": "x"}, "quay.io": {"username": "ada", "password": "y"}}
    (tmp_path / "config.json").write_text(json.dumps({"auths": both}))

    found = find_credentials("quay.io")

    assert found is not None
    assert found.user == "ada"


def test_an_identity_token_is_exchanged(proxy: Proxy, blob: Blob, repository: str, tmp_path: Path) -> None:
    proxy.users, proxy.identity_token = {"ada": "s3cret"}, "long-lived"
    (tmp_path / "config.json").write_text(json.dumps({"auths": {proxy.host: {"identitytoken": "long-lived"}}}))

    assert upload(Registry(proxy.host), repository, blob.digest, lambda: blob) == "sent"
    assert proxy.count("POST", "/token") > 0


def test_an_identity_token_of_a_helper_is_exchanged(
    proxy: Proxy, blob: Blob, repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.users, proxy.identity_token = {"ada": "s3cret"}, "long-lived"
    (tmp_path / "config.json").write_text(json.dumps({"credsStore": "ours"}))
    helper(tmp_path, """echo '{"Username": "<token>", "Secret": "long-lived"}'""")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    assert upload(Registry(proxy.host), repository, blob.digest, lambda: blob) == "sent"
    assert proxy.count("POST", "/token") > 0


def test_what_a_registry_wants_to_see_is_asked_for_once(
    proxy: Proxy, blob: Blob, repository: str, tmp_path: Path
) -> None:
    proxy.users = {"ada": "s3cret"}
    log_in(tmp_path, proxy.host)
    registry = Registry(proxy.host)

    for number in range(3):
        upload(registry, f"{repository}{number}", blob.digest, lambda: blob)

    assert sum(1 for _, _, status in proxy.requests if status == 401) == 1
    assert proxy.count("GET", "/token") == 6  # to read and to write each of the repositories


def test_a_token_that_ends_in_the_middle_of_an_upload_is_renewed(
    proxy: Proxy, blob: Blob, repository: str, tmp_path: Path
) -> None:
    proxy.users = {"ada": "s3cret"}
    log_in(tmp_path, proxy.host)

    way = upload(Registry(proxy.host), repository, blob.digest, lambda: blob, progress=lambda _: proxy.revoke())

    assert way == "sent"
    assert has_blob(Registry(proxy.host), repository, blob.digest)
    refused = [method for method, path, status in proxy.requests if status == 401 and "/blobs/uploads/" in path]
    assert refused


def test_a_token_is_renewed_before_its_end(
    proxy: Proxy, repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.users, proxy.token_fields = {"ada": "s3cret"}, {"expires_in": 300}
    log_in(tmp_path, proxy.host)
    registry = Registry(proxy.host)
    has_blob(registry, repository, NOTHING)
    now = time.monotonic()

    for seconds in (200, 295):
        monkeypatch.setattr("k8s_venv.registry.credentials.time.monotonic", lambda later=now + seconds: later)
        has_blob(registry, repository, NOTHING)

    assert proxy.count("GET", "/token") == 2


def test_a_token_without_the_wanted_rights_is_a_denial(proxy: Proxy, repository: str, tmp_path: Path) -> None:
    log_in(tmp_path, proxy.host)
    challenge = {"WWW-Authenticate": f'Bearer realm="http://{proxy.host}/token",error="insufficient_scope"'}
    body = b'{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}'
    proxy.users = {"ada": "s3cret"}
    registry = Registry(proxy.host)
    has_blob(registry, repository, NOTHING)
    proxy.faults = [Fault("", "/blobs/", 401, challenge, body, times=9)]

    with pytest.raises(RegistryError) as raised:
        has_blob(registry, repository, NOTHING)

    assert str(raised.value) == (
        f"The registry {proxy.host} denies pulling from {repository}: authentication required. Does it exist, and "
        f"may ada (in {tmp_path}/config.json) do that? `docker login {proxy.host}` logs in as somebody else."
    )


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ((503, b""), "answered GET /token with 503: Service Unavailable"),
        ((200, b"<html>log in to the wifi</html>"), "instead of a JSON document: is it a registry?"),
        ((200, b"{}"), "gave no token where it was asked for one"),
        (
            (403, b'{"errors":[{"code":"DENIED","message":"no"}]}'),
            "denies pulling from some/thing: no",
        ),
        ((400, b'{"details": "s3cret"}'), "answered GET /token with 400: Bad Request"),
    ],
)
def test_a_token_service_that_gives_none_is_named(
    proxy: Proxy, tmp_path: Path, answer: tuple[int, bytes], sentence: str
) -> None:
    proxy.users = {"ada": "s3cret"}
    log_in(tmp_path, proxy.host)
    proxy.faults = [Fault("GET", "/token", answer[0], {"Content-Type": "text/html"}, answer[1], times=9)]

    with pytest.raises(RegistryError) as raised:
        has_blob(Registry(proxy.host, attempts=2), "some/thing", NOTHING)

    assert sentence in str(raised.value)
    assert "s3cret" not in str(raised.value)


def test_credentials_follow_no_redirect_and_no_upload_to_another_host(
    proxy: Proxy, upstream: str, blob: Blob, repository: str, tmp_path: Path
) -> None:
    proxy.users = {"ada": "s3cret"}
    log_in(tmp_path, proxy.host)
    with registry_proxy(upstream) as storage:
        proxy.changed = lambda headers: headers.update(
            {"Location": headers["Location"].replace(proxy.host, storage.host)} if "Location" in headers else {}
        )
        registry = Registry(proxy.host)
        upload(registry, repository, blob.digest, lambda: blob)
        path = f"/v2/{repository}/blobs/{blob.digest}"
        proxy.faults = [Fault("GET", "/blobs/", 307, {"Location": f"http://{storage.host}{path}"})]
        content = registry.request("GET", path, pull=[repository]).content

    assert content == blob.path.read_bytes()
    assert [method for method, _, _ in storage.heard] == ["PATCH", "PUT", "GET"]
    assert {given for _, _, given in storage.heard} == {""}


def test_another_host_that_asks_for_credentials_gets_none(
    proxy: Proxy, upstream: str, blob: Blob, repository: str, tmp_path: Path
) -> None:
    log_in(tmp_path, proxy.host)
    with registry_proxy(upstream) as thief:
        thief.users = {"ada": "s3cret"}
        proxy.changed = lambda headers: headers.update({"Location": f"http://{thief.host}/v2/x/blobs/uploads/1"})

        with pytest.raises(RegistryError, match="refused"):
            upload(Registry(proxy.host), repository, blob.digest, lambda: blob)

    assert {given for _, _, given in thief.heard} == {""}
    assert thief.count("GET", "/token") == 0


def test_a_helper_that_fails_is_named_without_what_it_printed_of_secrets(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.users = {"ada": "s3cret"}
    (tmp_path / "config.json").write_text(json.dumps({"credsStore": "ours"}))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    cases = {
        'echo "credentials not found in native keychain"; exit 1': "refused a request without credentials",
        "echo 'The specified item could not be found in the keychain.'; exit 1": "a request without credentials",
        "echo 'the vault is sealed' >&2; exit 3": f"ours failed for {proxy.host}: the vault is sealed",
        """echo '{"Username": "ada", "Secret": "s3cret"}'; exit 1""": "it printed a secret, which is not shown here",
        "echo no JSON": "gave no JSON",
        "echo '[]'": "gave no JSON",
        "exec sleep 99": "did not answer for",
    }
    for script, sentence in cases.items():
        helper(tmp_path, script)
        if "sleep" in script:
            monkeypatch.setattr("k8s_venv.registry.credentials._HELPER_TIMEOUT", 1)

        with pytest.raises(K8sVenvError) as raised:
            has_blob(Registry(proxy.host), "some/thing", NOTHING)

        assert sentence in str(raised.value), script
        assert "s3cret" not in str(raised.value)


def test_credentials_that_nobody_needs_are_not_looked_for(proxy: Proxy, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"credsStore": "of-nobody"}))
    proxy.faults = [Fault("HEAD", "/blobs/", 400)]

    with pytest.raises(RegistryError, match="with 400: Bad Request"):
        has_blob(Registry(proxy.host), "some/thing", NOTHING)


def test_a_file_that_is_half_written_is_named_and_not_quoted(tmp_path: Path) -> None:
    for text in ('{"auths": {"x": {"password": "s3cret', '["s3cret"]', '{"auths": ["s3cret"]}'):
        (tmp_path / "config.json").write_text(text)

        with pytest.raises(K8sVenvError) as raised:
            find_credentials("registry.example.com")

        assert str(tmp_path / "config.json") in str(raised.value)
        assert "s3cret" not in str(raised.value)


def test_no_secret_is_in_a_representation(tmp_path: Path) -> None:
    log_in(tmp_path, "registry.example.com")

    found = find_credentials("registry.example.com")

    assert found is not None
    assert "s3cret" not in f"{found!r} {found.name} {Registry('registry.example.com').__dict__}"
