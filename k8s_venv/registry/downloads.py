"""Bring a blob from a repository into a file; a download that broke off goes on where it was."""

from __future__ import annotations

import hashlib
from typing import IO, TYPE_CHECKING

from k8s_venv.registry.errors import RegistryError, reason

if TYPE_CHECKING:
    from pathlib import Path

    from k8s_venv.registry.client import Registry

_READ = 1 << 20


def download(registry: Registry, repository: str, digest: str, path: Path) -> None:
    """Write a blob to a file.

    Args:
        registry: has it.
        repository: in this repository.
        digest: its digest, against which the content is checked.
        path: the file.

    Raises:
        RegistryError: the registry cannot be asked, does not have it, or gives other content.
        OSError: the file cannot be written.
    """
    with path.open("w+b") as stream:
        attempt = 1
        while True:
            before = stream.tell()
            try:
                _read_on(registry, repository, digest, stream)
                break
            except RegistryError as error:
                attempt = 1 if stream.tell() > before else attempt
                if not registry.may_retry(error, attempt):
                    raise
                registry.wait(error, attempt)
                attempt += 1
        stream.seek(0)
        found = f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
    if found != digest:
        raise RegistryError(f"The registry {registry.host} gives other content than {digest} asks for.")


def _read_on(registry: Registry, repository: str, digest: str, stream: IO[bytes]) -> None:
    """Ask for what is missing, and append it."""
    import requests

    have = stream.tell()
    response = registry.request(
        "GET",
        f"{repository}/blobs/{digest}",
        pull=[repository],
        expect=(200, 206),
        headers={"Range": f"bytes={have}-"} if have else None,
        stream=True,
        retry=False,
    )
    with response:
        if response.status_code == 200:  # from the beginning, as not every registry knows ranges
            stream.seek(0)
            stream.truncate()
        pieces = response.iter_content(_READ)
        while True:
            registry.require_going()
            try:
                piece = next(pieces, b"")
            except (requests.RequestException, OSError) as error:
                raise RegistryError(f"The registry {registry.host} broke off: {reason(error)}.") from None
            if not piece:
                return
            stream.write(piece)
