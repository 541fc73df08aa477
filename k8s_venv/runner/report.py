"""The result of a call: where it goes, and in which form."""

from __future__ import annotations

import base64
import json
import os
import sys
import time
import zlib
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Type

from k8s_venv.runner import protocol, values
from k8s_venv.runner.errors import NoCodecError

if TYPE_CHECKING:
    from types import TracebackType

    from k8s_venv.runner.registry import Types

try:
    import fcntl
except ImportError:  # pragma: no cover -- only Windows lacks it, and it has no pods to hand over from
    fcntl = None  # type: ignore[assignment]


class Reporter:
    """Leaves a call's result in a folder, or in the pod's termination message when it is small.

    Args:
        folder: receives the document and the payload.
        message: the file that Kubernetes shows in the pod's status, if any.
        limit: how much it shows, in bytes.
    """

    def __init__(self, folder: str, message: Optional[str] = None, limit: int = protocol.MESSAGE_LIMIT) -> None:
        self.timings: Dict[str, float] = {}
        self.types: Optional[Types] = None  # finds the types that travelled with the call
        self.pickle: Optional[Callable[[Any], bytes]] = None  # pickles what has no codec, where the task wants that
        self.mask: Optional[Callable[[str], str]] = None  # hides secrets in what is reported of a failure
        self.process = os.getpid()
        self._folder = folder
        self._message = message
        self._limit = limit
        self._lock: Any = None

    def __enter__(self) -> Reporter:
        os.makedirs(self._folder, exist_ok=True)
        # The system drops this lock when the process ends, however it ends: so the container that hands the
        # result over learns of it.
        running = os.path.join(self._folder, protocol.RUNNING)
        coming = running + ".part"
        self._lock = open(coming, "w")
        if fcntl is not None:
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        os.rename(coming, running)  # nobody sees it unlocked
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        sys.stdout.flush()
        self._lock.close()

    def value(self, value: Any) -> None:
        """Report a returned value.

        Raises:
            NoCodecError: the value, or a part of it, cannot travel.
        """
        started = time.perf_counter()
        try:
            parts = values.dump_parts(value, self.pickle, self.types)
        except NoCodecError as error:
            raise NoCodecError(f"result{error.path}", error.kind) from None
        self.timings["encode"] = time.perf_counter() - started
        self._leave(protocol.VALUE, parts)

    def failure(self, error: BaseException) -> str:
        """Report an exception and return the outcome that it stands for."""
        from k8s_venv.runner import failures

        try:
            parts = values.dump_parts(self._masked(failures.describe(error)))
        except Exception:  # noqa: BLE001 -- a failure must not be lost to an exception's own methods
            parts = values.dump_parts(self._masked(failures.bare(error)))
        outcome = failures.outcome(error)
        self._leave(outcome, parts)
        return outcome

    def _masked(self, failure: Dict[str, Any]) -> Any:
        if self.mask is None:
            return failure
        from k8s_venv.runner.masking import masked_data

        return masked_data(failure, self.mask)

    def _leave(self, outcome: str, parts: List[values.Piece]) -> None:
        if os.getpid() != self.process:
            os._exit(1)  # a child that the function forked has nothing to report
        from hashlib import sha256

        from k8s_venv.runner.encoder import length

        size, digest, python = sum(map(length, parts)), sha256(), sys.version.split()[0]
        if self._message is not None and size < 64 * protocol.MESSAGE_LIMIT:
            payload = b"".join(values.buffers(parts))
            packed = base64.b85encode(zlib.compress(payload, 9)).decode("ascii")
            document = protocol.Document(outcome, size, sha256(payload).hexdigest(), python, self.timings, packed)
            text = json.dumps(document.to_json())
            if len(text) <= self._limit:
                _write(self._message, text)
                return
        with open(os.path.join(self._folder, protocol.PAYLOAD), "wb") as stream:
            for buffer in values.buffers(parts):
                digest.update(buffer)
                stream.write(buffer)
        document = protocol.Document(outcome, size, digest.hexdigest(), python, self.timings)
        text = json.dumps(document.to_json())
        # The document comes last: where it stands, the payload is complete.
        _write(os.path.join(self._folder, protocol.DOCUMENT), text)
        if self._message is not None:
            _write(self._message, text)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as stream:
        stream.write(text)
