"""Names of images, read as Docker reads them; where their registries answer, and how."""

from __future__ import annotations

import json
import socket
import time

import pytest
import requests

from k8s_venv.registry import Reference, Registry, RegistryError
from k8s_venv.registry.credentials import Challenge, Credentials
from k8s_venv.registry.errors import refusal

DIGEST = f"sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("text", "host", "repository", "target"),
    [
        ("python", "docker.io", "library/python", "latest"),
        ("team/etl:1", "docker.io", "team/etl", "1"),
        ("docker.io/python:3.12", "docker.io", "library/python", "3.12"),
        ("index.docker.io/team/etl:1", "docker.io", "team/etl", "1"),
        ("registry-1.docker.io/team/etl:1", "docker.io", "team/etl", "1"),
        ("registry.hub.docker.com/library/python:3.12", "docker.io", "library/python", "3.12"),
        ("ghcr.io/team/etl", "ghcr.io", "team/etl", "latest"),
        ("GHCR.io/team/etl", "ghcr.io", "team/etl", "latest"),
        ("Registry/etl:1", "registry", "etl", "1"),
        ("localhost/etl:1", "localhost", "etl", "1"),
        ("registry:5000/a/b/c/etl:1", "registry:5000", "a/b/c/etl", "1"),
        ("[::1]:5000/etl:1", "[::1]:5000", "etl", "1"),
        (f"example.com/etl:1@{DIGEST}", "example.com", "etl", DIGEST),
        (f"example.com/etl@{DIGEST}", "example.com", "etl", DIGEST),
    ],
)
def test_a_reference_is_read_as_docker_reads_it(text: str, host: str, repository: str, target: str) -> None:
    found = Reference.parse(text)

    assert (found.host, found.repository, found.target) == (host, repository, target)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("docker.io", "https://registry-1.docker.io"),
        ("example.com", "https://example.com"),
        ("example.com:5000", "https://example.com:5000"),
        ("plain.example.com:5000", "http://plain.example.com:5000"),
        ("localhost", "http://localhost"),
        ("localhost:5000", "http://localhost:5000"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("[::1]:5000", "http://[::1]:5000"),
        ("localhost.example.com", "https://localhost.example.com"),
    ],
)
def test_a_registry_answers_without_encryption_here_or_on_request(
    host: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("K8S_VENV_PLAIN_HTTP", "other, Plain.example.com:5000")

    assert Registry(host).address == address


def test_data_and_credentials_go_nowhere_without_encryption() -> None:
    registry, found = Registry("example.com", attempts=1), Credentials("ada", "s3cret")

    with pytest.raises(RegistryError, match=r"example.com wants data sent to storage.example.com, without encryption"):
        registry.request("PUT", "http://storage.example.com/upload")
    with pytest.raises(RegistryError, match=r"wants its credentials sent to http://auth.example.com/token, without"):
        Challenge("bearer", "http://auth.example.com/token").token_request([], found, registry.address)


def test_a_registry_that_does_not_exist_is_named_soon() -> None:
    with socket.create_server(("localhost", 0)) as server:
        host = f"localhost:{server.getsockname()[1]}"
    started = time.monotonic()

    with pytest.raises(RegistryError, match=f"^The registry {host} cannot be reached: Connection refused.$"):
        Registry(host).request("GET", "x")

    assert time.monotonic() - started < 10  # six tries take 18 seconds


def test_a_repository_that_amazon_does_not_make_by_itself_is_made_with_a_command() -> None:
    host = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
    response = requests.Response()
    response.status_code = 404
    response._content = json.dumps(
        {"errors": [{"code": "NAME_UNKNOWN", "message": "The repository with name 'team/etl' does not exist"}]}
    ).encode()

    assert str(refusal(response, host, None, (), "team/etl")) == (
        f"The registry {host} has no repository team/etl: The repository with name 'team/etl' does not exist. "
        "Create it: `aws ecr create-repository --region eu-west-1 --repository-name team/etl`."
    )


def test_a_proxys_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://ada:s3cret@localhost:1")
    monkeypatch.setenv("https_proxy", "http://ada:s3cret@localhost:1")

    with pytest.raises(RegistryError) as raised:
        Registry("registry.invalid", attempts=1).request("GET", "x")

    assert "proxy" in str(raised.value).lower()
    assert "s3cret" not in str(raised.value)


def test_what_a_registry_behind_a_proxy_takes_for_its_own_address_is_met_with_encryption() -> None:
    assert Registry("example.com")._url("http://example.com/v2/x?a=1") == "https://example.com/v2/x?a=1"
    assert Registry("example.com:444")._url("http://example.com/v2/x") == "https://example.com:444/v2/x"
    assert Registry("example.com")._url("https://storage/x") == "https://storage/x"
