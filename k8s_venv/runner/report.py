"""The result of a call: where it goes, and in which form."""

from __future__ import annotations

import os
import sys
import time

from k8s_venv.runner import streams
from k8s_venv.wire import protocol, quickjson, values
from k8s_venv.wire.errors import DeliveryError, NoCodecError, Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional

    from k8s_venv.wire.registry import Piece, Types

_SMALL = 1024 * 1024  # bytes


class Reporter:
    """Leaves a call's result in a folder, or in the pod's termination message when it is small.

    Args:
        folder: receives the document and the payload.
        message: the file that Kubernetes shows in the pod's status, if any.
    """

    def __init__(self, folder: str, message: Optional[str] = None) -> None:
        self.timings: Dict[str, float] = {}
        self.types: Optional[Types] = None  # finds the types that travelled with the call
        self.pickle: Optional[Callable[[Any], bytes]] = None  # pickles what has no codec, where the task wants that
        self.mask: Optional[Callable[[str], str]] = None  # hides secrets in what is reported of a failure
        self.delivery: Dict[str, Any] = {}  # how large values come in and go out: delivery.json
        self.process = os.getpid()
        self.document = ""  # what was reported
        self.payload = ""  # the file in which the payload waits for the sender
        self.folder = folder
        self._message = message
        self._lock: Any = None

    def __enter__(self) -> Reporter:
        os.makedirs(self.folder, exist_ok=True)
        if self._message is not None:  # in a pod, where another container hands the result over
            self._lock = _locked(os.path.join(self.folder, protocol.RUNNING))
        return self

    def __exit__(self, *error: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def value(self, value: Any) -> None:
        """Report a returned value.

        Raises:
            NoCodecError: the value, or a part of it, cannot travel.
        """
        started, notes = time.perf_counter(), Notes()
        try:
            parts = values.dump_parts(value, self.pickle, self.types, notes)
        except NoCodecError as error:
            raise NoCodecError(f"result{error.path}", error.kind) from None
        for sentence in notes.sentences(lambda path: f"result{path}"):
            streams.say("WARNING", sentence)
        self.timings["encode"] = time.perf_counter() - started
        self._leave(protocol.VALUE, parts)

    def failure(self, error: BaseException) -> str:
        """Report an exception and return the outcome that it stands for."""
        if isinstance(error, MemoryError):
            _clear_frames(error)
        from k8s_venv.runner import failures
        from k8s_venv.wire.masking import masked_data

        try:
            parts = values.dump_parts(masked_data(failures.describe(error, self.types, self.mask), self.mask))
        except BaseException:  # noqa: BLE001 -- a failure must not be lost to an exception's own methods
            parts = values.dump_parts(masked_data(failures.bare(error), self.mask))
        outcome = failures.outcome(error)
        try:
            self._leave(outcome, parts)
        except (DeliveryError, OSError):  # no way out for so much
            self._leave(outcome, values.dump_parts(masked_data(failures.short(error), self.mask)))
        return outcome

    def _leave(self, outcome: str, parts: List[Piece]) -> None:
        from k8s_venv.wire.encoder import length

        size = sum(map(length, parts))
        text = self._inline(outcome, parts, size) or self._outside(outcome, parts, size)
        if self._message is not None:
            _write(self._message, text)
        self.document = text

    def _inline(self, outcome: str, parts: List[Piece], size: int) -> str:
        """Return the document with the payload in it, if it fits into the pod's status."""
        if self._message is None or size > 64 * protocol.MESSAGE_LIMIT or not self.delivery.get("inline", True):
            return ""
        from base64 import b85encode
        from zlib import compress

        payload = b"".join(values.buffers(parts))
        digest = _sha256(size)
        digest.update(payload)
        document = self._document(outcome, size, digest)
        document.inline = b85encode(compress(payload, 9)).decode("ascii")
        text = quickjson.dumps(document.to_json())
        return text if len(text) <= self.delivery.get("message", protocol.MESSAGE_LIMIT) else ""

    def _outside(self, outcome: str, parts: List[Piece], size: int) -> str:
        """Leave the payload in a file, or where the sender wants it; return the document."""
        self._check_size(size)
        os.makedirs(self.folder, exist_ok=True)  # the function may have cleared what it took for its own
        path = os.path.join(self.folder, protocol.PAYLOAD)
        digest = _sha256(size)
        with open(path, "wb") as stream:
            for buffer in values.buffers(parts):
                digest.update(buffer)
                stream.write(buffer)
        document = self._document(outcome, size, digest)
        if self._stored(path, size):
            document.stored = True
            os.remove(path)
        else:
            self.payload = path
        text = quickjson.dumps(document.to_json())
        if self._message is None or not document.stored:
            # The document comes last: where it stands, the payload is complete.
            _write(os.path.join(self.folder, protocol.DOCUMENT), text)
        return text

    @property
    def _hands_over(self) -> bool:
        """Return whether the sender can read the payload from the folder."""
        return self._message is None or bool(self.delivery.get("hand_over", True))

    def _check_size(self, size: int) -> None:
        if self._message is None or "result" in self.delivery:
            limit, problem = protocol.RESULT_LIMIT, "a result may take {:,}"
        elif self._hands_over:
            limit, problem = protocol.HAND_OVER_LIMIT, "{:,} are read through `pods/exec`"
        else:
            limit, problem = 0, "that is too much for the pod's status, and `exec = false` allows nothing else"
        if size > limit:
            raise DeliveryError(
                f"its result takes {size:,} bytes; {problem.format(limit)}. Name a `location` under [values] in the "
                "project file, or return a reference to the data (a path, a table, a URL) instead of the data itself."
            )

    def _stored(self, path: str, size: int) -> bool:
        """Put the payload into the location for large values, if it goes there; return whether it is there."""
        wanted = self.delivery.get("result")
        if not wanted or (size <= wanted["above"] and self._hands_over):
            return False
        from k8s_venv.runner.transfer import store

        try:
            store(wanted, path)
        except OSError as error:
            problem = f"the result ({size:,} bytes) could not be put into the location for large values: {error}"
            if not self._hands_over or (self._message is not None and size > protocol.HAND_OVER_LIMIT):
                raise DeliveryError(problem) from None
            streams.say("WARNING", f"{problem}; it goes through the pod itself instead.")
            return False
        return True

    def _document(self, outcome: str, size: int, digest: Any) -> protocol.Document:
        return protocol.Document(outcome, size, digest.hexdigest(), sys.version.split()[0], self.timings)


def _clear_frames(error: BaseException) -> None:
    """Clear the variables of functions that an exception passed through: they may hold all the memory."""
    trace = error.__traceback__
    while trace is not None:
        try:  # noqa: SIM105 -- `contextlib` would have to be imported
            trace.tb_frame.clear()
        except RuntimeError:  # it still runs
            pass
        trace = trace.tb_next


def _sha256(size: int) -> Any:
    """Return a digest for so many bytes. `hashlib` loads OpenSSL, which is worth it for many."""
    if size <= _SMALL:
        try:
            if sys.version_info >= (3, 12):
                from _sha2 import sha256  # type: ignore[import-not-found]
            else:
                from _sha256 import sha256
            return sha256()
        except ImportError:  # Python can be built without
            pass
    from hashlib import sha256

    return sha256()


def _locked(path: str) -> Any:
    """Return a file that stays locked for as long as this process lives: the system sees to that."""
    import fcntl

    coming = path + ".part"
    lock = open(coming, "w")  # noqa: SIM115 -- until the process ends
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.rename(coming, path)  # others see it only when it is locked
    return lock


def _write(path: str, text: str) -> None:
    with open(path, "wb") as stream:
        stream.write(text.encode())
