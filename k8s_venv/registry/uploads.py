"""Bring a blob into a repository, with as few bytes as possible: it is there, it is mounted, or it is sent."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlencode, urljoin, urlsplit

from k8s_venv.registry.client import HEAD_REFUSED, RETRIED, Registry
from k8s_venv.registry.errors import RegistryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    import requests

Way = Literal["exists", "mounted", "sent"]
_READ = 1 << 18
_PIECE = 1 << 24
_SMALLEST_PIECE = 1 << 18
_TOO_LARGE = 413
# What a registry answers where it does not know an upload (any more), or is at another position of it.
_FORGOTTEN = (400, 404, 411, 416)


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
    """Make a repository have a blob.

    Args:
        registry: where the repository is.
        repository: its name.
        digest: the blob's digest.
        fetch: returns the blob; it is called only when its bytes have to be sent.
        mount_from: repositories of the same registry that may have it already.
        progress: is called with each number of bytes that were sent.

    Returns:
        How it came there.

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
    _Sending(registry, repository, fetch(), progress or (lambda count: None)).run(begun)
    return "sent"


def has_blob(registry: Registry, repository: str, digest: str) -> bool:
    """Return whether a repository has a blob.

    Raises:
        RegistryError: the registry cannot be asked.
    """
    place = f"{repository}/blobs/{digest}"
    response = registry.request("HEAD", place, pull=[repository], expect=(200, 404, *HEAD_REFUSED))
    if response.status_code in HEAD_REFUSED:
        response = registry.request("GET", place, pull=[repository], expect=(200, 404), stream=True)
        response.close()
    return response.status_code == 200


def _try_mount(registry: Registry, repository: str, digest: str, source: str) -> requests.Response | None:
    """Mount a blob from another repository; the answer may tell where an upload begins instead."""
    query = urlencode({"mount": digest, "from": source})
    try:
        return registry.request(
            "POST", f"{repository}/blobs/uploads/?{query}", pull=[source], push=repository, expect=(201, 202)
        )
    except RegistryError as error:
        # Whoever may not read the other repository may still send the bytes.
        if error.status in (400, 401, 403, 404, 405):
            return None
        raise


def _location(response: requests.Response, known: str = "") -> str:
    """Return where an upload goes on: an address, or a path of the address that was asked."""
    given = response.headers.get("Location", known)
    if not given:
        host = urlsplit(response.url).netloc
        raise RegistryError(f"{host} began an upload, and does not say where it goes on.", lasting=True)
    return urljoin(response.url, given)


class _Sending:
    """One blob on its way: streamed, and taken up where it broke off."""

    def __init__(self, registry: Registry, repository: str, blob: Blob, progress: Callable[[int], None]) -> None:
        self._registry, self._repository, self._blob, self._progress = registry, repository, blob, progress
        self._told = 0
        self._place = ""
        self._offset = 0  # what the registry says that it has
        self._piece = _PIECE
        self._smallest = _SMALLEST_PIECE

    def run(self, begun: requests.Response | None) -> None:
        """Send everything, beginning an upload unless one began already.

        At first in one piece, as Docker does and every registry takes it. Where that broke off, in pieces: the
        reference implementation can only go on after a piece that it has answered. Where pieces are refused, in one
        again; where that is too much for a proxy between us, in ever smaller ones.
        """
        self._take(begun or self._begin())
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
                if self._is_lasting(error, failures):
                    raise
                self._registry.wait(error, failures)
                if self._resume():
                    return
            else:
                return

    def _is_lasting(self, error: RegistryError, failures: int) -> bool:
        passing = error.status in (*_FORGOTTEN, _TOO_LARGE) and failures < self._registry.attempts
        return not (passing or self._registry.may_retry(error, failures))

    def _begin(self) -> requests.Response:
        place = f"{self._repository}/blobs/uploads/"
        return self._registry.request("POST", place, push=self._repository, expect=(202,))

    def _take(self, begun: requests.Response) -> None:
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
            body = _Body(self._blob.path, self._offset, end, self._count, self._registry.require_going)
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
        """Ask how far an upload got, or whether it ended after all; one that the registry forgot begins again."""
        understood = set(range(200, 500)).difference(RETRIED)
        response = self._registry.request("GET", self._place, push=self._repository, expect=understood)
        found = re.fullmatch(r"(?:bytes=)?0-(\d+)", response.headers.get("Range", ""))
        # "0-0" is said for nothing and for one byte alike.
        if response.status_code == 204 and found and 0 < int(found[1]) < self._blob.size:
            self._place, self._offset = _location(response, self._place), int(found[1]) + 1
            return False
        if has_blob(self._registry, self._repository, self._blob.digest):
            return True
        self._take(self._begin())
        return False

    def _count(self, position: int) -> None:
        """Report how many bytes were sent for the first time."""
        if position > self._told:
            self._progress(position - self._told)
            self._told = position


class _Body:
    """A part of a file as a request's body: its length is known, and it can be sent again."""

    def __init__(
        self, path: Path, start: int, end: int, count: Callable[[int], None], require_going: Callable[[], None]
    ) -> None:
        self._path, self._start, self._end, self._count, self._require_going = path, start, end, count, require_going

    def __len__(self) -> int:
        return self._end - self._start

    def __iter__(self) -> Iterator[bytes]:
        try:
            with self._path.open("rb") as stream:
                stream.seek(self._start)
                position = self._start
                while data := stream.read(min(_READ, self._end - position)):
                    self._require_going()
                    yield data
                    position += len(data)
                    self._count(position)
        except OSError as error:  # which requests would take for one of the network
            raise RegistryError(f"{self._path} cannot be read: {error.strerror}.", lasting=True) from None
