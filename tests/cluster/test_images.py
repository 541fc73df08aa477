"""The images of both builders, where they run: a restricted pod, Docker Engine, and containerd from an archive."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import eventually

# What tasks count on in an image.
PROBE = """
import datetime, json, os, pathlib, shutil, ssl, subprocess, sys, sysconfig, tempfile, zoneinfo
def writable(place):
    try:
        pathlib.Path(place, "probe").write_text("x")
    except OSError:
        return False
    return True
winter = datetime.datetime(2024, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))
with tempfile.NamedTemporaryFile() as file:
    place = file.name
import idna
print(json.dumps({
    "user": os.getuid(),
    "python": [shutil.which("python"), shutil.which("python3"), sys.executable, sys.prefix],
    "version": "%d.%d" % sys.version_info[:2],
    "home": os.environ["HOME"],
    "working folder": os.getcwd(),
    "authorities": len(ssl.create_default_context().get_ca_certs()) > 50,
    "winter": winter.utcoffset().total_seconds(),
    "temporary": os.path.dirname(place),
    "writable": [place for place in ("/", "/opt/venv", "/usr/local", "/root", "/var", "/home") if writable(place)],
    "tools": [name for name in ("uv", "gcc", "cc", "make", "git") if shutil.which(name)],
    "ours": sorted(entry.name for entry in pathlib.Path("/opt").iterdir()),
    "packages": sorted(path.name for path in pathlib.Path(sysconfig.get_path("purelib")).glob("*.dist-info")),
    "scripts": sorted(path.name for path in pathlib.Path("/opt/venv/bin").iterdir() if "python" not in path.name),
    "bytecode of our imports": all(module.__cached__ and os.path.exists(module.__cached__) for module in (json, idna)),
}))
"""


def expected(user: int) -> dict[str, object]:
    return {
        "user": user,
        "python": ["/opt/venv/bin/python", "/opt/venv/bin/python3", "/opt/venv/bin/python", "/opt/venv"],
        "version": "3.12",
        "home": "/tmp",
        "working folder": "/tmp",
        "authorities": True,
        "winter": 3600.0,
        "temporary": "/tmp",
        "writable": [],
        "tools": [],
        "ours": ["venv"],
        "packages": ["idna-3.6.dist-info"],
        "scripts": [],
        "bytecode of our imports": True,
    }


@pytest.fixture(scope="module", params=["layers", "buildkit"])
def builder(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(builder: str, registry: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(builder)
    text = f'[environments.{builder}]\npython = "3.12"\nrequirements = ["idna==3.6"]\nbuilder = "{builder}"\n'
    (folder / "k8s-venv.toml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def image(folder: Path, registry: str) -> str:
    return _build(folder, registry)


def _build(folder: Path, registry: str, *arguments: str) -> str:
    environ = {**os.environ, "K8S_VENV_REGISTRY": registry}
    command = ["k8s-venv", "build-images", *arguments]
    ran = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split()[1]


def test_an_image_runs_in_a_restricted_pod_as_any_user(client: Any, namespace: str, image: str) -> None:
    name, user = f"image-{uuid.uuid4().hex[:8]}", random.randrange(10_000, 2**31 - 2)
    container = {
        "name": "probe",
        "image": image,
        "command": ["python", "-c", PROBE],
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }
    security = {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "fsGroup": user,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": security,
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    client.create_namespaced_pod(namespace, {"metadata": {"name": name}, "spec": spec})
    try:
        phase = _phase(client, namespace, name)
        # Undecoded: the client would make a dictionary's text of a line of JSON.
        log = client.read_namespaced_pod_log(name, namespace, _preload_content=False).data.decode()
        assert phase == "Succeeded", log
        assert _read(log) == expected(user)
    finally:
        client.delete_namespaced_pod(name, namespace)


def test_an_image_writes_nothing_into_itself_and_says_what_it_is(image: str) -> None:
    docker = pytest.importorskip("docker", reason="needs the docker extra")
    engine = docker.from_env()
    engine.images.pull(image)
    container = engine.containers.create(image, ["python", "-c", PROBE])
    try:
        container.start()
        container.wait(timeout=180)
        # As the image's own user, with a root file system that could be written.
        assert _read(container.logs(stderr=False).decode()) == expected(50000)
        assert container.diff() in (None, [])
        attributes = engine.images.get(image)
        labels = attributes.labels
        name = labels["io.k8s-venv.environment"]
        assert labels["org.opencontainers.image.title"] == name
        assert labels["io.k8s-venv.python"] == "3.12"
        assert re.fullmatch(r"sha256:[0-9a-f]{64}|[0-9a-f]{64}", labels["io.k8s-venv.lock"])
        history = [f"{entry['CreatedBy']} {entry['Comment']}" for entry in attributes.history()]
        assert any("venv" in line for line in history[:6])
        assert not any("PASSWORD" in line.upper() for line in history)
    finally:
        container.remove(force=True)
        engine.images.remove(image, force=True)


@pytest.fixture
def containerd(client: Any) -> Iterator[list[str]]:
    """A namespace of its own in the containerd of a node that is this machine."""
    program, node = shutil.which("ctr"), client.list_node().items[0].metadata.name
    ask = ["kubectl", "get", "--raw", f"/api/v1/nodes/{node}/proxy/configz"]
    settings = json.loads(subprocess.run(ask, capture_output=True, check=True).stdout)
    address = settings["kubeletconfig"].get("containerRuntimeEndpoint", "").removeprefix("unix://")
    if program is None or not os.access(address, os.W_OK):
        pytest.skip(f"needs the node's containerd: ctr on PATH, and access to {address or 'its socket'}")
    name = f"k8s-venv-test-{uuid.uuid4().hex[:8]}"
    command = [program, "--address", address, "--namespace", name]
    yield command
    found = subprocess.run([*command, "images", "list", "-q"], capture_output=True, text=True, check=True).stdout
    for one in found.split():
        subprocess.run([*command, "images", "remove", "--sync", one], capture_output=True, check=True)
    subprocess.run([program, "--address", address, "namespaces", "remove", name], capture_output=True, check=False)


def test_an_archive_runs_under_containerd(folder: Path, registry: str, containerd: list[str]) -> None:
    reference = _build(folder, f"{registry}/archive", "--output", "image.tar")

    subprocess.run([*containerd, "images", "import", str(folder / "image.tar")], capture_output=True, check=True)

    name = f"probe-{uuid.uuid4().hex[:8]}"
    tmp = "type=tmpfs,src=tmpfs,dst=/tmp,options=rw:mode=1777"
    options = ["--rm", "--read-only", "--mount", tmp]
    run = [*containerd, "run", *options, reference, name, "python", "-c", PROBE]
    ran = subprocess.run(run, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert _read(ran.stdout) == expected(50000)


def test_an_image_is_loaded_by_docker(folder: Path, registry: str) -> None:
    docker = pytest.importorskip("docker", reason="needs the docker extra")
    engine = docker.from_env()
    reference = _build(folder, f"{registry}/load", "--load")
    try:
        options = {"read_only": True, "tmpfs": {"/tmp": "mode=1777"}, "user": "4321:4321", "network_mode": "none"}
        output = engine.containers.run(reference, ["python", "-c", PROBE], remove=True, **options)
        assert _read(output.decode()) == expected(4321)
    finally:
        engine.images.remove(reference, force=True)


def _phase(client: Any, namespace: str, name: str) -> str:
    def ended() -> str | None:
        phase = str(client.read_namespaced_pod(name, namespace).status.phase)
        return phase if phase in ("Succeeded", "Failed") else None

    return str(eventually(ended))


def _read(output: str) -> dict[str, object]:
    found: dict[str, object] = {}
    with contextlib.suppress(ValueError):
        found = json.loads(output)
    assert found, output
    return found
