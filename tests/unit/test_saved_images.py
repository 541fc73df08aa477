"""Images that BuildKit made, read back from what it wrote."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from k8s_venv.builders.layers import File, make_layer
from k8s_venv.builders.oci import Image, read_layout, read_saved, write_archive
from k8s_venv.registry.images import encoded


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K8S_VENV_CACHE", str(tmp_path / "cache"))


def image_of(*contents: str, platform: str = "linux/amd64") -> Image:
    """Return an image with a layer for each content."""
    layers = [make_layer(text, text, [File(f"file{text}", text.encode())]) for text in contents]
    system, machine = platform.split("/")
    diff_ids = [layer.diff_id for layer in layers]
    config = encoded({"os": system, "architecture": machine, "rootfs": {"type": "layers", "diff_ids": diff_ids}})
    described = {"mediaType": "x", "digest": f"sha256:{hashlib.sha256(config).hexdigest()}", "size": len(config)}
    manifest = {"schemaVersion": 2, "config": described, "layers": [layer.descriptor for layer in layers]}
    return Image(platform, None, tuple(layers), config, manifest)


def unpacked(images: Sequence[Image], folder: Path) -> Path:
    write_archive({"registry.example.com/etl:1": images}, folder / "image.tar")
    with tarfile.open(folder / "image.tar") as archive:
        archive.extractall(folder / "layout", filter="data")
    return folder / "layout"


@pytest.mark.parametrize("platforms", [("linux/amd64",), ("linux/amd64", "linux/arm64")])
def test_a_layout_gives_the_image_of_each_platform(tmp_path: Path, platforms: Sequence[str]) -> None:
    images = [image_of("a", platform, platform=platform) for platform in platforms]

    found = read_layout(unpacked(images, tmp_path))

    assert [(one.platform, one.digest) for one in found] == [(one.platform, one.digest) for one in images]
    for one, original in zip(found, images, strict=True):
        contents = [layer.blob.path.read_bytes() for layer in one.layers]
        assert contents == [layer.blob.path.read_bytes() for layer in original.layers]


def test_what_an_engine_saved_gives_the_same_image_compressed(tmp_path: Path) -> None:
    """As Docker Engine 20.10 writes it: plain layers, a second layer with the same content as a link to the first."""
    image = image_of("a")
    plain = tmp_path / "layer.tar"
    with tarfile.open(image.layers[0].blob.path) as original, tarfile.open(plain, "w") as archive:
        archive.addfile(original.getmember("filea"), original.extractfile("filea"))
    diff_id = f"sha256:{hashlib.sha256(plain.read_bytes()).hexdigest()}"
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [diff_id, diff_id]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "manifest.json").write_text(
        json.dumps([{"Config": "0123.json", "RepoTags": ["x:1"], "Layers": ["one/layer.tar", "two/layer.tar"]}])
    )
    with tarfile.open(tmp_path / "saved.tar", "w") as archive:
        archive.add(plain, "one/layer.tar")
        link = tarfile.TarInfo("two/layer.tar")
        link.type, link.linkname = tarfile.SYMTYPE, "../one/layer.tar"
        archive.addfile(link)
        archive.add(tmp_path / "config.json", "0123.json")
        archive.add(tmp_path / "manifest.json", "manifest.json")

    (found,) = read_saved(tmp_path / "saved.tar", tmp_path / "read")

    assert found.platform == "linux/amd64"
    assert [layer.diff_id for layer in found.layers] == [diff_id, diff_id]
    with tarfile.open(found.layers[1].blob.path, "r:gz") as archive:
        assert archive.getnames() == ["filea"]
    for layer in found.layers:
        content = layer.blob.path.read_bytes()
        assert layer.blob.digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
