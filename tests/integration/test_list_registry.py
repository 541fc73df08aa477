"""``k8s-venv list --registry`` against a real registry."""

from __future__ import annotations

import functools
import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from k8s_venv.config.project import load_project
from k8s_venv.locks.locking import read_lock
from k8s_venv.registry import Blob, Reference, Registry, upload
from k8s_venv.registry.images import encoded, put_manifest
from tests.conftest import Command

pytestmark = pytest.mark.cluster


def push(reference: str, folder: Path, layer: bytes, created: datetime) -> None:
    """Push an image with one layer."""
    place = Reference.parse(reference)
    registry = Registry(place.host)
    descriptors = []
    config = encoded({"os": "linux", "architecture": "amd64", "created": created.isoformat()})
    for content, kind in ((config, "image.config.v1+json"), (layer, "image.layer.v1.tar")):
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        path = folder / digest
        path.write_bytes(content)
        upload(registry, place.repository, digest, functools.partial(Blob, path, digest, len(content)))
        descriptors.append({"mediaType": f"application/vnd.oci.{kind}", "digest": digest, "size": len(content)})
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": descriptors[0], "layers": descriptors[1:]}
    put_manifest(registry, place.repository, place.tag, manifest)


def test_images_are_shown_with_their_size_and_age(cli: Command, test_registry: str, tmp_path: Path) -> None:
    (tmp_path / "k8s-venv.toml").write_text(
        f'registry = "{test_registry}"\n'
        '[environments.built]\npython = "3.12"\npackages = ["libpq5"]\n[environments.layers]\npython = "3.12"\n'
        '[environments.unbuilt]\npython = "3.12"\n'
    )
    assert cli("lock", K8S_VENV_BASE_REGISTRY=test_registry).returncode == 0
    environments = [load_project(tmp_path / "k8s-venv.toml").environment(name) for name in ("built", "layers")]
    references = [one.image_reference(test_registry, read_lock(one).digest) for one in environments]
    for reference in references:
        push(reference, tmp_path, b"0" * 1_250_000, datetime.now(UTC) - timedelta(days=3, hours=1))

    table, found = cli("list", "--registry"), json.loads(cli("list", "--registry", "--json").stdout)

    assert table.returncode == 0, table.stderr
    header, built, layers, unbuilt = table.stdout.splitlines()
    assert header.split()[-3:] == ["built", "size", "age"]
    assert built.split()[4:] == [references[0], "exists", "1.2", "MB", "3", "days"]
    assert layers.split()[4:] == [references[1], "exists", "1.2", "MB", "-"]  # whose time is its base's
    assert unbuilt.split()[5:] == ["to", "build", "-", "-"]
    assert [(row["exists"], row["size"]) for row in found] == [(True, 1_250_000)] * 2 + [(False, None)]


def test_a_registry_that_cannot_be_reached_is_named_once_and_the_others_are_asked(
    cli: Command, test_registry: str, tmp_path: Path
) -> None:
    (tmp_path / "k8s-venv.toml").write_text(
        '[environments.own]\npython = "3.12"\nimage = "localhost:1/x:1"\n'
        '[environments.also]\npython = "3.12"\nimage = "localhost:1/x:2"\n'
        f'[environments.missing]\npython = "3.12"\nimage = "{test_registry}/x:2"\n'
    )

    ran, told = cli("list", "--registry"), json.loads(cli("list", "--registry", "--json").stdout)

    assert ran.returncode == 1
    assert [line.split()[-3] for line in ran.stdout.splitlines()[1:3]] == ["unknown", "unknown"]
    assert ran.stdout.splitlines()[3].split()[-4:-2] == ["to", "build"]
    assert ran.stderr.count("cannot be reached") == 1
    assert [(one["exists"], bool(one["problem"])) for one in told] == [(None, True), (None, True), (False, False)]
    assert "Error: The registry localhost:1 cannot be reached" in ran.stderr
