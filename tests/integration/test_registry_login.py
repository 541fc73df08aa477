"""The registry client against the reference implementation that asks for passwords or for signed tokens."""

from __future__ import annotations

import base64
import json
import re
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme

from k8s_venv.registry import Blob, Reference, Registry, RegistryError, upload
from k8s_venv.registry.images import find_manifest, put_manifest
from tests.waiting import eventually

PASSWORD = "s3cret"
HASHED = "$2b$04$f4u42yvf1rrwY03NEzQP8.DD7273dAk6t5mEXqlZ/rZvHFPNlp4SK"  # bcrypt, the one kind that the registry takes
MANIFEST = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": list[object]()}
# What ada may do.
RIGHTS = {"mine": {"pull", "push"}, "shared": {"pull"}}


@pytest.fixture(autouse=True)
def login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Return a function that logs in; at first nobody is."""
    for name in ("DOCKER_AUTH_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))

    def log_in(host: str, password: str) -> None:
        auth = base64.b64encode(f"ada:{password}".encode()).decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))

    return log_in


@contextmanager
def running(folder: Path, auth: dict[str, Any]) -> Iterator[str]:
    """Run a registry of its own, which wants to see something."""
    program = shutil.which("docker-registry") or shutil.which("registry")
    if program is None:
        pytest.skip("needs the program of the reference registry (Debian: docker-registry)")
    storage, address = {"filesystem": {"rootdirectory": str(folder / "storage")}}, {"addr": "localhost:0"}
    settings = {"version": 0.1, "log": {"level": "info"}, "storage": storage, "http": address, "auth": auth}
    (folder / "registry.yml").write_text(json.dumps(settings))
    log = folder / "registry.log"
    with (
        log.open("w") as stream,
        subprocess.Popen([program, "serve", str(folder / "registry.yml")], stderr=stream) as process,
    ):
        try:
            port = eventually(lambda: re.search(r"listening on \S+:(\d+)", log.read_text()))[1]
            yield f"localhost:{port}"
        finally:
            process.terminate()


def test_passwords(tmp_path: Path, blob: Blob, login: Callable[[str, str], None]) -> None:
    (tmp_path / "htpasswd").write_text(f"ada:{HASHED}\n")

    with running(tmp_path, {"htpasswd": {"realm": "ours", "path": str(tmp_path / "htpasswd")}}) as host:
        with pytest.raises(RegistryError, match=f"{host} refused a request without credentials: authentication requ"):
            upload(Registry(host), "mine/etl", blob.digest, lambda: blob)
        login(host, "wrong")
        with pytest.raises(
            RegistryError, match=rf"refused the credentials of ada \(in {tmp_path}/config.json\): authent"
        ):
            upload(Registry(host), "mine/etl", blob.digest, lambda: blob)
        login(host, PASSWORD)
        registry = Registry(host)
        ways = [
            upload(registry, "mine/etl", blob.digest, lambda: blob),
            upload(registry, "mine/also", blob.digest, lambda: blob, ["mine/etl"]),
        ]
        digest = put_manifest(registry, "mine/etl", "1", MANIFEST)
        assert find_manifest(Registry(host), Reference(host, "mine/etl", "1")) == digest

    assert ways == ["sent", "mounted"]


def test_tokens_with_rights_for_each_repository(tmp_path: Path, blob: Blob, login: Callable[[str, str], None]) -> None:
    with token_service(tmp_path) as (address, asked):
        settings = {"realm": address, "service": "ours", "issuer": "us", "rootcertbundle": str(tmp_path / "ca.pem")}
        with running(tmp_path, {"token": settings}) as host:
            with pytest.raises(RegistryError, match=f"{host} denies pulling from mine/etl: authentication requ"):
                upload(Registry(host), "mine/etl", blob.digest, lambda: blob)
            login(host, PASSWORD)
            registry = Registry(host)
            ways = [
                upload(registry, "mine/etl", blob.digest, lambda: blob),
                upload(registry, "mine/also", blob.digest, lambda: blob, ["mine/etl"]),
                upload(registry, "mine/third", blob.digest, lambda: blob, ["secret/etl"]),
            ]
            put_manifest(registry, "mine/etl", "1", MANIFEST)
            with pytest.raises(RegistryError, match=r"denies pushing to shared/etl: authentication required\. Does it"):
                put_manifest(registry, "shared/etl", "1", MANIFEST)
            with pytest.raises(RegistryError, match=r"denies pulling from secret/etl: authentication required\. Does"):
                find_manifest(registry, Reference(host, "secret/etl", "1"))

    assert ways == ["sent", "mounted", "sent"]
    assert ["repository:mine/also:pull,push", "repository:mine/etl:pull"] in asked


@contextmanager
def token_service(folder: Path) -> Iterator[tuple[str, list[list[str]]]]:
    """Give tokens for what ada may do, and remember what was asked for."""
    jwt = pytest.importorskip("jwt", reason="needs PyJWT, which comes with Airflow")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    signer = authority.issue_cert("tokens.example.com")
    chain = [base64.b64encode(ssl.PEM_cert_to_DER_cert(signer.cert_chain_pems[0].bytes().decode())).decode()]
    asked: list[list[str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            scopes = sorted(parse_qs(urlsplit(self.path).query).get("scope", []))
            asked.append(scopes)
            given = base64.b64decode(self.headers.get("Authorization", "").partition(" ")[2]).decode()
            access = []
            for kind, name, actions in (scope.split(":") for scope in scopes if given == f"ada:{PASSWORD}"):
                granted = RIGHTS.get(name.partition("/")[0], set()) & set(actions.split(","))
                access.append({"type": kind, "name": name, "actions": sorted(granted)})
            now = int(time.time())
            claims = {"iss": "us", "sub": "ada", "aud": "ours", "exp": now + 60, "nbf": now - 9, "iat": now, "jti": "1"}
            key = signer.private_key_pem.bytes()
            token = jwt.encode({**claims, "access": access}, key, algorithm="ES256", headers={"x5c": chain})
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"token": token}).encode())

        def log_message(self, *arguments: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("localhost", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}/token", asked
    server.shutdown()
    server.server_close()
