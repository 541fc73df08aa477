"""Move blobs: upload a file with as few bytes as possible, download one; both go on where they broke off."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from typing import IO, TYPE_CHECKING, Literal
from urllib.parse import urlencode, urljoin, urlsplit

import requests

from k8s_venv.registry.client import RETRIED, Registry
from k8s_venv.registry.errors import RegistryError, reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

Way = Literal["exists", "mounted", "sent"]
_READ = 1 << 18  # bytes that are read at once
_PIECE = 1 << 24
_SMALLEST_PIECE = 1 << 18
_TOO_LARGE = 413
# The answers for an upload that a registry does not know (any more), or that is at another position.
_FORGOTTEN = (400, 404, 416)


@dataclasses.dataclass(frozen=True)
class Blob:
    """A file under its digest.

    Args:
        path: the file.
        digest: its ``sha256:…``.
        size: its length in bytes.
    """

    path: Path
    digest: str
    size: int


def upload(
    registry: Registry,
    repository: str,
    digest: str,
    fetch: Callable[[], Blob],
    mount_from: Iterable[str] = (),
    progress: Callable[[int], None] | None = None,
) -> Way:
    """Make sure that a repository has a blob: it is there, it is mounted from another repository, or it is sent.

    Args:
        registry: where the repository is.
        repository: its name.
        digest: the blob's digest.
        fetch: returns the blob; it is called only if its bytes have to be sent.
        mount_from: repositories of the same registry that may have it already.
        progress: is called with each number of bytes that were sent.

    Returns:
        How the repository got it.

    Raises:
        RegistryError: the registry cannot be reached or refuses, also after retries.
    """
    if has_blob(registry, repository, digest):
        return "exists"
    begun = None
    for source in mount_from:
        response = _try_mount(registry, repository, digest, source)
        if response is not None and response.status_code == 201:
            return "mounted"
        begun = response or begun
    _Upload(registry, repository, fetch(), progress or (lambda count: None)).run(begun)
    return "sent"


def has_blob(registry: Registry, repository: str, digest: str) -> bool:
    """Return whether a repository has a blob.

    Raises:
        RegistryError: the registry cannot be reached or refuses.
    """
    return registry.head(f"{repository}/blobs/{digest}", repository).status_code == 200


def _try_mount(registry: Registry, repository: str, digest: str, source: str) -> requests.Response | None:
    """Mount a blob from another repository; the answer may begin an upload instead."""
    query = urlencode({"mount": digest, "from": source})
    try:
        return registry.request(
            "POST", f"{repository}/blobs/uploads/?{query}", pull=[source], push=repository, expect=(201, 202)
        )
    except RegistryError as error:
        # A user who may not read the other repository may still send the bytes.
        if error.status in (400, 401, 403, 404, 405):
            return None
        raise


class _Upload:
    """One blob that is sent, and resumed where it broke off."""

    def __init__(self, registry: Registry, repository: str, blob: Blob, progress: Callable[[int], None]) -> None:
        self._registry, self._repository, self._blob, self._progress = registry, repository, blob, progress
        self._reported = 0
        self._place = ""
        self._offset = 0  # the bytes that the registry has
        self._piece = _PIECE
        self._smallest = _SMALLEST_PIECE

    def run(self, begun: requests.Response | None) -> None:
        """Send everything; begin an upload unless one began already.

        The first try sends one piece, as Docker does and every registry takes it. If that broke off, the next sends
        several, since the reference implementation resumes only after a piece that it has answered. If pieces are
        refused, the next sends one again, or ever smaller ones if one is too large for a proxy.
        """
        self._begin_at(begun or self._begin())
        failures, too_large = 0, False
        while True:
            reached, in_pieces = self._offset, too_large or failures % 2 == 1
            try:
                self._send_rest(self._piece if in_pieces else self._blob.size)
                self._finish()
            except RegistryError as error:
                failures = 1 if self._offset > reached else failures + 1
                too_large = too_large or error.status == _TOO_LARGE
                if in_pieces and self._offset == reached:
                    self._piece = max(self._piece // 4, self._smallest)
                self._registry.wait(error, failures, (*RETRIED, *_FORGOTTEN, _TOO_LARGE))
                if self._resume():
                    return
            else:
                return

    def _begin(self) -> requests.Response:
        place = f"{self._repository}/blobs/uploads/"
        return self._registry.request("POST", place, push=self._repository, expect=(202,))

    def _begin_at(self, begun: requests.Response) -> None:
        """Note where an upload goes on, and the smallest piece that it takes (OCI-Chunk-Min-Length)."""
        self._place, self._offset = _location(begun), 0
        least = begun.headers.get("OCI-Chunk-Min-Length", "")
        if least.isdecimal():
            self._smallest = max(self._smallest, int(least))
            self._piece = max(self._piece, self._smallest)

    def _send_rest(self, piece: int) -> None:
        """Send what is left, in pieces of so many bytes."""
        while self._offset < self._blob.size:
            end = min(self._offset + piece, self._blob.size)
            headers = {"Content-Type": "application/octet-stream"}
            if self._offset or end < self._blob.size:
                headers["Content-Range"] = f"{self._offset}-{end - 1}"
            body = _Body(self, self._offset, end)
            response = self._registry.request(
                "PATCH", self._place, push=self._repository, expect=(202,), headers=headers, data=body, retry=False
            )
            self._place, self._offset = _location(response, self._place), end

    def _finish(self) -> None:
        joint = "&" if "?" in self._place else "?"
        self._registry.request(
            "PUT",
            f"{self._place}{joint}{urlencode({'digest': self._blob.digest})}",
            push=self._repository,
            expect=(201, 204),
            retry=False,
        )

    def _resume(self) -> bool:
        """Ask how far an upload got, and begin another if the registry forgot it; return whether it was complete."""
        understood = set(range(200, 500)).difference(RETRIED)
        response = self._registry.request("GET", self._place, push=self._repository, expect=understood)
        found = re.fullmatch(r"(?:bytes=)?0-(\d+)", response.headers.get("Range", ""))
        # "0-0" means nothing or one byte.
        if response.status_code == 204 and found and 0 < int(found[1]) < self._blob.size:
            self._place, self._offset = _location(response, self._place), int(found[1]) + 1
            return False
        if has_blob(self._registry, self._repository, self._blob.digest):
            return True
        self._begin_at(self._begin())
        return False

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """Yield a part of the file; report how many of its bytes were sent for the first time."""
        try:
            with self._blob.path.open("rb") as stream:
                stream.seek(start)
                while data := stream.read(min(_READ, end - start)):
                    self._registry.raise_if_stopped()
                    yield data
                    start += len(data)
                    if start > self._reported:
                        self._progress(start - self._reported)
                        self._reported = start
        except OSError as error:  # requests would take it for an error of the network
            raise RegistryError(f"{self._blob.path} cannot be read: {error.strerror}.", lasting=True) from None


class _Body:
    """A part of an upload as a request's body: its length is known, and it can be sent again."""

    def __init__(self, upload: _Upload, start: int, end: int) -> None:
        self._upload, self._start, self._end = upload, start, end

    def __len__(self) -> int:
        return self._end - self._start

    def __iter__(self) -> Iterator[bytes]:
        return self._upload.read(self._start, self._end)


def _location(response: requests.Response, known: str = "") -> str:
    """Return where an upload goes on: an address, or a path of the address that was asked."""
    given = response.headers.get("Location", known)
    if not given:
        host = urlsplit(response.url).netloc
        raise RegistryError(f"{host} began an upload, and does not say where it goes on.", lasting=True)
    return urljoin(response.url, given)


def download(registry: Registry, repository: str, digest: str, path: Path) -> None:
    """Write a blob to a file.

    Args:
        registry: where the repository is.
        repository: its name.
        digest: the blob's digest, against which the content is checked.
        path: the file.

    Raises:
        RegistryError: the registry cannot be reached, does not have the blob, or gives other content.
        OSError: the file cannot be written.
    """
    with path.open("w+b") as stream:
        failures, complete = 0, False
        while not complete:
            before = stream.tell()
            try:
                _receive_rest(registry, repository, digest, stream)
                complete = True
            except RegistryError as error:
                failures = 1 if stream.tell() > before else failures + 1
                registry.wait(error, failures)
        stream.seek(0)
        found = f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
    if found != digest:
        raise RegistryError(f"The registry {registry.host} gives other content than {digest} asks for.")


def _receive_rest(registry: Registry, repository: str, digest: str, stream: IO[bytes]) -> None:
    """Ask for the rest of a blob, and append it."""
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
        if response.status_code == 200:  # from the beginning, as some registries do not support ranges
            stream.seek(0)
            stream.truncate()
        try:
            for piece in response.iter_content(_READ):
                registry.raise_if_stopped()
                stream.write(piece)
        except requests.RequestException as error:
            raise RegistryError(f"The registry {registry.host} broke off: {reason(error)}.") from None
