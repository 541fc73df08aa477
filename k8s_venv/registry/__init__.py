"""Image registries, through the OCI distribution API.

https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md
"""

from k8s_venv.registry.blobs import Blob, download, upload
from k8s_venv.registry.client import Registry, registry_at, stop_registries
from k8s_venv.registry.errors import DENIED, RegistryError
from k8s_venv.registry.images import BaseImage, Reference, find_base, image_exists, resolve_base

__all__ = [
    "DENIED",
    "BaseImage",
    "Blob",
    "Reference",
    "Registry",
    "RegistryError",
    "download",
    "find_base",
    "image_exists",
    "registry_at",
    "resolve_base",
    "stop_registries",
    "upload",
]
