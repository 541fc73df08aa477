"""The images that others write by hand, and what is built and asked with Docker."""

from __future__ import annotations

import json
import re
import subprocess
import time
import uuid
from pathlib import Path

from k8s_venv.builders.base import base_reference
from k8s_venv.config.environment import Environment
from k8s_venv.registry import BaseImage, Reference, Registry, find_base
from k8s_venv.registry.images import find_manifest, list_tags

PYTHON = "3.11"
NAIVE = """\
FROM {base}
COPY requirements.txt .
RUN pip install -r requirements.txt # {mark}
"""
# The naive image, with the bytecode that its first import writes in the image itself.
WARM = """\
FROM NAIVE
RUN python -c "import pandas" # {mark}
"""
# https://docs.astral.sh/uv/guides/integration/docker/: cache mounts, copied links, bytecode, two stages
UV = """\
FROM {base} AS build
RUN --mount=type=cache,id=pip-{cache},target=/root/.cache/pip pip install uv # {mark}
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy
WORKDIR /app
COPY requirements.txt .
RUN --mount=type=cache,id=uv-{cache},target=/root/.cache/uv \\
    uv venv /app/.venv && uv pip install --python /app/.venv/bin/python -r requirements.txt # {mark}
FROM {base}
COPY --from=build /app/.venv /app/.venv
ENV PATH="/app/.venv/bin:$PATH"
"""


def base() -> str:
    """Return the base image of all contenders."""
    return base_reference(Environment(name="bench", root=Path(), python=PYTHON))


def build(folder: Path, text: str, lines: list[str], reference: str, *, cached: bool = True, cache: str = "") -> float:
    """Build and push an image with Docker; return the seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Dockerfile").write_text(text.format(base=base(), cache=cache, mark=mark(reference)))
    # Nobody has built this before.
    (folder / "requirements.txt").write_text("\n".join([f"# {uuid.uuid4()}", *lines]) + "\n")
    command = ["docker", "buildx", "build", "--quiet", "--push", "--tag", reference, str(folder)]
    started = time.monotonic()
    subprocess.run([*command, *([] if cached else ["--no-cache"])], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def mark(reference: str) -> str:
    """Return what tells a run's build steps from others': the first part of its images' names."""
    return Reference.parse(reference).repository.partition("/")[0]


def remove(place: str) -> None:
    """Remove what a run has made: its images here and, where that is allowed, in the registry, and its build steps.

    What BuildKit keeps of copied files has no name of ours, and goes when BuildKit needs the space.
    """
    listed = subprocess.check_output(["docker", "images", "--format", "{{.Repository}}:{{.Tag}}"], text=True).split()
    if images := [name for name in listed if name.startswith(f"{place}/")]:
        subprocess.run(["docker", "rmi", "--force", *images], check=False, capture_output=True)
    host, _, name = place.partition("/")
    cache = subprocess.run(["docker", "buildx", "du", "--verbose"], check=False, capture_output=True, text=True).stdout
    for number, step in re.findall(r"^ID:\s+(\w+)(.*?)(?=^ID:|\Z)", cache, re.MULTILINE | re.DOTALL):
        if f"# {name}" in step:
            prune = ["docker", "buildx", "prune", "--force", "--all", "--filter", f"id={number}"]
            subprocess.run(prune, check=False, capture_output=True)
    registry = Registry(host)
    listed_after = registry.request("GET", f"_catalog?n=1000&last={name}", expect=(200, 400, 401, 404)).json()
    repositories = listed_after.get("repositories") or []  # in the order of their names
    for repository in repositories:
        if repository.startswith(f"{name}/"):
            _delete(registry, repository)


def _delete(registry: Registry, repository: str) -> None:
    for tag in list_tags(registry, repository):
        if digest := find_manifest(registry, Reference.parse(f"{registry.host}/{repository}:{tag}")):
            # 405 is what a registry answers that deletes nothing.
            registry.request("DELETE", f"{repository}/manifests/{digest}", push=repository, expect=(202, 404, 405))


def layers(reference: str) -> dict[str, int]:
    """Return the layers over the base that a registry has for an image: their sizes by their digests."""
    found, under = image(reference), image(base())
    below = {layer["digest"] for layer in under.layers}
    return {str(layer["digest"]): int(layer["size"]) for layer in found.layers if layer["digest"] not in below}


def image(reference: str) -> BaseImage:
    wanted = Reference.parse(reference)
    return find_base(Registry(wanted.host), wanted, "linux/amd64")


def unpacked(reference: str) -> int:
    """Return an image's size on an engine, over the base's, in bytes."""
    sizes = []
    for name in (reference, base()):
        subprocess.run(["docker", "pull", "--quiet", name], check=True, stdout=subprocess.DEVNULL)
        told = subprocess.run(["docker", "image", "inspect", name], check=True, capture_output=True, text=True).stdout
        sizes.append(int(json.loads(told)[0]["Size"]))
    return sizes[0] - sizes[1]


def in_container(reference: str, code: str, *mounts: str) -> str:
    """Run Python code in a fresh container; return what it printed."""
    volumes = [part for mount in mounts for part in ("--volume", mount)]
    command = ["docker", "run", "--rm", "--network=none", *volumes, reference, "python", "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
