"""Bring back what a call left: from its pod's status, or through the container beside it."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from kubernetes.client.exceptions import ApiException
from kubernetes.stream import stream

from k8s_venv.backends.kubernetes import render
from k8s_venv.calls import Result
from k8s_venv.calls.results import inline_result
from k8s_venv.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable

    from k8s_venv.calls import PackedCall
    from k8s_venv.runner import protocol

# A large result: how often it is read, and the seconds between two attempts and of silence in one.
_READ_ATTEMPTS = 4
_READ_PAUSE = 1.0
_READ_PATIENCE = 60


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
        return Result(document, self._read(document))

    def release(self) -> None:
        """Let a sidecar that keeps the payload end, where the pod itself is kept."""
        if self._held:
            with contextlib.suppress(ApiException, OSError):
                self._exec(render.release_command()).close()

    def _read(self, document: protocol.Document) -> bytes:
        """Read a large result through the sidecar; what breaks off is read again from its start."""
        problem = ""
        for _ in range(_READ_ATTEMPTS):
            try:
                payload = self._read_once(document)
            except ApiException as error:
                problem = f"{error.status} {error.reason}"
                if error.status in (401, 403):
                    problem += ". Airflow's account needs the right to `create` and `get` `pods/exec`"
                    break
            except OSError as error:
                problem = str(error)
            else:
                if len(payload) == document.size:
                    return payload
                problem = f"it broke off after {len(payload):,} bytes"
            time.sleep(_READ_PAUSE)
        raise BackendError(
            self._call.environment.name,
            f"the result of {self._call.function}() ({document.size:,} bytes) could not be read from its pod: "
            f"{problem}.",
        )

    def _read_once(self, document: protocol.Document) -> bytes:
        parts: list[bytes] = []
        size, quiet = 0, 0
        channel = self._exec(render.read_command())
        try:
            while channel.is_open() and size <= document.size and quiet < _READ_PATIENCE:
                channel.update(timeout=10)
                quiet += 10
                while channel.peek_stdout():
                    parts.append(channel.read_stdout())
                    size += len(parts[-1])
                    quiet = 0
                if channel.peek_stderr():
                    self._log(channel.read_stderr().decode("utf-8", "replace").rstrip())
        finally:
            channel.close()
        return b"".join(parts)

    def _exec(self, command: list[str]) -> Any:
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
