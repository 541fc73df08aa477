"""The files of a call on their way into its pod, by Secrets, and its result on the way out.

A result comes in the pod's status, or through ``exec`` in the sidecar. Files that are too large for these are stored at
the location for large values, if there is one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import tempfile
import time
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from kubernetes.client.exceptions import ApiException
from kubernetes.stream import stream
from kubernetes.stream.ws_client import ERROR_CHANNEL, STDERR_CHANNEL, STDOUT_CHANNEL
from websocket import ABNF, WebSocketException

from k8s_venv.backends.kubernetes import render
from k8s_venv.calls import PayloadTransfer, Result, secret_contents
from k8s_venv.calls.results import inline_result
from k8s_venv.errors import BackendError, CallError
from k8s_venv.wire import protocol
from k8s_venv.wire.protocol import MARK
from k8s_venv.wire.values import map_file

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from kubernetes.client import models as k8s

    from k8s_venv.calls import PackedCall, SentCall
    from k8s_venv.wire.registry import Buffer

# A large result, in seconds: how long reading may fail without a byte of progress (the sidecar may still be starting,
# its image be pulled again), between two attempts, and of silence in one.
_STALLED = 120.0
# Bytes a second; what comes more slowly, on the whole, is given up: a pod could keep its worker for ever.
_LEAST_RATE = 64 * 1024
_PAUSE = 1.0
_SILENCE = 30
_BROKEN = (OSError, WebSocketException)


class CallSecrets:
    """The Secrets with all files of a call, which its pod waits for.

    Args:
        call: the call.
        pod: the pod, before it is created.

    Raises:
        CallError: a few Secrets do not hold the files, and there is no location for large values.
        BackendError: the pod does not see that location.
    """

    def __init__(self, call: PackedCall, pod: k8s.V1Pod) -> None:
        location = call.environment.values.location
        if location and location.startswith("/") and not render.is_mounted(pod, location):
            raise BackendError(
                call.environment.name,
                f"its pods do not see {location}, the location for large values: give it `volumes` and "
                "`volume_mounts` with a volume that is mounted there, as it is on the workers.",
            )
        (name,) = render.secret_names(pod)
        self._files = secret_contents(call, name, render.SECRET_LIMIT, render.SECRETS)
        self.pod = pod if len(self._files) == 1 else render.with_secrets(pod, len(self._files))

    def for_pod(self, pod: k8s.V1Pod) -> list[k8s.V1Secret]:
        """Return the Secrets for the created pod."""
        names, files = render.secret_names(pod), list(self._files)
        limit = render.message_limit(pod)
        if limit < protocol.MESSAGE_LIMIT:  # the runner has to import what reads it: not for nothing
            settings = json.loads(files[0].get(protocol.DELIVERY, b"{}"))
            files[0] = {**files[0], protocol.DELIVERY: json.dumps({**settings, "message": limit}).encode()}
        return [render.call_secret(pod, name, each) for name, each in zip(names, files, strict=True)]


def withdraw_arguments(call: PackedCall, pod: k8s.V1Pod) -> None:
    """Remove the arguments for a pod that is gone, or was never made, from the location for large values."""
    for name in render.secret_names(pod)[:1]:
        with contextlib.suppress(CallError):
            PayloadTransfer(call, name).close()


class PodResult:
    """Reads the result of one pod, and removes what its call left at the location for large values.

    Args:
        client: a ``CoreV1Api``.
        pod: the pod.
        call: the call that it ran.
        log: is called with what the reading command says.
    """

    def __init__(self, client: Any, pod: k8s.V1Pod, call: SentCall, log: Callable[[str], None]) -> None:
        self._client = client
        self._pod = pod
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
        if document.stored:
            return self._transfer().result(document)
        if document.size > protocol.HAND_OVER_LIMIT:
            raise self._unread(document, f"{protocol.HAND_OVER_LIMIT:,} bytes are read through `pods/exec`")
        self._held = True
        return Result(document, self._download(document), checked=True)

    def _transfer(self) -> PayloadTransfer:
        return PayloadTransfer(self._call, render.secret_names(self._pod)[0])

    @property
    def stored_arguments(self) -> tuple[str, str] | None:
        """Return where the arguments may lie, if in no Secret; see ``PayloadTransfer``."""
        return self._transfer().stored_arguments if self._call.environment.values.location else None

    def close(self) -> None:
        """Remove the arguments from the location for large values; the call has ended."""
        if self.stored_arguments is None:
            return
        try:
            self._transfer().close()
        except CallError as error:
            self._log(f"{MARK}WARNING - {error}")

    def release(self) -> None:
        """Let a sidecar that keeps the payload end, where the pod itself is kept; else it does so after an hour."""
        if self._held:
            with contextlib.suppress(_BrokenOffError):
                deadline = time.monotonic() + _STALLED
                for _ in self._output(lambda: deadline, "--release"):
                    pass

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
        digest, size = hashlib.sha256(), 0
        begun = last = time.monotonic()

        def deadline() -> float:
            return min(last, begun + size / _LEAST_RATE) + _STALLED

        while size < document.size:
            start = size
            try:
                with contextlib.closing(self._output(deadline, "--read", "--from", str(start))) as pieces:
                    for data in pieces:
                        wanted = data[: document.size - size]
                        digest.update(wanted)
                        file.write(wanted)
                        size += len(wanted)
                        last = time.monotonic()
                        if size == document.size:
                            break
                    else:
                        raise _BrokenOffError(f"it ended after {size:,} bytes", final=size == start)
            except _BrokenOffError as error:
                if error.final or time.monotonic() > deadline():
                    raise self._unread(document, str(error)) from None
                time.sleep(_PAUSE)
        if digest.hexdigest() != document.sha256:
            raise self._unread(document, "its checksum does not match")

    def _output(self, deadline: Callable[[], float], mode: str, *options: str) -> Generator[bytes]:
        """Run the runner in the sidecar and yield what it writes, until it ends or a deadline is over.

        Raises:
            _BrokenOffError: it could not be run, failed, or took too long, or the connection broke.
        """
        try:
            channel = self._exec(render.command(mode, *options))
            try:
                yield from self._frames(channel.sock, deadline)
            finally:
                channel.close()
        except ApiException as error:
            raise _refusal(error) from None
        except _BROKEN as error:
            raise _BrokenOffError(str(error)) from None

    def _frames(self, socket: Any, deadline: Callable[[], float]) -> Generator[bytes]:
        # Not through the client's own `update`: it waits for the socket while TLS holds what has arrived.
        socket.settimeout(_SILENCE)
        succeeded = False
        while True:
            if time.monotonic() > deadline():
                raise _BrokenOffError("it comes too slowly", final=True)
            kind, frame = socket.recv_data_frame(control_frame=True)
            if kind == ABNF.OPCODE_CLOSE:
                if not succeeded:
                    raise _BrokenOffError("the connection was closed")
                return
            if kind not in (ABNF.OPCODE_BINARY, ABNF.OPCODE_TEXT) or not frame.data:
                continue
            number, data = frame.data[0], frame.data[1:]
            if number == STDOUT_CHANNEL:
                yield data
            elif number == STDERR_CHANNEL:
                for line in data.decode("utf-8", "backslashreplace").rstrip().split("\n"):
                    self._log(line)
            elif number == ERROR_CHANNEL:  # how it ended; also where its container has not started, or is gone
                status = json.loads(data)
                succeeded = status["status"] == "Success"
                if not succeeded:
                    raise _BrokenOffError(status["message"], final=status.get("reason") == "NonZeroExitCode")

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
                self._pod.metadata.name,
                self._pod.metadata.namespace,
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
    """A command in the sidecar failed, or was never run; another attempt would end alike if it is final."""

    def __init__(self, problem: str, *, final: bool = False) -> None:
        super().__init__(problem)
        self.final = final


def _refusal(error: ApiException) -> _BrokenOffError:
    """Return why the API server did not run the command; the client hides the status of a refused upgrade in text."""
    hidden = re.search(r"Handshake status (\d+) (\w*)", str(error.reason))
    status, reason = (int(hidden[1]), hidden[2]) if hidden else (error.status, error.reason)
    if status in (401, 403):
        right = "Airflow's account needs the right to `create` and `get` `pods/exec`"
        return _BrokenOffError(f"{status} {reason}. {right}", final=True)
    return _BrokenOffError(f"{status} {reason}", final=status == 404)  # the pod is gone
