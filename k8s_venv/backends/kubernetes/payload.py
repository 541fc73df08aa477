"""The files of a call on their way into its pod, by Secrets, and its result on the way out.

A result comes in the pod's status, or through ``exec`` in the sidecar. Files that are too large for these are stored at
the location for large values, if there is one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
import time
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from k8s_venv.backends.kubernetes import render
from k8s_venv.backends.kubernetes.exec_channel import BrokenOffError, ExecChannel
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
# its image be pulled again), and between two attempts.
_STALLED = 120.0
# Bytes a second; what comes more slowly, on the whole, is given up: a pod could keep its worker for ever.
_LEAST_RATE = 64 * 1024
_PAUSE = 1.0


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
        check_location(call, pod)
        (name,) = render.secret_names(pod)
        self._files = secret_contents(call, name, render.SECRET_LIMIT, render.SECRETS)
        self.pod = pod if len(self._files) == 1 else render.with_secrets(pod, len(self._files))

    def for_pod(self, pod: k8s.V1Pod) -> list[k8s.V1Secret]:
        """Return the Secrets for the created pod."""
        names, files = render.secret_names(pod), _for_created(self._files, pod)
        return [render.call_secret(pod, name, each) for name, each in zip(names, files, strict=True)]


def check_location(call: PackedCall, pod: k8s.V1Pod) -> None:
    """Refuse a pod that does not see the location for large values.

    Args:
        call: the call.
        pod: the pod that the call would have, before it is created.

    Raises:
        BackendError: it does not see it.
    """
    location = call.environment.values.location
    if location and location.startswith("/") and not render.is_mounted(pod, location):
        raise BackendError(
            call.environment.name,
            f"its pods do not see {location}, the location for large values: give it `volumes` and "
            "`volume_mounts` with a volume that is mounted there, as it is on the workers.",
        )


def pod_files(call: PackedCall, pod: k8s.V1Pod) -> dict[str, Buffer]:
    """Return all files of a call for a pod that exists and gets them without Secrets.

    They are bounded as in Secrets: whether a call can be made never depends on a pod that happens to wait for it.

    Args:
        call: the call.
        pod: the pod.

    Raises:
        CallError: they are too large, and there is no location for large values.
    """
    files = secret_contents(call, render.call_name(pod), render.SECRET_LIMIT, render.SECRETS)
    return {name: data for each in _for_created(files, pod) for name, data in each.items()}


def _for_created(files: list[dict[str, bytes]], pod: k8s.V1Pod) -> list[dict[str, bytes]]:
    """Return the files of a call with what only the created pod says: how long its message may be."""
    limit = render.message_limit(pod)
    if limit >= protocol.MESSAGE_LIMIT:
        return files  # the runner has to import what reads it: not for nothing
    settings = json.loads(files[0].get(protocol.DELIVERY, b"{}"))
    return [{**files[0], protocol.DELIVERY: json.dumps({**settings, "message": limit}).encode()}, *files[1:]]


def withdraw_arguments(call: PackedCall, pod: k8s.V1Pod) -> None:
    """Remove the arguments for a pod that is gone, or was never made, from the location for large values."""
    with contextlib.suppress(CallError):
        PayloadTransfer(call, render.call_name(pod)).close()


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
        return PayloadTransfer(self._call, render.call_name(self._pod))

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

    def keep(self) -> None:
        """Remember that the sidecar holds a payload that came in another way."""
        self._held = True

    def release(self) -> None:
        """Let a sidecar that keeps the payload end, where the pod itself is kept; else it does so after an hour."""
        if self._held:
            with contextlib.suppress(BrokenOffError):
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
                        raise BrokenOffError(f"it ended after {size:,} bytes", final=size == start)
            except BrokenOffError as error:
                if error.final or time.monotonic() > deadline():
                    raise self._unread(document, str(error)) from None
                time.sleep(_PAUSE)
        if digest.hexdigest() != document.sha256:
            raise self._unread(document, "its checksum does not match")

    def _output(self, deadline: Callable[[], float], mode: str, *options: str) -> Generator[bytes]:
        """Run the runner in the sidecar and yield what it writes, until it ends or a deadline is over.

        Raises:
            BrokenOffError: it could not be run, failed, or took too long, or the connection broke.
        """
        channel = ExecChannel(self._client, self._pod, render.SIDECAR, render.command(mode, *options), self._log)
        with contextlib.closing(channel):
            yield from channel.output(deadline)

    def _unread(self, document: protocol.Document, problem: str) -> BackendError:
        return BackendError(
            self._call.environment.name,
            f"the result of {self._call.function}() ({document.size:,} bytes) could not be read from its pod: "
            f"{problem}.",
        )
