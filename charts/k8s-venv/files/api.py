"""Talk to the API server as the pod's own service account, with the standard library alone (Python 3.8+)."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import socket
import ssl
from pathlib import Path
from typing import Any, Dict, Iterator, NamedTuple, Optional, Tuple

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_PATIENCE = 30  # seconds
# A watch sends a bookmark about once a minute: after so many seconds without a word its connection is dead.
_SILENCE = 150


class ApiError(Exception):
    """What the API server refused.

    Args:
        status: the HTTP status.
        message: the server's own sentence.
    """

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(f"{message} ({status})")


# What a request or a watch may raise.
FAILURES = (ApiError, OSError, http.client.HTTPException, ValueError)


class Identity(NamedTuple):
    """Whom a token is for.

    Args:
        account: the service account's name.
        account_uid: its uid.
        pod: the name of the pod that the token was made for.
        pod_uid: its uid.
    """

    account: str
    account_uid: str
    pod: str
    pod_uid: str


class Api:
    """A connection to the API server of the cluster that the pod runs in.

    Args:
        server: its host and port, by default those that every pod is told.
        account: the folder with the token, the certificate and the namespace.
    """

    def __init__(self, server: Optional[str] = None, account: Path = _ACCOUNT) -> None:
        host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "")
        self._server = server or "{}:{}".format(f"[{host}]" if ":" in host else host, port)
        self._account = account
        self._tls = ssl.create_default_context(cafile=str(account / "ca.crt"))
        self.namespace = (account / "namespace").read_text("utf-8").strip()

    def request(self, method: str, path: str, body: Optional[Dict[str, Any]] = None) -> Dict[str, Any]:
        """Make one request and return the answered object.

        Args:
            method: HTTP's.
            path: the path with its query.
            body: the object to send.

        Raises:
            ApiError: the server refused it.
        """
        answer, _ = self._open(method, path, body, _PATIENCE)
        with contextlib.closing(answer):
            found: Dict[str, Any] = json.loads(answer.read())
            return found

    def watch(self, path: str) -> Watch:
        """Open a watch.

        Args:
            path: the path with its query.

        Raises:
            ApiError: the server refused it.
        """
        return Watch(*self._open("GET", path, None, _SILENCE))

    def identity(self) -> Identity:
        """Return for whom the token is, which it says itself."""
        payload = self._token().split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["kubernetes.io"]
        account, pod = claims["serviceaccount"], claims["pod"]
        return Identity(account["name"], account["uid"], pod["name"], pod["uid"])

    def _open(
        self, method: str, path: str, body: Optional[Dict[str, Any]], patience: float
    ) -> Tuple[http.client.HTTPResponse, socket.socket]:
        """Make a request; return its answer, of which nothing was read, and the socket that it comes from."""
        connection = http.client.HTTPSConnection(self._server, timeout=patience, context=self._tls)
        headers = {
            "Authorization": f"Bearer {self._token()}",
            "Content-Type": "application/json",
            "Connection": "close",
        }
        connection.request(method, path, None if body is None else json.dumps(body).encode(), headers)
        opened = connection.sock
        answer = connection.getresponse()
        if answer.status >= http.client.MULTIPLE_CHOICES:
            with contextlib.closing(connection):
                raise _refusal(answer.status, answer.read(), answer.reason)
        return answer, opened

    def _token(self) -> str:
        # The kubelet writes another one before this one expires.
        return (self._account / "token").read_text("utf-8").strip()


class Watch:
    """The events of a watch, until the server ends it.

    Args:
        answer: the server's answer.
        connection: the socket that it comes from.
    """

    def __init__(self, answer: http.client.HTTPResponse, connection: socket.socket) -> None:
        self._answer = answer
        self._connection = connection

    def __iter__(self) -> Iterator[Tuple[str, Dict[str, Any]]]:
        """Yield each event's type and object.

        Raises:
            ApiError: the watch cannot go on from where it began.
        """
        for line in self._answer:
            event = json.loads(line)
            if event["type"] == "ERROR":
                raise ApiError(event["object"].get("code", 0), event["object"].get("message", ""))
            yield event["type"], event["object"]

    def close(self) -> None:
        """End the watch, also while another thread waits for its next event."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)


def _refusal(status: int, body: bytes, reason: str) -> ApiError:
    text = body.decode("utf-8", "replace")
    try:
        message = str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        message = text.strip() or reason
    return ApiError(status, message)
