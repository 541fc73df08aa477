"""A command run in a container of a pod, through the API server, and what it writes."""

from __future__ import annotations

import contextlib
import copy
import json
import re
import socket
import time
from typing import TYPE_CHECKING, Any

from kubernetes.client.exceptions import ApiException
from kubernetes.stream import stream
from kubernetes.stream.ws_client import ERROR_CHANNEL, STDERR_CHANNEL, STDIN_CHANNEL, STDOUT_CHANNEL
from websocket import ABNF, WebSocketException, WebSocketTimeoutException

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from kubernetes.client import models as k8s

    from k8s_venv.wire.registry import Buffer

_BROKEN = (OSError, WebSocketException)
# Seconds without a frame after which a connection is given up, or asked for one first.
_SILENCE = 30
_PIECE = 64 * 1024  # bytes of input that are sent at once


class BrokenOffError(Exception):
    """A command failed, or was never run; another attempt would end alike if it is final.

    Args:
        problem: why.
        final: whether another attempt would end alike.
        refused: whether the API server refused to run it.
        exit_code: the command's exit code, if it ended.
    """

    def __init__(
        self, problem: str, *, final: bool = False, refused: bool = False, exit_code: int | None = None
    ) -> None:
        super().__init__(problem)
        self.final = final
        self.refused = refused
        self.exit_code = exit_code


class ExecChannel:
    """One command in a container of a pod.

    Args:
        client: a ``CoreV1Api``.
        pod: the pod.
        container: the container's name.
        command: the command.
        complain: is called with each line that the command writes to standard error.
        stdin: whether the command reads what is sent.

    Raises:
        BrokenOffError: it could not be run.
    """

    def __init__(
        self,
        client: Any,
        pod: k8s.V1Pod,
        container: str,
        command: list[str],
        complain: Callable[[str], None],
        *,
        stdin: bool = False,
    ) -> None:
        self._complain = complain
        try:
            self._channel = _open(client, pod, container, command, stdin)
        except ApiException as error:
            raise _refusal(error) from None
        except _BROKEN as error:
            raise BrokenOffError(str(error)) from None

    def send(self, data: Buffer) -> None:
        """Send data to the command's standard input.

        Raises:
            BrokenOffError: the connection broke.
        """
        view = memoryview(data)
        try:
            for start in range(0, len(view), _PIECE):
                piece = bytes((STDIN_CHANNEL,)) + view[start : start + _PIECE]
                self._channel.sock.send(piece, ABNF.OPCODE_BINARY)
        except _BROKEN as error:
            raise BrokenOffError(str(error)) from None

    def output(self, deadline: Callable[[], float], *, quiet: bool = False) -> Generator[bytes]:
        """Yield what the command writes to standard output, until it ends.

        Args:
            deadline: returns when to give up, by the monotonic clock.
            quiet: whether the command may have nothing to say for hours: silence is no fault if the server is there.

        Raises:
            BrokenOffError: it failed or took too long, or the connection broke.
        """
        try:
            yield from self._frames(deadline, quiet)
        except _BROKEN as error:
            raise BrokenOffError(str(error)) from None

    def close(self) -> None:
        """Close the connection."""
        try:
            self._channel.close()
        except _BROKEN:  # it is broken already
            return

    def abort(self) -> None:
        """Break the connection, also while another thread reads from it."""
        # Not closed: the thread would read from the file that gets the same number next.
        with contextlib.suppress(OSError, AttributeError):  # it is closed already
            self._channel.sock.sock.shutdown(socket.SHUT_RDWR)

    def _frames(self, deadline: Callable[[], float], quiet: bool) -> Generator[bytes]:
        # Not through the client's own `update`: it waits for the socket while TLS holds what has arrived.
        connection = self._channel.sock
        connection.settimeout(_SILENCE)
        succeeded, asked = False, not quiet
        while True:
            if time.monotonic() > deadline():
                raise BrokenOffError("it comes too slowly", final=True)
            try:
                kind, frame = connection.recv_data_frame(control_frame=True)
            except WebSocketTimeoutException:
                if asked:
                    raise
                connection.ping()
                asked = True
                continue
            asked = not quiet
            if kind == ABNF.OPCODE_CLOSE:
                if not succeeded:
                    raise BrokenOffError("the connection was closed")
                return
            if kind not in (ABNF.OPCODE_BINARY, ABNF.OPCODE_TEXT) or not frame.data:
                continue
            number, data = frame.data[0], frame.data[1:]
            if number == STDOUT_CHANNEL and data:
                yield data
            elif number == STDERR_CHANNEL:
                for line in data.decode("utf-8", "backslashreplace").rstrip().split("\n"):
                    self._complain(line)
            elif number == ERROR_CHANNEL:  # how it ended; also where its container has not started, or is gone
                status = json.loads(data)
                succeeded = status["status"] == "Success"
                if not succeeded:
                    code = _exit_code(status)
                    raise BrokenOffError(status["message"], final=code is not None, exit_code=code)


def _exit_code(status: dict[str, Any]) -> int | None:
    """Return the exit code of a command that failed; nothing if it was not run."""
    if status.get("reason") != "NonZeroExitCode":
        return None
    causes = (status.get("details") or {}).get("causes") or ()
    return next((int(cause["message"]) for cause in causes if cause.get("reason") == "ExitCode"), 1)


def _open(client: Any, pod: k8s.V1Pod, container: str, command: list[str], stdin: bool) -> Any:
    # While it connects, `stream` changes the client, which may be at another request in another thread.
    own = copy.copy(client.connect_get_namespaced_pod_exec.__self__)
    own.api_client = copy.copy(own.api_client)
    try:
        return stream(
            own.connect_get_namespaced_pod_exec,
            pod.metadata.name,
            pod.metadata.namespace,
            container=container,
            command=command,
            stdin=stdin,
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


def _refusal(error: ApiException) -> BrokenOffError:
    """Return why the API server did not run the command; the client hides the status of a refused upgrade in text."""
    hidden = re.search(r"Handshake status (\d+) (\w*)", str(error.reason))
    status, reason = (int(hidden[1]), hidden[2]) if hidden else (error.status, error.reason)
    if status in (401, 403):
        right = "Airflow's account needs the right to `create` and `get` `pods/exec`"
        return BrokenOffError(f"{status} {reason}. {right}", final=True, refused=True)
    return BrokenOffError(f"{status} {reason}", final=status == 404)  # the pod is gone
