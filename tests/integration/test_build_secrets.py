"""Builds with BuildKit reach private indexes, and what that takes ends up nowhere."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import shutil
import socket
import ssl
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from k8s_venv.builders.base import base_reference
from k8s_venv.builders.buildkit import Secrets
from k8s_venv.config.environment import Environment
from tests import interpreters
from tests.conftest import Command
from tests.wheels import Index, make_wheel, serve

if TYPE_CHECKING:
    import docker
else:
    docker = pytest.importorskip("docker", reason="needs the docker extra")

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_settings")]

USER, PASSWORD = "bob", "s3cret-passw0rd"


@pytest.fixture(scope="module")
def keyring() -> Path:
    """Return the program `keyring`, with a backend that needs no desktop."""
    return Path(interpreters.environment("3.12", "keyring", "keyrings.alt")).with_name("keyring")


# Prints a container's default route, as an address; its network need not name one.
GATEWAY = """
import socket, struct
for line in open("/proc/net/route"):
    interface, destination, gateway, *_ = line.split()
    if destination == "00000000":
        print(socket.inet_ntoa(struct.pack("<L", int(gateway, 16))))
"""
CONNECT = "import socket; socket.create_connection(({host!r}, {port}), timeout=5).close()"


@pytest.fixture(scope="module")
def host(client: docker.DockerClient) -> str:
    """Return this machine's address as the containers of a build see it: the first that one can connect to."""
    base = base_reference(Environment(name="x", root=Path(), python="3.12"))
    try:
        gateway = client.containers.run(base, ["python", "-c", GATEWAY], remove=True).decode().split()
    except docker.errors.DockerException as error:
        pytest.skip(f"needs an engine that runs {base}: {error}")
    addresses = [*gateway, *outward_address()]
    for address in addresses:
        with contextlib.suppress(OSError, docker.errors.ContainerError), socket.create_server((address, 0)) as server:
            code = CONNECT.format(host=address, port=server.getsockname()[1])
            client.containers.run(base, ["python", "-c", code], remove=True)
            return address
    pytest.skip(f"needs an engine whose containers reach this machine; they do not at {', '.join(addresses)}")


def outward_address() -> list[str]:
    """Return this machine's address on its default route, where it has one."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect(("192.0.2.1", 9))  # sends nothing
        return [asking.getsockname()[0]]
    return []


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work as on a machine where nothing is set."""
    for name in os.environ:
        if name.startswith(("UV_", "PIP_", "SSL_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("DOCKER_CONFIG", str(Path("~/.docker").expanduser()))
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def certificate(host: str, tmp_path: Path) -> tuple[Path, Path]:
    """Return a certificate that nobody knows, and its key."""
    program = shutil.which("openssl")
    if not program:
        pytest.skip("needs openssl to make a certificate")
    certificate, key = tmp_path / "index.pem", tmp_path / "index.key"
    request = [program, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=index"]
    request += ["-addext", f"subjectAltName=IP:{host}", "-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run([*request, "-out", certificate, "-keyout", key], check=True, capture_output=True)
    return certificate, key


@pytest.fixture
def index(settings: None, host: str, certificate: tuple[Path, Path], tmp_path: Path) -> Iterator[Index]:
    """Return an index that asks for a password, behind a private authority."""
    make_wheel(tmp_path / "index", "own-top", requires=["own-lib"])
    make_wheel(tmp_path / "index", "own-lib", "1.0")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with serve(tmp_path / "index", f"{USER}:{PASSWORD}", context, host) as running:
        yield running


def settings_for(kind: str, index: Index, folder: Path, host: str, program: Path) -> tuple[dict[str, str], str]:
    """Return the variables and the line of requirements of a way to name an index and its password."""
    if kind == "variables in requirements":
        return {"INDEX_PASSWORD": PASSWORD}, f"--index-url https://{USER}:${{INDEX_PASSWORD}}@{index.address}/simple"
    if kind == "netrc":
        (folder / ".netrc").write_text(f"machine {host} login {USER} password {PASSWORD}\n")
        return {"NETRC": str(folder / ".netrc")}, f"--index-url {index.url}"
    environ = {
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHON_KEYRING_BACKEND": "keyrings.alt.file.PlaintextKeyring",
        "XDG_DATA_HOME": str(folder),
    }
    command = [str(program), "set", index.url, USER]
    subprocess.run(command, input=PASSWORD, text=True, check=True, capture_output=True, env={**os.environ, **environ})
    return environ, f"--index-url {index.url_with(USER)}"


@pytest.mark.parametrize("kind", ["variables in requirements", "netrc", "keyring"])
def test_a_private_index_is_reached_and_its_password_ends_up_nowhere(
    cli: Command,
    client: docker.DockerClient,
    keyring: Path,
    index: Index,
    certificate: tuple[Path, Path],
    test_registry: str,
    host: str,
    tmp_path: Path,
    kind: str,
) -> None:
    environ, line = settings_for(kind, index, tmp_path, host, keyring)
    (tmp_path / "requirements.txt").write_text(f"{line}\nown-top\n")
    (tmp_path / "k8s-venv.toml").write_text(
        '[environments.etl]\npython = "3.12"\nbuilder = "buildkit"\nrequirements = "requirements.txt"\n'
    )
    environ |= {"K8S_VENV_REGISTRY": test_registry, "PIP_CERT": str(certificate[0]), "TMPDIR": str(tmp_path)}

    ran = cli("build-images", "--load", **environ)

    assert ran.returncode == 0, ran.stderr
    reference = ran.stdout.split()[1]
    try:
        image = client.images.get(reference)
        output = client.containers.run(reference, ["python", "-c", "import own_top, own_lib; print(own_lib.VERSION)"])
        assert output.decode().strip() == "1.0"
        assert PASSWORD not in json.dumps([image.attrs, image.history()])
        assert files_with(PASSWORD, b"".join(image.save())) == []
    finally:
        for container in client.containers.list(all=True, filters={"ancestor": reference}):
            container.remove()
        client.images.remove(reference)
    assert PASSWORD not in ran.stdout + ran.stderr + (tmp_path / "pylock.etl.toml").read_text("utf-8")
    assert list(tmp_path.glob("k8s-venv-*")) == []
    assert_caches_without(PASSWORD, tmp_path)


def files_with(secret: str, archive: bytes) -> list[str]:
    """Return the files with a secret in them, in an archive and those that are in it."""
    found = []
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            if not (member.isfile() and (stream := tar.extractfile(member))):
                continue
            content = stream.read()
            if member.name.endswith("layer.tar") or (content[257:262] == b"ustar" and member.name.startswith("blobs/")):
                found += files_with(secret, content)
            elif secret.encode() in content:
                found.append(member.name)
    return found


def assert_caches_without(secret: str, folder: Path) -> None:
    """Look through the folders that builds on this engine share."""
    mounts = " ".join(f"--mount=type=cache,target=/root/.cache/{name}" for name in ("uv", "pip"))
    base = base_reference(Environment(name="x", root=folder, python="3.12"))
    context = folder / "look"
    context.mkdir()
    (context / "Dockerfile").write_text(
        f"FROM {base}\nRUN {mounts} ls /root/.cache/uv && ! grep -rla {shlex.quote(secret)} /root/.cache\n"
    )
    looked = subprocess.run(
        ["docker", "buildx", "build", "--no-cache", "--progress", "plain", str(context)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert looked.returncode == 0, looked.stderr


def test_a_build_gets_the_settings_of_this_machine_as_files(
    settings: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, others = (f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n" for text in ("b3du", "b3RoZXJz"))
    (tmp_path / "company.pem").write_text(f"# Ours\n{own}")
    (tmp_path / "authorities").mkdir()
    (tmp_path / "authorities" / "others.crt").write_text(f"{own}{others}")
    (tmp_path / "authorities" / "5ed36f99.0").symlink_to("others.crt")
    for name, value in {
        "UV_DEFAULT_INDEX": "company=https://bob:pw@index.example.com/simple",
        "PIP_EXTRA_INDEX_URL": "https://other.example.com/simple",
        "PIP_CERT": str(tmp_path / "company.pem"),
        "SSL_CERT_DIR": f"/none{os.pathsep}{tmp_path / 'authorities'}",
        "HTTPS_PROXY": "http://me:pw@proxy.example.com:3128",
        "HTTP_PROXY": "http://localhost:3128",
        "NO_PROXY": "example.com",
    }.items():
        monkeypatch.delenv(name.lower(), raising=False)
        monkeypatch.setenv(name, value)
    secrets = Secrets(Environment(name="etl", root=tmp_path, python="3.12"), {})

    options = secrets.options(tmp_path)

    files = dict(option.removeprefix("--secret=id=").split(",src=") for option in options)
    assert set(files) == {"indexes", "proxies", "certificates"}
    assert "pw" not in "".join(options)
    assert Path(files["indexes"]).stat().st_mode & 0o077 == 0
    indexes = Path(files["indexes"]).read_text().splitlines()
    assert "export UV_DEFAULT_INDEX=company=https://bob:pw@index.example.com/simple" in indexes
    assert "export PIP_INDEX_URL=https://bob:pw@index.example.com/simple" in indexes
    assert "export PIP_EXTRA_INDEX_URL=https://other.example.com/simple" in indexes
    # A proxy of this machine's own is none of a container's.
    assert sorted(Path(files["proxies"]).read_text().splitlines()) == sorted(
        f"export {each}={value}"
        for name, value in (("HTTPS_PROXY", "http://me:pw@proxy.example.com:3128"), ("NO_PROXY", "example.com"))
        for each in (name, name.lower())
    )
    assert Path(files["certificates"]).read_text() == own + others
    assert secrets.own_addresses == ["http://localhost:3128"]
