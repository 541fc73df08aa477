"""Bring a blob into a repository, with as few bytes as possible: it is there, it is mounted, or it is sent."""

from __future__ import annotations

import dataclasses
import re
import time
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlencode, urljoin

from k8s_venv.registry.client import RETRIED, Registry, RegistryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    import requests

Way = Literal["exists", "mounted", "sent"]
_READ = 1 << 18
_PIECE = 1 << 24
# What a registry says of an upload that it does not know (any more), or knows otherwise.
_FORGOTTEN = (400, 404, 416)
_LONGEST_WAIT = 10.0  # seconds


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
    stopped: Callable[[], bool] | None = None,
) -> Way:
    """Make a repository have a blob.

    Args:
        registry: where the repository is.
        repository: its name.
        digest: the blob's digest.
        fetch: returns the blob; it is called only when its bytes have to be sent.
        mount_from: repositories of the same registry that may have it already.
        progress: is called with each number of bytes that were sent.
        stopped: tells whether to give up.

    Returns:
        How it came there.

    Raises:
        RegistryError: the registry cannot be reached or refuses, also after retries.
    """
    if has_blob(registry, repository, digest):
        return "exists"
    place = ""
    for source in mount_from:
        begun = _mounted_or_begun(registry, repository, digest, source)
        if begun is None:
            return "mounted"
        place = begun or place
    sending = _Sending(registry, repository, fetch(), progress or (lambda count: None), stopped or (lambda: False))
    sending.run(place)
    return "sent"


def has_blob(registry: Registry, repository: str, digest: str) -> bool:
    """Tell whether a repository has a blob."""
    place = f"{repository}/blobs/{digest}"
    return registry.request("HEAD", place, pull=[repository], expect=(200, 404)).status_code == 200


def _mounted_or_begun(registry: Registry, repository: str, digest: str, source: str) -> str | None:
    """Mount a blob from another repository; return None, or where the upload goes on that began instead."""
    query = urlencode({"mount": digest, "from": source})
    try:
        response = registry.request(
            "POST", f"{repository}/blobs/uploads/?{query}", pull=[source], push=repository, expect=(201, 202)
        )
    except RegistryError as error:
        # Whoever may not read the other repository may still send the bytes.
        if error.status in (400, 401, 403, 404, 405):
            return ""
        raise
    return None if response.status_code == 201 else _location(response)


def _location(response: requests.Response) -> str:
    return urljoin(response.url, response.headers["Location"])


class _Sending:
    """One blob on its way: streamed, and taken up where it broke off."""

    def __init__(
        self,
        registry: Registry,
        repository: str,
        blob: Blob,
        progress: Callable[[int], None],
        stopped: Callable[[], bool],
    ) -> None:
        self._registry, self._repository, self._blob = registry, repository, blob
        self._progress, self._stopped = progress, stopped
        self._told = 0
        self._place = ""

    def run(self, place: str) -> None:
        """Send everything, beginning an upload unless one began already.

        At first in one piece, as Docker does and every registry takes it. Where that broke off, in pieces: the
        reference implementation can only go on after a piece that it has answered. Where pieces are refused, in one
        again.
        """
        self._place, offset = place or self._begin(), 0
        for attempt in range(1, self._registry.attempts + 1):
            try:
                if attempt > 1:
                    offset = self._resume()
                self._send_rest(offset, _PIECE if attempt % 2 == 0 else self._blob.size)
                self._finish()
            except RegistryError as error:
                lasting = error.status is not None and error.status not in (*RETRIED, *_FORGOTTEN)
                if lasting or attempt == self._registry.attempts or self._stopped():
                    raise
                time.sleep(min(_LONGEST_WAIT, _wait(error, attempt)))
            else:
                return

    def _begin(self) -> str:
        place = f"{self._repository}/blobs/uploads/"
        return _location(self._registry.request("POST", place, push=self._repository, expect=(202,)))

    def _send_rest(self, offset: int, piece: int) -> None:
        """Send what is left, in pieces of so many bytes."""
        while offset < self._blob.size:
            end = min(offset + piece, self._blob.size)
            headers = {"Content-Type": "application/octet-stream"}
            if offset or end < self._blob.size:
                headers["Content-Range"] = f"{offset}-{end - 1}"
            body = _Body(self._blob.path, offset, end, self._count, self._stopped)
            response = self._registry.request(
                "PATCH", self._place, push=self._repository, expect=(202,), headers=headers, data=body, retry=False
            )
            self._place, offset = _location(response), end

    def _finish(self) -> None:
        joint = "&" if "?" in self._place else "?"
        self._registry.request(
            "PUT",
            f"{self._place}{joint}{urlencode({'digest': self._blob.digest})}",
            push=self._repository,
            expect=(201, 204),
            retry=False,
        )

    def _resume(self) -> int:
        """Ask how far an upload got; one that the registry forgot begins again."""
        response = self._registry.request("GET", self._place, push=self._repository, expect=range(200, 500))
        found = re.fullmatch(r"(?:bytes=)?0-(\d+)", response.headers.get("Range", ""))
        # "0-0" is said for nothing and for one byte alike.
        if response.status_code == 204 and found and int(found[1]):
            self._place = _location(response)
            return int(found[1]) + 1
        self._place = self._begin()
        return 0

    def _count(self, position: int) -> None:
        """Tell how many bytes were sent that never were before."""
        if position > self._told:
            self._progress(position - self._told)
            self._told = position


class _Body:
    """A part of a file as a request's body: its length is known, and it can be sent again."""

    def __init__(
        self, path: Path, start: int, end: int, count: Callable[[int], None], stopped: Callable[[], bool]
    ) -> None:
        self._path, self._start, self._end, self._count, self._stopped = path, start, end, count, stopped

    def __len__(self) -> int:
        return self._end - self._start

    def __iter__(self) -> Iterator[bytes]:
        with self._path.open("rb") as stream:
            stream.seek(self._start)
            position = self._start
            while data := stream.read(min(_READ, self._end - position)):
                if self._stopped():
                    raise RegistryError("The upload was interrupted.", 499)
                yield data
                position += len(data)
                self._count(position)


def _wait(error: RegistryError, attempt: int) -> float:
    return error.retry_after if error.retry_after is not None else 0.3 * 2**attempt
