"""Bring back what a call left: from its pod's status, or through the container beside it."""

from __future__ import annotations

import contextlib
import hashlib
import re
import tempfile
import time
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from kubernetes.client.exceptions import ApiException
from kubernetes.stream import stream
from kubernetes.stream.ws_client import STDERR_CHANNEL, STDOUT_CHANNEL
from websocket import ABNF, WebSocketException

from k8s_venv.backends.kubernetes import render
from k8s_venv.calls import Result
from k8s_venv.calls.results import inline_result
from k8s_venv.errors import BackendError
from k8s_venv.runner.mapped import map_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from k8s_venv.calls import PackedCall
    from k8s_venv.runner import protocol
    from k8s_venv.runner.values import Buffer

# A large result: how often reading may fail without a byte of progress, and the seconds between two attempts and
# of silence in one.
_ATTEMPTS = 4
_PAUSE = 1.0
_SILENCE = 60
_BROKEN = (OSError, WebSocketException)


class PodPayload:
    """What one pod hands over.

    Args:
        client: a ``CoreV1Api``.
        namespace: the pod's namespace.
        name: its name.
        call: the call that it ran.
        log: is called with what the reading command says.
    """

    def __init__(self, client: Any, namespace: str, name: str, call: PackedCall, log: Callable[[str], None]) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._call = call
        self._log = log
        self._held = False  # whether the sidecar waits for us

    def fetch(self, document: protocol.Document) -> Result:
        """Return the result that a document announces.

        Raises:
            BackendError: its payload is damaged, or cannot be read.
        """
        if document.inline is not None:
            return inline_result(document, self._call.environment.name)
        self._held = True
        return Result(document, self._download(document))

    def release(self) -> None:
        """Let a sidecar that keeps the payload end, where the pod itself is kept."""
        if self._held:
            with contextlib.suppress(ApiException, *_BROKEN):
                self._exec(render.release_command()).close()

    def _download(self, document: protocol.Document) -> Buffer:
        """Read a large result into a file; what breaks off is taken up where it broke off."""
        try:
            with tempfile.TemporaryFile(prefix="k8s-venv-result-") as file:
                self._fill(cast("BinaryIO", file), document)
                file.flush()
                return map_file(file.fileno())
        except OSError as error:
            raise self._unread(document, f"the worker cannot keep it in {tempfile.gettempdir()}: {error}") from None

    def _fill(self, file: BinaryIO, document: protocol.Document) -> None:
        digest, size, failures = hashlib.sha256(), 0, 0
        while True:
            before, problem = size, ""
            try:
                for data in self._read(size):
                    wanted = data[: document.size - size]
                    digest.update(wanted)
                    file.write(wanted)
                    size += len(wanted)
                    if size == document.size:
                        break
            except _BrokenOffError as error:
                problem = str(error)
                if error.refused:
                    raise self._unread(document, problem) from None
            if size == document.size:
                if digest.hexdigest() == document.sha256:
                    return
                problem = "its checksum does not match"
                digest, size = hashlib.sha256(), 0
                file.seek(0)
            failures = 1 if size > before else failures + 1
            if failures >= _ATTEMPTS:
                raise self._unread(document, problem or f"it ended after {size:,} bytes")
            time.sleep(_PAUSE)

    def _read(self, start: int) -> Iterator[bytes]:
        """Yield a large result from one of its bytes on, until the connection ends."""
        try:
            channel = self._exec(render.read_command(start))
            try:
                yield from self._frames(channel.sock)
            finally:
                channel.close()
        except ApiException as error:
            raise _refusal(error) from None
        except _BROKEN as error:
            raise _BrokenOffError(str(error)) from None

    def _frames(self, socket: Any) -> Iterator[bytes]:
        # Not through the client's own `update`: it waits for the socket while TLS holds what has arrived.
        socket.settimeout(_SILENCE)
        while True:
            kind, frame = socket.recv_data_frame(control_frame=True)
            if kind == ABNF.OPCODE_CLOSE:
                return
            if kind not in (ABNF.OPCODE_BINARY, ABNF.OPCODE_TEXT) or not frame.data:
                continue
            number, data = frame.data[0], frame.data[1:]
            if number == STDOUT_CHANNEL:
                yield data
            elif number == STDERR_CHANNEL:
                self._log(data.decode("utf-8", "replace").rstrip())

    def _unread(self, document: protocol.Document, problem: str) -> BackendError:
        return BackendError(
            self._call.environment.name,
            f"the result of {self._call.function}() ({document.size:,} bytes) could not be read from its pod: "
            f"{problem}.",
        )

    def _exec(self, command: list[str]) -> Any:
        try:
            return stream(
                self._client.connect_get_namespaced_pod_exec,
                self._name,
                self._namespace,
                container=render.SIDECAR,
                command=command,
                stdin=False,
                stdout=True,
                stderr=True,
                tty=False,
                binary=True,
                _preload_content=False,
            )
        except AttributeError as error:  # the client trips over a refusal, which has no body here
            if isinstance(error.__context__, ApiException):
                raise error.__context__ from None
            raise


class _BrokenOffError(Exception):
    """The connection to the sidecar broke, or was never made.

    Args:
        problem: how.
        refused: whether another attempt would end alike.
    """

    def __init__(self, problem: str, *, refused: bool = False) -> None:
        super().__init__(problem)
        self.refused = refused


def _refusal(error: ApiException) -> _BrokenOffError:
    """Say why the API server did not run the command; the client hides the status of a refused upgrade in text."""
    hidden = re.search(r"Handshake status (\d+) (\w*)", str(error.reason))
    status, reason = (int(hidden[1]), hidden[2]) if hidden else (error.status, error.reason)
    if status in (401, 403):
        right = "Airflow's account needs the right to `create` and `get` `pods/exec`"
        return _BrokenOffError(f"{status} {reason}. {right}", refused=True)
    return _BrokenOffError(f"{status} {reason}")
