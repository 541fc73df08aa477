"""Base images that no image of layers can be built on, and what is said of them; nothing is asked for."""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
from pathlib import Path

import pytest

from k8s_venv import cache
from k8s_venv.builders.base import has_python, missing_base
from k8s_venv.builders.layer_builder import _library_layer
from k8s_venv.config.environment import Environment
from k8s_venv.errors import BuildError
from k8s_venv.registry import BaseImage, Reference

ENVIRONMENT = Environment(name="etl", root=Path(), python="3.12", base="registry.example.com/base:7")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K8S_VENV_CACHE", str(tmp_path / "cache"))


def base_of(*names: str, path: str = "/usr/local/bin:/usr/bin") -> BaseImage:
    """Return a base with empty files, whose layer is in the cache folder already."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    content = stream.getvalue()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    cache.blobs_folder().mkdir(parents=True, exist_ok=True)
    cache.blob_path(digest).write_bytes(content)
    layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": len(content)}
    reference = Reference.parse("registry.example.com/base:7")
    return BaseImage(reference, {"config": {"Env": [f"PATH={path}"]}}, (layer,))


def test_a_base_on_musl_is_refused_since_its_wheels_would_not_load() -> None:
    base = base_of("usr/local/bin/python3.12", "lib/ld-musl-x86_64.so.1", "usr/local/lib/python3.12/os.py")

    with pytest.raises(
        BuildError, match=r"its base image \S+ is built on musl \(as Alpine is\), but the wheels of its"
    ):
        _library_layer(ENVIRONMENT, base, sys.executable)


def test_a_base_whose_python_the_environment_would_hide_is_refused() -> None:
    base = base_of("opt/venv/bin/python3.12", "lib64/ld-linux-x86-64.so.2", path="/opt/venv/bin:/usr/bin")

    with pytest.raises(BuildError, match=r"has its Python 3\.12 in /opt/venv, where the environment's packages go"):
        _library_layer(ENVIRONMENT, base, sys.executable)


def test_a_base_without_the_environment_s_python_is_for_buildkit() -> None:
    base = base_of("usr/bin/python3.11", "opt/python3.12")

    assert not has_python(ENVIRONMENT, base)
    with pytest.raises(
        BuildError, match=r"has no Python 3\.12 on its PATH\. `k8s-venv build-images --builder buildkit`"
    ):
        _library_layer(ENVIRONMENT, base, sys.executable)


@pytest.mark.parametrize(
    ("mirror", "hint"),
    [("mirror.example.com", " Many mirrors keep official images under mirror.example.com/library."),
     ("mirror.example.com/library/", "")],
)  # fmt: skip
def test_a_mirror_without_the_base_is_named(mirror: str, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K8S_VENV_BASE_REGISTRY", mirror)
    environment = Environment(name="etl", root=Path(), python="3.12")

    assert missing_base(environment, "", "not found") == (
        f"its base image {mirror.rstrip('/')}/python:3.12-slim-bookworm does not exist or cannot be reached "
        f"(not found). K8S_VENV_BASE_REGISTRY says to look for it there.{hint}"
    )
