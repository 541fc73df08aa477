"""Image references: ``registry.example.com/team/name:tag@sha256:…``, with Docker's defaults for what is left out."""

from __future__ import annotations

import dataclasses

from k8s_venv.registry.addresses import DOCKER_HUB

# Other names of Docker Hub.
_DOCKER_HUB = ("index.docker.io", "registry-1.docker.io", "registry.hub.docker.com")


@dataclasses.dataclass(frozen=True)
class Reference:
    """A parsed reference.

    Args:
        host: the registry, with its port where it has one.
        repository: the image's name on that registry.
        tag: its tag, or nothing where a digest stands alone.
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
        # What looks like no host is the first part of a name on Docker Hub; no repository has capital letters.
        if not slash or not ("." in first or ":" in first or first == "localhost" or first != first.lower()):
            first, rest = DOCKER_HUB, name
        first = DOCKER_HUB if first.lower() in _DOCKER_HUB else first.lower()
        repository, colon, tag = rest.partition(":")
        if first == DOCKER_HUB and "/" not in repository:
            repository = f"library/{repository}"
        return cls(first, repository, tag if colon else "" if digest else "latest", digest)

    @property
    def target(self) -> str:
        """Return what a manifest is asked for by: the digest where there is one, else the tag."""
        return self.digest or self.tag

    def __str__(self) -> str:
        """Return the whole reference."""
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.host}/{self.repository}{tag}{'@' if self.digest else ''}{self.digest}"
