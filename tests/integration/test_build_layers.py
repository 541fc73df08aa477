"""``k8s-venv build-images`` without Docker: against a real registry, whole and failing half-way."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from k8s_venv.cache import exclusive_lock, uv_folder
from k8s_venv.config.project import load_project
from k8s_venv.locks.locking import read_lock
from k8s_venv.registry import BaseImage, Reference, Registry, find_base
from k8s_venv.registry.blobs import Blob, upload
from k8s_venv.registry.images import encoded, list_tags, put_manifest, read_blob
from tests.conftest import Command
from tests.disks import mounted
from tests.registry_proxy import Fault, Proxy, registry_proxy
from tests.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_settings", "package_index")]

PROJECT = '[environments.etl]\npython = "3.12"\nrequirements = ["idna==3.6"]\n'


@pytest.fixture
def build(cli: Command, test_registry: str, tmp_path: Path) -> Command:
    """Return a function that builds a project's images where there is no Docker."""

    def run(*arguments: str, project: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        if project:
            (tmp_path / "k8s-venv.toml").write_text(project)
        nowhere = {"DOCKER_HOST": "tcp://localhost:1", "PATH": str(Path(sys.executable).parent)}
        return cli("build-images", *arguments, **{"K8S_VENV_REGISTRY": test_registry, **nowhere, **environ})

    return run


@pytest.fixture
def proxy(test_registry: str) -> Iterator[Proxy]:
    with registry_proxy(test_registry.partition("/")[0]) as proxy:
        yield proxy


def document(ran: subprocess.CompletedProcess[str]) -> dict[str, object]:
    (found,) = json.loads(ran.stdout)
    return dict(found)


def image(reference: object, platform: str = "linux/amd64") -> BaseImage:
    wanted = Reference.parse(str(reference))
    return find_base(Registry(wanted.host), wanted, platform)


def tags(registry: str, name: str) -> list[str]:
    host, _, path = registry.partition("/")
    return list_tags(Registry(host), f"{path}/{name}")


def start_build(folder: Path, registry: str, **environ: str) -> subprocess.Popen[str]:
    """Start to build a folder's images; what one that is killed leaves behind lies in the folder as well."""
    return subprocess.Popen(
        [sys.executable, "-c", "from k8s_venv.cli import main; main()", "build-images"],
        cwd=folder,
        env={**os.environ, "K8S_VENV_REGISTRY": registry, "TMPDIR": str(folder), **environ},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_an_image_is_built_without_docker_and_says_what_it_is(build: Command, tmp_path: Path) -> None:
    told = document(build("--json", project=PROJECT))

    lock = read_lock(load_project(tmp_path / "k8s-venv.toml").environment("etl"))
    found = image(told["reference"])
    config = found.config["config"]
    assert told["state"] == "built"
    assert told["builder"] == "layers"
    assert told["digest"] == found.reference.digest
    assert config["User"] == "50000:0"
    assert config["Labels"]["io.k8s-venv.environment"] == "etl"
    assert config["Labels"]["io.k8s-venv.lock"] == lock.digest
    assert found.environ["PATH"].startswith("/opt/venv/bin:")
    # The base is pinned in the lock, and its layers are the image's lowest.
    base = image(f"{os.environ['K8S_VENV_BASE_REGISTRY']}/python@{lock.base_digest}")
    assert [one["digest"] for one in found.layers[: len(base.layers)]] == [one["digest"] for one in base.layers]


def test_two_builds_from_two_folders_are_the_same_image(build: Command, tmp_path: Path, test_registry: str) -> None:
    first = document(build("--json", project=PROJECT, K8S_VENV_CACHE=str(tmp_path / "cache")))
    folder = tmp_path / "elsewhere" / "far away"
    folder.mkdir(parents=True)
    for file in ("k8s-venv.toml", "pylock.etl.toml"):
        (folder / file).write_bytes((tmp_path / file).read_bytes())

    environ = {"K8S_VENV_CACHE": str(tmp_path / "another cache"), "K8S_VENV_REGISTRY": f"{test_registry}/again"}
    second = document(build("--json", K8S_VENV_PROJECT=str(folder), **environ))

    assert second["upload"] != 0
    assert first["digest"] == second["digest"]


def test_the_last_commit_of_the_lock_is_a_label(build: Command, tmp_path: Path) -> None:
    build("--dry-run", project=PROJECT)
    git = ["git", "-c", "user.name=ada", "-c", "user.email=ada@example.com"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "Lock"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=tmp_path, text=True).strip()

    told = document(build("--json", PATH=os.environ["PATH"]))

    assert image(told["reference"]).config["config"]["Labels"]["org.opencontainers.image.revision"] == head


def test_check_is_a_gate_for_deployments(build: Command, test_registry: str) -> None:
    build("--dry-run", project=PROJECT)

    before = build("--check")
    build()
    after = build("--check")

    assert (before.returncode, after.returncode) == (1, 0)
    assert "to build" in before.stderr
    assert re.search(r"etl .* exists", after.stderr)


def test_a_plan_says_what_is_uploaded_and_what_is_shared(build: Command) -> None:
    two = PROJECT + PROJECT.replace("etl", "also")

    planned = json.loads(build("--dry-run", "--json", project=two).stdout)

    assert [one["new_packages"] for one in planned][1] == 0
    assert all(one["shared"] > 10_000_000 for one in planned)  # the base, which the registry has


def test_an_archive_holds_the_whole_image(build: Command, tmp_path: Path) -> None:
    told = document(build("--json", "--output", "image.tar", project=PROJECT))

    with tarfile.open(tmp_path / "image.tar") as archive:
        index = read_json(archive, "index.json")
        (entry,) = index["manifests"]
        manifest = read_json(archive, blob_name(entry["digest"]))
        names = set(archive.getnames())
    assert entry["digest"] == told["digest"]
    assert entry["annotations"]["io.containerd.image.name"] == told["reference"]
    assert {blob_name(one["digest"]) for one in [manifest["config"], *manifest["layers"]]} <= names


def test_an_archive_that_cannot_be_written_is_told_before_anything_is_built(build: Command, tmp_path: Path) -> None:
    ran = build("--output", "nowhere/image.tar", project=PROJECT)

    assert ran.returncode == 2
    assert f"Error: --output: there is no folder {tmp_path}/nowhere that can be written to." in ran.stderr
    assert not (tmp_path / "pylock.etl.toml").exists()


def test_what_was_changed_in_the_cache_is_made_anew(build: Command, tmp_path: Path, test_registry: str) -> None:
    cache = tmp_path / "cache"
    first = document(build("--json", project=PROJECT, K8S_VENV_CACHE=str(cache)))
    for blob in (cache / "blobs" / "sha256").glob("[0-9a-f]*"):
        blob.write_bytes(b"\0" * blob.stat().st_size)

    told = build("--json", "--output", "image.tar", K8S_VENV_CACHE=str(cache))
    pushed = build("--json", K8S_VENV_CACHE=str(cache), K8S_VENV_REGISTRY=f"{test_registry}/again")

    assert document(told)["digest"] == document(pushed)["digest"] == first["digest"]
    with tarfile.open(tmp_path / "image.tar") as archive:
        for name in archive.getnames():
            if name.startswith("blobs/"):
                content = archive.extractfile(name)
                assert content is not None
                assert hashlib.sha256(content.read()).hexdigest() == name.rpartition("/")[2]


def test_what_was_noted_of_a_base_and_garbled_is_read_anew(cli: Command, tmp_path: Path, test_registry: str) -> None:
    base = f"{os.environ['K8S_VENV_BASE_REGISTRY']}/python:3.12-slim-bookworm"
    (tmp_path / "k8s-venv.toml").write_text(
        f'[environments.etl]\npython = "3.12"\nbase = "{base}"\nsystem-site-packages = true\nrequirements = ["pip"]\n'
    )
    cache = {"K8S_VENV_CACHE": str(tmp_path / "cache"), "UV_CACHE_DIR": str(uv_folder())}
    first = cli("lock", **cache)
    for note in (tmp_path / "cache" / "layers").iterdir():
        note.write_text('{"packages"')

    again = cli("lock", "--upgrade", **cache)

    assert "locked 0 packages in pylock.etl.toml, beside 1 " in first.stderr
    assert again.returncode == 0, again.stderr


def test_an_environment_of_the_base_is_not_the_image_s(build: Command, tmp_path: Path, test_registry: str) -> None:
    """Bases often have an environment of their own in /opt/venv, and its Python, a link, first on PATH."""
    reference = base_with(
        test_registry,
        {"opt/venv/lib/python3.12/site-packages/stray.py": b"", "opt/venv/pyvenv.cfg": b"home = /usr/local/bin\n"},
        {"opt/venv/bin/python3.12": "/usr/local/bin/python3.12"},
        PATH="/opt/venv/bin:/usr/local/bin:/usr/bin:/bin",
    )

    told = document(build("--json", project=PROJECT + f'base = "{reference}"\n'))

    ran = python_in(
        told["reference"], "import idna, os, sys; print(sys.base_prefix, os.listdir(idna.__path__[0] + '/..'))"
    )
    prefix, _, listed = ran.partition(" ")
    assert prefix == "/usr/local"
    assert "stray.py" not in listed


def test_a_pinned_base_that_is_gone_is_told_from_a_missing_one(build: Command, tmp_path: Path) -> None:
    build("--dry-run", project=PROJECT)
    lock = tmp_path / "pylock.etl.toml"
    digest = read_lock(load_project(tmp_path / "k8s-venv.toml").environment("etl")).base_digest
    text = lock.read_text("utf-8").replace(digest, f"sha256:{'0' * 64}")
    lock.write_text(re.sub(r"checksum = .*\n", "", text), "utf-8")

    ran = build("--dry-run")

    assert ran.returncode == 1
    assert "If the digest in its lock is gone, `k8s-venv lock --upgrade etl` pins today's." in ran.stderr


def test_an_image_for_two_platforms_is_one_index(build: Command, test_registry: str) -> None:
    base = two_platforms(test_registry)
    project = (
        PROJECT.replace("idna==3.6", "markupsafe") + f'platforms = ["linux/amd64", "linux/arm64"]\nbase = "{base}"\n'
    )

    told = document(build("--json", project=project))

    for platform in ("linux/amd64", "linux/arm64"):
        assert image(told["reference"], platform).config["architecture"] == platform.partition("/")[2]
    layers = [{one["digest"] for one in image(told["reference"], name).layers} for name in told["platforms"]]  # type: ignore[attr-defined]
    assert len(layers[0] - layers[1]) == len(layers[1] - layers[0]) == 1


def test_a_base_that_lacks_a_platform_is_named(build: Command) -> None:
    ran = build(project=PROJECT + 'platforms = ["linux/amd64", "linux/arm64"]\n')

    assert ran.returncode == 1
    assert "is for linux/amd64 alone, not for linux/arm64" in ran.stderr


def test_a_registry_that_fails_half_way_gets_no_tag_and_the_next_run_goes_on(
    build: Command, proxy: Proxy, test_registry: str
) -> None:
    place = test_registry.replace(test_registry.partition("/")[0], proxy.host)
    proxy.faults = [Fault("PUT", "/manifests/", 500, times=100)]
    failed = build(project=PROJECT, K8S_VENV_REGISTRY=place)
    assert failed.returncode == 1
    assert tags(test_registry, "etl") == []
    assert re.search(r"Environment 'etl': its image could not be built. The registry \S+ answered PUT", failed.stderr)
    sent = proxy.received

    proxy.faults = []
    again = build(K8S_VENV_REGISTRY=place)

    assert again.returncode == 0, again.stderr
    assert tags(test_registry, "etl") != []
    assert proxy.received - sent < 20_000  # the manifest alone


@pytest.mark.parametrize(
    ("method", "path", "number"),
    [
        ("HEAD", "/manifests/", signal.SIGINT),  # the plan
        ("POST", "/blobs/uploads/", signal.SIGINT),
        ("PUT", "/manifests/", signal.SIGTERM),
        ("PUT", "/manifests/", signal.SIGKILL),
    ],
)
def test_an_interrupt_leaves_no_tag_and_the_next_run_goes_on(
    build: Command, proxy: Proxy, test_registry: str, tmp_path: Path, method: str, path: str, number: signal.Signals
) -> None:
    place = test_registry.replace(test_registry.partition("/")[0], proxy.host)
    proxy.faults = [Fault(method, path, 429, {"Retry-After": "60"}, times=1000)]
    build("--dry-run", project=PROJECT)
    process = start_build(tmp_path, place)
    eventually(lambda: proxy.count(method, path) > 0)

    process.send_signal(number)
    _, errors = process.communicate(timeout=60)

    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert process.returncode == 128 + number
        assert errors.splitlines()[-1] == "Interrupted."
        assert "Traceback" not in errors
        assert "failed" not in errors
    assert tags(test_registry, "etl") == []
    proxy.faults, sent = [], proxy.received
    assert build(K8S_VENV_REGISTRY=place).returncode == 0
    assert tags(test_registry, "etl") != []
    if "manifests" in path and method == "PUT":
        assert proxy.received - sent < 20_000  # the manifest alone


def test_an_interrupt_ends_a_wait_for_another_build(
    build: Command, tmp_path: Path, test_registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, temporary = tmp_path / "cache", tmp_path / "temporary"
    temporary.mkdir()
    build("--dry-run", project=PROJECT)
    monkeypatch.setenv("UV_CACHE_DIR", str(uv_folder()))
    cache.mkdir()
    with exclusive_lock(cache / "layers-3.12.lock"):
        process = start_build(tmp_path, test_registry, K8S_VENV_CACHE=str(cache), TMPDIR=str(temporary))
        assert process.stderr is not None
        assert any("waiting for the packages of another image" in line for line in process.stderr)

        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)

    assert process.returncode == 130
    assert errors.splitlines()[-1] == "Interrupted."
    assert list(temporary.iterdir()) == []  # as when it ends by itself; one that is ended cleans up nothing
    assert tags(test_registry, "etl") == []


def test_an_interrupt_ends_a_wait_for_a_silent_registry(build: Command, tmp_path: Path) -> None:
    build("--dry-run", project=PROJECT)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts, and never answers
        silent.settimeout(60)
        process = start_build(tmp_path, f"localhost:{silent.getsockname()[1]}/x")
        connection, _ = silent.accept()
        with connection:
            while process.poll() is None:  # the second does not wait for the registry
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(3)
        _, errors = process.communicate()

    assert process.returncode == 130
    assert errors == "Interrupted.\n"


def read_json(archive: tarfile.TarFile, name: str) -> dict[str, Any]:
    content = archive.extractfile(name)
    assert content is not None
    return dict(json.load(content))


def blob_name(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def two_platforms(registry: str) -> str:
    """Push an index of the official image for two platforms; what is in them is the same."""
    official = Reference.parse(f"{os.environ['K8S_VENV_BASE_REGISTRY']}/python:3.12-slim-bookworm")
    base = find_base(Registry(official.host), official, "linux/amd64")
    client, repository = Registry(registry.partition("/")[0]), f"{registry.partition('/')[2]}/base"
    entries = []
    for machine in ("amd64", "arm64"):
        config = encoded({**base.config, "architecture": machine})
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": push(client, repository, config, "application/vnd.oci.image.config.v1+json"),
            "layers": [{**layer, "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"} for layer in base.layers],
        }
        for layer in base.layers:
            mounted = upload(client, repository, str(layer["digest"]), pytest.fail, [base.reference.repository])
            assert mounted in ("mounted", "exists")
        digest = push(client, repository, encoded(manifest), "")["digest"]
        put_manifest(client, repository, str(digest), manifest)
        entries.append({"mediaType": manifest["mediaType"], "digest": digest, "size": len(encoded(manifest)),
                        "platform": {"os": "linux", "architecture": machine}})  # fmt: skip
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries}
    put_manifest(client, repository, "two", index)
    return f"{registry}/base:two"


def base_with(registry: str, files: dict[str, bytes], links: dict[str, str], **environ: str) -> str:
    """Push the official image with one more layer."""
    official = Reference.parse(f"{os.environ['K8S_VENV_BASE_REGISTRY']}/python:3.12-slim-bookworm")
    base = find_base(Registry(official.host), official, "linux/amd64")
    client, repository = Registry(registry.partition("/")[0]), f"{registry.partition('/')[2]}/base"
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for name, target in links.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    layer = push(client, repository, stream.getvalue(), "application/vnd.oci.image.layer.v1.tar")
    run = {**base.config["config"], "Env": [f"{name}={value}" for name, value in {**base.environ, **environ}.items()]}
    rootfs = {"type": "layers", "diff_ids": [*base.config["rootfs"]["diff_ids"], layer["digest"]]}
    config = encoded({**base.config, "config": run, "rootfs": rootfs, "history": []})
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": push(client, repository, config, "application/vnd.oci.image.config.v1+json"),
        "layers": [
            *({**one, "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"} for one in base.layers),
            layer,
        ],
    }
    for one in base.layers:
        upload(client, repository, str(one["digest"]), pytest.fail, [base.reference.repository])
    put_manifest(client, repository, "own", manifest)
    return f"{registry}/base:own"


def python_in(reference: object, code: str) -> str:
    """Run Python in a container of an image."""
    command = ["docker", "run", "--rm", "--network=none", str(reference), "python", "-c", code]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    finally:
        subprocess.run(["docker", "rmi", "--force", str(reference)], check=False, capture_output=True)


def push(client: Registry, repository: str, content: bytes, media_type: str) -> dict[str, object]:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    with tempfile.NamedTemporaryFile() as stream:
        stream.write(content)
        stream.flush()
        upload(client, repository, digest, lambda: Blob(Path(stream.name), digest, len(content)))
    assert read_blob(client, repository, digest) == content
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


@pytest.mark.parametrize(
    ("variable", "remedy"),
    [
        (
            "K8S_VENV_CACHE",
            r"could not be built\. The cache folder \S+/small has no space left\. `k8s-venv prune`",
        ),
        (
            "TMPDIR",
            r"could not be built here: No space left on device \(\S+/small\S*\)\. Set TMPDIR to a folder",
        ),
    ],
)
def test_a_full_disk_is_named_by_what_fills_it(
    build: Command, tmp_path: Path, test_registry: str, variable: str, remedy: str
) -> None:
    roomy = {"UV_CACHE_DIR": str(uv_folder()), "K8S_VENV_CACHE": str(tmp_path / "cache")}
    build("--dry-run", project=PROJECT, **roomy)

    with mounted(tmp_path / "small", "size=2m") as small:
        ran = build(**{**roomy, variable: str(small)})
        left = [path for path in small.rglob("*") if path.name.startswith((".", "k8s-venv-", "tmp"))]

    assert ran.returncode == 1
    assert re.search(rf"Error: Environment 'etl': its image {remedy}", ran.stderr), ran.stderr
    assert [path.name for path in left if path.suffix != ".lock"] == []
    assert tags(test_registry, "etl") == []
