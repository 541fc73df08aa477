"""An image's configuration, manifest and index (OCI image specification), made from its parts."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Any

from k8s_venv.registry.images import content_digest, encoded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from k8s_venv.builders.layers import Layer
    from k8s_venv.registry import BaseImage

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
# Docker's names of what the OCI calls otherwise; the bytes are the same.
_LAYER_TYPES = {
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.diff.tar": "application/vnd.oci.image.layer.v1.tar",
}


@dataclasses.dataclass(frozen=True)
class Image:
    """A finished image for one platform.

    Args:
        platform: such as ``linux/arm64``.
        base: the image under it, for its layers that are not here.
        layers: its layers that are here.
        config: its configuration.
        manifest: its manifest.
    """

    platform: str
    base: BaseImage | None
    layers: tuple[Layer, ...]
    config: bytes
    manifest: Mapping[str, Any]

    @property
    def base_layers(self) -> list[Mapping[str, Any]]:
        """Return the descriptors of the base's layers."""
        return list(self.manifest["layers"][: len(self.base.layers)]) if self.base else []

    @property
    def config_digest(self) -> str:
        """Return the digest of its configuration."""
        return content_digest(self.config)

    @property
    def digest(self) -> str:
        """Return the digest of its manifest."""
        return content_digest(encoded(self.manifest))


def assemble(platform: str, base: BaseImage, layers: Sequence[Layer], labels: Mapping[str, str], prefix: str) -> Image:
    """Put layers on a base.

    Args:
        platform: such as ``linux/arm64``.
        base: the image under them.
        layers: the layers, the lowest first.
        labels: the image's labels.
        prefix: the environment's folder; its `python` is first on PATH.
    """
    config = copy.deepcopy(dict(base.config))
    for key in ("container", "container_config", "docker_version", "moby.buildkit.buildinfo.v1"):
        config.pop(key, None)
    run = config["config"] = dict(config.get("config") or {})
    path = base.environ.get("PATH") or "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    environ = {**base.environ, "PATH": f"/{prefix}/bin:{path}", "HOME": "/tmp", "PYTHONUNBUFFERED": "1"}  # noqa: S108
    run["Env"] = [f"{name}={value}" for name, value in environ.items()]
    # Any other numeric user works as well: nothing in the image belongs to this one.
    run.update(User="50000:0", WorkingDir="/tmp", Cmd=["python"])  # noqa: S108
    run["Labels"] = {**(run.get("Labels") or {}), **labels}
    created = config.get("created")
    moment = {"created": created} if created else {}
    config["rootfs"] = {
        "type": "layers",
        "diff_ids": [*config["rootfs"]["diff_ids"], *(layer.diff_id for layer in layers)],
    }
    config["history"] = [
        *(config.get("history") or ()),
        *({**moment, "created_by": "k8s-venv", "comment": layer.title} for layer in layers),
    ]
    document = encoded(config)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {"mediaType": CONFIG_TYPE, "digest": content_digest(document), "size": len(document)},
        "layers": [
            *(
                {**layer, "mediaType": _LAYER_TYPES.get(layer["mediaType"], layer["mediaType"])}
                for layer in base.layers
            ),
            *(layer.descriptor for layer in layers),
        ],
        "annotations": {
            "org.opencontainers.image.base.name": str(dataclasses.replace(base.reference, digest="")),
            "org.opencontainers.image.base.digest": base.reference.digest,
        },
    }
    return Image(platform, base, tuple(layers), document, manifest)


def index_of(images: Sequence[Image]) -> dict[str, Any]:
    """Return the index of an image's platforms."""
    return {
        "schemaVersion": 2,
        "mediaType": INDEX_TYPE,
        "manifests": [
            {
                "mediaType": MANIFEST_TYPE,
                "digest": image.digest,
                "size": len(encoded(image.manifest)),
                "platform": dict(zip(("os", "architecture"), image.platform.split("/"), strict=True)),
            }
            for image in images
        ],
    }


def whole(images: Sequence[Image]) -> Mapping[str, Any]:
    """Return what an image's tag names: its manifest, or the index of its platforms."""
    return images[0].manifest if len(images) == 1 else index_of(images)


def digest_of_whole(images: Sequence[Image]) -> str:
    """Return the digest of what an image's tag names."""
    return content_digest(encoded(whole(images)))
