"""The images of a registry: their references, manifests and configuration."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING, Any

from k8s_venv.registry.client import Registry, registry_at
from k8s_venv.registry.credentials import DOCKER_HUB
from k8s_venv.registry.errors import RegistryError, document

if TYPE_CHECKING:
    from collections.abc import Mapping


# Other names of Docker Hub.
_DOCKER_HUB = ("index.docker.io", "registry-1.docker.io", "registry.hub.docker.com")
_MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_INDEX_TYPES = _MANIFESTS[:2]
_ACCEPT = {"Accept": ", ".join(_MANIFESTS)}


@dataclasses.dataclass(frozen=True)
class Reference:
    """A reference: ``registry.example.com/team/name:tag@sha256:…``, with Docker's defaults for what is left out.

    Args:
        host: the registry, with its port if it has one.
        repository: the image's name on that registry.
        tag: its tag, or nothing beside a digest.
        digest: its digest, or nothing.
    """

    host: str
    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read a reference as Docker does: ``python:3.12`` is ``docker.io/library/python:3.12``.

        Args:
            text: the reference.
        """
        name, _, digest = text.partition("@")
        first, slash, rest = name.partition("/")
        # A first part that is no host belongs to a name on Docker Hub; no repository has capital letters.
        if not slash or not ("." in first or ":" in first or first == "localhost" or first != first.lower()):
            first, rest = DOCKER_HUB, name
        first = DOCKER_HUB if first.lower() in _DOCKER_HUB else first.lower()
        repository, colon, tag = rest.partition(":")
        if first == DOCKER_HUB and "/" not in repository:
            repository = f"library/{repository}"
        return cls(first, repository, tag if colon else "" if digest else "latest", digest)

    @property
    def target(self) -> str:
        """Return the digest if there is one, else the tag."""
        return self.digest or self.tag

    def __str__(self) -> str:
        """Return the whole reference."""
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.host}/{self.repository}{tag}{'@' if self.digest else ''}{self.digest}"


@dataclasses.dataclass(frozen=True)
class BaseImage:
    """An image for one platform, as a registry has it.

    Args:
        reference: the image, with the digest of this platform's manifest.
        config: its configuration (OCI image specification, config.md).
        layers: the descriptors of its layers.
    """

    reference: Reference
    config: Mapping[str, Any]
    layers: tuple[Mapping[str, Any], ...]

    @property
    def environ(self) -> dict[str, str]:
        """Return the variables that the image sets."""
        pairs = (self.config.get("config") or {}).get("Env") or []
        return dict(pair.partition("=")[::2] for pair in pairs)


def find_manifest(registry: Registry, reference: Reference) -> str | None:
    """Return the digest of an image's manifest or index, or None if the registry does not have it.

    Raises:
        RegistryError: the registry cannot be reached or refuses.
    """
    response = registry.head(_place(reference), reference.repository, _ACCEPT)
    if response.status_code == 404:
        return None
    return response.headers.get("Docker-Content-Digest") or _read(registry, reference)[1]


def image_exists(reference: str) -> bool:
    """Return whether a registry has an image.

    Raises:
        RegistryError: the registry cannot be reached or refuses.
    """
    wanted = Reference.parse(reference)
    return find_manifest(registry_at(wanted.host), wanted) is not None


def list_tags(registry: Registry, repository: str) -> list[str]:
    """Return the tags of a repository; an empty list if the registry does not know it."""
    response = registry.request("GET", f"{repository}/tags/list", pull=[repository], expect=(200, 404))
    return list(document(response).get("tags") or ()) if response.status_code == 200 else []


def put_manifest(registry: Registry, repository: str, target: str, manifest: Mapping[str, Any]) -> str:
    """Write a manifest or an index under a tag or its digest; return the digest.

    Raises:
        RegistryError: the registry cannot be reached, refuses it, or keeps something else.
    """
    content = encoded(manifest)
    response = registry.request(
        "PUT",
        f"{repository}/manifests/{target}",
        push=repository,
        expect=(200, 201, 202),
        headers={"Content-Type": manifest["mediaType"]},
        data=content,
    )
    digest = content_digest(content)
    kept = response.headers.get("Docker-Content-Digest", digest)
    if kept != digest and kept.startswith("sha256:"):
        raise RegistryError(f"The registry {registry.host} kept {kept} where it was given {digest}.")
    return digest


def encoded(document: object) -> bytes:
    """Return a document's bytes, the same for the same content."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def content_digest(content: bytes) -> str:
    """Return the digest that a registry knows content by."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def resolve_base(reference: str, attempts: int = 6) -> str:
    """Return the digest of the image, or index of images, that a reference names now.

    Args:
        reference: the image; for one with a digest, no registry is asked.
        attempts: how often a request is tried.

    Raises:
        RegistryError: the registry cannot be reached, or does not have it.
    """
    wanted = Reference.parse(reference)
    if wanted.digest:
        return wanted.digest
    found = find_manifest(Registry(wanted.host, attempts), wanted)
    if found is None:
        raise RegistryError(f"The registry {wanted.host} has no image {wanted}.", 404)
    return found


def find_base(registry: Registry, reference: Reference, platform: str) -> BaseImage:
    """Read the manifest and configuration of an image for a platform.

    Args:
        registry: has it.
        reference: the image.
        platform: such as ``linux/arm64``.

    Raises:
        RegistryError: the registry cannot be reached, or does not have it for that platform.
    """
    manifest, digest = _read(registry, reference)
    if manifest.get("mediaType") in _INDEX_TYPES or "manifests" in manifest:
        digest = _of_platform(manifest, reference, platform)
        reference = dataclasses.replace(reference, digest=digest)
        manifest, digest = _read(registry, reference)
    try:
        config = json.loads(read_blob(registry, reference.repository, manifest["config"]["digest"]))
        layers = tuple(manifest["layers"])
    except (KeyError, TypeError, ValueError):
        raise RegistryError(f"{reference} is not an image in the format of OCI or of Docker (schema 2).") from None
    made_for = f"{config.get('os', 'linux')}/{config.get('architecture')}"
    if made_for != platform:
        raise RegistryError(f"The image {reference} is for {made_for} alone, not for {platform}.", 404)
    return BaseImage(dataclasses.replace(reference, digest=digest), config, layers)


def read_blob(registry: Registry, repository: str, digest: str) -> bytes:
    """Return a small blob's content, checked against its digest."""
    content = registry.request("GET", f"{repository}/blobs/{digest}", pull=[repository]).content
    if digest != content_digest(content):
        raise RegistryError(f"The registry {registry.host} gave other content than {digest} asks for.")
    return content


def _of_platform(index: Mapping[str, Any], reference: Reference, platform: str) -> str:
    platforms: dict[str, str] = {}
    for entry in index["manifests"]:
        found = entry.get("platform") or {}
        platforms.setdefault(f"{found.get('os')}/{found.get('architecture')}", str(entry["digest"]))
    if platform not in platforms:
        known = ", ".join(sorted(name for name in platforms if not name.startswith("unknown")))
        raise RegistryError(f"The image {reference} is for {known}, not for {platform}.", 404)
    return platforms[platform]


def _place(reference: Reference) -> str:
    return f"{reference.repository}/manifests/{reference.target}"


def _read(registry: Registry, reference: Reference) -> tuple[dict[str, Any], str]:
    """Return a manifest or an index, and its digest."""
    response = registry.request(
        "GET", _place(reference), pull=[reference.repository], headers=_ACCEPT, expect=(200, 404)
    )
    if response.status_code == 404:
        raise RegistryError(f"The registry {registry.host} has no image {reference}.", 404)
    digest = content_digest(response.content)
    if reference.digest and reference.digest != digest:
        raise RegistryError(f"The registry {registry.host} gave another manifest than {reference} asks for.")
    manifest = document(response)
    manifest.setdefault("mediaType", response.headers.get("Content-Type", ""))
    return manifest, digest
